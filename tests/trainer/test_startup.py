"""A start that fails or is interrupted ends within seconds, with one message, and leaves no process behind."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.project import ROOT, environment
from tests.releases import flip
from tests.trainer.runs import are_gone, children, end, make_run, reaches, start

SECONDS = 120
"""Generous: other tests run beside it. What waited for a lost peer took ten minutes."""

JOB = """
from trainer.launch import launch
if __name__ == "__mp_main__":
    import no_such_library
def job(world):
    return world.size
def main():
    print(launch(job, 2, "portable"))
if __name__ == "__main__":
    from pipeline.base.console import run_command
    run_command(main, "")
"""


def peers_of(process: int) -> list[int]:
    """The processes that were started to join this one, at whatever point of their own start they are."""
    found = []
    for child in children(process):
        try:
            found += [child] if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes() else []
        except OSError:
            continue
    return found


def said_once(folder: Path, message: str) -> None:
    said = (folder / "said").read_text()
    assert said.count(message) == 1, said
    assert "Traceback" not in said, said


def test_a_peer_that_is_killed_before_it_joins_ends_the_start_with_a_message(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    process = start(folder, 2)
    assert reaches(process, lambda: bool(peers_of(process.pid)))
    family = children(process.pid)
    os.kill(peers_of(process.pid)[0], signal.SIGKILL)
    assert end(process, within=SECONDS) == 2
    said_once(
        folder,
        "error: process 1 of 2 was killed by signal 9, perhaps because memory ran out; run the same command again",
    )
    assert are_gone(family)


def test_a_peer_that_cannot_be_loaded_ends_the_start_with_a_message(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(JOB)
    env = environment(PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=env, timeout=SECONDS)
    assert done.returncode == 2, done.stderr
    assert "ModuleNotFoundError: No module named 'no_such_library'" in done.stderr
    assert done.stderr.splitlines()[-1] == ("error: process 1 of 2 failed with exit code 1; its message is above")


def test_what_a_peer_refuses_is_said_as_if_there_were_one_process(tmp_path: Path) -> None:
    """Rows that only the second process reads: its first micro-batch is the seventh."""
    folder = make_run(tmp_path / "run")
    flip(folder / "data" / "tokens" / "train" / "000000.jsonl.zst", 0.5)
    process = start(folder, 2)
    assert end(process, within=SECONDS) in (1, 2)
    said_once(folder, "error: data/tokens/train/000000.jsonl.zst: ")


def interrupted(folder: Path, processes: int, wait: float, number: int, whole_group: bool) -> None:
    process = start(folder, processes)
    began = reaches(process, lambda: b"pipeline.stages" in Path(f"/proc/{process.pid}/cmdline").read_bytes())
    assert began
    time.sleep(wait)
    family = children(process.pid)
    if whole_group:
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid, number)
    code = end(process, within=SECONDS)
    assert are_gone(family), (wait, number)
    shutil.rmtree(folder / ".work", ignore_errors=True)
    if number == signal.SIGINT and code not in (0, -signal.SIGINT):  # else it was through, or Python still loading it
        assert code == 130, (wait, (folder / "said").read_text())
        said_once(folder, "interrupted; run the same command again")


@pytest.mark.parametrize(
    "whole_group",
    [pytest.param(True, id="as a terminal does"), pytest.param(False, id="first alone", marks=pytest.mark.long)],
)
def test_an_interrupt_while_peers_start_ends_all_of_them(tmp_path: Path, whole_group: bool) -> None:
    folder = make_run(tmp_path / "run")
    process = start(folder, 2)
    assert reaches(process, lambda: bool(peers_of(process.pid)))
    family = children(process.pid)
    if whole_group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        os.kill(process.pid, signal.SIGINT)
    assert end(process, within=SECONDS) == 130
    said_once(folder, "interrupted; run the same command again")
    assert are_gone(family)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_thirty_signals_at_random_instants_of_the_start_leave_nobody_behind(
    tmp_path: Path, number: int, record_property: Callable[[str, object], None]
) -> None:
    draw = random.Random(20261125)
    folder = make_run(tmp_path / "run")
    longest = 0.0
    for _ in range(30):
        wait, began = draw.uniform(0, 6), time.monotonic()
        interrupted(folder, 2, wait, number, whole_group=number == signal.SIGINT)
        longest = max(longest, time.monotonic() - began - wait)
    record_property("said", f"30 times signal {number}; the slowest end took {longest:.1f} s")
