"""Scores are those of lm-evaluation-harness itself: each choice of every task, each metric and standard error; and its
tools read what we write."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.formats.tasks import Choice, Item, Stock, Task, ask
from pipeline.stages.tasks.definitions import STOCK
from pipeline.stages.tasks.items import item_of
from tests.pipeline.stages.test_tasks import CLIENT, DATA
from tests.project import ROOT, WORDS
from tests.trainer.exports import build, read_spec, write_pulled
from trainer.scored import score_folder

SCORE = """
import sys
from pathlib import Path
from tests.trainer.test_harness_scores import made_up, write_ours
write_ours(Path(sys.argv[1]), Path(sys.argv[2]))
"""
TOLERANCE = 1e-4
"""Nats; both sum numbers of float32, in another order."""


def made_up() -> dict[str, tuple[list[Item], Task]]:
    """Items of every stock task in its own form, and minimal pairs; those of two more tasks are many."""
    items = {name: _items(name) for name in STOCK}
    many = range(24)
    items["choices"] = [_item(number, 2 + number % 3, number % 2) for number in many]
    items["words"] = [_item(number, 1, 0) for number in many]
    metrics = {name: STOCK[name].metrics for name in STOCK} | {
        "choices": ("acc", "acc_norm"),
        "words": ("perplexity", "acc"),
    }
    return {
        name: ask(
            name,
            of_it,
            99,
            {},
            definition={},
            metrics=metrics[name],
            delimiter=" ",
            stock=Stock(task=STOCK[name].stock, files={}) if name in STOCK else None,
        )
        for name, of_it in items.items()
    }


def _items(name: str) -> list[Item]:
    made = {}
    for number, row in enumerate(DATA[name]):
        item = item_of(row, number, STOCK[name])
        made[item.id] = item
    return [*made.values()]


def _item(number: int, num_choices: int, gold: int) -> Item:
    def words(start: int, count: int) -> str:
        return " ".join(WORDS[(start + 7 * n) % len(WORDS)] for n in range(count))

    context = words(number, 5 + number % 11)
    told = [words(3 * number + 5 * place, 1 + (number + place) % 4) for place in range(num_choices)]
    return Item(id=str(number), choices=[Choice(context=context, continuation=f" {text}") for text in told], gold=gold)


def write_ours(model: Path, out: Path) -> None:
    """Score the made-up items with a model in a folder; write what the test compares."""
    scored = score_folder(model, made_up())
    lines = [score.to_json() for score in scored.scores]
    (out / "ours.json").write_text(json.dumps({"rows": scored.rows, "scores": lines, "results": scored.results}))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What we say of a model, and what the harness says."""
    folder = tmp_path_factory.mktemp("harness")
    (folder / "scratch").mkdir()
    write_pulled(build(read_spec("mobilellm")), folder / "mobilellm", folder / "scratch")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", SCORE, folder / "mobilellm", folder], env=env, check=True, cwd=ROOT)
    ours = json.loads((folder / "ours.json").read_text())
    made = made_up()
    asked = {
        "pairs": [
            (choice.context, choice.continuation)
            for items, _ in made.values()
            for item in items
            for choice in item.choices
        ],
        "tasks": {
            name: [
                {
                    "context": item.choices[0].context,
                    "choices": [choice.continuation.removeprefix(" ") for choice in item.choices],
                    "gold": item.gold,
                }
                for item in made[name][0]
            ]
            for name in ("choices", "words")
        },
        "results": ours["results"],
    }
    (folder / "asked.json").write_text(json.dumps(asked))
    theirs = {
        "PYTHONPATH": str(CLIENT),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "home"),
        "DISABLE_MULTIPROC": "1",
        "OMP_NUM_THREADS": "1",
    }
    program = ROOT / "tests" / "trainer" / "their_scores.py"
    subprocess.run(
        [sys.executable, program, folder / "mobilellm", folder], env={**os.environ, **theirs}, check=True, cwd=folder
    )
    return ours, json.loads((folder / "found.json").read_text())


def test_each_choice_of_every_task_has_the_log_likelihood_of_the_harness(both: tuple[Any, Any]) -> None:
    ours, theirs = both
    assert len(ours["rows"]) == len(theirs["pairs"])
    assert {row["task"] for row in ours["rows"]} >= {*STOCK}
    for row, (log_likelihood, is_greedy) in zip(ours["rows"], theirs["pairs"], strict=True):
        if row["log_likelihood"] is not None:
            assert row["log_likelihood"] == pytest.approx(log_likelihood, abs=TOLERANCE), row
            assert row["greedy"] == is_greedy
    assert sum(row["log_likelihood"] is None for row in ours["rows"]) < len(ours["rows"]) / 4


def test_metrics_and_standard_errors_are_those_of_the_harness(both: tuple[Any, Any]) -> None:
    ours, theirs = both
    compared = 0
    for score in ours["scores"]:
        if score["task"] in ("choices", "words") and score["metric"] != "bits_per_byte":
            told = theirs["results"][score["task"]]
            assert score["value"] == pytest.approx(told[f"{score['metric']},none"], rel=TOLERANCE), score
            assert score["standard_error"] == pytest.approx(told[f"{score['metric']}_stderr,none"], rel=TOLERANCE)
            compared += 1
    assert compared == 4


def test_the_harness_makes_its_table_of_our_results(both: tuple[Any, Any]) -> None:
    ours, theirs = both
    for score in ours["scores"]:
        if score["value"] is not None:
            assert f"{score['value']:.4f}" in theirs["table"]
    assert "lambada_openai" in theirs["table"]
    assert {"results", "configs", "versions", "n-shot", "n-samples", "higher_is_better"} <= ours["results"].keys()
