"""Items of the stock tasks: those of the harness, text by text; what cannot be an item is counted, and a wrong section
`tasks` is refused."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.base.errors import EverystepError
from pipeline.base.params import load_section
from pipeline.base.paths import EVALUATION_SETS
from pipeline.base.yaml import load_yaml
from pipeline.formats.canonical import pretty
from pipeline.sources.items import rows_of
from pipeline.stages.evaluation_sets import evaluation_sets
from pipeline.stages.tasks.definitions import STOCK, VERSION
from pipeline.stages.tasks.items import item_of, items_of
from pipeline.stages.tasks.params import TasksParams
from pipeline.stages.tasks.stage import stock_asked
from tests.conftest import Once
from tests.project import ROOT
from tests.servers.index import wheel

CLIENT = Path(sys.prefix) / "clients" / "lm-eval"
"""Where `make .venv/tested` puts it, with libraries of its own."""
Rows = list[dict[str, Any]]
Requests = dict[str, list[Any]]

ARC = [
    ("m/1", "Which is a planet?", ["Mars", "A {{ moon }}", "the sun's light", "comet"], 0),
    ("m/2", "What is 2 + 2?", ["3", "4", "'5'"], 1),
    ("m/3", "Émile saw five:", ["a", "b", "c", "d", "e\n"], 4),
]
MULTIPLE = [
    {"doc": {"id": id, "query": f"Question: {question}\nAnswer:", "choices": choices, "gold": gold}, "idx": number}
    for id, question, choices, gold in ARC
    for number in range(len(choices))
]
DATA: dict[str, Rows] = {
    "arc_easy": MULTIPLE,
    "arc_challenge": MULTIPLE[::-1],
    "openbookqa": MULTIPLE[:7],
    "boolq": [
        {"passage": "Rivers  flow.\n(They do.)", "question": "do rivers flow", "answer": True},
        {"passage": " {{x}} ", "question": "is it ", "answer": False},
    ],
    "piqa": [
        {"goal": "To cut bread,", "sol1": "use a knife.", "sol2": " use a spoon.", "label": 0},
        {"goal": "How?", "sol1": 'say "no"', "sol2": "don't", "label": 1},
    ],
    "siqa": [
        {"context": "Ann left.", "question": "Why?", "answerA": "a", "answerB": "b", "answerC": "c", "label": label}
        for label in ("1", "2", "3")
    ],
    "hellaswag": [
        {"ind": 4, "activity_label": "Cooking", "ctx_a": "A man cooks.", "ctx_b": "he STIRS", "label": "3"}
        | {"endings": ["stops.", "[title] goes on  to the [substeps] end.", " x [a] [b] y ", "eats\nit."]},
        {"ind": 4, "activity_label": "How to win [title] Run", "ctx_a": "[header] Go.", "ctx_b": "", "label": "0"}
        | {"endings": ["a [title] b", "b", "c", "d"]},
    ],
    "winogrande": [
        {"sentence": "Ann beat Eve since _ was fast.", "option1": "Ann", "option2": "Eve", "answer": "1"},
        {"sentence": "The _ is big_ged.", "option1": "box ", "option2": "cat", "answer": "2"},
    ],
    "lambada": [
        {"doc": {"id": 0, "query": "He said, “Come here,  my", "choices": ["friend"], "answers_text": ["friend"]}},
        {"doc": {"id": 1, "query": "It was\n\nthe", "choices": ["end."], "answers_text": ["end."]}},
    ],
    "sciq": [
        {"support": "  Cells divide.", "question": "What divides?", "correct_answer": "cells"}
        | {"distractor1": "rocks", "distractor2": "winds", "distractor3": "air"},
        {"support": "", "question": "Who?", "correct_answer": "he"}
        | {"distractor1": "a", "distractor2": "b", "distractor3": "c"},
    ],
}


def arc(doc: dict[str, Any]) -> dict[str, Any]:
    """A row of the data set that the harness reads, from a request of the artefact."""
    question = doc["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
    labels = list("ABCDE"[: len(doc["choices"])])
    choices = {"text": doc["choices"], "label": labels}
    told = {"choices": choices, "answerKey": labels[doc["gold"]]}
    return told | {"id": doc["id"], "question": question, "question_stem": question}


THEIRS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "arc_easy": arc,
    "arc_challenge": arc,
    "openbookqa": arc,
    "boolq": lambda row: row | {"label": int(row["answer"])},
    "lambada": lambda doc: {"text": f"{doc['query']} {doc['choices'][0]}"},
}
YAML_OF = {
    name: next(file for file in [*definition.files][::-1] if file.endswith(".yaml"))
    for name, definition in STOCK.items()
}


def packed(rows: Rows, members: str) -> bytes:
    """Rows as the artefact holds them, by the ending of its members."""
    if members.endswith(".gz"):
        return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)
    table = pa.Table.from_pylist(rows)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def artefact(folder: Path, data: dict[str, Rows]) -> Path:
    """A wheel with these rows in the places of the artefact, in a folder of its own."""
    folder.mkdir()
    files = {STOCK[name].members.replace("*", "x"): packed(rows, STOCK[name].members) for name, rows in data.items()}
    (folder / "sets-1.0-py3-none-any.whl").write_bytes(wheel("sets", "1.0", files))
    return folder


def their_requests(folder: Path, rows: dict[str, Iterable[Any]]) -> Requests:
    """What the harness makes of rows of the artefact, an item each."""
    assert CLIENT.is_dir(), "run `make .venv/tested`, which installs it"
    assert (CLIENT / f"lm_eval-{VERSION}.dist-info").is_dir()
    for name, found in rows.items():
        told = [json.dumps(THEIRS.get(name, dict)(row)) + "\n" for row in found]
        (folder / f"{name}.jsonl").write_text("".join(told))
    program = Path(__file__).with_name("their_requests.py")
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"), "1")
    done = subprocess.run(
        [sys.executable, program, folder, json.dumps({name: YAML_OF[name] for name in rows})],
        env=os.environ | offline | {"PYTHONPATH": str(CLIENT), "HF_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    return json.loads((folder / "requests.json").read_text())  # type: ignore[no-any-return]


def documents(rows: Iterable[Any]) -> Rows:
    """One row for each item: the artefact repeats a document for each of its choices."""
    found = [*rows]
    return [*{row["doc"]["id"]: row["doc"] for row in found}.values()] if "doc" in found[0] else found


def our_requests(folder: Path, name: str) -> list[Any]:
    items, left_out = items_of(folder, STOCK[name])
    assert left_out == {}
    return [[[[c.context, c.continuation] for c in item.choices], item.gold] for item in items]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artefact(tmp_path_factory.mktemp("artefact") / "sets", DATA)


@pytest.fixture(scope="module")
def theirs(once: Once) -> Requests:
    """All tasks in one process: its libraries take seconds to load."""

    def make(folder: Path) -> None:
        folder.mkdir()
        their_requests(folder, {name: documents(rows) for name, rows in DATA.items()})

    return json.loads((once("their-requests", make) / "requests.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", STOCK)
def test_contexts_continuations_and_gold_are_those_of_the_harness(name: str, sets: Path, theirs: Requests) -> None:
    ours = our_requests(sets, name)
    assert ours == theirs[name]
    assert len(ours) == len(documents(DATA[name]))


@pytest.mark.parametrize("name", STOCK)
def test_a_definition_names_the_files_of_the_harness_as_they_are(name: str) -> None:
    for file, sha256 in STOCK[name].files.items():
        assert hashlib.sha256((CLIENT / "lm_eval/tasks" / file).read_bytes()).hexdigest() == sha256


@pytest.mark.long
def test_the_items_of_the_pinned_artefact_are_those_of_the_harness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """Every tenth item of every task, from the artefact that our `params.yaml` pins."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    evaluation_sets()
    rows: dict[str, Iterable[Any]] = {
        name: documents(rows_of(EVALUATION_SETS, STOCK[name].members))[::10] for name in STOCK
    }
    theirs = their_requests(tmp_path, rows)
    for name in STOCK:
        assert our_requests(EVALUATION_SETS, name)[::10] == theirs[name], name
    record_property("said", f"{sum(map(len, theirs.values()))} items of {len(theirs)} tasks")


BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("piqa", {"goal": "g", "sol1": "a", "label": 0}, "no_text"),
    ("piqa", {"goal": "g", "sol1": "a", "sol2": 7, "label": 0}, "no_text"),
    ("piqa", {"goal": "g", "sol1": "a", "sol2": " ", "label": 0}, "no_context"),
    ("piqa", {"goal": "g", "sol1": "a", "sol2": "b", "label": 2}, "no_gold"),
    ("piqa", {"goal": "g", "sol1": "a", "sol2": "b"}, "no_gold"),
    (
        "siqa",
        {"context": "c", "question": "q", "answerA": "a", "answerB": "b", "answerC": "c", "label": "0"},
        "no_gold",
    ),
    ("arc_easy", {"doc": {"id": "x", "query": "q", "choices": [], "gold": 0}}, "no_choices"),
    ("arc_easy", {"doc": {"id": "x", "query": "q", "choices": ["a"], "gold": 0}}, "no_choices"),
    ("lambada", {"doc": {"id": 0, "query": "q", "choices": ["a", "b"]}}, "no_choices"),
    ("openbookqa", {"doc": {"id": "x", "query": "q", "choices": ["a", "b"], "gold": 0}}, "other_form"),
    ("winogrande", {"sentence": "no mark", "option1": "a", "option2": "b", "answer": "1"}, "other_form"),
    ("winogrande", {"sentence": "It is _", "option1": "a", "option2": "b", "answer": "1"}, "no_context"),
]


