"""The stage `parent`: the states of another release from which trainings go on, and the rows of that release.

Reads the release at `parent_address` of `params.yaml`, each file compared with its root manifest, whose SHA-256 is
declared; a virtual state is rebuilt first. Writes `data/parent` (see `pipeline.release.ancestors`), the rows and their
manifests in their own places, and `manifests/parent.json`. All are copies: a link would make DVC's cache and the other
release one file.

With a section `forget`, the rows come without some documents: the rows that change and their manifest are written
here, with the certificate `manifests/forgotten.json` (see `pipeline.release.forgetting`).
"""

import shutil
from pathlib import Path
from typing import Annotated

from pydantic import Field

from pipeline.base.console import progress
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import atomic_writer, fresh_folder, sha256_file, write_bytes
from pipeline.base.params import SECTION_OF_FORGETTING, load_params, load_section
from pipeline.base.paths import PARAMS, PARENT, TOKENS
from pipeline.base.yaml import Section
from pipeline.formats.canonical import pretty
from pipeline.formats.current import take_basis, write_manifest
from pipeline.formats.manifests import ForgetParameters, Forgetting, Parent, TasksMade, Tokens, path_of
from pipeline.formats.release import ROOT, content_digest, kind_of, release_root
from pipeline.release.ancestors import carried_from, files_of, proofs_of, root_sha256
from pipeline.release.forgetting import certificate, index_of, tokens_without, without
from pipeline.release.release import Release, Virtual
from trainer.rebuild import rebuild

ROWS, ASKED = path_of(Tokens).as_posix(), path_of(TasksMade).as_posix()


class ParentParams(Section):
    """The section `parent`: which state of which model of which release. `release_sha256` is that of its root
    manifest."""

    release_sha256: str
    states: Annotated[dict[str, int], Field(min_length=1)]


class ForgetParams(Section):
    """The section `forget`: the documents that a training is repeated without, by id and by source, and why."""

    why: str
    documents: list[str]
    sources: list[str]


def parent() -> None:
    """Fetch the declared states and rows."""
    declared = load_section(ParentParams, "parent")
    forget = load_section(ForgetParams, "forget") if SECTION_OF_FORGETTING in load_params() else None
    basis = take_basis(sections=["parent"])
    release = Release.open(_address())
    if release.version is None:
        raise EverystepError(f"{release.folder}: has no {ROOT}; the parent of a training is a state of a release")
    if (found := root_sha256(release)) != declared.release_sha256:
        raise Differs(
            f"{release.folder / ROOT}: SHA-256 {found}, but {PARAMS} declares parent.release_sha256 "
            f"{declared.release_sha256}; correct parent_address"
        )
    states = [release.state(model, step) for model, step in declared.states.items()]
    for state in states:
        if isinstance(state, Virtual):
            rebuild(release, [state])  # may restart this program, so it comes before the work
    proofs = sorted({path for state in states for path in proofs_of(state)} | ({ROWS} if forget else set()))
    files = {path: file for state in states for path, file in files_of(state).items()}
    carried = carried_from(release, forgets=forget is not None)
    manifests = [path for path in carried.manifests if not (forget and path in (ROWS, ASKED))]
    copies = {Path(path): release.file(path) for path in carried.files}
    copies |= {PARENT / path: release.file(path) for path in proofs} | {PARENT / path: files[path] for path in files}
    for folder in (PARENT, *map(Path, carried.folders)):
        fresh_folder(folder)
    with progress("parent", len(copies), "files") as advance:
        for target, source in copies.items():
            _copy(source, target)
            advance(1)
    for path in manifests:
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
        states={
            state.model: {"tokens": state.record.tokens, "state_digest": state.record.state_digest} for state in states
        },
        files={ROOT: declared.release_sha256}
        | {path: release.files[path].digest for path in proofs}
        | {path: content_digest(file, kind_of(path)) for path, file in files.items()},
        carried={path: release.files[path].digest for path in manifests},
    )
    if forget:
        _forget(release, forget)


def _forget(release: Release, forget: ForgetParams) -> None:
    """Take the documents out of the rows, which are copies by now, and certify it."""
    chosen = ForgetParameters.from_json(forget.model_dump(), PARAMS)
    index = index_of(release)
    forgotten = without(release, index.spans_of(index.chosen(chosen.documents, chosen.sources)))
    write_bytes(Path(ROWS), pretty(tokens_without(release, forgotten, TOKENS)))
    _keep_tasks(release)
    basis = take_basis([path_of(Parent), path_of(Tokens)], ["forget"])
    facts = certificate(Release.open(Path()), release, chosen)
    write_manifest(Forgetting, None, basis, parameters=forget.model_dump(), outputs={}, **facts)


def _keep_tasks(release: Release) -> None:
    """The manifest of the parent's tasks beside the new rows: held-out rows, and so all items, are the same."""
    tree = release.manifest(TasksMade).to_json()
    tree["inputs"] |= {ROWS: sha256_file(Path(ROWS))}
    write_bytes(Path(ASKED), pretty(tree))


def _address() -> str:
    address = load_params().get("parent_address")
    if not isinstance(address, str) or not address:
        raise EverystepError(f"{PARAMS}: parent_address: say where the release of the parent is, such as ../release")
    return address


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as content, atomic_writer(target) as file:
        shutil.copyfileobj(content, file)
