"""Shards of documents and rows, written and read one line at a time, for tests and benchmarks."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.base.batches import batched
from pipeline.formats.documents import DOCUMENTS_PER_SHARD, Document, encode_document, shard_name
from pipeline.formats.lines import LineFile, Shard, write_lines
from pipeline.formats.rows import ROWS_PER_SHARD, encode_row, row_shard


def write_documents(path: Path, documents: Iterable[Document], name: str) -> Shard:
    """Write one shard."""
    return write_lines(path, (encode_document(document) for document in documents), name)


def write_sharded(folder: Path, documents: Iterable[Document]) -> list[Shard]:
    """Write `000000.jsonl.zst`, `000001...` of `DOCUMENTS_PER_SHARD` documents each, at least one, in their order."""
    shards: list[Shard] = []
    for batch in batched(documents, DOCUMENTS_PER_SHARD):
        name = shard_name(len(shards))
        shards.append(write_documents(folder / name, batch, name))
    return shards or [write_documents(folder / shard_name(0), [], shard_name(0))]


def write_rows(folder: Path, rows: Iterable[NDArray[np.integer]], prefix: str) -> list[Shard]:
    """Write shards of `ROWS_PER_SHARD` rows below `folder / prefix`."""
    shards: list[Shard] = []
    for batch in batched(map(encode_row, rows), ROWS_PER_SHARD):
        name = row_shard(prefix, len(shards))
        shards.append(write_lines(folder / name, batch, name, digits=True))
    return shards


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield all lines in order, without LF."""
    with LineFile(path) as file:
        yield from file
