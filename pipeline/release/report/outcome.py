"""What came out: how the models compare, what of it is noise, and every checkpoint with the command that pulls it.

Which differences are noise is said by `pipeline.release.comparison`, for the card too.
"""

from collections.abc import Iterator, Mapping, Sequence

from pipeline.base.console import in_bytes
from pipeline.release.card_results import loss_columns
from pipeline.release.comparison import WIDE, Column, answer_columns, average, columns, other_columns
from pipeline.release.disclosures.evidence import Evidence
from pipeline.release.report.markup import (
    Cell,
    Content,
    Html,
    Marked,
    code,
    digest,
    element,
    folded,
    joined,
    link,
    paragraph,
    right,
    section,
    table,
    with_error,
)
from pipeline.release.report.overview import worded
from pipeline.release.report.trainings import Measured, TrainingFacts

ALL = "all"
DEVIATIONS = {"weights": "deviation of first weights", "orders": "deviation of orders"}
"""Kind of siblings → how the row is called that has their standard deviation."""


def outcome_section(evidence: Evidence) -> Html:
    """The section."""
    return section(
        "outcome",
        "What came out",
        *_held_out(evidence),
        *_tasks(evidence),
        *_noise(evidence),
        *_checkpoints(evidence),
    )


def _held_out(evidence: Evidence) -> Iterator[Html]:
    """The last checkpoints on held-out text."""
    targets = evidence.models[0].validation_tokens
    yield paragraph(
        f"The loss is measured on {targets:,} tokens of documents that are held out from training. Bits per byte do "
        "not depend on the tokenizer, so they can be compared with those of other models; lower is better."
    )
    yield table(
        "The last checkpoint of each model on held-out text",
        ["model", *map(right, ("parameters", "tokens", "validation loss", "bits per byte"))],
        (
            [
                *(model.name, model.parameters, model.tokens),
                *(f"{model.validation_loss:.4f}", f"{model.bits_per_byte:.4f}"),
            ]
            for model in evidence.models
        ),
    )
    counted = {ALL: min((each.bits_per_byte for each in evidence.counting.held_out), default=None)}
    yield _compared("Bits per byte by source, with standard error", loss_columns(evidence), evidence, counted, 1, 3)


def _tasks(evidence: Evidence) -> Iterator[Html]:
    """The tasks in the papers' order of columns, then the others, then how likely the right answers are."""
    groups = evidence.siblings
    papers, others = columns(evidence.scores, groups), other_columns(evidence.scores, groups)
    if not (papers or others):
        return
    yield element("h3", "Tasks")
    yield paragraph(
        "Zero-shot, by the last checkpoint of each model that was scored, with the standard error over the items; ",
        element("span", "slanted grey", class_="noise"),
        f" is what is within {WIDE} standard errors of chance. In a minimal pair, a model should find a held-out text "
        "more likely than the same text changed by a rule. How likely the right answers are tells small models apart "
        "better than which answer they choose.",
    )
    counted = {
        task: max((each.accuracy for each in scores), default=None) for task, scores in evidence.counting.tasks.items()
    }
    if papers:
        whole = [*papers, average(papers, groups)]
        yield _compared("Per cent right, in the order of columns of the papers", whole, evidence)
    if others:
        yield _compared("Per cent right, other tasks and minimal pairs", others, evidence, counted)
    if answers := answer_columns(evidence.scores, groups):
        yield _compared("Bits per byte of the right answers", answers, evidence, scale=1, digits=2)


def _compared(
    title: str,
    of: Sequence[Column],
    evidence: Evidence,
    counted: Mapping[str, float | None] | None = None,
    scale: int = 100,
    digits: int = 1,
) -> Html:
    """A row for each model, then what one needs to read the columns. `counted` is what models score that count runs of
    tokens, by column."""

    def number(value: float | None) -> str | None:
        return None if value is None else f"{scale * value:.{digits}f}"

    def value(each: Column, model: str) -> Cell:
        cell = each.cells[model]
        drawn = with_error(scale * cell.value, scale * cell.standard_error, digits)
        return Marked(drawn, "noise" if cell.near_chance else "best" if cell.leads and each.differs else "")

    rows: list[list[Cell]] = [[model.name, *(value(each, model.name) for each in of)] for model in evidence.models]
    below: list[list[Content]] = []
    if counted:
        below.append(["counting", *(number(counted.get(each.name)) for each in of)])
    if any(each.chance is not None for each in of):
        below.append(["chance", *(number(each.chance) for each in of)])
    for kind, told in DEVIATIONS.items():
        if getattr(evidence.siblings, kind):
            below.append([told, *(number(getattr(each.deviation, kind)) for each in of)])
    below.append(["models differ", *("yes" if each.differs else "no" for each in of)])
    below.append(["measured on", *(each.items for each in of)])
    metrics = {each.metric for each in of if each.metric != "mean"}
    heads = [each.heading if len(metrics) < 2 else _headed(each) for each in of]
    rows += [[Marked(cell, "soft") for cell in row] for row in below]
    return table(title, ["model", *map(right, heads)], rows)


def _headed(of: Column) -> Html:
    return joined([of.heading, element("small", f" {of.metric}")])


def _noise(evidence: Evidence) -> Iterator[Html]:
    """Which differences mean something."""
    yield element("h3", "What is noise")
    groups, counting = evidence.siblings.seeds, evidence.counting
    seeds = "from seed to seed, as models show it that differ only in a seed, or "
    yield paragraph(
        element("strong", "Bold"),
        " is the best of a column and what is within the noise of it, unless that is every model. Two values are "
        f"within the noise of each other if they differ by no more than {WIDE} times the standard deviation of their "
        f"difference, {seeds if groups else ''}from item to item{', whichever is larger' if groups else ''}.",
        None if groups else " No two models here differ only in a seed, so what another seed would do is not known.",
    )
    if counting.held_out:
        order = max(each.order for each in counting.held_out)
        yield paragraph(
            f"Counting is the best of models that do nothing but count runs of at most {worded(order, 'token')} in "
            f"{worded(counting.rows, 'training row')}: what a trained model has to beat."
        )
    if not groups:
        return
    designs = {design.name: design for design in evidence.designs}
    last = {training.model: training.checkpoints[-1] for training in evidence.trainings}
    yield table(
        "Models that differ in seeds alone",
        ["model", *map(right, ("seed of weights", "seed of order", "validation loss", "bits per byte"))],
        (
            [
                *(name, str(designs[name].seed), str(designs[name].order_seed)),
                *(f"{last[name].loss:.4f}", f"{last[name].bits_per_byte:.4f}"),
            ]
            for group in groups
            for name in group
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
    )
    if virtual:
        yield paragraph(
            f"Of {worded(virtual, 'other step')} the logs have the digest of the weights, so ",
            code("everystep pull"),
            " can train them again from the stored checkpoint before them, and compare.",
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
