"""Personal data: in which documents the filter replaced some, and how much of each kind. What it was stands nowhere."""

from collections import Counter
from collections.abc import Iterator
from heapq import nsmallest
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.audit.verify import verified_file
from pipeline.base.errors import EverystepError, well_shaped
from pipeline.base.paths import FILTERED, MANIFESTS, REPLACED_FILE
from pipeline.formats.manifests import read_manifest, shards_of
from pipeline.formats.release import ROOT, members, read_root
from pipeline.formats.tables import PERSONAL_DATA, REPLACED, check_table, column_batches


class Replaced(NamedTuple):
    """What was replaced: in each source (with the number of `documents`), and in the documents with the most of it."""

    sources: list[dict[str, Any]]
    documents: list[dict[str, Any]]


def replaced(folder: Path, largest: int, follow_links: bool = False) -> Replaced:
    """What was replaced in a project or release, with at most `largest` documents, those with the most first."""
    totals: dict[str, Counter[str]] = {}
    tables = list(_tables(folder, follow_links))

    def rows() -> Iterator[dict[str, Any]]:
        for source, table in tables:
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


def _tables(folder: Path, follow_links: bool) -> Iterator[tuple[str, Path]]:
    """(source, its table) of a release or a project, after the digest of the table has been compared."""
    if (folder / ROOT).exists():
        root = read_root(folder, follow_links)
        for source in members(root, "sources"):
            path = FILTERED / source / REPLACED_FILE
            yield source, verified_file(folder, root, path.as_posix(), follow_links)
        return
    manifests = sorted((folder / MANIFESTS / "filtered").glob("*.json"))
    if not manifests:
        raise EverystepError(f"{folder}: neither a release nor a project that has filtered a source (`dvc repro`)")
    for manifest in manifests:
        with well_shaped(manifest):
            (shard,) = shards_of(read_manifest(manifest, "filter"), "replaced")
        check_table(folder / FILTERED / manifest.stem, shard)
        yield manifest.stem, folder / FILTERED / manifest.stem / shard.path
