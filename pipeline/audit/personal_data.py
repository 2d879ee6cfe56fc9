"""Personal data: in which documents the filter replaced some, and how much of each kind. What it was is not kept."""

from collections import Counter
from collections.abc import Iterator
from heapq import nsmallest
from typing import Any, NamedTuple

from pipeline.base.errors import EverystepError, well_shaped
from pipeline.base.paths import FILTERED, REPLACED_FILE
from pipeline.formats.manifests import Filtered
from pipeline.formats.tables import PERSONAL_DATA, REPLACED, column_batches
from pipeline.release.release import Release


class Replaced(NamedTuple):
    """What was replaced: in each source (with the number of `documents`), and in the documents with the most of it."""

    sources: list[dict[str, Any]]
    documents: list[dict[str, Any]]


def replaced(release: Release, largest: int) -> Replaced:
    """What was replaced in a release or a project, with at most `largest` documents, those with the most first."""
    sources = release.names(Filtered)
    if not sources:
        raise EverystepError(
            f"{release.folder}: neither a release nor a project that has filtered a source (`dvc repro`)"
        )
    totals: dict[str, Counter[str]] = {}

    def rows() -> Iterator[dict[str, Any]]:
        for source in sources:
            table = release.file(FILTERED / source / REPLACED_FILE)
            total = totals.setdefault(source, Counter(dict.fromkeys(("documents", *PERSONAL_DATA), 0)))
            for batch in column_batches(table, REPLACED, REPLACED.names):
                with well_shaped(table):  # an id may be no UTF-8
                    found = batch.to_pylist()
                for row in found:
                    total.update({"documents": 1} | _counts(row))
                    yield row

    documents = nsmallest(largest, rows(), key=lambda row: (-sum(_counts(row).values()), row["id"]))
    return Replaced([{"source": source, **total} for source, total in totals.items()], documents)


def _counts(row: dict[str, Any]) -> dict[str, int]:
    return {kind: row[kind] for kind in PERSONAL_DATA}
