"""Sharded training: the curve of one process within rounding, checkpoints that every number of processes reads."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.base.errors import EverystepError
from pipeline.formats import checkpoints as ck
from pipeline.formats.initial import initial_rows, initial_tensors
from pipeline.formats.tensors import TensorFile
from tests.project import ROOT, environment
from tests.trainer.runs import LIMIT, MODEL, STEPS, end, killed, make_run, num_logged, start, train
from tests.trainer.tiny import KEYS, tiny_spec
from trainer.launch import PROCESSES, SHARDS, launch_training
from trainer.recipe import load_recipe


def over(processes: int) -> dict[str, Any]:
    """The environment of a training whose shards are as many as its processes."""
    return {SHARDS: str(processes)}


def sharded(scratch: Path, processes: int, families: list[str], steps: int = 3, **changes: Any) -> dict[str, Any]:
    """What `train_sharded` found, after what must hold of every training."""
    folder = make_run(scratch / "run", numerics="native")
    job = [sys.executable, "-m", "tests.trainer.job", json.dumps([processes, str(folder), families, steps, changes])]
    done = subprocess.run(job, capture_output=True, text=True, env=environment(PYTHONPATH=str(ROOT)), timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    for about in found.values():
        assert about["begins alike"] and about["digests are of the state"] and about["layout alike"]
        fair = 4 / processes
        assert fair <= about["numbers held of each parameter"] < 1.05 * fair  # short tensors do not divide
    return found


def test_two_shards_give_the_losses_of_one_process_within_rounding_and_hold_half_each(tmp_path: Path) -> None:
    for about in sharded(tmp_path, 2, ["mobilellm-ls", "mobillama"]).values():
        assert about["losses"] == pytest.approx(about["losses alone"], abs=2e-6)
        assert about["norms"] == pytest.approx(about["norms alone"], rel=2e-5)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("processes", "changes", "within"),
    [
        (4, {}, 2e-6),
        (4, {"recompute": True}, 2e-6),
        (2, {"compiled": True}, 2e-6),
        (2, {"precision": "bfloat16"}, 2e-3),
        (2, {"precision": "bfloat16", "recompute": True}, 2e-3),
    ],
    ids=str,
)
def test_every_family_trains_sharded(tmp_path: Path, processes: int, changes: dict[str, Any], within: float) -> None:
    for about in sharded(tmp_path, processes, list(KEYS), **changes).values():
        assert about["losses"] == pytest.approx(about["losses alone"], abs=within)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_killed_training_goes_on_with_any_number_of_shards_or_none(tmp_path: Path) -> None:
    """Two shards, killed, four shards, killed, one process; and the other way from one process to two shards."""
    alone = make_run(tmp_path / "alone", numerics="native")
    train(alone)
    mixed = make_run(tmp_path / "mixed", numerics="native")
    states = mixed / ".work" / "train" / MODEL
    assert killed(mixed, 2, lambda: any(states.glob("*/step000002-*")), **over(2))
    assert killed(mixed, 4, lambda: any(states.glob("*/step000008-*")), **over(4))
    said = train(mixed)
    assert "goes on from step 8" in said
    assert "shards: 4 then, 1 now" in said
    last = [ck.find_checkpoints(folder / "runs" / MODEL)[-1][1] for folder in (alone, mixed)]
    recorded = {step: ck.read_record(folder).numerics.shards for step, folder in ck.find_checkpoints(last[1].parent)}
    assert (recorded[2], recorded[8], recorded[STEPS]) == (2, 4, 1)
    weights, others = (ck.read_verified(folder, ck.WEIGHTS) for folder in last)
    assert all(np.allclose(weights[name], others[name], atol=1e-3) for name in weights)
    assert all(ck.is_canonical(folder / name) for folder in last for name in (ck.WEIGHTS, ck.OPTIMIZER))
    other = make_run(tmp_path / "other", numerics="native")
    assert killed(other, 1, lambda: num_logged(other) >= 5)
    assert "shards: 1 then, 2 now" in train(other, 2, **{SHARDS: "2"})


@pytest.mark.long
def test_a_replay_in_as_many_shards_gives_the_same_bits_and_another_one_says_why_not(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", numerics="native")
    train(folder, 2, **{SHARDS: "2"})
    stretch = ("--model", MODEL, "--from", "4", "--to", str(STEPS))
    command = (sys.executable, "-m", "pipeline.cli", "replay", ".", *stretch)
    assert end(start(folder, 2, *command, **{SHARDS: "2"})) == 0, (folder / "said").read_text()
    assert end(start(folder, 2, *command)) == 1
    assert "shards: 2 then, 1 now" in (folder / "said").read_text()


@pytest.mark.parametrize("first", [0, 1, 13, 319, 320])
def test_rows_of_a_first_tensor_are_drawn_without_those_before_them(first: int) -> None:
    spec = tiny_spec("openelm")
    for name, whole in initial_tensors(spec, 5):
        start_row = min(first, len(whole))
        rows = initial_rows(spec, 5, name, (len(whole) - start_row, *whole.shape[1:]), start_row)
        assert np.array_equal(rows, whole[start_row:])


def test_rows_of_a_stored_tensor_are_read_without_the_others(tmp_path: Path) -> None:
    tensor = np.arange(35, dtype=np.float32).reshape(7, 5)
    ck.write_tensors(tmp_path / "file", {"a": np.zeros(3, np.float32), "b": tensor})
    with TensorFile(tmp_path / "file") as file:
        for start_row, stop in ((0, 7), (2, 4), (6, 7), (7, 7)):
            assert np.array_equal(file.read_rows("b", start_row, stop), tensor[start_row:stop])


@pytest.mark.parametrize(
    ("changes", "variables", "fault"),
    [
        ({}, {SHARDS: "3"}, "EVERYSTEP_SHARDS=3: give a power of two"),
        ({}, {SHARDS: "two"}, "EVERYSTEP_SHARDS=two: give a power of two"),
        ({"numerics": "portable"}, {SHARDS: "2"}, "numerics: portable, whose bits may not depend on"),
        ({}, {SHARDS: "8"}, "micro-batches for 4 processes at most"),
        ({}, {SHARDS: "2", PROCESSES: "4"}, "EVERYSTEP_SHARDS=2, but 4 processes: each has one shard"),
    ],
)
def test_shards_that_cannot_be_are_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], variables: dict[str, str], fault: str
) -> None:
    recipe, _ = load_recipe(MODEL, make_run(tmp_path / "run", **({"numerics": "native"} | changes)))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(EverystepError, match=fault):
        launch_training(print, recipe)
