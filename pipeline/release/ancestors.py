"""Ancestors: the states of other releases that a training goes on from, and how far each is proved.

A fork keeps at `data/parent` a sparse copy of its parent's release, with the same relative paths: the root manifest,
what lies between that and the state, and the state itself. A parent that is a fork too has its own `data/parent`, of
which the proofs go along and the weights stay there. So every generation is opened and compared as any release is,
until a training that began with new weights.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.base.errors import Differs, EverystepError
from pipeline.base.paths import MANIFESTS, PARENT, RECIPES
from pipeline.formats import checkpoints as ck
from pipeline.formats.manifests import BegunFrom, Parent, Trained, parse_any_manifest, path_of
from pipeline.formats.release import ROOT, kind_of, release_root
from pipeline.formats.stages import DATA_STAGES
from pipeline.release.release import Release, Stored

BELOW = f"{PARENT}/"


class Carried(NamedTuple):
    """What a fork takes over from its parent besides the state, so that it reads the same rows."""

    manifests: list[str]
    """Manifests of the rows and of all that they were made from."""
    files: list[str]
    """What a release holds of their outputs."""

    @property
    def folders(self) -> list[str]:
        """The folders of the files, such as `data/tokens`, sorted."""
        return sorted({"/".join(path.split("/")[:2]) for path in self.files})


def carried_from(release: Release) -> Carried:
    """What a fork takes over from `release`, sorted."""
    manifests = sorted(path for path in release.files if path.startswith(f"{MANIFESTS}/"))
    stages = {path: parse_any_manifest(release.read(path), release.folder / path).stage for path in manifests}
    files = [path for path in release.files if path.startswith("data/") and not path.startswith(BELOW)]
    return Carried([path for path in manifests if stages[path] in DATA_STAGES], sorted(files))


def kept_from(state: Stored) -> list[str]:
    """What a fork keeps of the release of its parent to prove `state`, sorted; the root manifest, listed nowhere, goes
    along."""
    files = state.release.files
    proofs = [path_of(Trained, state.model).as_posix(), f"{RECIPES}/{state.model}.yaml"]
    proofs += [path for path in files if path in (path_of(Parent).as_posix(), f"{MANIFESTS}/code.json")]
    proofs += [path for path in files if path.startswith(BELOW) and kind_of(path) != "tensors"]
    names = (ck.RECORD, ck.CONFIG, ck.WEIGHTS, ck.OPTIMIZER)
    return sorted([*proofs, *(f"{state.folder}/{name}" for name in names)])


def stored_state(release: Release, model: str, step: int) -> Stored:
    """A state that a training can go on from: one whose every byte the release promises."""
    state = release.state(model, step)
    if not isinstance(state, Stored):
        stored = ", ".join(map(str, release.model(model).stored_steps))
        raise EverystepError(
            f"step {step}: a virtual checkpoint of {model}; a fork goes on from a stored one: {stored}"
        )
    return state


def root_sha256(release: Release) -> str:
    """The SHA-256 of the root manifest of a release."""
    return hashlib.sha256(release_root(release.folder, release.follow_links)).hexdigest()


def parent_state(release: Release, begun: BegunFrom, where: object) -> Stored:
    """The state that a training of `release` goes on from, in the copy of its parent that `release` keeps.

    Raises `Differs` unless it is the state that `begun`, the section `parent` of the recipe `where`, names, and the
    root manifest with the declared SHA-256 promises it.
    """
    manifest = release.manifest(Parent)
    for path, digest in manifest.promises().items():
        if path not in release.files or release.files[path].digest != digest:
            raise Differs(f"{release.folder / path}: missing, or not the file that {manifest.path} lists")
        if kind_of(path) != "tensors":
            release.file(path)
    parent = Release.open(release.folder / PARENT, release.follow_links)
    declared, found = manifest.parameters, root_sha256(parent)
    if found != declared.release_sha256:
        raise Differs(f"{parent.folder / ROOT}: SHA-256 {found}, declared is a parent with {declared.release_sha256}")
    _require_promised(manifest, parent)
    state = stored_state(parent, declared.model, declared.step)
    _require_chain(parent, parent.model(state.model))
    record = state.record
    if record.state_digest != ck.state_digest(record.weights_digest, record.optimizer_digest, record.step):
        raise Differs(f"{parent.folder / state.folder}: its state digest does not follow from its parts")
    for key in ("state_digest", "step", "tokens"):
        named, given = getattr(begun, key), getattr(record, key)
        if named != given:
            raise Differs(f"{where}: parent.{key}: {named}, but {state.model} at step {record.step} has {given}")
    next_sample = parent.model(state.model).parameters.sample(record.step)
    if begun.first_sample not in (0, next_sample):
        raise EverystepError(
            f"{where}: parent.first_sample: {begun.first_sample}; write {next_sample}, with which the parent would go "
            "on, or 0, the first of the order"
        )
    return state


def ancestors(release: Release, model: str) -> Iterator[Stored]:
    """The state that the training of a model began with, the one that the training of that began with, and so on, each
    proved by what `release` keeps."""
    parameters = release.model(model).parameters
    while parameters.parent is not None:
        state = parent_state(release, parameters.parent, release.folder / RECIPES / f"{model}.yaml")
        yield state
        release, model = state.release, state.model
        parameters = release.model(model).parameters


def foreign_manifests(release: Release) -> Iterator[str]:
    """Each manifest that is said to be the parent's and is not, as a fault."""
    manifest = release.manifest(Parent)
    parent = Release.open(release.folder / PARENT, release.follow_links)
    for path, digest in manifest.carried.items():
        for holder in (release, parent):
            if path not in holder.files or holder.files[path].digest != digest:
                yield f"{manifest.path}: carried: {path} is another one in {holder.folder}"


def _require_promised(manifest: Parent, parent: Release) -> None:
    for path, digest in manifest.files.items():
        if path != ROOT and (path not in parent.files or parent.files[path].digest != digest):
            raise Differs(f"{manifest.path}: files: {path} is not what the parent's {ROOT} promises")


def _require_chain(release: Release, trained: Trained) -> None:
    """Each checkpoint of a model names the one before it, and the first what the training began with."""
    parameters = trained.parameters
    before = parameters.parent.state_digest if parameters.parent else None
    for entry in trained.checkpoints:
        if entry.parent != before:
            raise Differs(f"{release.folder / trained.path}: the parent of {entry.revision} is not what came before it")
        before = entry.state_digest
