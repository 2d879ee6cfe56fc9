"""The stage `parent`: the state of another release from which a training goes on, and the rows of that release.

Reads the release at `parent_address` of `params.yaml`, each file compared with its root manifest, whose SHA-256 is
declared; a virtual state is rebuilt first. Writes `data/parent` (see `pipeline.release.ancestors`), the rows and their
manifests in their own places, and `manifests/parent.json`. All are copies: a link would make DVC's cache and the other
release one file.
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
from pipeline.formats.release import ROOT, content_digest, kind_of, release_root
from pipeline.release.ancestors import carried_from, files_of, proofs_of, root_sha256
from pipeline.release.release import Release, Virtual
from trainer.rebuild import rebuild


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
    state, carried = release.state(declared.model, declared.step), carried_from(release)
    if isinstance(state, Virtual):
        rebuild(release, [state])  # may restart this program, so it comes before the work
    proofs, files = proofs_of(state), files_of(state)
    copies = {Path(path): release.file(path) for path in carried.files}
    copies |= {PARENT / path: release.file(path) for path in proofs} | {PARENT / path: files[path] for path in files}
    for folder in (PARENT, *map(Path, carried.folders)):
        fresh_folder(folder)
    with progress("parent", len(copies), "files") as advance:
        for target, source in copies.items():
            _copy(source, target)
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
        files={ROOT: declared.release_sha256}
        | {path: release.files[path].digest for path in proofs}
        | {path: content_digest(file, kind_of(path)) for path, file in files.items()},
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
