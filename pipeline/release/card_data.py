"""The data of a release on its card: what the models read, under which licences, and what was removed and why."""

from pipeline.formats.manifests import LicenseFacts, StepTally
from pipeline.release.facts import Facts, SourceFacts
from pipeline.release.markdown import percent, table
from pipeline.release.reasons import FINDINGS, reason_in_words, step_in_words

SECTION = """## Data

**The models read {rows_read} of the {rows} training rows ({share_read}).** In the next two tables, *documents* and
*tokens* are those of the training rows, read or not; *documents read* and *tokens read* are those in the rows that at
least one model read. (A row holds {context} tokens and the target of the last one.)

{sources}

The titles and licences are the word of `params.yaml`, which names the evidence for each. By the licences of the
documents:

{licenses}

What follows is about all documents, whether a model read them or not. Each step of cleaning saw the documents that the
steps before it left; what is not in the table was not looked for. *Found* is what a step counted: what it
mended or replaced, or in how many documents it met items of an evaluation set.

{cleaning}

Removed documents are listed with their reasons in `data/*/removals.parquet`, those of duplicates with the document that
was kept and the measured similarity:

{removals}
"""


def data_section(facts: Facts) -> str:
    """The section of the data."""
    read = sum(source.tokens_read for source in facts.sources)
    columns = ["documents", "documents read", "tokens", "tokens read"]
    sources = [
        [source.name, source.license, *_counts(source), percent(source.tokens_read / read if read else 0), source.title]
        for source in facts.sources
    ]
    licenses = [[row.license, *_counts(row), percent(row.share), percent(row.share_read)] for row in facts.licenses]
    return SECTION.format(
        context=facts.context,
        rows=f"{facts.rows.train:,}",
        rows_read=f"{facts.rows.read:,}",
        share_read=percent(max(model.share_read for model in facts.models)),
        sources=table(["source", "licence", *columns, "share of tokens read", "title"], sources),
        licenses=table(["licence", *columns, "share of tokens", "share of tokens read"], licenses),
        cleaning=_cleaning_table(facts.cleaning),
        removals=_removals_table(facts),
    )


def _counts(row: SourceFacts | LicenseFacts) -> list[int]:
    return [row.documents, row.documents_read, row.tokens, row.tokens_read]


def _cleaning_table(steps: list[StepTally]) -> str:
    """One line a step of the filter."""
    rows = [
        [step.step, step_in_words(step.step), step.documents, step.rewritten, sum(step.removed.values()), _found(step)]
        for step in steps
    ]
    return table(["step", "to", "documents", "rewritten", "removed", "found"], rows)


def _found(step: StepTally) -> str:
    """What a step counted; of an evaluation set, the documents in which it met items of it."""
    return ", ".join(
        f"{number:,} {FINDINGS[kind]}" if kind in FINDINGS else f"{kind} in {number:,}"
        for kind, number in step.counts.items()
    )


def _removals_table(facts: Facts) -> str:
    """One line a reason, the most frequent of a stage first."""
    rows = [
        [number, reason_in_words(reason), stage, reason]
        for stage, reasons in facts.removed.items()
        for reason, number in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    return table(["removed", "because they", "stage", "reason"], rows)
