"""The gate: nothing is published before each checkpoint was found to be the one that was trained.

Public suites have carried final weights under early names, repeated shards and missing steps (pythia#205, #206,
OLMo#915). So for every model, the steps are those of the recipe's schedule, the log holds every step and every digest
that is due, the tensors give the digests of the record, the record says what the log says of its step, no weights occur
at two steps, each record names the state of the one before it as parent, and the manifest and the config say the same.
The model is the one that the recipe describes, rates and tokens in the log are those of the recipe, and between two
states no weight and no moment moved farther than AdamW moves it at these rates, whatever the gradients
(`pipeline.release.displacement`).
"""

import re
from array import array
from collections.abc import Container, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import Differs
from pipeline.base.paths import RECIPES, RUNS
from pipeline.base.yaml import load_yaml
from pipeline.formats import checkpoints as ck
from pipeline.formats import log
from pipeline.formats.families import build_spec
from pipeline.formats.manifests import Trained
from pipeline.formats.model import ModelSpec
from pipeline.formats.tensors import TensorFile
from pipeline.release.ancestors import ancestors
from pipeline.release.displacement import Floats, Moments, Optimizer, Violation, Window
from pipeline.release.rates import wrong_rate
from pipeline.release.release import Release, Stored

OPEN = 100
"""States of a model whose files are open at the same time."""


def check_model(release: Release, name: str, tensors: bool = True) -> list[ck.Record]:
    """The records of a model whose every checkpoint passed; else `Differs`, naming the first that did not.

    Without `tensors`, the files of weights and moments are not read: the root manifest has their digests.
    """
    manifest = release.model(name)
    parameters, folder = manifest.parameters, release.folder / RUNS / name
    recipe = release.file(RECIPES / f"{name}.yaml")
    _require(load_yaml(recipe) == parameters.to_json(), f"{recipe}: is not the recipe in the manifest")
    said = ModelSpec.from_json(manifest.model, str(manifest.path))
    _require(build_spec(parameters.model, str(recipe)) == said, f"{recipe}: describes another model than the manifest")
    expected = parameters.published_steps
    path = release.file(RUNS / name / log.JSONL)
    entries, rates = _read_log(path, manifest, {*expected})
    if wrong := wrong_rate(parameters, rates):
        step, rate = parameters.begun_at + wrong[0], rates[wrong[0] - 1]
        raise Differs(f"{path}: has learning_rate {rate} at step {step}, the recipe makes it {wrong[1]}")
    steps = [entry.step for entry in manifest.checkpoints]
    _require(steps == expected, f"{folder}: checkpoints are missing or extra; expected {expected}, got {steps}")
    records: list[ck.Record] = []
    begun_from = parameters.parent.state_digest if parameters.parent else None
    for state in release.states(name).values():
        _check_files(state, manifest, tensors)
        _check_unique(state, records, rates, parameters.begun_at)
        _check_record(state, entries.get(state.entry.step), records, begun_from)
        _check_circumstances(state, manifest)
        records.append(state.record)
    return records


def too_far(release: Release, name: str) -> Iterator[str]:
    """What no training can have done between two consecutive states of a model that passed `check_model`.

    A line for each tensor and pair of states: both revisions, the element that is farthest off, found and allowed.
    """
    manifest = release.model(name)
    begun = list(ancestors(release, name))
    states = [*begun[:1], *release.states(name).values()]
    _, rates = _read_log(release.file(RUNS / name / log.JSONL), manifest, ())
    section = manifest.parameters.optimizer
    optimizer = Optimizer(
        beta1=section.beta1,
        beta2=section.beta2,
        epsilon=section.epsilon,
        weight_decay=section.weight_decay,
        decay=section.decay,
    )
    if any(_betas(state.release.model(state.model)) != _betas(manifest) for state in begun):
        return  # the bound is derived for moments that have decayed at one rate from step 0 on
    begun_at = manifest.parameters.begun_at
    birth = Window(optimizer, 0, rates[: states[0].step - begun_at])
    for first in range(0, len(states), OPEN):
        run = states[max(first - 1, 0) : first + OPEN]
        windows = [Window(optimizer, a.step, rates[a.step - begun_at : b.step - begun_at]) for a, b in pairwise(run)]
        with ExitStack() as stack:
            weights = [stack.enter_context(TensorFile(state.file(ck.WEIGHTS))) for state in run]
            moments = [stack.enter_context(TensorFile(state.file(ck.OPTIMIZER))) for state in run]
            for state, *files in zip(run, weights, moments, strict=True):
                _require_same_tensors(state, weights[0], *files)
            for tensor in sorted(weights[0].entries):
                before = _float32(weights[0], tensor), _moments(moments[0], tensor)
                if first == 0 and not begun and (violation := birth.moments(tensor, None, before[1])):
                    yield f"{RUNS / name}: from the start to {run[0].entry.revision}, {violation}"
                for number, window in enumerate(windows, 1):
                    after = _float32(weights[number], tensor), _moments(moments[number], tensor)
                    pair = f"{run[number - 1].entry.revision} to {run[number].entry.revision}"
                    for violation in _violations(window, tensor, before, after):
                        yield f"{RUNS / name}: from {pair}, {violation}"
                    before = after


def _betas(trained: Trained) -> tuple[float, float]:
    return trained.parameters.optimizer.beta1, trained.parameters.optimizer.beta2


