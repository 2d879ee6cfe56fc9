"""The probe: the learning record of a model and what its checkpoints write, computed again from the very files of a
release.

A digest says that a file is the one that was listed; only a loss says that it is a model that works. The rows and the
micro-batch are those of the evaluation in the release, and so are the bits, in the same numerics class. In the class
`native` another processor may round differently: there the mean loss of a checkpoint may differ by `TOLERANCE` of
itself, and samples are not compared.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.base.paths import RESULTS, RUNS, TOKENIZER
from pipeline.formats import checkpoints as ck
from pipeline.formats import losses as record
from pipeline.formats import samples
from pipeline.formats.canonical import parse
from pipeline.formats.lines import encode_line
from pipeline.formats.manifests import Checkpoint, Evaluated
from pipeline.formats.samples import Written
from pipeline.formats.vocabulary import token_bytes
from pipeline.release.release import Release
from pipeline.release.results import HeldOut
from pipeline.release.targets import Targets, targets_of_release
from trainer.evaluate import Measured, measure, prompts_of, samples_of
from trainer.launch import default_processes, launch
from trainer.recipe import load_recipe

TOLERANCE = 1e-4


def probe(release: Release, model: str) -> Iterator[str]:
    """Compute record and samples of a model again, and yield what is not as in its evaluation."""
    release.file(f"recipes/{model}.yaml")
    recipe, spec = load_recipe(model, release.folder)
    parameters = release.manifest(Evaluated, model).parameters
    tokenizer = release.file(TOKENIZER)
    states = list(release.states(model).values())
    folders = [state.file(ck.WEIGHTS).parent for state in states]
    targets = targets_of_release(release, model)
    prompts = prompts_of(parameters.prompts, tokenizer, spec)
    processes = default_processes(recipe.data.num_leaves)
    asked = (model, spec, folders, targets.rows, parameters.micro_batch, tokenizer, prompts, parameters.sample_tokens)
    measured: Measured = launch(measure, processes, recipe.numerics, *asked)
    exact = recipe.numerics == "portable"
    entries = [state.entry for state in states]
    yield from _sums(release, model, targets, entries, measured, 0.0 if exact else TOLERANCE)
    yield from _losses(release, model, targets, entries, measured, 0.0 if exact else TOLERANCE)
    if exact:
        yield from _samples(release, model, samples_of(entries, parameters, tokenizer, measured.written))


def _sums(
    release: Release, model: str, targets: Targets, entries: Sequence[Checkpoint], measured: Measured, allowed: float
) -> Iterator[str]:
    """What the manifest says of the checkpoints, over all held-out rows and by source."""
    evaluated, held_out = release.manifest(Evaluated, model), HeldOut.of(targets, token_bytes(release.file(TOKENIZER)))
    losses = zip(entries, measured.losses[:, : targets.num_held_out], strict=True)
    results, by_source = held_out.results(entries, {entry.revision: of_rows for entry, of_rows in losses})
    pairs = [
        *zip(results, evaluated.results, strict=False),
        *zip(by_source, evaluated.by_source, strict=False),
    ]
    for found, said in pairs:
        near = found.revision == said.revision and abs(found.loss - said.loss) <= allowed * abs(said.loss)
        if not (near if allowed else found == said):
            yield (
                f"{RUNS / model / found.revision}: the validation loss of its weights is {found.loss}, "
                f"{evaluated.path} says {said.loss} for {said.revision}"
            )


def _losses(
    release: Release, model: str, targets: Targets, entries: Sequence[Checkpoint], measured: Measured, allowed: float
) -> Iterator[str]:
    path = RESULTS / model / record.NAME
    revisions = [entry.revision for entry in entries]
    for revision, found in zip(revisions, measured.losses, strict=True):
        said = _column(release.file(path), revisions, revision)
        found = found.ravel()
        if allowed and said.shape == found.shape:
            ours, theirs = found.mean(dtype=np.float64), said.mean(dtype=np.float64)
            if not abs(ours - theirs) <= allowed * abs(theirs):
                yield f"{path}: {revision}: the losses of its weights have the mean {ours}, not {theirs}"
        elif said.tobytes() != found.tobytes():
            yield f"{path}: {_difference(targets, revision, said, found)}"


def _column(path: Path, revisions: Sequence[str], revision: str) -> NDArray[np.float32]:
    batches = record.losses_batches(path, revisions, [revision])
    return np.concatenate([np.empty(0, np.float32), *(batch.column(0).to_numpy() for batch in batches)])


def _difference(targets: Targets, revision: str, said: NDArray[np.float32], found: NDArray[np.float32]) -> str:
    if said.shape != found.shape:
        return f"has {len(said)} losses of {revision}, the rows have {len(found)} targets"
    first = int(np.flatnonzero(said != found)[0])
    key = targets.keys.slice(first, 1).to_pylist()[0]
    where = f"{key['split']} row {key['row']}, position {key['position']}"
    return f"{revision}: the loss of {where} is {found[first]} by its weights, not {said[first]}"


def _samples(release: Release, model: str, found: Sequence[Written]) -> Iterator[str]:
    path = RESULTS / model / samples.NAME
    if release.read(path) != b"".join(encode_line(line.to_json()) for line in found):
        said = [parse(line, path) for line in release.read(path).splitlines()]
        differing = [line.revision for line, other in zip(found, said, strict=False) if line.to_json() != other]
        yield f"{path}: {', '.join(dict.fromkeys(differing)) or 'its lines'}: not what these weights write"
