"""What came out, on the card: bits per byte by source, tasks beside each other, and what the models write.

The tables are those of `pipeline.release.comparison`, whose rule of what differs is stated under them.
"""

from collections.abc import Iterator, Sequence

from pipeline.release.comparison import ERRORS, Cell, Column, average, column, columns, other_columns
from pipeline.release.disclosures.evidence import Evidence
from pipeline.release.markdown import bare_table, escaped, literal

LOSSES = """Bits per byte of the last checkpoint on all held-out rows, by source, each with its standard error:

{table}

{rule}
"""
TASKS = """Tasks, zero-shot, in the order of columns of the papers; per cent right, with the standard error over the
items:

{table}
"""
OTHERS = """Other tasks, and pairs of a held-out text and the same text changed by a rule, of which a model should find
the first more likely:

{table}
"""
SAMPLE = """What `{model}` writes at step {step:,} after the text up to the bar:

{text}
"""
RULE = """**Bold** is the best of a column and what is within the noise of it, unless that is every model. Two values
are within the noise of each other if they differ by no more than {seeds}{errors} times the standard error of their
difference, the two taken as independent. {chance}"""
SEEDS = "the largest difference in that column between two models that differ only in a seed, or by no more than "
NO_SEEDS = "No two models of this release differ only in a seed, so what another seed would have done is not known. "
BETWEEN = {"weights": "between first weights", "orders": "between orders"}
"""Kind of siblings → how the row is called that has the largest difference between two of them."""
MAX_SAMPLE = 400  # characters


def results_section(evidence: Evidence) -> str:
    """The section of the results."""
    return "\n".join(["## Results", "", *_losses(evidence), *_tasks(evidence), *_samples(evidence)])


def _losses(evidence: Evidence) -> Iterator[str]:
    """Bits per byte of each source, a column each, and of all held-out text."""
    if found := [*_loss_columns(evidence)]:
        yield LOSSES.format(table=_table(found, evidence, digits=3), rule=_rule(evidence, chance=False))


def _loss_columns(evidence: Evidence) -> Iterator[Column]:
    for name in (*(source.name for source in evidence.sources), "all"):
        found = {loss.model: loss for loss in evidence.losses if loss.source == name}
        values = {model: (loss.bits_per_byte, loss.standard_error) for model, loss in found.items()}
        if values:
            targets = min(loss.targets for loss in found.values())
            yield column(name, "bits", values, evidence.siblings, items=targets, smaller_is_better=True)


def _tasks(evidence: Evidence) -> Iterator[str]:
    """The tasks of the papers, then the others."""
    models = [model.name for model in evidence.models]
    papers = columns(evidence.scores, models, evidence.siblings)
    others = other_columns(evidence.scores, models, evidence.siblings)
    if papers:
        whole = [*papers, average(papers, evidence.siblings)]
        yield TASKS.format(table=_table(whole, evidence, is_share=True))
    if others:
        yield OTHERS.format(table=_table(others, evidence, is_share=True))
    if papers or others:
        yield _rule(evidence, chance=True) + "\n"


def _rule(evidence: Evidence, *, chance: bool) -> str:
    text = RULE.format(
        seeds=SEEDS if evidence.siblings.seeds else "",
        errors=ERRORS,
        chance=f"*Italic* is what is within {ERRORS} standard errors of chance. " if chance else "",
    )
    return (text + ("" if evidence.siblings.seeds else NO_SEEDS)).strip()


def _table(of: Sequence[Column], evidence: Evidence, *, digits: int = 1, is_share: bool = False) -> str:
    """A row for each model, then what one needs to read a column."""
    scale = 100 if is_share else 1
    headings = [f"{escaped(each.heading)}" + (f" ({each.metric})" if is_share else "") for each in of]
    names = [model.name for model in evidence.models]
    rows = [[escaped(name), *(_cell(each.cells[name], each, scale, digits) for each in of)] for name in names]
    if is_share:
        rows.append(["chance", *("" if each.chance is None else f"{scale * each.chance:.{digits}f}" for each in of)])
    rows.append(["items" if is_share else "tokens", *(f"{each.items:,}" for each in of)])
    for kind, told in BETWEEN.items():
        if getattr(evidence.siblings, kind):
            rows.append([told, *(f"{scale * getattr(each.spread, kind):.{digits}f}" for each in of)])
    rows.append(["models differ", *("yes" if each.differs else "no" for each in of)])
    return bare_table(["model", *headings], rows, [False, *(True for _ in of)])


def _cell(cell: Cell, of: Column, scale: int, digits: int) -> str:
    text = f"{scale * cell.value:.{digits}f} ± {scale * cell.standard_error:.{digits}f}"
    if cell.leads and of.differs:
        text = f"**{text}**"
    return f"*{text}*" if cell.near_chance else text


def _samples(evidence: Evidence) -> Iterator[str]:
    """What the last checkpoint of each model writes after one text."""
    for sample in evidence.samples:
        text = sample.text if len(sample.text) <= MAX_SAMPLE else sample.text[:MAX_SAMPLE] + "…"
        yield SAMPLE.format(model=sample.model, step=sample.step, text=literal(f"{sample.prompt}|{text}"))
