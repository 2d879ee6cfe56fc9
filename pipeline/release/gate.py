"""The gate: nothing is published before each checkpoint was found to be the one that was trained.

Public suites have carried final weights under early names, repeated shards and missing steps (pythia#205, #206,
OLMo#915). So for every model, the steps are those of the recipe's schedule, the log holds every step and every digest
that is due, the tensors give the digests of the record, the record says what the log says of its step, no weights occur
at two steps, each record names the state of the one before it as parent, and the manifest and the config say the same.
"""

from collections.abc import Container
from pathlib import Path

from pipeline.base.errors import Differs
from pipeline.base.paths import RECIPES, RUNS
from pipeline.base.yaml import load_yaml
from pipeline.formats import checkpoints as ck
from pipeline.formats import log
from pipeline.formats.manifests import Trained
from pipeline.release.release import Release, State


def check_model(release: Release, name: str) -> list[ck.Record]:
    """The records of a model whose every checkpoint passed; else `Differs`, naming the first that did not."""
    manifest = release.model(name)
    parameters, folder = manifest.parameters, release.folder / RUNS / name
    recipe = release.file(RECIPES / f"{name}.yaml")
    _require(load_yaml(recipe) == parameters.to_json(), f"{recipe}: is not the recipe in the manifest")
    expected = parameters.published_steps
    entries = _read_log(release.file(RUNS / name / log.JSONL), manifest, {*expected})
    steps = [entry.step for entry in manifest.checkpoints]
    _require(steps == expected, f"{folder}: checkpoints are missing or extra; expected {expected}, got {steps}")
    records: list[ck.Record] = []
    begun_from = parameters.parent.state_digest if parameters.parent else None
    for state in release.states(name).values():
        _check_files(state, manifest)
        _check_record(state, entries.get(state.entry.step), records, begun_from)
        records.append(state.record)
    return records


def _check_files(state: State, manifest: Trained) -> None:
    """The tensors are those of the record, the description is that of the manifest."""
    for name in (ck.WEIGHTS, ck.OPTIMIZER):
        file = state.file(name)
        promised, given = ck.promised_digest(state.record, name), state.release.files[f"{state.folder}/{name}"].digest
        _require(promised == given, f"{file}: the record promises {promised}, the tensors give {given}")
    config = state.release.folder / state.folder / ck.CONFIG
    _require(state.config == manifest.model, f"{config}: is not the model of the manifest")


def _check_record(state: State, logged: log.Entry | None, before: list[ck.Record], begun_from: str | None) -> None:
    """One record against itself, the log and the records before it; the first against what the training began with."""
    where, record = state.release.folder / state.folder, state.record
    _require(
        record.state_digest == ck.state_digest(record.weights_digest, record.optimizer_digest, record.step),
        f"{where}: its state digest does not follow from its parts",
    )
    _require(record.revision == ck.revision(record.step, record.tokens), f"{where}: its name does not fit its step")
    _require(
        record.parent == (before[-1].state_digest if before else begun_from),
        f"{where}: its parent is not the checkpoint before it",
    )
    for other in before:
        same = record.weights_digest == other.weights_digest
        _require(not same, f"{where}: has the same weights as {other.revision}")
    if logged is None:  # step 0 is no update, so it has no line
        return
    for key in ("tokens", "loss", "learning_rate"):
        ours, theirs = getattr(record, key), getattr(logged, key)
        _require(ours == theirs, f"{where}: its record says {key} {ours}, the log at step {record.step} {theirs}")
    _require(
        logged.weights_digest in (None, record.weights_digest),
        f"{where}: its weights are not those that the log has at step {record.step}",
    )


def _read_log(path: Path, manifest: Trained, wanted: Container[int]) -> dict[int, log.Entry]:
    """The lines of a log at the `wanted` steps. Every step of the training has one, and a digest where the recipe asks
    for one."""
    begun_at, digest_every = manifest.parameters.begun_at, manifest.parameters.digest_every
    steps = manifest.parameters.schedule.steps - begun_at
    entries: dict[int, log.Entry] = {}
    number = 0
    for number, entry in enumerate(log.read(path), 1):
        step = begun_at + number
        due = step % digest_every == 0
        _require(entry.step == step, f"{path}:{number}: is about step {entry.step}")
        _require((entry.weights_digest is not None) == due, f"{path}:{number}: a digest is missing, or not due")
        _require(number <= steps, f"{path}: holds more than the {steps} steps of the recipe")
        if step in wanted:
            entries[step] = entry
    _require(number == steps, f"{path}: holds {number} steps, the recipe has {steps}")
    return entries


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise Differs(message)
