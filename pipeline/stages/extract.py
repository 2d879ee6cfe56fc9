"""Extract one source: natural documents from the raw artefact, as document shards.

Reads `data/raw/SOURCE`; writes `data/documents/SOURCE` (shards, and `removals.parquet`: records that are not text, have
a licence that `licenses` does not list, or made a reader fail) and `manifests/documents/SOURCE.json`. Documents are in
the order of the artefact's parts; a repeated id is an error, because everything later is keyed by it.

Workers write the documents and removals of each part to `.work/extract/SOURCE`. Shards have one size and parts have
any, so workers then write the shards from these lines. Only 64-bit hashes of the ids grow in memory with the corpus.
"""

import shutil
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.base.console import progress
from pipeline.base.errors import EverystepError
from pipeline.base.files import fresh_folder
from pipeline.base.paths import DOCUMENTS, RAW, REMOVALS_FILE, WORK
from pipeline.executor.ordered_map import ordered_map
from pipeline.formats.current import take_basis, write_manifest
from pipeline.formats.documents import (
    DOCUMENTS_PER_SHARD,
    Document,
    encode_document,
    id_hash,
    read_documents,
    shard_name,
    text_sha256,
)
from pipeline.formats.lines import LineFile, Shard, write_lines
from pipeline.formats.manifests import Extracted, Fetched
from pipeline.formats.stages import manifest_path
from pipeline.formats.tables import REMOVALS, removal, stored_batches, table_writer
from pipeline.sources.declaration import Source, load_source
from pipeline.sources.document import Rejected
from pipeline.sources.readers import READERS
from pipeline.stages.removals import gather_removals, stop_if_too_many_failed
from pipeline.stages.upstream import check_fetched

SCRATCH = WORK / "extract"
LINES, GONE = "jsonl.zst", "parquet"  # endings of the two files of a part


class PartCounts(NamedTuple):
    """Documents in a part, the UTF-8 bytes of their texts, and hashes of all ids, including those of removals."""

    documents: int
    bytes: int
    hashes: NDArray[np.uint64]


class LineRange(NamedTuple):
    """Lines `start` to `stop` of the documents of a part."""

    part: int
    start: int
    stop: int


def extract(name: str) -> None:
    """Extract the source `name`."""
    source = load_source(name)
    basis = take_basis([manifest_path("fetch", name)], [f"sources.{name}"])
    check_fetched(Fetched, name, RAW / name)
    folder = fresh_folder(DOCUMENTS / name)
    fresh_folder(SCRATCH / name)
    parts = list(enumerate(READERS[source.reader].parts(RAW / name, source)))
    read: list[PartCounts] = []
    with progress(f"extract {name}", len(parts), "parts") as advance:
        for found in ordered_map(partial(_read_part, name=name, source=source), parts):
            read.append(found)
            advance(1)
        _refuse_repeated(name, [part.hashes for part in read])
        shards = list(ordered_map(partial(_write_shard, name=name), _line_ranges([part.documents for part in read])))
    removals = gather_removals((_scratch(name, number, GONE) for number in range(len(parts))), folder)
    documents = sum(part.documents for part in read)
    stop_if_too_many_failed(name, removals, documents + removals.table.lines, source.max_failed_share, folder)
    if not documents:
        counted = ", ".join(f"{number:,} {reason}" for reason, number in sorted(removals.removed.items())) or "none"
        raise EverystepError(
            f"params.yaml: sources.{name}: no document was found; removed: {counted}. Check that the reader, its "
            f"members and its columns match the data; {folder / REMOVALS_FILE} says what is wrong with each record"
        )
    write_manifest(
        Extracted,
        name,
        basis,
        parameters={"reader": source.reader},
        outputs={"documents": shards, "removals": [removals.table]},
        documents=documents,
        bytes=sum(part.bytes for part in read),
        removed=removals.removed,
        removed_by_license=removals.by_license,
        examples=removals.examples,
    )
    shutil.rmtree(SCRATCH / name)


def _read_part(numbered: tuple[int, str], name: str, source: Source) -> PartCounts:
    """Write the documents and the removals of a part."""
    number, part = numbered
    hashes = array("Q")
    num_bytes = 0
    with table_writer(_scratch(name, number, GONE), REMOVALS) as remove:

        def lines() -> Iterator[bytes]:
            nonlocal num_bytes
            for item in READERS[source.reader].read(RAW / name, part, source):
                id = f"{name}/{item.key}"
                hashes.append(_hash(id))
                if isinstance(item, Rejected):
                    remove(removal("extract", name, id, item.reason, detail=item.detail))
                    continue
                num_bytes += len(item.text.encode())
                own = {"license": item.license or source.license, "source": name, "text_sha256": text_sha256(item.text)}
                yield encode_document(Document(id, item.text, item.metadata | own))

        written = write_lines(_scratch(name, number, LINES), lines(), part)
    return PartCounts(written.lines, num_bytes, np.array(hashes, dtype=np.uint64))


def _refuse_repeated(name: str, of_parts: list[NDArray[np.uint64]]) -> None:
    """Raise if two documents have the same id. Ids are read only if hashes agree, which is rare by chance."""
    hashes = np.concatenate([np.empty(0, dtype=np.uint64), *of_parts])
    hashes.sort()
    agreeing = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    seen: set[str] = set()
    for number in range(len(of_parts) if agreeing else 0):
        for id in _ids(name, number):
            if id in seen:
                raise EverystepError(
                    f"{RAW / name}: two documents have the id {id}; choose another id_column or reader"
                )
            if _hash(id) in agreeing:
                seen.add(id)


def _ids(name: str, number: int) -> Iterator[str]:
    for document in read_documents(_scratch(name, number, LINES)):
        yield document.id
    if (gone := _scratch(name, number, GONE)).exists():
        for batch in stored_batches(gone):
            yield from batch.column("id").to_pylist()


def _hash(id: str) -> int:
    return id_hash(id, "unique")


def _line_ranges(counts: Sequence[int]) -> list[tuple[int, list[LineRange]]]:
    """List each shard by number with the lines that it takes from parts of these numbers of documents."""
    ends = list(accumulate(counts))
    shards: list[tuple[int, list[LineRange]]] = [(0, [])]
    for part, (count, end) in enumerate(zip(counts, ends, strict=True)):
        begin = start = end - count
        while start < end:
            number = start // DOCUMENTS_PER_SHARD
            if number == len(shards):
                shards.append((number, []))
            stop = min(end, (number + 1) * DOCUMENTS_PER_SHARD)
            shards[number][1].append(LineRange(part, start - begin, stop - begin))
            start = stop
    return shards


def _write_shard(numbered: tuple[int, list[LineRange]], name: str) -> Shard:
    number, ranges = numbered

    def lines() -> Iterator[bytes]:
        for part, start, stop in ranges:
            with LineFile(_scratch(name, part, LINES)) as file:
                for line in range(start, stop):
                    yield file[line] + b"\n"

    return write_lines(DOCUMENTS / name / shard_name(number), lines(), shard_name(number))


def _scratch(name: str, number: int, ending: str) -> Path:
    return SCRATCH / name / f"{number:06d}.{ending}"