@pytest.mark.parametrize(("name", "row", "reason"), BROKEN)
def test_a_row_that_is_no_item_is_counted_with_the_reason(
    name: str, row: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    good = DATA[name]
    rows = [*good, row] if name not in ("piqa",) else [*good, {"sol2": None, "label": None, **row}]
    if reason == "no_text" and row.get("sol2") == 7:
        with pytest.raises(Exception, match="no_text"):
            item_of(row, 0, STOCK[name])
        return
    items, left_out = items_of(artefact(tmp_path / "sets", {name: rows}), STOCK[name])
    assert len(items) == len(documents(good))
    assert left_out == {reason: 1}


def test_two_items_of_one_id_are_one_item_and_a_fault(tmp_path: Path) -> None:
    first: Any = MULTIPLE[0]["doc"]
    other = {"doc": first | {"gold": 1}}
    items, left_out = items_of(artefact(tmp_path / "sets", {"arc_easy": [*MULTIPLE, other]}), STOCK["arc_easy"])
    assert [item.id for item in items] == ["m/1", "m/2", "m/3"]
    assert left_out == {"repeated_id": 1}


def test_a_task_without_an_item_is_an_error_that_says_what_was_found(tmp_path: Path) -> None:
    rows = [{"sentence": "no mark", "option1": "a", "option2": "b", "answer": "1"}]
    with pytest.raises(EverystepError, match=r"task winogrande: no item to ask \(1 other_form\); correct its data"):
        stock_asked("winogrande", artefact(tmp_path / "sets", {"winogrande": rows}), 5)


def test_other_rows_and_another_definition_have_other_digests(sets: Path, tmp_path: Path) -> None:
    _, task = stock_asked("piqa", sets, 5)
    changed = [DATA["piqa"][0] | {"goal": "To cut cake,"}, DATA["piqa"][1]]
    _, other = stock_asked("piqa", artefact(tmp_path / "sets", {"piqa": changed}), 5)
    assert task.definition_sha256 == other.definition_sha256
    assert task.data_sha256 != other.data_sha256
    digests = {stock_asked(name, sets, 5)[1].definition_sha256 for name in STOCK}
    assert len(digests) == len(STOCK)


def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], object]) -> str:
    monkeypatch.chdir(tmp_path)
    tree = load_yaml(ROOT / "params.yaml")
    change(tree["tasks"])
    (tmp_path / "params.yaml").write_bytes(pretty(tree))
    with pytest.raises(EverystepError) as error:
        load_section(TasksParams, "tasks")
    return str(error.value)


def test_a_name_that_is_nearly_a_task_is_refused_with_the_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = refused(tmp_path, monkeypatch, lambda tasks: tasks["stock"].update(names=["boolq", "hellaswg"]))
    assert told.startswith("params.yaml: tasks.stock.names.1: 'hellaswg' is no task; there are arc_easy, ")
    assert told.endswith("; did you mean hellaswag?")
    told = refused(tmp_path, monkeypatch, lambda tasks: tasks["pairs"]["sources"].update(swapped_types=["plays"]))
    assert "'swapped_types' is no rule of pairs" in told
    assert told.endswith("; did you mean swapped_type, swapped_speaker?")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tasks: tasks["stock"].update(names=["piqa", "piqa"]), "tasks.stock.names: list each once"),
        (lambda tasks: tasks["stock"].update(items=0), "tasks.stock.items"),
        (lambda tasks: tasks["pairs"].update(words=2), "tasks.pairs.words"),
        (lambda tasks: tasks["pairs"]["sources"].update(permuted_words=[]), "tasks.pairs.sources.permuted_words"),
        (lambda tasks: tasks["counting"].update(order=10), "tasks.counting.order"),
    ],
)
def test_a_wrong_key_is_refused_by_its_name(
    change: Callable[[dict[str, Any]], object], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"params.yaml: {told}" in refused(tmp_path, monkeypatch, change)
