"""`make reproduce`: clone this project, rebuild everything without any cache, compare with what is committed.

`python -m pipeline.build.reproduce here` does it in this folder, a fresh clone (`everystep thaw`).

The lock is compared as data, because the order of its entries follows execution; manifests byte for byte. The
first difference is named by stage and key. Exit code 0: the same; 1: something differs, and the clone is kept.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.base.console import note, run_command
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import list_files
from pipeline.base.paths import MANIFESTS
from pipeline.base.yaml import load_yaml
from pipeline.build.git import git, try_git
from pipeline.build.release import repro
from pipeline.formats.stages import BY_NAME

LOCK = "dvc.lock"


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
    committed = _read(clone)
    shutil.rmtree(clone / MANIFESTS)
    (clone / LOCK).unlink()
    # Whatever cache the user shares between projects: this one begins empty.
    (clone / ".dvc" / "config.local").write_text("[cache]\n    dir = cache\n")
    note(f"rebuilding in {clone}")
    try:
        repro(clone)
    except EverystepError as error:
        raise EverystepError(f"{clone}: {error}") from error
    differences = list(compare(committed, _read(clone)))
    if differences:
        raise Differs("\n".join([*differences[:20], f"{len(differences)} differences; the rebuilt clone is {clone}"]))
    return (
        f"same: {len(committed) - 1} manifests and the lock's {len(committed[LOCK])} stages, rebuilt without any cache"
    )


def rebuild_here(_here: str) -> None:
    """Rebuild in this folder."""
    print(rebuild(Path().absolute()))


def compare(committed: dict[str, Any], rebuilt: dict[str, Any]) -> Iterator[str]:
    """Every difference, a line each: first the lock's in the order of its stages, then the manifests."""
    yield from _differences(LOCK, committed[LOCK], rebuilt[LOCK])
    for path in sorted((committed.keys() | rebuilt.keys()) - {LOCK}):
        if path not in committed or path not in rebuilt:
            yield f"{path}: only {'rebuilt' if path in rebuilt else 'committed'}"
        elif committed[path] != rebuilt[path]:
            yield f"{path}: its bytes differ"


def _differences(where: str, left: Any, right: Any) -> Iterator[str]:
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted(left.keys() | right.keys(), key=_in_order_of_stages):
            yield from _differences(f"{where}: {key}", left.get(key), right.get(key))
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for old, new in zip(left, right, strict=True):
            name = old.get("path", "") if isinstance(old, dict) else ""
            yield from _differences(f"{where}: {name}" if name else where, old, new)
    elif left != right:
        yield f"{where}: committed {left!r}, rebuilt {right!r}"


def _in_order_of_stages(key: str) -> tuple[int, str]:
    """Order causes before effects, so that the first line of a report names what to look at."""
    stage = key.partition("@")[0]
    names = list(BY_NAME)
    return names.index(stage) if stage in names else len(names), key


def _read(project: Path) -> dict[str, Any]:
    """The parsed lock and the bytes of every manifest."""
    stages = load_yaml(project / LOCK)["stages"]
    manifests = {
        f"{MANIFESTS}/{path}": (project / MANIFESTS / path).read_bytes() for path in list_files(project / MANIFESTS)
    }
    return {LOCK: stages, **manifests}


if __name__ == "__main__":
    if sys.argv[1:] == ["here"]:
        run_command(rebuild_here, "here")
    else:
        run_command(reproduce, "")
