"""How each model was trained, as the page of a release shows it: its log thinned to a curve, its checkpoints."""

from collections.abc import Iterable, Iterator
from itertools import islice
from math import fsum

from pydantic import Field

from pipeline.base.errors import Differs
from pipeline.base.paths import RUNS
from pipeline.formats import log
from pipeline.formats.canonical import canonical
from pipeline.formats.manifests import Evaluated, RecipeParameters, Trained, path_of
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
    alike: str
    """Name of the first model whose recipe is the same but for seeds: its own, or that of a sibling."""
    seed: Count
    """Seed of its first weights."""
    order_seed: Count
    """Seed of the order of its rows."""
    warmup_steps: Count
    """Updates until the highest rate."""
    batch_tokens: Count
    """Tokens of a batch."""
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
    found: list[TrainingFacts] = []
    first_with: dict[bytes, str] = {}
    for name in names:
        trained = release.manifest(Trained, name)
        recipe = trained.parameters
        alike = first_with.setdefault(_without_seeds(recipe), name)
        num_numbers = trained.parameters_unique
        found.append(
            TrainingFacts(
                model=name,
                alike=alike,
                seed=recipe.seed,
                order_seed=recipe.data.seed,
                warmup_steps=recipe.schedule.warmup_steps,
                batch_tokens=recipe.data.global_batch * (recipe.data.width - 1),
                curve=list(thinned(log.read(release.file(RUNS / name / log.JSONL)), recipe.schedule.steps)),
                checkpoints=list(_measured(release, trained)),
                virtual=trained.num_virtual,
                weights_bytes=BYTES_OF_A_NUMBER * num_numbers,
                state_bytes=BYTES_OF_A_NUMBER * num_numbers * (1 + MOMENTS),
            )
        )
    return found


def _without_seeds(recipe: RecipeParameters) -> bytes:
    """A recipe but for its seeds, as one text."""
    tree = recipe.to_json()
    data = {key: value for key, value in tree["data"].items() if key != "seed"}
    return canonical({key: value for key, value in (tree | {"data": data}).items() if key not in ("name", "seed")})


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
