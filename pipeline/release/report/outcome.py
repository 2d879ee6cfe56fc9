"""What came out: how the models compare, what of it is noise, and every checkpoint with the command that pulls it."""

from collections.abc import Iterator

from pipeline.base.console import in_bytes
from pipeline.release.disclosures.evidence import Evidence
from pipeline.release.report.markup import (
    Cell,
    Html,
    Marked,
    code,
    digest,
    element,
    folded,
    link,
    paragraph,
    right,
    section,
    table,
    with_error,
)
from pipeline.release.report.noise import noise_of
from pipeline.release.report.overview import worded
from pipeline.release.report.trainings import Measured, TrainingFacts


def outcome_section(evidence: Evidence) -> Html:
    """The section."""
    return section(
        "outcome",
        "What came out",
        *_comparison(evidence),
        *_seeds(evidence),
        *_checkpoints(evidence),
    )


def _comparison(evidence: Evidence) -> Iterator[Html]:
    """The last checkpoints on held-out text."""
    targets = evidence.models[0].validation_tokens
    yield paragraph(
        f"The loss is measured on {targets:,} tokens of documents that are held out from training. Bits per byte do "
        "not depend on the tokenizer, so they can be compared with those of other models; lower is better."
    )
    best = min(model.bits_per_byte for model in evidence.models)
    noise = noise_of(evidence)
    yield table(
        "The last checkpoint of each model on held-out text",
        ["model", *map(right, ("parameters", "tokens", "validation loss", "bits per byte", "more than the best"))],
        (
            [
                *(model.name, model.parameters, model.tokens, f"{model.validation_loss:.4f}"),
                Marked(
                    with_error(model.bits_per_byte, training.checkpoints[-1].standard_error),
                    "best" if model.bits_per_byte == best else "",
                ),
                Marked(*_difference(model.bits_per_byte - best, noise.least if noise else None)),
            ]
            for model, training in zip(evidence.models, evidence.trainings, strict=True)
        ),
    )


def _difference(more: float, least: float | None) -> tuple[str, str]:
    """How much worse than the best, and whether that is noise."""
    if not more:
        return "", ""
    return (f"{more:.4f}, within noise", "noise") if least is not None and more < least else (f"{more:.4f}", "")


def _seeds(evidence: Evidence) -> Iterator[Html]:
    """Siblings that differ in seeds alone say what the noise is."""
    noise = noise_of(evidence)
    if noise is None:
        return
    yield element("h3", "What is noise")
    yield paragraph(
        "Some models differ in nothing but a seed, of their first weights or of the order of their rows. From one seed "
        f"to another, bits per byte have a standard deviation of {noise.deviation:.4f}. So a difference below "
        f"{noise.least:.4f}, twice the deviation of a difference, is marked as within noise."
    )
    yield table(
        "Models that differ in seeds alone",
        ["model", "sibling of", *map(right, ("seed of weights", "seed of order", "validation loss", "bits per byte"))],
        (
            [
                *(training.model, training.alike if training.alike != training.model else ""),
                *(str(training.seed), str(training.order_seed)),
                *(f"{training.checkpoints[-1].loss:.4f}", f"{training.checkpoints[-1].bits_per_byte:.4f}"),
            ]
            for training in noise.siblings
        ),
    )


def _checkpoints(evidence: Evidence) -> Iterator[Html]:
    """Every stored checkpoint."""
    yield element("h3", "Checkpoints")
    virtual = sum(training.virtual for training in evidence.trainings)
    yield paragraph(
        "Each command writes a checkpoint as a folder that transformers loads; ",
        code("RELEASE"),
        " is the folder or the address of this release. A digest is shown by its beginning, and copied as a whole; ",
        link("../revisions.jsonl", "revisions.jsonl"),
        " lists them all.",
        f" Of {worded(virtual, 'other step')} the log has the digest of the weights, so ",
        code("everystep pull"),
        " trains them again from the stored checkpoint before them, and compares.",
    )
    for training in evidence.trainings:
        first, last = training.checkpoints[0], training.checkpoints[-1]
        told = (
            f"{training.model}: {worded(len(training.checkpoints), 'checkpoint')}, step {first.step:,} to "
            f"{last.step:,}, {in_bytes(training.weights_bytes)} of weights each"
        )
        yield folded(told, _pulled(training))


def _pulled(training: TrainingFacts) -> Html:
    return table(
        f"Stored checkpoints of {training.model}; with its moments each has {in_bytes(training.state_bytes)}",
        [
            *map(right, ("step", "tokens", "bits per byte")),
            *("digest of the weights", "digest of the state", "command that pulls it"),
        ],
        (_checkpoint(training.model, entry) for entry in training.checkpoints),
    )


def _checkpoint(model: str, entry: Measured) -> list[Cell]:
    pull = f"everystep pull RELEASE --model {model} --step {entry.step} --out {model}-{entry.step}"
    digests = digest(entry.weights_digest), digest(entry.state_digest)
    return [entry.step, entry.tokens, f"{entry.bits_per_byte:.4f}", *digests, code(pull)]
