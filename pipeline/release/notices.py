"""Notices: what a publisher says of a release after it was published, beside it and without touching it.

`notices/forgotten.json` lists the releases that have forgotten documents of this one, with the checkpoints that they
supersede. Nothing promises the file, as nothing promises a signature: it has one name, so that it is found where a
server lists no files, and whoever pulls a checkpoint reads it. What it claims can be proved by the release that it
names (`everystep forget RELEASE --compare SUCCESSOR`), and not by itself.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pipeline.base.errors import EverystepError
from pipeline.base.files import read_small, safe_join, write_bytes
from pipeline.formats.canonical import parse, pretty
from pipeline.formats.manifests import Forgetting
from pipeline.formats.release import NOTICES
from pipeline.formats.typed import Sha256, TensorsDigest, Typed
from pipeline.release.ancestors import root_sha256
from pipeline.release.mirror import fetch_small
from pipeline.release.release import Release, State
from pipeline.stores.store import Missing

PLACE = f"{NOTICES}/forgotten.json"


class Notice(Typed):
    """A release that has forgotten documents of another one."""

    release: str
    """Its name."""
    version: str
    """Its version."""
    release_sha256: Sha256
    """SHA-256 of its root manifest."""
    why: str
    """Why, in the word of who built it."""
    superseded: dict[str, dict[str, TensorsDigest]]
    """Model of the other release → name of each checkpoint that has read of the documents → digest of its state."""
    clean: dict[str, int]
    """Model of the other release → step after which no state is clean."""


class Notices(Typed):
    """The file `notices/forgotten.json`."""

    format: Literal["everystep/notices/1"]
    """Version of this form."""
    release_sha256: Sha256
    """SHA-256 of the root manifest of the release that it is beside."""
    forgotten_by: list[Notice]
    """The releases that have forgotten documents of this one, in the order in which they were noted."""


def notices_of(release: Release) -> list[Notice]:
    """The releases that have forgotten documents of this one, as the file beside it says; it must be about it."""
    content = _content(release)
    if content is None:
        return []
    where = f"{release.address}/{PLACE}"
    found = Notices.from_json(parse(content, where), where)
    if found.release_sha256 != root_sha256(release):
        raise EverystepError(f"{where}: release_sha256: is that of another release; remove the file, or replace it")
    for notice in found.forgotten_by:
        for model, states in notice.superseded.items():
            known = {e.revision: e.state_digest for e in release.model(model).checkpoints}
            if not states.items() <= known.items():
                raise EverystepError(f"{where}: names checkpoints of {model} that are not in the release")
    return found.forgotten_by


def notice_of(successor: Release) -> Notice:
    """What a release that has forgotten says to readers of the release before it."""
    certificate = successor.manifest(Forgetting)
    return Notice(
        release=successor.name,
        version=str(successor.version),
        release_sha256=root_sha256(successor),
        why=certificate.parameters.why,
        superseded={name: dict(model.superseded) for name, model in certificate.models.items()},
        clean={name: model.clean for name, model in certificate.models.items()},
    )


def add_notice(release: Release, notice: Notice) -> Path:
    """Write a notice beside a release of this machine, after those that are there; one that is there stays as it is."""
    if release.mirror:
        raise EverystepError(f"{release.address}: write the notice beside a copy on this machine, and upload {PLACE}")
    there = notices_of(release)
    said = Notices(
        format="everystep/notices/1",
        release_sha256=root_sha256(release),
        forgotten_by=there if notice in there else [*there, notice],
    )
    path = safe_join(release.folder, PLACE)
    write_bytes(path, pretty(said.to_json()))
    return path


def superseding(notices: Sequence[Notice], state: State) -> list[Notice]:
    """The notices that are about a state: it is after the clean one of its model."""
    return [notice for notice in notices if state.step > notice.clean.get(state.model, state.step)]


def _content(release: Release) -> bytes | None:
    if release.mirror:
        try:
            return fetch_small(release.mirror.store, PLACE)
        except Missing:
            return None
    path = safe_join(release.folder, PLACE, release.follow_links)
    return read_small(path) if path.is_file() else None
