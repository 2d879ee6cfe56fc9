"""What came out, on the card: bits per byte by source, tasks beside each other, and what the models write.

The tables are those of `pipeline.release.comparison`, whose rule of what differs is stated under them.
"""

from collections.abc import Iterator, Mapping, Sequence

from pipeline.release.comparison import (
    WIDE,
    Cell,
    Column,
    answer_columns,
    average,
    column,
    columns,
    other_columns,
)
from pipeline.release.disclosures.evidence import Evidence, LossFacts
from pipeline.release.markdown import bare_table, escaped, literal

ALL = "all"
"""Heading of the column of all sources."""
LOSSES = """Bits per byte of the last checkpoint on held-out text, by source, each with its standard error:

{table}
"""
TASKS = """Tasks, zero-shot, in the order of columns of the papers; per cent right, with the standard error over the
items. (Numbers that others published are of other protocols: see *Published results* in the program's documentation.)

{table}
"""
OTHERS = """Other tasks, and pairs of a held-out text and the same text changed by a rule, of which a model should find
the first more likely:

{table}
"""
ANSWERS = """Bits per byte of the right answers, which tell more of models that are near chance:

{table}
"""
SAMPLE = """What `{model}` writes at step {step:,}, after the text up to the bar:

{text}
"""
RULE = """**Bold** is the best of a column and what is within the noise of it, unless that is every model. Two values
are within the noise of each other if they differ by no more than {wide} times the standard deviation of their
difference, {seeds}from item to item{larger}. *Italic* is what is within {wide} standard errors of chance. *Counting* is
the best of models that do nothing but count runs of at most {order} tokens in {rows:,} training rows.
"""
SEEDS = "from seed to seed, as the siblings show it, or "
LARGER = ", whichever is larger"
UNKNOWN = " (no two models differ only in a seed, so what another seed would have done is not known)"
BETWEEN = {"weights": "deviation of first weights", "orders": "deviation of orders"}
"""Kind of siblings → how the row is called that has their standard deviation."""
MAX_SAMPLE = 400  # characters


def results_section(evidence: Evidence) -> str:
    """The section of the results."""
    parts = [*_tables(evidence), _rule(evidence), *_samples(evidence)]
    return "\n".join(["## Results", "", *parts])


def loss_columns(evidence: Evidence) -> list[Column]:
    """Bits per byte of each source, a column each, and of all held-out text."""
    by_source: dict[str, dict[str, LossFacts]] = {}
    for loss in evidence.losses:
        by_source.setdefault(loss.source or ALL, {})[loss.model] = loss
    return [
        column(
            name,
            name,
            "bits",
            {model: (loss.bits_per_byte, loss.standard_error or 0.0) for model, loss in found.items()},
            evidence.siblings,
            items=min(loss.targets for loss in found.values()),
            smaller_is_better=True,
        )
        for name, found in by_source.items()
    ]


def _tables(evidence: Evidence) -> Iterator[str]:
    counting, groups = evidence.counting, evidence.siblings
    whole = {ALL: min((each.bits_per_byte for each in counting.held_out), default=None)}
    yield LOSSES.format(table=_table(loss_columns(evidence), evidence, digits=3, counted=whole))
    of_tasks = {task: max((each.accuracy for each in scores), default=None) for task, scores in counting.tasks.items()}
    if papers := columns(evidence.scores, groups):
        yield TASKS.format(table=_table([*papers, average(papers, groups)], evidence, is_share=True))
    if others := other_columns(evidence.scores, groups):
        yield OTHERS.format(table=_table(others, evidence, is_share=True, counted=of_tasks))
    if answers := answer_columns(evidence.scores, groups):
        yield ANSWERS.format(table=_table(answers, evidence, digits=3))


def _rule(evidence: Evidence) -> str:
    is_known = bool(evidence.siblings.seeds)
    return RULE.format(
        wide=WIDE,
        seeds=SEEDS if is_known else "",
        larger=LARGER if is_known else UNKNOWN,
        order=max((each.order for each in evidence.counting.held_out), default=0),
        rows=evidence.counting.rows,
    )


def _table(
    of: Sequence[Column],
    evidence: Evidence,
    *,
    digits: int = 1,
    is_share: bool = False,
    counted: Mapping[str, float | None] | None = None,
) -> str:
    """A row for each model, then what one needs to read a column."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{(100 if is_share else 1) * value:.{digits}f}"

    def cell(found: Cell, column: Column) -> str:
        text = f"{number(found.value)} ± {number(found.standard_error)}"
        text = f"**{text}**" if found.leads and column.differs else text
        return f"*{text}*" if found.near_chance else text

    names = [model.name for model in evidence.models]
    rows = [[escaped(name), *(cell(each.cells[name], each) for each in of)] for name in names]
    if counted:
        rows.append(["counting", *(number(counted.get(each.name)) for each in of)])
    if is_share:
        rows.append(["chance", *(number(each.chance) for each in of)])
    for kind, told in BETWEEN.items():
        if getattr(evidence.siblings, kind):
            rows.append([told, *(number(getattr(each.deviation, kind)) for each in of)])
    rows.append(["items" if is_share else "measured on", *(f"{each.items:,}" for each in of)])
    rows.append(["models differ", *("yes" if each.differs else "no" for each in of)])
    headings = [escaped(each.heading) + (f" ({each.metric})" if is_share else "") for each in of]
    return bare_table(["model", *headings], rows, [False, *(True for _ in of)])


def _samples(evidence: Evidence) -> Iterator[str]:
    """What the last checkpoint of each model writes after one text; of siblings, the first."""
    repeated = {name for group in evidence.siblings.seeds for name in group[1:]}
    for model, lines in evidence.samples.items():
        told = next((line for line in lines if line.prompt), None)
        if told and model not in repeated:
            text = told.text if len(told.text) <= MAX_SAMPLE else told.text[:MAX_SAMPLE] + "…"
            yield SAMPLE.format(model=model, step=told.step, text=literal(f"{told.prompt}|{text}"))
