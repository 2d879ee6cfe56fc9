"""`make release`: build the project with `dvc repro`, verify the release, and say what to do next.

One at a time in a folder. What a killed DVC left half written is repaired first. Each stage is announced with its place
among all of them, whether it runs, is taken from DVC's cache of runs, or has not changed. All of that goes to stderr;
the summary of the release goes to stdout.
"""

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import contextmanager
from pathlib import Path

from pipeline.base.console import clock, note, run_command
from pipeline.base.errors import EverystepError
from pipeline.base.locks import NO_LOCKS
from pipeline.base.paths import MANIFESTS, PARAMS, RELEASE, WORK
from pipeline.base.yaml import load_yaml
from pipeline.build.git import try_git
from pipeline.release.release import Release

LOCK = Path("dvc.lock")
READERS = Path(".dvc/tmp/rwlock")
CUT_OFF = re.compile(r"dvc\.lock' (is invalid|validation failed)")
STAGE = re.compile(r"(?:Running stage|Stage) '([^']+)(':|' didn't change|' is cached)")
OUTCOMES = {"':": "", "' didn't change": ": unchanged", "' is cached": ": taken from DVC's cache of runs"}
"""DVC's words about a stage → ours."""
PASSED_OVER = re.compile(
    r"> |(Updating|Generating) lock file|To track the changes|\tgit add|To enable auto|\tdvc config|Use `dvc push`"
)
"""Lines of DVC that repeat ours, or give the advice of `_say_what_is_next`."""


def build() -> None:
    """Build what has changed since the last time; verify and show the release."""
    project = Path()
    _refuse_symbolic_links(project)
    with only_one(project) as lock:
        stages = repro(project, lock)
        if os.environ.get("EVERYSTEP_TENSORBOARD"):
            _run("trainer.monitor")
        if "release" in stages:
            _run("pipeline.cli", "verify", RELEASE.as_posix())
            _run("pipeline.cli", "show", RELEASE.as_posix())
    _say_what_is_next(project, "release" in stages)


def _refuse_symbolic_links(project: Path) -> None:
    """Refuse outputs that DVC fills with links into its cache: such a release could not leave this machine."""
    for path in (project / ".dvc/config.local", project / ".dvc/config"):
        settings = ConfigParser(strict=False, interpolation=None, allow_no_value=True)
        if path.is_file():
            settings.read_string("\n".join(map(str.strip, path.read_text("utf-8").splitlines())), str(path))
        kinds = settings.get("cache", "type", fallback=None)
        if kinds and "symlink" in kinds:
            fix = "set it to `hardlink,copy`, and run `dvc checkout --relink`"
            raise EverystepError(f"{path}: cache.type: symlink: a release is made of files, not of links; {fix}")
        if kinds:
            return


@contextmanager
def only_one(project: Path) -> Iterator[int]:
    """Hold the lock of builds in this folder. Yields its file, for a child process that must hold it too."""
    path = project / WORK / "build.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EverystepError("another `make release` is under way in this folder; wait for it") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            _require_another_lock(project)
        yield file.fileno()


def _require_another_lock(project: Path) -> None:
    """Require that DVC locks without `flock` (it can lock by hard links); then its lock is enough for us."""
    if _dvc(project, "config", "core.hardlink_lock").stdout.strip() != "true":
        fix = "run `dvc config --local core.hardlink_lock true`, which makes DVC do without, and the same command again"
        raise EverystepError(f"{project.absolute()}: its file system has no file locks (flock); {fix}")


def repro(project: Path, *passed: int) -> list[str]:
    """Run `dvc repro` and announce each stage. Returns the names of all stages."""
    stages = mend(project)
    began = time.monotonic()
    outcomes: Counter[str] = Counter()
    at = ""
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=project,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
        pass_fds=passed,
    )
    assert process.stdout
    try:
        for line in process.stdout:
            if found := STAGE.match(line):
                outcome = OUTCOMES[found[2]]
                outcomes[outcome] += 1
                at = f"[{outcomes.total()}/{len(stages)}] {found[1].replace('@', ' ')}"
                note(f"{at}{outcome or f' ({clock(time.monotonic() - began)} so far)'}")
            elif line.strip() and not PASSED_OVER.match(line):
                note(line.rstrip("\n"))
    finally:
        code = process.wait()  # an interrupt reaches DVC too, and it ends in its own time
    if code:
        fix = "fix the error above and run the same command again; it resumes there"
        raise EverystepError(f"stopped{f' at {at}' if at else ''}; {fix}")
    return stages


def mend(project: Path) -> list[str]:
    """Repair what a killed DVC left half written, so that it can start. Returns the names of all stages.

    Cut off may be its list of who reads what, which is empty between two runs, and the lock: then the committed one
    comes back, and what was built since then is in DVC's cache of runs.
    """
    try:
        json.loads((project / READERS).read_bytes())
    except FileNotFoundError:
        pass
    except ValueError:
        (project / READERS).unlink()
    listed = _dvc(project, "stage", "list", "--name-only")
    if CUT_OFF.search(listed.stderr):
        note(f"{LOCK} was cut off; the committed one comes back")
        if try_git(project, "checkout", "--quiet", "--", LOCK.as_posix()).returncode:
            (project / LOCK).unlink()
        listed = _dvc(project, "stage", "list", "--name-only")
    return listed.stdout.split()


def _dvc(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dvc", *words]
    return subprocess.run(command, cwd=project, env=_environment(), capture_output=True, text=True, check=False)


def _environment() -> dict[str, str]:
    """The environment with this interpreter's programs first, because stages are run as `python`."""
    return os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    }


def _run(module: str, *words: str) -> None:
    """Run a program of this checkout; its exit code is ours where it fails."""
    done = subprocess.run([sys.executable, "-m", module, *words], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def _say_what_is_next(project: Path, is_released: bool) -> None:
    """Print commands for this project's models, and what to commit if something is not committed."""
    model = load_yaml(project / PARAMS)["models"][0]
    trained = Release.open(project).model(model)
    start, stop = [trained.parameters.begun_at, *(entry.step for entry in trained.checkpoints)][-2:]
    folder = RELEASE if is_released else Path()
    lines = [
        ("train the last stretch again and compare", f"replay {folder} --model {model} --from {start} --to {stop}")
    ]
    if is_released:
        lines = [
            ("the documents in one batch", f"trace release --model {model} --step {start}"),
            ("one checkpoint for transformers", f"pull release --model {model} --step {start} --out {model}-{start}"),
            *lines,
        ]
    note("Next, after `source .venv/bin/activate`:")
    for purpose, command in lines:
        note(f"  # {purpose}\n  everystep {command}")
    built = (LOCK.as_posix(), MANIFESTS.as_posix())
    if try_git(project, "status", "--porcelain", "--", *built).stdout:
        note(f"  # keep the record of what was built\n  git add {' '.join(built)} && git commit")


if __name__ == "__main__":
    run_command(build, "")