def _require_same_tensors(state: Stored, expected: TensorFile, weights: TensorFile, moments: TensorFile) -> None:
    """Every state has the same weights in float32, and two moments of each."""
    shapes = {name: (entry.dtype, entry.shape) for name, entry in weights.entries.items()}
    paired = {f"{moment}.{name}": shape for moment in ("first", "second") for name, shape in shapes.items()}
    held = {name: (entry.dtype, entry.shape) for name, entry in moments.entries.items()}
    where = state.release.folder / state.folder
    _require(weights.shapes() == expected.shapes(), f"{where}: has other tensors than the checkpoints before it")
    _require(held == paired, f"{where / ck.OPTIMIZER}: does not hold two moments of each weight")
    _require({dtype for dtype, _ in shapes.values()} <= {"F32"}, f"{where / ck.WEIGHTS}: is not in float32")


Pair = tuple[Floats, Moments]


def _violations(window: Window, tensor: str, before: Pair, after: Pair) -> list[Violation]:
    found = window.weights(tensor, before[0], after[0]), window.moments(tensor, before[1], after[1])
    return [violation for violation in found if violation]


def _moments(file: TensorFile, tensor: str) -> Moments:
    return Moments(_float32(file, f"first.{tensor}"), _float32(file, f"second.{tensor}"))


def _float32(file: TensorFile, tensor: str) -> Floats:
    return file.read(tensor).astype(np.float32, copy=False)  # from little-endian


def _check_files(state: Stored, manifest: Trained, tensors: bool) -> None:
    """The tensors are those of the record, the description is that of the manifest."""
    for name in (ck.WEIGHTS, ck.OPTIMIZER):
        path = f"{state.folder}/{name}"
        where = state.release.file(path) if tensors else state.release.folder / path
        _require(path in state.release.files, f"{where}: missing")
        promised, given = ck.promised_digest(state.record, name), state.release.files[path].digest
        _require(promised == given, f"{where}: the record promises {promised}, the tensors give {given}")
    config = state.release.folder / state.folder / ck.CONFIG
    _require(state.config == manifest.model, f"{config}: is not the model of the manifest")


def _check_unique(state: Stored, before: list[ck.Record], rates: NDArray[np.float64], begun_at: int) -> None:
    """No weights occur at two steps, unless every learning rate between them is 0, so that nothing was applied."""
    record = state.record
    for other in before:
        moved = rates[other.step - begun_at : record.step - begun_at].any()
        _require(
            record.weights_digest != other.weights_digest or not moved,
            f"{state.release.folder / state.folder}: has the same weights as {other.revision}",
        )


def _check_record(state: Stored, logged: log.Entry | None, before: list[ck.Record], begun_from: str | None) -> None:
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
    if logged is None:  # step 0 is no update, so it has no line
        return
    for key in ("tokens", "loss", "learning_rate"):
        ours, theirs = getattr(record, key), getattr(logged, key)
        _require(ours == theirs, f"{where}: its record says {key} {ours}, the log at step {record.step} {theirs}")
    _require(
        logged.weights_digest in (None, record.weights_digest),
        f"{where}: its weights are not those that the log has at step {record.step}",
    )


def _check_circumstances(state: Stored, manifest: Trained) -> None:
    """What a record says of how its state was made is what it can be under this recipe."""
    record, parameters = state.record, manifest.parameters
    what = record.numerics
    settings = {
        "storage": (record.storage, "stored"),
        "nearest_stored_step": (record.nearest_stored_step, record.step),
        "digest_interval": (record.digest_interval, parameters.digest_every),
        "applied_updates": (record.applied_updates, record.step),
        "numerics.class": (what.name, parameters.numerics),
        "numerics.dtype": (what.dtype, parameters.precision),
        "numerics.compiled": (what.compiled, parameters.compiled),
        "numerics.threads": (what.threads, 1),
    }
    if what.name == "portable":
        settings["numerics.capability"] = what.capability, "AVX2"
        products = "OpenBLAS VERSION Haswell"
        settings["numerics.products"] = re.sub(r"(?<=^OpenBLAS )\S+(?= Haswell$)", "VERSION", what.products), products
    for key, (said, expected) in settings.items():
        where = state.release.folder / state.folder / ck.RECORD
        _require(said == expected, f"{where}: {key} is {said!r}; of this recipe it is {expected!r}")


def _read_log(
    path: Path, manifest: Trained, wanted: Container[int]
) -> tuple[dict[int, log.Entry], NDArray[np.float64]]:
    """The lines of a log at the `wanted` steps, and the learning rate of every step of the training.

    Every step has a line, and a digest where the recipe asks for one.
    """
    begun_at, digest_every = manifest.parameters.begun_at, manifest.parameters.digest_every
    steps = manifest.parameters.schedule.steps - begun_at
    entries: dict[int, log.Entry] = {}
    rates = array("d")
    number = 0
    for number, entry in enumerate(log.read(path), 1):
        step = begun_at + number
        due = step % digest_every == 0
        _require(entry.step == step, f"{path}:{number}: is about step {entry.step}")
        _require((entry.weights_digest is not None) == due, f"{path}:{number}: a digest is missing, or not due")
        tokens = manifest.parameters.tokens(step)
        _require(entry.tokens == tokens, f"{path}:{number}: has {entry.tokens} tokens, the recipe makes it {tokens}")
        _require(number <= steps, f"{path}: holds more than the {steps} steps of the recipe")
        rates.append(entry.learning_rate)
        if step in wanted:
            entries[step] = entry
    _require(number == steps, f"{path}: holds {number} steps, the recipe has {steps}")
    return entries, np.frombuffer(rates)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise Differs(message)
