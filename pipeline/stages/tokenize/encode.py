"""Encode shards of documents to scratch files of ids, and compare them with the reference: first half of `tokenize`.

A shard becomes two files: `.ids`, the concatenated ids of its documents as plain integers, and `.arrow`, a
line for each document. Both are scratch below `.work`, and their format may change.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.base.errors import EverystepError
from pipeline.base.paths import TOKENIZER
from pipeline.blocks.fill_in_the_middle import Filling, whole
from pipeline.blocks.token_ids import Encoder, Reference
from pipeline.formats.documents import decode_columns, decode_document
from pipeline.formats.lines import LineFile, Shard, promised_frames
from pipeline.formats.tables import DOCUMENT_INDEX
from pipeline.formats.vocabulary import special_token

BYTES_AT_ONCE = 1 << 21  # of lines that are parsed and encoded together
NO_TOKEN = 2**32 - 1
ENCODED = pa.schema([field for field in DOCUMENT_INDEX if field.name not in ("first_row", "offset")])
"""Columns of the document index that are known before the places of documents are."""
Ids = NDArray[np.unsignedinteger]


class EncodedShard(NamedTuple):
    """Shard of documents, and its scratch files: `scratch` with two endings."""

    folder: Path
    shard: Shard
    scratch: Path
    dtype: str

    @property
    def documents(self) -> Path:
        return self.folder / self.shard.path

    def ids(self) -> Ids:
        """Map the ids, without reading them."""
        path = self.scratch.with_suffix(".ids")
        return np.memmap(path, self.dtype, "r") if path.stat().st_size else np.empty(0, self.dtype)

    def table(self) -> pa.Table:
        """Map the table of documents, with the columns `ENCODED`."""
        return pa.ipc.open_file(pa.memory_map(str(self.scratch.with_suffix(".arrow")))).read_all()

    def write_table(self, table: pa.Table) -> None:
        with pa.OSFile(str(self.scratch.with_suffix(".arrow")), "wb") as sink, pa.ipc.new_file(sink, ENCODED) as file:
            file.write_table(table)


def id_type(vocabulary: int) -> str:
    """Name numpy's smallest type that holds every id."""
    return "uint16" if vocabulary <= 2**16 else "uint32"


def encode_shard(part: EncodedShard, filling: Filling | None) -> None:
    """Encode a shard: each document as ordinary text followed by one end token, or in the pieces of `filling`."""
    encoder = _encoder()
    entries: list[pa.RecordBatch] = []
    with part.scratch.with_suffix(".ids").open("wb") as file:
        for lines in _blocks(promised_frames(part.folder, part.shard)):
            columns = decode_columns(lines, part.documents)
            texts = columns.pop("text")
            ids, counts = _in_pieces(columns["id"], texts, filling) if filling else encoder.encode(texts)
            file.write(ids.astype(part.dtype).data)  # numpy's own writing does not say why it failed
            columns |= {"num_tokens": pa.array(counts), "bytes": pc.binary_length(texts).cast(pa.int64())}
            entries.append(pa.RecordBatch.from_pydict(columns, ENCODED))
    part.write_table(pa.Table.from_batches(entries, ENCODED))


def _in_pieces(ids: pa.Array, texts: pa.Array, filling: Filling) -> tuple[Ids, NDArray[np.int64]]:
    """Encode as `Encoder.encode` does, but each document piece by piece, with a special token or none after each."""
    documents = [filling.pieces(*document) for document in zip(ids.to_pylist(), texts.to_pylist(), strict=True)]
    pieces = [piece for document in documents for piece in document]
    encoded, counts = _encoder().encode(pa.array([text for text, _ in pieces], pa.string()))
    marks = np.array([_special(mark) if mark else NO_TOKEN for _, mark in pieces], dtype=np.uint32)
    encoded[counts.cumsum() - 1] = marks
    firsts = np.cumsum([0, *map(len, documents)])[:-1]
    return encoded[encoded != NO_TOKEN], np.add.reduceat(counts - (marks == NO_TOKEN), firsts)


def compare_with_reference(
    parts: Sequence[EncodedShard], num_documents: int, filling: Filling | None
) -> dict[str, int]:
    """Encode `num_documents` of each source, and its longest, with `tokenizers` too; return how many, by source.

    Shards are in the order of a keyed hash of the ids, so the first documents of a source are a random sample.
    """
    reference = _reference()
    compared: Counter[str] = Counter()
    for part, lines in _sample(parts, num_documents):
        ids = part.ids()
        stops = part.table()["num_tokens"].to_numpy().cumsum()
        with LineFile(part.documents) as file:
            for line in lines:
                document = decode_document(file[line], part.documents)
                ours = ids[stops[line - 1] if line else 0 : stops[line]]
                pieces = filling.pieces(document.id, document.text) if filling else whole(document.text)
                marks = [[_special(mark)] if mark else [] for _, mark in pieces]
                theirs = [[*reference.encode(text), *mark] for (text, _), mark in zip(pieces, marks, strict=True)]
                _check_same(document.id, ours.tolist(), list(chain.from_iterable(theirs)))
                compared[document.source] += 1
    return dict(sorted(compared.items()))


def _check_same(id: str, ours: list[int], theirs: list[int]) -> None:
    if ours != theirs:
        both = min(len(ours), len(theirs))
        first = next((i for i in range(both) if ours[i] != theirs[i]), both)
        raise EverystepError(
            f"{id}: token {first} is {ours[first : first + 1]} from gigatoken and {theirs[first : first + 1]} from "
            "tokenizers; they must agree on every id, so pin other versions in constraints.txt"
        )


def _sample(parts: Sequence[EncodedShard], num_documents: int) -> Iterator[tuple[EncodedShard, list[int]]]:
    """Choose the lines to compare, shard by shard."""
    chosen: dict[int, set[int]] = {}
    found: Counter[str] = Counter()
    longest: dict[str, tuple[int, int, int]] = {}
    for number, part in enumerate(parts):
        table = part.table().select(["source", "bytes"]).combine_chunks()
        sources = table["source"].combine_chunks().dictionary_encode()
        sizes = table["bytes"].to_numpy()
        for code, source in enumerate(sources.dictionary.to_pylist()):
            lines = np.flatnonzero(sources.indices.to_numpy() == code)
            first = lines[: max(0, num_documents - found[source])].tolist()
            chosen.setdefault(number, set()).update(first)
            found[source] += len(first)
            line = int(lines[sizes[lines].argmax()])
            longest[source] = max(longest.get(source, (-1, 0, 0)), (int(sizes[line]), -number, -line))
    for _, number, line in longest.values():
        chosen[-number].add(-line)
    return ((parts[number], sorted(lines)) for number, lines in sorted(chosen.items()) if lines)


@cache
def _encoder() -> Encoder:
    return Encoder(TOKENIZER)


@cache
def _reference() -> Reference:
    return Reference(TOKENIZER)


@cache
def _special(token: str) -> int:
    return special_token(TOKENIZER, token)


def _blocks(frames: Iterable[bytes]) -> Iterator[bytes]:
    """Join frames to blocks of at least `BYTES_AT_ONCE`, except for the last."""
    block: list[bytes] = []
    size = 0
    for frame in frames:
        block.append(frame)
        size += len(frame)
        if size >= BYTES_AT_ONCE:
            yield b"".join(block)
            block, size = [], 0
    if block:
        yield b"".join(block)
