"""Bring the state of another release from which a training goes on, with what proves it, and the rows of that release.

Reads the release at `parent_address` of `params.yaml`, each file compared with its root manifest, whose SHA-256 is
declared. Writes `data/parent` (see `pipeline.release.ancestors`), the rows and their manifests in their own places, and
`manifests/parent.json`. All are copies: a link would make DVC's cache and the other release one file.
"""

import shutil
from pathlib import Path

from pipeline.base.console import progress
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import atomic_writer, fresh_folder, write_bytes
from pipeline.base.params import load_params, load_section
from pipeline.base.paths import PARAMS, PARENT
from pipeline.base.yaml import Section
from pipeline.formats.current import take_basis, write_manifest
from pipeline.formats.manifests import Parent
from pipeline.formats.release import ROOT, release_root
from pipeline.release.ancestors import carried_from, kept_from, root_sha256, stored_state
from pipeline.release.release import Release


class ParentParams(Section):
    """The section `parent`: which state of which release. `release_sha256` is that of its root manifest."""

    release_sha256: str
    model: str
    step: int


def parent() -> None:
    """Fetch the declared state and rows."""
    declared = load_section(ParentParams, "parent")
    basis = take_basis(sections=["parent"])
    release = Release.open(_address())
    if release.version is None:
        raise EverystepError(f"{release.folder}: has no {ROOT}; the parent of a training is a state of a release")
    if (found := root_sha256(release)) != declared.release_sha256:
        raise Differs(
            f"{release.folder / ROOT}: SHA-256 {found}, but {PARAMS} declares parent.release_sha256 "
            f"{declared.release_sha256}; correct parent_address"
        )
    state = stored_state(release, declared.model, declared.step)
    kept, carried = kept_from(state), carried_from(release)
    copies = {path: PARENT / path for path in kept} | {path: Path(path) for path in carried.files}
    for folder in (PARENT, *map(Path, carried.folders)):
        fresh_folder(folder)
    with progress("parent", len(copies), "files") as advance:
        for path, target in copies.items():
            _copy(release.file(path), target)
            advance(1)
    for path in carried.manifests:
        write_bytes(Path(path), release.read(path))
    write_bytes(PARENT / ROOT, release_root(release.folder))
    write_manifest(
        Parent,
        None,
        basis,
        parameters=declared.model_dump(),
        outputs={},
        release=release.name,
        version=release.version,
        tokens=state.record.tokens,
        state_digest=state.record.state_digest,
        files={ROOT: declared.release_sha256} | {path: release.files[path].digest for path in kept},
        carried={path: release.files[path].digest for path in carried.manifests},
    )


def _address() -> str:
    address = load_params().get("parent_address")
    if not isinstance(address, str) or not address:
        raise EverystepError(f"{PARAMS}: parent_address: say where the release of the parent is, such as ../release")
    return address


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as content, atomic_writer(target) as file:
        shutil.copyfileobj(content, file)
