"""A lock holds one process at a time and ends with it, on file systems with and without locks of their own."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.base.errors import EverystepError
from pipeline.base.locks import only_one
from tests.project import ROOT, environment

HOLD = """
import fcntl, sys, time
from pathlib import Path
from pipeline.base.console import run_command
from pipeline.base.locks import only_one

def refuse(file, operation):
    raise OSError(number, "no locks here")

number = int(sys.argv.pop())
if number:
    fcntl.flock = refuse

def hold(path):
    with only_one(Path(path), "another one holds it") as everywhere:
        print(everywhere, flush=True)
        time.sleep(600)

run_command(hold, "PATH")
"""


def hold(path: Path, number: int) -> subprocess.Popen[str]:
    """Hold the lock in another process; `number` is the error that `flock` gives there, 0: none."""
    command = [sys.executable, "-c", HOLD, str(path), str(number)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment(PYTHONPATH=str(ROOT)))


@pytest.mark.parametrize("number", [0, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path, number: int) -> None:
    path = tmp_path / "work" / "lock"
    first = hold(path, number)
    assert first.stdout and first.stdout.readline() == f"{number == 0}\n"
    out, err = hold(path, number).communicate(timeout=60)
    assert (out, err) == ("", "error: another one holds it\n")
    other = hold(tmp_path / "other" / "lock", number)
    assert other.stdout and other.stdout.readline() == f"{number == 0}\n"
    first.kill()
    first.wait()
    third = hold(path, number)
    assert third.stdout and third.stdout.readline() == f"{number == 0}\n"
    for process in (other, third):
        process.kill()
        process.wait()


def test_a_lock_is_free_after_its_block(tmp_path: Path) -> None:
    for _ in range(2):
        with only_one(tmp_path / "lock", "busy") as everywhere:
            assert everywhere
            with pytest.raises(EverystepError, match=r"^busy$"), only_one(tmp_path / "lock", "busy"):
                pass
