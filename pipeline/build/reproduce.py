"""`make reproduce`: clone this project, rebuild everything without any cache, compare with what is committed.

`python -m pipeline.build.reproduce here` does it in this folder, a fresh clone (`everystep thaw`).

It compares as `everystep diff` does: the lock as data, because the order of its entries follows execution, manifests
byte for byte. The first difference is named by stage and cause. Exit code 0: the same; 1: something differs, and the
clone is kept.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from pipeline.base.console import note, run_command
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.paths import MANIFESTS
from pipeline.build.git import git, try_git
from pipeline.build.release import repro
from pipeline.compare.builds import LOCK, ProjectBuild
from pipeline.compare.compare import compare_builds
from pipeline.compare.report import build_lines

SHOWN = 20
"""Differences of each kind that are listed."""


def reproduce() -> None:
    """Rebuild the committed state in a fresh clone and compare."""
    top = Path(git(Path(), "rev-parse", "--show-toplevel"))
    if git(top, "status", "--porcelain", "--untracked-files=no"):
        note("note: there are uncommitted changes here; the clone has what is committed")
    if try_git(top, "cat-file", "-e", f"HEAD:{LOCK}").returncode:
        raise EverystepError(f"{top / LOCK}: not committed; run `make release` and commit {LOCK} and {MANIFESTS}/")
    folder = Path(tempfile.mkdtemp(prefix="everystep-reproduce-"))
    clone = folder / "clone"
    git(folder, "clone", "--quiet", str(top), str(clone))
    same = rebuild(clone)
    shutil.rmtree(folder)
    print(same)


def rebuild(clone: Path) -> str:
    """Build all of a fresh clone without any cache, and compare; returns the sentence that says it is the same."""
    with tempfile.TemporaryDirectory(prefix="everystep-committed-") as temporary:
        committed = Path(temporary)
        shutil.move(clone / MANIFESTS, committed / MANIFESTS)
        shutil.move(clone / LOCK, committed / LOCK)
        # Whatever cache the user shares between projects: this one begins empty.
        (clone / ".dvc" / "config.local").write_text("[cache]\n    dir = cache\n")
        note(f"rebuilding in {clone}")
        try:
            repro(clone)
        except EverystepError as error:
            raise EverystepError(f"{clone}: {error}") from error
        return compare(committed, clone)


def compare(committed: Path, rebuilt: Path) -> str:
    """The sentence that says that two projects are the same; raises `Differs`, with the first cause, if they are not.

    Locks are compared as data, manifests byte for byte.
    """
    a, b = ProjectBuild("committed", committed), ProjectBuild("rebuilt", rebuilt)
    found = compare_builds(a, b, SHOWN, metadata=True)
    if found.findings:
        found.findings.notes.clear()  # what was committed is no more than lock and manifests
        raise Differs("\n".join([*build_lines(a, b, found, SHOWN), f"the rebuilt clone is {rebuilt}"]))
    return f"same: {len(a.manifests)} manifests and the lock's {len(a.lock)} stages, rebuilt without any cache"


def rebuild_here(_here: str) -> None:
    """Rebuild in this folder."""
    print(rebuild(Path().absolute()))


if __name__ == "__main__":
    if sys.argv[1:] == ["here"]:
        run_command(rebuild_here, "here")
    else:
        run_command(reproduce, "")
