"""Sides: what a person names on the command line, opened as a build or as a checkpoint.

ADDRESS                 a release at any address (`pipeline.stores.address`), a project, or a `dvc.lock`
ADDRESS@MODEL:STEP      a checkpoint of a release, stored or virtual; ADDRESS may end in #sha256=HEX, as everywhere
ADDRESS                 else a folder with safetensors, here or elsewhere, or one file of them
"""

import re
from pathlib import Path

from pipeline.base.errors import EverystepError
from pipeline.base.files import PLAIN_NAME
from pipeline.base.paths import MANIFESTS
from pipeline.base.suggest import did_you_mean
from pipeline.compare.builds import Build, LockBuild, ProjectBuild, ReleaseBuild
from pipeline.compare.checkpoints import INDEX, CheckpointSide, FolderSide, StateSide, StoreSide
from pipeline.formats.checkpoints import WEIGHTS
from pipeline.formats.release import ROOT
from pipeline.release.release import Release
from pipeline.release.rungs import pinned_root
from pipeline.stores.address import is_remote, open_store
from pipeline.stores.store import Missing, Store

STATE = re.compile(rf"(.+)@({PLAIN_NAME}):(0|[1-9][0-9]{{0,17}})")
SERVER = re.compile(r"https?://[^/]*")
WHAT = "neither a release, a project, a dvc.lock nor a folder with safetensors"
FIX = "a checkpoint of a release is written ADDRESS@MODEL:STEP"

AnySide = Build | CheckpointSide
Pair = tuple[AnySide, AnySide]


def open_pair(a: str, b: str, follow_links: bool = False) -> Pair:
    """What is at two addresses: two builds or two checkpoints, else an error."""
    sides = open_side(a, follow_links), open_side(b, follow_links)
    if isinstance(sides[0], Build) != isinstance(sides[1], Build):
        build, other = (a, b) if isinstance(sides[0], Build) else (b, a)
        raise EverystepError(f"diff: {build} is a build and {other} a checkpoint; compare two of one kind: {FIX}")
    return sides


def open_side(address: str, follow_links: bool = False) -> AnySide:
    """What is at an address."""
    state = STATE.fullmatch(address)
    exists = Path(address.removeprefix("file://")).exists()
    if state and not SERVER.fullmatch(state[1]) and not exists:  # else `user:name@host:port` of a server
        return _state(state[1], state[2], int(state[3]), follow_links)
    place, sha256 = pinned_root(address)
    if sha256 is not None:
        return ReleaseBuild(address, Release.open(address, follow_links))
    if is_remote(place):
        return _remote(address, open_store(place))
    here = Path(place.removeprefix("file://"))
    if not here.exists():
        raise EverystepError(f"{address}: no such file or folder; {FIX}")
    return _file(here) if here.is_file() else _folder(address, here, follow_links)


def _state(address: str, model: str, step: int, follow_links: bool) -> StateSide:
    release = Release.open(address, follow_links)
    names = release.models()
    if model not in names:
        listed = f"it has {', '.join(names)}" if names else "it has trained none"
        raise EverystepError(f"{address}@{model}:{step}: no such model; {listed}{did_you_mean(model, names)}")
    return StateSide(address, release.state(model, step))


def _remote(address: str, store: Store) -> AnySide:
    if _has(store, ROOT):
        return ReleaseBuild(address, Release.open(address))
    if _has(store, WEIGHTS) or _has(store, INDEX):
        return StoreSide(store)
    raise EverystepError(f"{address}: has neither {ROOT} nor {WEIGHTS}; correct the address; {FIX}")


def _has(store: Store, path: str) -> bool:
    try:
        store.size(path)
    except Missing:
        return False
    return True


def _file(path: Path) -> AnySide:
    if path.suffix == ".safetensors":
        return FolderSide(path.parent, path.name)
    if path.suffix in (".lock", ".yaml", ".json"):
        return LockBuild(path)
    raise EverystepError(f"{path}: neither a dvc.lock nor a .safetensors file; {FIX}")


def _folder(address: str, folder: Path, follow_links: bool) -> AnySide:
    if (folder / ROOT).exists() or (folder / ROOT).is_symlink():
        return ReleaseBuild(address, Release.open(address, follow_links))
    if (folder / MANIFESTS).is_dir():
        return ProjectBuild(address, folder, follow_links)
    if (folder / INDEX).is_file() or any(folder.glob("*.safetensors")):
        return FolderSide(folder)
    raise EverystepError(f"{address}: {WHAT}; {FIX}")
