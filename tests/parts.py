"""A stage for tests of the executors: parts of work that say who began them, and how to watch them from outside."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.imports import ROOT

STAGE = """
from functools import partial
from pathlib import Path
from pipeline.base.console import run_command
from pipeline.executor.ordered_map import ordered_map
from tests.parts import wait_for_leave


def stage() -> None:
    print(*ordered_map(partial(wait_for_leave, folder=Path("begun").absolute()), range(NUM)))


if __name__ == "__main__":
    run_command(stage, "")
"""


def square(number: int) -> int:
    return number * number


def refuse_three(number: int) -> int:
    if number == 3:
        raise ValueError("three is refused")
    return number


def pid_of_worker(number: int) -> int:
    return os.getpid()


def die_once(number: int, folder: Path) -> int:
    """Killed in the middle of part 2, the first time."""
    marker = folder / f"{number}-begun"
    if number == 2 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square(number)


def die_always(number: int, folder: Path) -> int:
    """Killed in the middle of part 2, each time; a line of `begun` for each."""
    if number == 2:
        with (folder / "begun").open("a") as file:
            file.write(".")
        os.kill(os.getpid(), signal.SIGKILL)
    return square(number)


def wait_for_leave(number: int, folder: Path) -> int:
    """Says which process began it, then works until the file `leave` is there."""
    (folder / f"{number}-{os.getpid()}").touch()
    while not (folder / "leave").exists():
        time.sleep(0.05)
    return square(number)


def start_stage(project: Path, num: int, at_once: int) -> subprocess.Popen[str]:
    """A stage of `num` parts as a program of its own, in the middle of `at_once` of them."""
    (project / "stage.py").write_text(STAGE.replace("NUM", str(num)))
    (project / "begun").mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    stage = subprocess.Popen(
        [sys.executable, "stage.py"],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: len(begun(project)) == at_once or stage.poll() is not None)
    assert stage.poll() is None, stage.communicate()[1]
    return stage


def begun(project: Path) -> dict[int, list[int]]:
    """For each part that was begun, the ids of the processes that began it, the last one last."""
    found: dict[int, list[int]] = {}
    for path in sorted((project / "begun").glob("*-*"), key=lambda path: path.stat().st_mtime_ns):
        number, pid = path.name.split("-")
        found.setdefault(int(number), []).append(int(pid))
    return found


def is_alive(pid: int) -> bool:
    """A zombie is not: nobody has asked for its exit code, but it does nothing any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what must come true."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
