"""How each model was trained, as the page of a release shows it: its log thinned to a curve, its checkpoints."""

from collections.abc import Iterable, Iterator
from itertools import islice
from math import fsum

from pydantic import Field

from pipeline.base.errors import Differs
from pipeline.base.paths import RUNS
from pipeline.formats import log
from pipeline.formats.manifests import Evaluated, Trained, path_of
from pipeline.formats.typed import Count, TensorsDigest, Typed
from pipeline.release.release import Release

MAX_POINTS = 128
"""Points of a curve; a longer log is averaged over equal runs of steps."""
BYTES_OF_A_NUMBER = 4
"""Weights and moments are stored in float32 (`docs/formats.md`, section 10.2)."""
MOMENTS = 2


class Point(Typed):
    """A point of a curve: the mean over the steps since the point before it."""

    step: Count
    """The last of these steps."""
    tokens: Count
    """Tokens that the model was trained on until there."""
    loss: float
    """Loss of a batch before its update."""
    gradient_norm: float
    """Norm of its gradient before clipping."""
    learning_rate: float
    """Rate of the last of these updates."""


class SourceMeasured(Typed):
    """A checkpoint on the held-out text of one source."""

    bits_per_byte: float
    """Loss per byte of text, in bits."""
    standard_error: float | None
    """Its standard error, over rows; null for fewer than two."""


class Measured(Typed):
    """A stored checkpoint: what proves which one it is, and how it does on held-out text."""

    revision: str
    """Its name."""
    step: Count
    """Its step."""
    tokens: Count
    """Tokens that the model was trained on until there."""
    loss: float
    """Validation loss, in nats per token."""
    bits_per_byte: float
    """The same per byte of text, in bits."""
    standard_error: float | None
    """Standard error of the bits per byte, over rows; null for fewer than two."""
    by_source: dict[str, SourceMeasured]
    """Source → how the checkpoint does on its held-out text."""
    weights_digest: TensorsDigest
    """Digest of its weights."""
    state_digest: TensorsDigest
    """Digest of its whole state."""

    def sources(self, names: Iterable[str]) -> list[SourceMeasured]:
        """How it does on some sources."""
        return [self.by_source[name] for name in names]


class TrainingFacts(Typed):
    """The training of a model."""

    model: str
    """Name of the model."""
    curve: list[Point]
    """Its log, thinned."""
    checkpoints: list[Measured] = Field(min_length=1)
    """Its stored checkpoints, ascending."""
    virtual: Count
    """Number of its virtual checkpoints."""
    weights_bytes: Count
    """Bytes of the weights of a checkpoint."""
    state_bytes: Count
    """Bytes of its weights and moments."""


def gather_trainings(release: Release, names: list[str]) -> list[TrainingFacts]:
    """The trainings of the models, in this order."""
    return [_training(release, release.manifest(Trained, name)) for name in names]


def _training(release: Release, trained: Trained) -> TrainingFacts:
    steps, num_numbers = trained.parameters.schedule.steps, trained.parameters_unique
    return TrainingFacts(
        model=trained.of,
        curve=list(thinned(log.read(release.file(RUNS / trained.of / log.JSONL)), steps)),
        checkpoints=list(_measured(release, trained)),
        virtual=trained.num_virtual,
        weights_bytes=BYTES_OF_A_NUMBER * num_numbers,
        state_bytes=BYTES_OF_A_NUMBER * num_numbers * (1 + MOMENTS),
    )


def thinned(entries: Iterable[log.Entry], num_steps: int, most: int = MAX_POINTS) -> Iterator[Point]:
    """At most `most` points of a log of `num_steps` lines."""
    lines, length = iter(entries), max(1, -(-num_steps // most))
    while run := list(islice(lines, length)):
        yield Point(
            step=run[-1].step,
            tokens=run[-1].tokens,
            loss=fsum(entry.loss for entry in run) / len(run),
            gradient_norm=fsum(entry.gradient_norm for entry in run) / len(run),
            learning_rate=run[-1].learning_rate,
        )


def _measured(release: Release, trained: Trained) -> Iterator[Measured]:
    """Each checkpoint with its result."""
    evaluated = release.manifest(Evaluated, trained.of)
    results = {result.revision: result for result in evaluated.results}
    by_source: dict[str, dict[str, SourceMeasured]] = {}
    for found in evaluated.by_source:
        measured = SourceMeasured(bits_per_byte=found.bits_per_byte, standard_error=found.standard_error)
        by_source.setdefault(found.revision, {})[found.source] = measured
    for entry in trained.checkpoints:
        if entry.revision not in results:
            raise Differs(f"{release.folder / path_of(Evaluated, trained.of)}: results: none of {entry.revision}")
        yield Measured(
            revision=entry.revision,
            step=entry.step,
            tokens=entry.tokens,
            loss=results[entry.revision].loss,
            bits_per_byte=results[entry.revision].bits_per_byte,
            standard_error=results[entry.revision].standard_error,
            by_source=by_source.get(entry.revision, {}),
            weights_digest=entry.weights_digest,
            state_digest=entry.state_digest,
        )
