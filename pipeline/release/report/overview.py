"""The head of the page: what the release is, in a few sentences and figures; and its foot."""

from collections.abc import Iterator

from pipeline.release.disclosures.evidence import Evidence
from pipeline.release.report.markup import Content, Html, code, digest, element, joined, link, paragraph, right, table

ONES = "no one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905


def overview(evidence: Evidence) -> Iterator[Html]:
    """Title, summary and figures."""
    release, models = evidence.release, evidence.models
    yield element("h1", f"{release.name} {release.version}")
    yield paragraph(f"{release.title}. Published by {release.publisher}.", class_="title")
    tokens = _range([model.tokens for model in models])
    yield paragraph(
        f"{worded(len(models), 'model').capitalize()} of {_range([model.parameters for model in models])} parameters, "
        f"trained on {tokens} tokens from {worded(len(evidence.sources), 'source')}. Every number here is computed "
        "from the manifests and logs of the release, and ",
        code("everystep verify"),
        " writes this page again and compares it, byte by byte. What is somebody's word is ",
        link("#proof", "marked as theirs"),
        ".",
        class_="lede",
    )
    yield from _ancestors(evidence)
    stored = sum(len(training.checkpoints) for training in evidence.trainings)
    best = min(evidence.models, key=lambda model: model.bits_per_byte)
    figures: dict[str, Content] = {
        "models": len(models),
        "sources": len(evidence.sources),
        "documents in the training rows": evidence.documents,
        "tokens in the training rows": evidence.tokens,
        "of which the models read": evidence.tokens_read,
        "stored checkpoints": stored,
        "more that replay gives back": sum(training.virtual for training in evidence.trainings),
        f"bits per byte of the best, {best.name}": f"{best.bits_per_byte:.3f}",
    }
    entries = (element("div", element("dt", title), element("dd", figure)) for title, figure in figures.items())
    yield element("dl", *entries, class_="figures")


def colophon(evidence: Evidence) -> Iterator[Html]:
    """The foot of the page."""
    yield paragraph(
        "Also in this release: ",
        joined(
            (link(f"../{path}", title) for title, path in OTHERS.items()),
            ", ",
        ),
        ".",
    )
    yield paragraph(
        "Built by Everystep from the code ", code(evidence.swhid), ". This page loads nothing from outside the release."
    )


OTHERS = {
    "the card": "README.md",
    "notices that licences ask for": "NOTICE",
    "the data as Croissant": "croissant.json",
    "the EU's summary of training content": "disclosures/training-content.md",
    "California's AB 2013": "disclosures/ab2013.md",
    "model documentation": "disclosures/model-documentation.md",
    "the Model Openness Framework": "mof.yml",
    "every checkpoint with its digests": "revisions.jsonl",
}
"""What a link of the foot says → file of the release."""


def worded(number: int, noun: str) -> str:
    """A number of things, in words where it is small."""
    return f"{ONES[number] if number < len(ONES) else f'{number:,}'} {noun}{'' if number == 1 else 's'}"


def _range(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _ancestors(evidence: Evidence) -> Iterator[Html]:
    """What the trainings went on from, and what was forgotten of it."""
    if evidence.ancestors:
        yield paragraph(
            "The models were trained on from a state of another release, whose rows they share. Its root manifest, and "
            "what proves the state, are in ",
            code("data/parent"),
            ".",
        )
        yield table(
            "States that the trainings went on from, the nearest first",
            ["release", "version", "model", right("step"), right("tokens"), "state", "SHA-256 of its root manifest"],
            (
                [
                    *(state.release, state.version, state.model, state.step, state.tokens),
                    *(digest(state.state_digest), digest(state.release_sha256)),
                ]
                for state in evidence.ancestors
            ),
        )
    if lost := evidence.forgotten:
        yield paragraph(
            f"It has forgotten {worded(lost.documents, 'document')} of that release: their {lost.tokens:,} tokens in "
            f"{worded(lost.rows, 'row')} are filler, which no step was trained to predict; ",
            code("manifests/forgotten.json"),
            f" is the certificate. Why, in the word of its publisher: {lost.why}",
        )
