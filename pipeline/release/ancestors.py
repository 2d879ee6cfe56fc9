"""Ancestors: the states of other releases that a training goes on from, and how far each is proved.

A fork keeps at `data/parent` a sparse copy of its parent's release, with the same relative paths: the root manifest,
what lies between that and the state, and the state itself; a virtual one in the place of a stored one. A parent that is
a fork too has its own `data/parent`, of which the proofs go along and the weights stay there. So every generation is
opened and compared as any release is, until a training that began with new weights.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.base.errors import Differs, EverystepError
from pipeline.base.paths import MANIFESTS, PARENT, RECIPES, RUNS
from pipeline.formats import checkpoints as ck
from pipeline.formats import log
from pipeline.formats.manifests import BegunFrom, Checkpoint, Parent, Trained, parse_any_manifest, path_of
from pipeline.formats.release import ROOT, ListedFile, kind_of, release_root
from pipeline.formats.stages import BY_NAME, DATA_STAGES
from pipeline.release.rebuilt import record_of
from pipeline.release.release import Release, State, Stored, Virtual

BELOW = f"{PARENT}/"
MADE_AGAIN = ("search",)
"""Stages of the data that run in a fork that forgets: the parent's index has the forgotten texts."""


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


def carried_from(release: Release, forgets: bool = False) -> Carried:
    """What a fork takes over from `release`, sorted. One that forgets indexes its own rows."""
    manifests = sorted(path for path in release.files if path.startswith(f"{MANIFESTS}/"))
    stages = {path: parse_any_manifest(release.read(path), release.folder / path).stage for path in manifests}
    taken = [path for path in manifests if stages[path] in DATA_STAGES and not (forgets and stages[path] in MADE_AGAIN)]
    left = (BELOW, *(f"{BY_NAME[stage].folder}/" for stage in MADE_AGAIN if forgets))
    files = [path for path in release.files if path.startswith("data/") and not path.startswith(left)]
    return Carried(taken, sorted(files))


def proofs_of(state: State) -> list[str]:
    """What a fork keeps of the release of its parent to prove `state`, sorted, besides the files of the state and the
    root manifest, which is listed nowhere."""
    files, model = state.release.files, state.model
    proofs = [path_of(Trained, model).as_posix(), f"{RECIPES}/{model}.yaml"]
    proofs += [path for path in files if path in (path_of(Parent).as_posix(), f"{MANIFESTS}/code.json")]
    proofs += [path for path in files if path.startswith(BELOW) and kind_of(path) != "tensors"]
    if isinstance(state, Virtual):
        proofs += [f"{RUNS}/{model}/{log.JSONL}", f"{state.nearest.folder}/{ck.RECORD}"]
    return sorted(proofs)


def files_of(state: State) -> dict[str, Path]:
    """The files of a state by the paths that a stored one has in a release, verified; a virtual one is in the cache."""
    folder = f"{RUNS}/{state.model}/{state.revision}"
    return {f"{folder}/{name}": state.file(name) for name in (ck.RECORD, ck.CONFIG, ck.WEIGHTS, ck.OPTIMIZER)}


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
    state = _state_in(parent, manifest, _model_of(manifest, begun))
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


def _model_of(manifest: Parent, begun: BegunFrom) -> str:
    """The model whose state has the digest that a recipe names; the first there is, if none has it."""
    found = [name for name, state in manifest.states.items() if state.state_digest == begun.state_digest]
    return [*found, *manifest.parameters.states][0]


def _state_in(parent: Release, manifest: Parent, model: str) -> Stored:
    """The declared state of a model in the copy of its release. All that is kept is promised by the root manifest
    there, but the files of virtual states: what these must be is in the log and in the record of the stored state
    before each."""
    states = {name: parent.state(name, step) for name, step in manifest.parameters.states.items()}
    if model not in states:
        raise Differs(f"{manifest.path}: states: {model} is not one of those that `parent` in params.yaml names")
    virtual = tuple(f"{RUNS}/{s.model}/{s.revision}/" for s in states.values() if isinstance(s, Virtual))
    rebuilt = {
        path: ListedFile(kind=kind_of(path), digest=digest)
        for path, digest in manifest.files.items()
        if path.startswith(virtual)
    }
    promised = {**parent.files, **rebuilt}
    for path, digest in manifest.files.items():
        if path != ROOT and (path not in promised or promised[path].digest != digest):
            raise Differs(f"{manifest.path}: files: {path} is not what the parent's {ROOT} promises")
    state, folder = states[model], f"{RUNS}/{model}/{states[model].revision}/"
    if isinstance(state, Stored):
        return state
    assert isinstance(state, Virtual)
    whole = Release(parent.folder, parent.name, parent.version, promised, parent.follow_links)
    path = folder + ck.RECORD
    record = ck.parse_record(whole.read(path), parent.folder / path)
    expected = record_of(state.logged, state.nearest.record, record.optimizer_digest, record.numerics)
    given = {name: promised[folder + name].digest for name in (ck.WEIGHTS, ck.OPTIMIZER)}
    if record != expected or any(ck.promised_digest(record, name) != digest for name, digest in given.items()):
        raise Differs(f"{parent.folder / path}: is not of the virtual state that the log of {state.model} promises")
    return Stored(whole, state.model, Checkpoint.of_record(record))


def _require_chain(release: Release, trained: Trained) -> None:
    """Each checkpoint of a model names the one before it, and the first what the training began with."""
    parameters = trained.parameters
    before = parameters.parent.state_digest if parameters.parent else None
    for entry in trained.checkpoints:
        if entry.parent != before:
            raise Differs(f"{release.folder / trained.path}: the parent of {entry.revision} is not what came before it")
        before = entry.state_digest
