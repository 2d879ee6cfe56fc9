"""Removals by `extract` and `filter`: gathered in one table, counted, and an error if there are too many.

A worker writes the removals of its part, if there are any, to a file of its own; here these are concatenated in the
order of the parts, a batch at a time, so that no stage holds the removals of a corpus in memory. The table of what
`filter` replaced is gathered in the same way.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from pipeline.base.errors import EverystepError
from pipeline.base.paths import REMOVALS_FILE, REPLACED_FILE
from pipeline.formats.lines import Shard
from pipeline.formats.tables import REMOVALS, REPLACED, stored_batches, write_batches

EXAMPLES = 3  # ids that a manifest lists for each reason
LICENSES, OTHERS = 100, "(others)"  # licences that a manifest counts, and the name for the rest
OF_LICENSES = ("license", "unknown_license")  # reasons whose detail is a licence
CURES = {
    "license": "add these licences to filter.licenses",
    "language": "correct sources.{name}.languages",
    "contamination": "it holds the text of evaluation_sets",
}


class Removals(NamedTuple):
    """Table of removals, and its summary in a manifest: documents by reason, the first ids of each, and by licence."""

    table: Shard
    removed: dict[str, int]
    examples: dict[str, list[str]]
    by_license: dict[str, int]


def gather_removals(parts: Iterable[Path], folder: Path) -> Removals:
    """Write the removals in `parts`, in their order, as the table of the stage in `folder`."""
    removed: Counter[str] = Counter()
    by_license: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}

    def batches() -> Iterator[pa.RecordBatch]:
        for part in filter(Path.exists, parts):
            for batch in stored_batches(part):
                ids, reasons, details = (batch.column(name).to_pylist() for name in ("id", "reason", "detail"))
                removed.update(reasons)
                for id, reason, detail in zip(ids, reasons, details, strict=True):
                    of_reason = examples.setdefault(reason, [])
                    if len(of_reason) < EXAMPLES:
                        of_reason.append(id)
                    if reason in OF_LICENSES:
                        by_license[detail if detail in by_license or len(by_license) < LICENSES else OTHERS] += 1
                yield batch

    table = write_batches(folder / REMOVALS_FILE, batches(), REMOVALS, REMOVALS_FILE)
    return Removals(table, dict(removed), examples, dict(by_license))


def gather_replaced(parts: Iterable[Path], folder: Path) -> Shard:
    """Write the replacements in `parts`, in their order, as the table of the stage in `folder`."""
    stored = (batch for part in filter(Path.exists, parts) for batch in stored_batches(part))
    return write_batches(folder / REPLACED_FILE, stored, REPLACED, REPLACED_FILE)


def stop_if_too_many_failed(name: str, removals: Removals, documents: int, max_share: float, folder: Path) -> None:
    """Stop the build if our code failed on more documents than declared: then the code is at fault."""
    failed = removals.removed.get("failed", 0)
    if failed > max_share * documents:
        raise EverystepError(
            f"params.yaml: sources.{name}.max_failed_share: {failed:,} of {documents:,} documents failed, more than "
            f"{max_share:.2%}; {folder / REMOVALS_FILE} lists them with the line of code"
        )


def stop_if_nothing_stays(name: str, removals: Removals, kept: int, folder: Path) -> None:
    """Stop the build if the filter has removed a whole source, with the reasons and the fix."""
    if kept:
        return
    reasons = sorted(removals.removed.items(), key=lambda pair: (-pair[1], pair[0]))
    counted = ", ".join(f"{number:,} {reason}" for reason, number in reasons)
    licenses = f" ({', '.join(sorted(removals.by_license))})" if removals.by_license else ""
    cure = CURES.get(reasons[0][0] if reasons else "", "change its rules under filter.sources.{name}")
    raise EverystepError(
        f"params.yaml: sources.{name}: none of its {removals.table.lines:,} documents stays: {counted}{licenses}; "
        f"{cure.format(name=name)}, or remove the source; {folder / REMOVALS_FILE} has the reason for each"
    )
