"""What `everystep lint` prints: lines for people, one JSON object for programs, Markdown for a bug report."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from pipeline.formats.canonical import Json
from pipeline.series import schedule
from pipeline.series.displacement import Moved
from pipeline.series.findings import Evidence, Finding
from pipeline.series.lint import Linted
from pipeline.series.names import steps_in_words
from pipeline.series.series import Checkpoint, Series

SHOWN = 3
"""Revisions of a finding for which a report has a command."""
HEADER = ["finding", "revisions", "steps", "what"]


def heading(linted: Linted) -> Iterator[str]:
    """What the findings come to, then a line for each series."""
    yield f"{linted.collection.address}: {_in_short(linted)}"
    yield from _series(linted)


def rows(linted: Linted) -> list[list[str]]:
    """A row for each finding, below `HEADER`."""
    return [
        [finding.kind, str(len(finding.revisions) or len(finding.steps)), _steps(finding), finding.what]
        for finding in linted.findings
    ]


def ending(linted: Linted) -> Iterator[str]:
    """How far weights moved, if that was asked, and what was not looked at."""
    if linted.moved:
        yield from _moved(linted.moved)
    yield from (f"not looked at: {limit}" for limit in linted.limits)


def to_json(linted: Linted) -> dict[str, Json]:
    """Everything, with every revision by name."""
    collection = linted.collection
    return {
        "address": collection.address,
        "series": [
            {
                "title": series.title,
                "checkpoints": len(series.checkpoints),
                "steps": series.steps,
                "schedule": schedule.in_words(series.steps),
            }
            for series in collection.series
        ],
        "findings": [
            {
                **finding._asdict(),
                "revisions": list(finding.revisions),
                "steps": list(finding.steps),
                "evidence": [each._asdict() | {"revisions": list(each.revisions)} for each in finding.evidence],
            }
            for finding in linted.findings
        ],
        "named": list(linted.named),
        "weights": asdict(linted.moved) if linted.moved else None,
        "limits": list(linted.limits),
    }


def markdown(linted: Linted) -> Iterator[str]:
    """The lines of a bug report: what is wrong, with which revisions, by which digests, and how to see it."""
    yield f"# {linted.collection.address}: {_in_short(linted)}"
    yield ""
    rest = "weights were read of two checkpoints only" if linted.moved else "no weights were read"
    yield f"Found by `everystep lint` from what the place says of its files; {rest}."
    yield ""
    yield from (f"- {line}" for line in _series(linted))
    for finding in linted.findings:
        yield ""
        yield f"## {finding.kind.capitalize()}: {_steps(finding) or ', '.join(finding.revisions[:SHOWN])}"
        yield ""
        yield f"{finding.what}."
        if finding.revisions:
            yield ""
            yield f"Revisions ({len(finding.revisions)}): {', '.join(f'`{name}`' for name in finding.revisions)}."
        yield from _table(finding.evidence)
        yield from _commands(linted, finding)
    if linted.moved:
        yield from ("", "## Weights", "", *(f"- {line}" for line in _moved(linted.moved)))
    if linted.limits:
        yield ""
        yield "## Not looked at"
        yield ""
        yield from (f"- {limit}" for limit in linted.limits)


def _series(linted: Linted) -> Iterator[str]:
    for series in linted.collection.series:
        yield f"{series.title}: {_about(series)}"


def _moved(moved: Moved) -> Iterator[str]:
    """The comparison of two weight files, and on what its judgement rests."""
    size = f"{_number(moved.tensors, 'tensor')}, {_number(moved.updates, 'update')}"
    yield (
        f"weights: {moved.start} to {moved.end}, {size}: "
        f"the move of {moved.where} by {moved.moved:.6g} takes a mean learning rate of {moved.needed_rate:.3g} or more "
        f"({moved.optimizer})"
    )
    if not moved.is_judged:
        yield "without --peak-rate or --recipe nothing follows from that: compare it with the rates of the training"


def _table(evidence: Sequence[Evidence]) -> Iterator[str]:
    if evidence:
        yield ""
        yield "| file | bytes | digest | revisions that serve it |"
        yield "| --- | ---: | --- | ---: |"
        for each in evidence:
            size = "" if each.bytes is None else f"{each.bytes:,}"
            yield f"| `{each.path}` | {size} | `{each.digest}` | {len(each.revisions)} |"


def _commands(linted: Linted, finding: Finding) -> Iterator[str]:
    """A command for the first revisions of the first piece of evidence, and for one that is not named."""
    if finding.evidence:
        first = finding.evidence[0]
        others = [name for name in first.revisions if name not in finding.revisions]
        shown = [*others[:1], *[name for name in first.revisions if name in finding.revisions][:SHOWN]]
        yield ""
        yield "To see it:"
        yield ""
        yield "```bash"
        yield from (linted.collection.place.command(name, first.path) for name in shown)
        yield "```"


def _in_short(linted: Linted) -> str:
    total = sum(len(series.checkpoints) for series in linted.collection.series)
    if not linted.findings:
        return f"nothing found in {_number(total, 'checkpoint')}"
    there = {one.name for one in linted.collection.checkpoints()}
    named = [name for name in linted.named if name in there]
    absent = {step for finding in linted.findings if finding.kind == "missing step" for step in finding.steps}
    unseen = {name for finding in linted.findings for name in finding.revisions} - there
    parts = [
        f"{len(named)} of {_number(total, 'checkpoint')} named" if named else "",
        f"{_number(len(absent), 'step')} missing" if absent else "",
        f"{_number(len(unseen), 'name')} not read" if unseen else "",
    ]
    return f"{_number(len(linted.findings), 'finding')}: {', '.join(filter(None, parts))}"


def _about(series: Series) -> str:
    steps, rule = series.steps, schedule.in_words(series.steps)
    size = _bytes(series.checkpoints[-1])
    return (
        f"{_number(len(series.checkpoints), 'checkpoint')}, steps {steps[0]} to {steps[-1]}"
        f"{f' ({rule})' if rule else ''}{size}"
    )


def _bytes(checkpoint: Checkpoint) -> str:
    sizes = [file.bytes for files in checkpoint.weights().values() for file in files.values()]
    known = [size for size in sizes if size is not None]
    return f", {sum(known):,} bytes of weights each" if known and len(known) == len(sizes) else ""


def _steps(finding: Finding) -> str:
    return steps_in_words(finding.steps)


def _number(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'' if number == 1 else 's'}"
