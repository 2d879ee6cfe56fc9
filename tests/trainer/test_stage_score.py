"""The stage `score` and the command `evaluate`: the same bits for any reader, and what they refuse."""

import json
from pathlib import Path

import pytest

from pipeline.base.errors import EverystepError
from pipeline.formats.canonical import parse
from pipeline.formats.manifests import Scored
from pipeline.formats.scores import ITEMS_FILE, SCORED_ITEMS, SCORES_FILE, Score
from pipeline.formats.tables import read_table
from pipeline.release.release import Release
from tests.project import run
from tests.releases import everystep
from trainer.scored import score_folder

MODEL, TASK, VIRTUAL = "mobilellm", "permuted_words", 3


def test_the_stage_scores_the_declared_checkpoints_and_a_virtual_one_too(built_project: Path) -> None:
    scored = Release.open(built_project / "release").manifest(Scored, MODEL)
    assert [(entry.step, entry.storage) for entry in scored.checkpoints] == [
        (0, "stored"),
        (VIRTUAL, "virtual"),
        (8, "stored"),
    ]
    folder = built_project / "release" / "scores" / MODEL
    lines = [Score.parse(line, SCORES_FILE) for line in (folder / SCORES_FILE).read_bytes().splitlines()]
    assert {line.metric for line in lines} == {"acc", "bits_per_byte"}
    assert all(line.items > 5 and line.value is not None for line in lines)
    told = parse((folder / f"{scored.checkpoints[-1].revision}.json").read_bytes(), "results")
    assert told["results"][TASK]["acc,none"] == lines[-2].value == scored.last[TASK]["acc"]


@pytest.mark.parametrize("step", [VIRTUAL, 8])
def test_a_reader_gets_the_bits_of_the_stage(built_project: Path, tmp_path: Path, step: int) -> None:
    release = built_project / "release"
    command = ("everystep", "evaluate", str(release), "--model", MODEL, "--step", str(step), "--tasks", TASK, "--json")
    done = run(tmp_path, *command, "--out", "scores", EVERYSTEP_PROCESSES="1")
    told = json.loads(done.stdout)
    ours = read_table(tmp_path / "scores" / ITEMS_FILE, SCORED_ITEMS).to_pylist()
    theirs = read_table(release / "scores" / MODEL / ITEMS_FILE, SCORED_ITEMS).to_pylist()
    assert ours == [row for row in theirs if row["revision"] == told["revision"]]
    assert (tmp_path / "scores" / f"{told['revision']}.json").read_bytes() == (
        release / "scores" / MODEL / f"{told['revision']}.json"
    ).read_bytes()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--tasks", "permuted_word"), "permuted_word: no such task"),
        (("--tasks", "permuted_word"), "did you mean permuted_words?"),
        (("--model", "mobilelm"), "did you mean mobilellm?"),
        (("--step", "99"), "step 99: no checkpoint of mobilellm there"),
        (("--out", "."), "already exists"),
        (("--items", "0"), "greater than or equal to 1"),
    ],
)
def test_what_is_not_there_is_refused_and_the_nearest_named(
    built_project: Path, more: tuple[str, str], said: str
) -> None:
    done = everystep("evaluate", built_project / "release", "--model", MODEL, "--tasks", TASK, *more)
    assert done.code == 2
    assert said in done.said


def test_a_folder_that_needs_code_or_has_no_safetensors_is_refused(tmp_path: Path) -> None:
    for name, content, said in (
        ("config.json", '{"auto_map": {}}', "has no tokenizer.json"),
        ("tokenizer.json", "{}", "has no model.safetensors"),
        ("model.safetensors", "", "needs code from its folder, which is not run"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(EverystepError, match=said):
            score_folder(tmp_path, {})
