"""What there is to see of a run beside its log: a board, and a record of each stretch. Neither changes a byte."""

import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.base.errors import how_to_install
from pipeline.formats.canonical import parse
from tests.project import ROOT, run
from tests.releases import copied
from tests.trainer.runs import LIMIT, MODEL, STEPS, killed, make_run, num_logged, reaches, result, start, train
from trainer.monitor import RECORDS, TENSORBOARD

CURVES = ("loss", "gradient_norm", "learning_rate")


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / RECORDS / f"{MODEL}.jsonl").read_text().splitlines()]


def board_agrees_with_log(folder: Path) -> None:
    """TensorBoard's own reader gives the log: each step once, in order, each number as float32."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = EventAccumulator(str(folder / "board" / MODEL), size_guidance={"scalars": 0}).Reload()
    logged = [parse(line) for line in (folder / "runs" / MODEL / "log.jsonl").read_bytes().splitlines()]
    assert seen.Tags()["scalars"] == sorted(CURVES, key=seen.Tags()["scalars"].index)
    for curve in CURVES:
        drawn = [(event.step, np.float32(event.value)) for event in seen.Scalars(curve)]
        assert drawn == [(entry["step"], np.float32(entry[curve])) for entry in logged]
    assert len(logged) == STEPS


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TENSORBOARD, "board")


@pytest.mark.usefixtures("board")
def test_a_board_changes_no_byte_of_the_run_and_misses_and_repeats_no_step_after_a_kill(
    tmp_path: Path, reference: Path
) -> None:
    """The board's writer holds two minutes in its buffers: the kill takes all of them."""
    folder = make_run(tmp_path / "run")
    assert killed(folder, 1, lambda: num_logged(folder) >= 5)
    assert "goes on from step" in train(folder)
    board_agrees_with_log(folder)
    assert result(folder) == result(reference)


@pytest.mark.usefixtures("board")
def test_a_run_that_was_complete_is_drawn_from_its_log_once_and_says_so(tmp_path: Path, reference: Path) -> None:
    """DVC starts nothing for it, so the board would stay empty without a word."""
    folder = copied(reference, tmp_path / "run")
    command = (sys.executable, "-m", "trainer.monitor")
    said = [run(folder, *command, PYTHONPATH=str(ROOT)).stderr for _ in range(2)]
    assert said == [f"{MODEL}: its training was complete, so its curves on board are drawn from its log\n", ""]
    board_agrees_with_log(folder)


def test_drawing_without_a_folder_for_the_curves_says_what_to_set(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "trainer.monitor")
    done = run(tmp_path, *command, check=False, PYTHONPATH=str(ROOT), **{TENSORBOARD: ""})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {TENSORBOARD}: not set; set it to the folder of the curves, such as boards\n"


@pytest.mark.usefixtures("board")
def test_a_board_without_tensorboard_says_what_to_install(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    process = start(folder, 1, sys.executable, "-c", WITHOUT_TENSORBOARD)
    assert process.wait(timeout=LIMIT) == 2
    said = (folder / "said").read_text()
    assert f"{TENSORBOARD}: needs tensorboard; {how_to_install('tensorboard')}" in said
    assert "Traceback" not in said


WITHOUT_TENSORBOARD = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorboard":
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.argv = ["train", "mobilellm"]
from pipeline.base.console import run_command
from trainer.train import train
run_command(train, "MODEL")
"""


def test_a_run_leaves_a_record_outside_all_that_is_hashed(tmp_path: Path, reference: Path) -> None:
    (record,) = records(reference)
    assert record["ended"] == "complete"
    assert (record["steps"], record["processes"]) == ([0, STEPS], 1)
    assert record["tokens"] == STEPS * 24 * 32
    assert math.isclose(record["tokens_per_second"], record["tokens"] / record["seconds"], rel_tol=1e-2)
    assert record["host"] and record["processor"] and record["numerics"]["class"] == "portable"
    assert 10**8 < record["peak_memory_of_rank_0"] < 10**10
    published = b"".join(content for path, content in result(reference).items() if not path.endswith(".safetensors"))
    for told in (record["host"], record["began"], record["processor"], "tokens_per_second", str(record["seconds"])):
        assert f'"{told}"'.encode() not in published


def test_an_interrupted_run_leaves_a_record_and_one_line_and_goes_on(tmp_path: Path, reference: Path) -> None:
    folder = make_run(tmp_path / "run")
    process = start(folder, 2)
    assert reaches(process, lambda: num_logged(folder) >= 5)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait(timeout=LIMIT) == 130
    said = (folder / "said").read_text()
    assert said.splitlines()[-1] == "interrupted; run the same command again"
    assert "Traceback" not in said
    train(folder)
    first, second = records(folder)
    assert (first["ended"], first["processes"], second["ended"]) == ("KeyboardInterrupt", 2, "complete")
    assert 5 <= first["steps"][1] < STEPS
    assert 0 < second["steps"][0] <= first["steps"][1] and second["steps"][1] == STEPS
    assert result(folder) == result(reference)


def test_a_kill_leaves_no_record_of_its_stretch(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    assert killed(folder, 1, lambda: num_logged(folder) >= 5)
    assert not (folder / RECORDS).exists()


def test_a_run_that_fails_leaves_a_record_that_names_the_error(tmp_path: Path) -> None:
    """The log cannot be written: its place is taken by a folder while the run is under way."""
    folder = make_run(tmp_path / "run")
    process = start(folder, 1)
    assert reaches(process, lambda: num_logged(folder) >= 4)
    (log,) = folder.glob(".work/train/*/*/log.jsonl")
    log.rename(log.with_name("aside"))
    log.mkdir()
    assert process.wait(timeout=LIMIT) != 0
    (record,) = records(folder)
    assert record["ended"] == "IsADirectoryError"


@pytest.mark.parametrize("name", ["host", "processor", "tokens_per_second"])
def test_no_stage_writes_a_key_of_the_record(reference: Path, name: str) -> None:
    texts = [content for path, content in result(reference).items() if path.endswith((".json", ".jsonl", ".csv"))]
    assert texts and not any(f'"{name}"'.encode() in text for text in texts)
