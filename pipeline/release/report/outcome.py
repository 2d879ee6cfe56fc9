"""What came out: how the models compare, what of it is noise, and every checkpoint with the command that pulls it.

Which differences are noise is said by `pipeline.release.comparison`, for the card too.
"""

from collections.abc import Iterator, Sequence

from pipeline.base.console import in_bytes
from pipeline.release.comparison import (
    ERRORS,
    OTHERS,
    PAPERS_ORDER,
    Column,
    average,
    column,
    columns,
    other_columns,
)
from pipeline.release.disclosures.evidence import Evidence
from pipeline.release.report.markup import (
    Cell,
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

BITS = "bits_per_byte"
SPREADS = {"weights": "between seeds of first weights", "orders": "between seeds of the order"}
"""Kind of siblings → how the row of the largest difference between two of them is called."""


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
    last = {training.model: training.checkpoints[-1] for training in evidence.trainings}
    values = {name: (found.bits_per_byte, found.standard_error or 0.0) for name, found in last.items()}
    bits = column("bits per byte", "bits", values, evidence.siblings, items=targets, smaller_is_better=True)
    least = min(found.bits_per_byte for found in last.values())
    yield table(
        "The last checkpoint of each model on held-out text",
        ["model", *map(right, ("parameters", "tokens", "validation loss", "bits per byte", "more than the best"))],
        [
            [
                *(model.name, model.parameters, model.tokens, f"{model.validation_loss:.4f}"),
                _marked(with_error(model.bits_per_byte, last[model.name].standard_error), bits, model.name),
                f"{model.bits_per_byte - least:.4f}" if model.bits_per_byte > least else None,
            ]
            for model in evidence.models
        ],
    )


def _tasks(evidence: Evidence) -> Iterator[Html]:
    """The tasks in the papers' order of columns, then the others, then how likely the right answers are."""
    models, groups = [model.name for model in evidence.models], evidence.siblings
    papers, others = (find(evidence.scores, models, groups) for find in (columns, other_columns))
    answers = [*_answers(evidence)]
    if not (papers or others):
        return
    yield element("h3", "Tasks")
    yield paragraph(
        "Zero-shot, by the last checkpoint of each model, with the standard error over the items. At this size most of "
        "these numbers are what guessing gives, which the last rows say: ",
        element("span", "grey", class_="noise"),
        f" is what is within {ERRORS} standard errors of chance.",
    )
    if papers:
        whole = [*papers, average(papers, groups)]
        yield _compared("Per cent right, in the order of columns of the papers", whole, evidence)
    if others:
        yield _compared("Per cent right, other tasks and minimal pairs of held-out text", others, evidence)
    if answers:
        yield _compared("Bits per byte of the right answers", answers, evidence, scale=1, digits=2)


def _answers(evidence: Evidence) -> Iterator[Column]:
    """How likely the right answers are: what tells small models apart where their choices are chance."""
    names = [model.name for model in evidence.models]
    tasks = dict.fromkeys(score.task for score in evidence.scores)
    headings = PAPERS_ORDER | OTHERS
    for task in sorted(tasks, key=lambda task: [*headings, *tasks].index(task)):
        found = {score.model: score for score in evidence.scores if (score.task, score.metric) == (task, BITS)}
        if found.keys() >= {*names}:
            values = {name: (found[name].value, found[name].standard_error) for name in names}
            items = found[names[0]].items
            heading = headings.get(task, task)
            yield column(heading, BITS, values, evidence.siblings, items=items, smaller_is_better=True)


def _compared(title: str, of: Sequence[Column], evidence: Evidence, scale: int = 100, digits: int = 1) -> Html:
    """A row for each model, then what one needs to read the columns."""
    rows: list[list[Cell]] = []
    for model in evidence.models:
        found = [(each, each.cells[model.name]) for each in of]
        values = (with_error(scale * cell.value, scale * cell.standard_error, digits) for _, cell in found)
        rows.append([model.name, *(_marked(value, each, model.name) for value, each in zip(values, of, strict=True))])
    below: list[list[Cell]] = []
    if any(each.chance is not None for each in of):
        below.append(["chance", *(None if each.chance is None else f"{scale * each.chance:.{digits}f}" for each in of)])
    for kind, told in SPREADS.items():
        if getattr(evidence.siblings, kind):
            below.append([told, *(f"{scale * getattr(each.spread, kind):.{digits}f}" for each in of)])
    below.append(["models differ", *("yes" if each.differs else "within noise" for each in of)])
    below.append(["items", *(each.items for each in of)])
    metrics = {each.metric for each in of if each.metric != "mean"}
    heads = [each.heading if len(metrics) < 2 else _headed(each) for each in of]
    rows += [[Marked(cell, "noise") for cell in row] for row in below]
    return table(title, ["model", *map(right, heads)], rows)


def _headed(of: Column) -> Html:
    return joined([of.heading, element("small", f" {of.metric}")])


def _marked(value: Html, of: Column, model: str) -> Cell:
    """A value: the best of its column, and what is within the noise of it, unless that is every model; or chance."""
    cell = of.cells[model]
    if cell.near_chance:
        return Marked(value, "noise")
    return Marked(value, "best") if cell.leads and of.differs else value


def _noise(evidence: Evidence) -> Iterator[Html]:
    """Which differences mean something."""
    yield element("h3", "What is noise")
    groups = evidence.siblings.seeds
    seeds = "the largest difference in that column between two models that differ only in a seed, or by no more than "
    yield paragraph(
        element("strong", "Bold"),
        " is the best of a column and what is within the noise of it, unless that is every model. Two values are "
        f"within the noise of each other if they differ by no more than {seeds if groups else ''}{ERRORS} times the "
        "standard error of their difference, the two taken as independent.",
        None if groups else " No two models here differ only in a seed, so what another seed would do is not known.",
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
