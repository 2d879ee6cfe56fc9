"""`make setup` says what pip does: all of it on a terminal, a line now and then in a log, its last words on failure."""

import fcntl
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import ROOT

PIP = """#!/bin/sh
echo "WARNING: a word of warning" >&2
echo "Collecting torch==2.13.0"
echo "  Downloading http://index/packages/torch-2.13.0.whl (192.4 MB)"
sleep 0.7
echo "Installing collected packages: networkx, torch"
mkdir -p "$SITE/networkx-1.dist-info"
sleep 0.7
echo "the last words of pip"
exit $CODE
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A new .venv with a pip that installs one of two packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    pip = tmp_path / ".venv" / "bin" / "pip"
    pip.write_text(PIP)
    pip.chmod(0o755)
    site = next((tmp_path / ".venv" / "lib").glob("python3.*")) / "site-packages"
    return os.environ | {"SITE": str(site), "CODE": "0", "PYTHONPATH": str(ROOT)}


def install(folder: Path, **more: object) -> subprocess.CompletedProcess[str]:
    command = [folder / ".venv/bin/python", "-m", "pipeline.build.install", "torch==2.13.0"]
    return subprocess.run(command, cwd=folder, text=True, **more)  # type: ignore[call-overload, no-any-return]


def test_a_terminal_shows_each_package_and_then_how_many_are_installed(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    ours, its = pty.openpty()
    done = install(tmp_path, env=environment, stdout=its, stderr=its)
    os.close(its)
    said = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "1 package, torch-2.13.0.whl (192.4 MB)" in said
    assert "1 of 2 packages installed" in said
    assert "\x1b[KWARNING: a word of warning\r\n" in said
    assert "http://index" not in said and "last words" not in said


def test_a_log_gets_one_line_of_a_short_installation(tmp_path: Path, environment: dict[str, str]) -> None:
    done = install(tmp_path, env=environment, capture_output=True)
    assert (done.returncode, done.stdout) == (0, "")
    warning, line = done.stderr.splitlines()
    assert warning == "WARNING: a word of warning"
    assert line.endswith("1 of 2 packages installed")


def test_a_failure_shows_the_end_of_what_pip_said(tmp_path: Path, environment: dict[str, str]) -> None:
    done = install(tmp_path, env=environment | {"CODE": "3"}, capture_output=True)
    assert done.returncode == 3
    assert "the last words of pip\nerror: pip ended with 3; fix" in done.stderr


# The Makefiles


@pytest.fixture(params=["Makefile", "examples/Makefile"])
def project(tmp_path: Path, environment: dict[str, str], request: pytest.FixtureRequest) -> Path:
    shutil.copy(ROOT / request.param, tmp_path / "Makefile")
    for name in ("pyproject.toml", "constraints.txt", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make_setup(project: Path, environment: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "setup"], cwd=project, env=environment | more, capture_output=True, text=True, check=False
    )


def test_make_setup_installs_once(project: Path, environment: dict[str, str]) -> None:
    done = make_setup(project, environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("installing what builds into .venv")
    assert done.stderr.count("packages installed") == 3  # the lock, torch, and this project
    again = make_setup(project, environment)
    assert (again.returncode, again.stderr) == (0, "")
    assert "installing" not in again.stdout


def test_make_setup_stops_where_pip_fails_and_tries_again(project: Path, environment: dict[str, str]) -> None:
    done = make_setup(project, environment, CODE="1")
    assert done.returncode == 2 and "error: pip ended with 1" in done.stderr
    assert make_setup(project, environment).returncode == 0


def test_make_setup_without_locks_waits_for_nobody(project: Path, environment: dict[str, str], tmp_path: Path) -> None:
    program = tmp_path / "programs" / "flock"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'flock: 9: Function not implemented' >&2\nexit 71\n")
    program.chmod(0o755)
    done = make_setup(project, environment, PATH=f"{program.parent}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert "waiting" not in done.stdout


def test_make_setup_waits_for_another_that_fills_the_same_folder(project: Path, environment: dict[str, str]) -> None:
    with (project / ".venv" / "setup-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command, silent = ["make", "setup"], subprocess.DEVNULL
        process = subprocess.Popen(
            command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=silent, text=True
        )
        assert process.stdout
        assert process.stdout.readline() == "waiting: another make is filling .venv\n"
    assert process.wait(timeout=120) == 0
