"""Documents that came, went or changed, from the two document indexes, and why those that went are not there.

Documents are compared by id, wherever they are packed. Reads the indexes of the splits whose digests differ, and for
what went the tables of removals of the other side. Holds the columns of both indexes in memory.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.base.paths import REMOVALS_FILE, SPLITS, TOKENS
from pipeline.compare.difference import Difference, Findings, Side
from pipeline.formats.tables import DOCUMENT_INDEX, column_batches, stored_batches
from pipeline.release.release import Release

COLUMNS = ("id", "source", "license", "text_sha256")
STAGE = "tokenize"


@dataclass(frozen=True, kw_only=True)
class DocumentCounts:
    """Documents of one source under one licence that are not the same in A and B."""

    source: str
    license: str
    only_in_a: int
    only_in_b: int
    other_text: int
    """In both, with another text."""
    moved: int
    """In both with the same text, but in another split, or packed more or less often."""


def index_path(split: str) -> str:
    """Where the document index of a split is."""
    return (TOKENS / f"{split}.parquet").as_posix()


def compare_documents(a: Release, b: Release, findings: Findings) -> list[DocumentCounts]:
    """Find the documents that differ; returns how many, by source and licence."""
    left, right = _documents(a), _documents(b)
    gone, came = _missing_in(left, right), _missing_in(right, left)
    kept = left.filter(pc.is_in(left["id"], right["id"]))
    twins = right.take(pc.index_in(kept["id"], right["id"]))
    reread = pc.not_equal(kept["text_sha256"], twins["text_sha256"])
    changed, changed_to = kept.filter(reread), twins.filter(reread)
    relicensed = pc.and_(pc.invert(reread), pc.not_equal(kept["license"], twins["license"]))
    elsewhere = pc.or_(*(pc.not_equal(kept[split], twins[split]) for split in SPLITS))
    moved = pc.and_(pc.invert(reread), elsewhere)
    most = findings.most
    findings.add_counted("document", gone.num_rows, _absent(gone.slice(0, most), "A", b))
    findings.add_counted("document", came.num_rows, _absent(came.slice(0, most), "B", a))
    findings.add_counted("document", changed.num_rows, _texts(changed, changed_to, most))
    for chosen, what in ((relicensed, "licence"), (moved, "splits")):
        pairs = kept.filter(chosen), twins.filter(chosen)
        findings.add_counted("document", pairs[0].num_rows, _values(*pairs, what, most))
    return _counts(gone, came, changed, kept.filter(moved))


def _documents(release: Release) -> pa.Table:
    """The documents of both splits in the order of the rows, each once; `train` and `validation` say how often each
    split has it."""
    parts = []
    for split in SPLITS:
        path = release.file(index_path(split))
        schema = pa.schema([DOCUMENT_INDEX.field(name) for name in COLUMNS])
        part = pa.Table.from_batches(column_batches(path, DOCUMENT_INDEX, COLUMNS), schema)
        for each in SPLITS:
            part = part.append_column(each, pa.array(np.full(part.num_rows, each == split, np.int64)))
        parts.append(part)
    whole = pa.concat_tables(parts)
    whole = whole.append_column("place", pa.array(np.arange(whole.num_rows)))
    counted = [("place", "min"), *((split, "sum") for split in SPLITS)]
    each_once = whole.group_by("id", use_threads=False).aggregate(counted).sort_by("place_min")
    found = whole.select(COLUMNS).take(each_once["place_min"])
    for split in SPLITS:
        found = found.append_column(split, each_once[f"{split}_sum"])
    return found


def _packed(row: Mapping[str, Any]) -> str:
    """In which splits a document is, and how often if more than once."""
    return " and ".join(split if row[split] == 1 else f"{split} {row[split]} times" for split in SPLITS if row[split])


def _missing_in(documents: pa.Table, others: pa.Table) -> pa.Table:
    return documents.filter(pc.invert(pc.is_in(documents["id"], others["id"])))


def _absent(documents: pa.Table, side: Side, other: Release) -> Iterator[Difference]:
    """Documents of one side; for each, its licence and what the other side removed it for."""
    rows = documents.to_pylist()
    reasons = _removals(other, {row["id"] for row in rows})
    other_side = "B" if side == "A" else "A"
    for row in rows:
        told = f"; {other_side} removed it {reasons[row['id']]}" if row["id"] in reasons else ""
        value = f"{row['license']}, {_packed(row)}{told}"
        yield Difference(
            kind="document",
            where=row["id"],
            a=value if side == "A" else None,
            b=value if side == "B" else None,
            only_in=side,
            stage=STAGE,
        )


def _removals(release: Release, ids: set[str]) -> dict[str, str]:
    """What each of these documents was removed for, if it was."""
    found: dict[str, str] = {}
    if not ids:
        return found
    wanted = pa.array(sorted(ids), pa.string())
    for path in sorted(path for path in release.files if path.endswith(f"/{REMOVALS_FILE}")):
        for batch in stored_batches(release.file(path)):
            for row in batch.filter(pc.is_in(batch.column("id"), wanted)).to_pylist():
                kept = f" of {row['kept']}" if row["kept"] else ""
                found.setdefault(row["id"], f"by {row['stage']} as {row['reason']}{kept}")
    return found


def _texts(old: pa.Table, new: pa.Table, most: int) -> Iterator[Difference]:
    for one, other in zip(old.slice(0, most).to_pylist(), new.slice(0, most).to_pylist(), strict=True):
        a, b = (f"text {row['text_sha256'][:12]}" for row in (one, other))
        yield Difference(kind="document", where=one["id"], a=a, b=b, stage=STAGE)


def _values(old: pa.Table, new: pa.Table, what: str, most: int) -> Iterator[Difference]:
    for one, other in zip(old.slice(0, most).to_pylist(), new.slice(0, most).to_pylist(), strict=True):
        a, b = ((_packed(row) if what == "splits" else row["license"]) for row in (one, other))
        yield Difference(kind="document", where=f"{one['id']}: {what}", a=a, b=b, stage=STAGE)


def _counts(gone: pa.Table, came: pa.Table, changed: pa.Table, moved: pa.Table) -> list[DocumentCounts]:
    tables = (gone, came, changed, moved)
    each = [_by_source(table) for table in tables]
    return [
        DocumentCounts(
            source=source,
            license=license,
            only_in_a=each[0].get((source, license), 0),
            only_in_b=each[1].get((source, license), 0),
            other_text=each[2].get((source, license), 0),
            moved=each[3].get((source, license), 0),
        )
        for source, license in sorted(set().union(*each))
    ]


def _by_source(documents: pa.Table) -> dict[tuple[str, str], int]:
    grouped = documents.group_by(["source", "license"], use_threads=False).aggregate([("id", "count")])
    return {(row["source"], row["license"]): row["id_count"] for row in grouped.to_pylist()}
