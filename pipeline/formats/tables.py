"""Tables that auditors query: Parquet on disk, digested as canonical JSONL.

Parquet bytes change with the writer's version and batching, so a manifest carries the digest of the
rows: each row as a canonical JSON line with every column, in the order of the file.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.base.arrow import arrow_string, arrow_strings
from pipeline.base.batches import batched
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import atomic_writer
from pipeline.base.parquet import batches, damage_named, open_parquet
from pipeline.formats.canonical import Json
from pipeline.formats.lines import Shard, encode_line

BATCH = 4096  # rows of a row group: what is read of the index for one document
REPEATED = (
    "source",
    "license",
    "stage",
    "reason",
    "split",
)  # few values; a dictionary of ids would only cost a second read
PLAIN = re.compile(r"[a-z0-9_-]+")
ESCAPED = r'[\x00-\x1f"\\]'
MAX_INTEGER = 2**53 - 1
PLAIN_DECIMALS = 1e-5, 1e9
"""Bounds between which Arrow writes the digits of a number as canonical JSON does, unless it is whole."""

# Every stage that drops documents writes this table. `kept` is the document that stayed, `similarity` the
# measured Jaccard similarity of the two texts' shingles; both are null unless the reason is a duplicate.
REMOVALS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
        pa.field("kept", pa.string()),
        pa.field("similarity", pa.float64()),
        pa.field("bytes", pa.int64()),
    ]
)

# The filter writes a line for each document in which the step `personal_data` replaced something.
PERSONAL_DATA = ("email", "ip", "payment_card", "phone")
REPLACED = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        *(pa.field(kind, pa.int64(), nullable=False) for kind in PERSONAL_DATA),
    ]
)

# One line for each document in the order in which it was packed into rows.
DOCUMENT_INDEX = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("license", pa.string(), nullable=False),
        pa.field("text_sha256", pa.string(), nullable=False),
        pa.field("first_row", pa.int64(), nullable=False),
        pa.field("offset", pa.int32(), nullable=False),
        pa.field("num_tokens", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)

# One line for each item that a model is asked, in the order of the tasks' names: what a release holds of items whose
# texts it does not ship. `sha256` is that of the item's line.
ITEMS_FILE = "items.parquet"
ITEMS = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
    ]
)


def removal(stage: str, source: str, id: str, reason: str, **more: Any) -> dict[str, Any]:
    """Make one row of `REMOVALS`; `more` may hold detail, kept, similarity, bytes."""
    empty = {"detail": None, "kept": None, "similarity": None, "bytes": None}
    return {"id": id, "source": source, "stage": stage, "reason": reason} | empty | more


def replacement(source: str, id: str, counts: Mapping[str, int]) -> dict[str, Any]:
    """Make one row of `REPLACED`."""
    return {"id": id, "source": source} | {kind: counts.get(kind, 0) for kind in PERSONAL_DATA}


def write_table(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema, name: str) -> Shard:
    """Write rows in their order, a batch at a time; the returned `Shard` digests them as canonical JSONL."""
    batches = (pa.RecordBatch.from_pylist(batch, schema=schema) for batch in batched(rows, BATCH))
    return write_batches(path, batches, schema, name)


def write_batches(
    path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema, name: str, in_parts: bool = False
) -> Shard:
    """Write record batches in their order, in row groups of `BATCH` rows; the `Shard` is that of `write_table`.

    For a table that is read `in_parts`, it has the digest of each row group too.
    """
    digest = _Digest()
    groups = []
    with atomic_writer(path) as file, _open_writer(file, schema) as writer:
        for group in _regrouped(batches, schema):
            content = digest.update(group)
            writer.write_batch(group)
            if in_parts:
                groups.append(hashlib.sha256(content).hexdigest())
    lines, size, sha256 = digest.found()
    shard = Shard(path=name, lines=lines, bytes=size, sha256=sha256)
    return shard.model_copy(update={"groups": groups}) if in_parts else shard


def group_digests(path: Path, schema: pa.Schema) -> list[str]:
    """Compute the SHA-256 of the rows of each row group as canonical JSONL."""
    with open_table(path, schema) as file, damage_named(path):
        groups = range(file.num_row_groups)
        return [_digest_rows(read_columns(file, path, schema.names, [group])) for group in groups]


def read_group(file: pq.ParquetFile, path: Path, schema: pa.Schema, group: int, sha256: str) -> pa.Table:
    """Read the rows of one row group, whose digest must be `sha256`."""
    rows = read_columns(file, path, schema.names, [group])
    if _digest_rows(rows) != sha256:
        raise Differs(f"{path}: the rows of its row group {group} are not the ones the manifest promises ({sha256})")
    return rows


@contextmanager
def table_writer(path: Path, schema: pa.Schema) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Give a function that writes one row; rows are collected and written `BATCH` at a time. Without rows there is no
    file."""
    rows: list[dict[str, Any]] = []
    opened: list[pq.ParquetWriter] = []

    def write_rows() -> None:
        if not opened:
            file = closing.enter_context(atomic_writer(path))
            opened.append(closing.enter_context(_open_writer(file, schema)))
        opened[0].write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
        rows.clear()

    def write(row: dict[str, Any]) -> None:
        rows.append(row)
        if len(rows) == BATCH:
            write_rows()

    with ExitStack() as closing:
        yield write
        if rows:
            write_rows()


def open_table(path: Path, schema: pa.Schema) -> pq.ParquetFile:
    """Open a file, to be read in parts under `damage_named`; one with another schema is refused."""
    file = open_parquet(path)
    if not file.schema_arrow.equals(schema):
        raise EverystepError(f"{path}: its columns are {file.schema_arrow.names}, expected {schema.names}")
    return file


def read_columns(file: pq.ParquetFile, path: Path, columns: Sequence[str], groups: Sequence[int]) -> pa.Table:
    """Read some columns of some row groups of a file that `open_table` opened."""
    schema = pa.schema([file.schema_arrow.field(name) for name in columns])
    return pa.Table.from_batches(batches(file, path, BATCH, columns, groups), schema)


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a whole table; a file with another schema is refused."""
    with open_table(path, schema) as file, damage_named(path):
        return read_columns(file, path, schema.names, range(file.num_row_groups))


def column_batches(path: Path, schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Read some columns of a table, at most `BATCH` rows at a time; a file with another schema is refused."""
    with open_table(path, schema) as file, damage_named(path):
        yield from batches(file, path, BATCH, columns, range(file.num_row_groups))


def digest_table(path: Path) -> tuple[int, int, str]:
    """Compute (rows, bytes, SHA-256) of the rows as canonical JSONL, whatever the schema."""
    digest = _Digest()
    with damage_named(path):
        for batch in stored_batches(path):
            digest.update(batch)
    return digest.found()


def check_table(folder: Path, shard: Shard) -> None:
    """Raise `Differs` unless the rows in the file are the ones the manifest promised."""
    if digest_table(folder / shard.path) != (shard.lines, shard.bytes, shard.sha256):
        raise Differs(f"{folder / shard.path}: its rows are not the ones the manifest promises ({shard.sha256})")


def as_json(path: Path) -> Iterator[Json]:
    """Read the rows of any Parquet file as dicts; a repeated column is refused, as a repeated key in JSON is."""
    for batch in stored_batches(path):
        yield from batch.to_pylist()


def stored_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Read the rows of any Parquet file, at most `BATCH` at a time."""
    with open_parquet(path) as file, damage_named(path):
        names = file.schema_arrow.names
        if len(set(names)) != len(names):
            raise EverystepError(f"{path}: a column appears twice: {', '.join(names)}")
        yield from batches(file, path, BATCH, names, range(file.num_row_groups))


def _digest_rows(rows: pa.Table) -> str:
    digest = _Digest()
    for batch in rows.to_batches():
        digest.update(batch)
    return digest.found()[2]


def _open_writer(file: Any, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a writer that stores columns of few values by dictionary, integers by differences, float32 by bytes of
    equal rank, the rest plainly."""
    integers = [field.name for field in schema if pa.types.is_integer(field.type)]
    floats = [field.name for field in schema if pa.types.is_float32(field.type)]
    return pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        use_dictionary=[name for name in REPEATED if name in schema.names],
        column_encoding=dict.fromkeys(integers, "DELTA_BINARY_PACKED") | dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
    )


class _Digest:
    """Running digest of rows as canonical JSONL."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._rows = self._bytes = 0

    def update(self, rows: pa.RecordBatch) -> bytes:
        """Add rows; return their lines."""
        content = json_lines(rows)
        self._sha256.update(content)
        self._rows += rows.num_rows
        self._bytes += len(content)
        return content

    def found(self) -> tuple[int, int, str]:
        return self._rows, self._bytes, self._sha256.hexdigest()


def json_lines(rows: pa.RecordBatch) -> bytes:
    """Encode each row as a canonical JSON line; a column whose values need no escaping is 20 times as fast."""
    if not rows.num_rows or not all(map(PLAIN.fullmatch, rows.schema.names)):
        return b"".join(map(encode_line, rows.to_pylist()))
    pieces: list[Any] = []
    for name in sorted(rows.schema.names):
        pieces += [arrow_string(f'{"," if pieces else "{"}"{name}":'.encode()), *_in_json(rows.column(name))]
    return bytes(text_of(pc.binary_join_element_wise(*pieces, arrow_string(b"}\n"), arrow_string(b"")))[0])


def _in_json(column: pa.Array) -> list[Any]:
    """Return scalars and arrays of strings that, joined, are the values in canonical JSON."""
    if pa.types.is_floating(column.type) and not column.null_count:
        return [_decimals(column.cast(pa.float64()))]
    if not _is_plain(column):
        return [arrow_strings([encode_line(value)[:-1] for value in column.to_pylist()]).cast(pa.string())]
    text = column.cast(pa.string())
    if pa.types.is_string(column.type):
        return [arrow_string(b'"'), text, arrow_string(b'"')]
    return [text.fill_null("null") if column.null_count else text]


def _decimals(column: pa.Array) -> pa.Array:
    """Write numbers as canonical JSON does: the few that Arrow writes in another way one by one."""
    size = pc.abs(column)
    within = pc.and_(pc.greater_equal(size, PLAIN_DECIMALS[0]), pc.less(size, PLAIN_DECIMALS[1]))
    odd = pc.invert(pc.and_(within, pc.not_equal(column, pc.trunc(column))))
    text = column.cast(pa.string())
    if not pc.any(odd).as_py():
        return text
    values = [encode_line(value)[:-1] for value in column.filter(odd).to_pylist()]
    return pc.replace_with_mask(text, odd, arrow_strings(values).cast(pa.string()))


def text_of(strings: pa.Array) -> tuple[memoryview, NDArray[np.int32]]:
    """Return all characters of a computed array of strings, and the offset of each string, shape (len + 1,)."""
    _, offsets, data = strings.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[: len(strings) + 1]
    return memoryview(data)[: ends[-1]], ends


def _is_plain(column: pa.Array) -> bool:
    """Tell whether canonical JSON writes every value as it is: plain strings, small integers and nulls among them."""
    if pa.types.is_signed_integer(column.type):
        bounds = pc.min_max(column).as_py()
        return bounds["min"] is None or bool(max(-bounds["min"], bounds["max"]) <= MAX_INTEGER)
    if column.null_count:
        return False
    if not pa.types.is_string(column.type) or pc.any(pc.match_substring_regex(column, ESCAPED)).as_py():
        return False
    try:
        column.validate(full=True)  # Parquet may hold strings that are not UTF-8
    except pa.ArrowInvalid:
        return False
    return True


def _regrouped(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Regroup rows into batches of `BATCH`; the last may be shorter."""
    rest = pa.Table.from_batches([], schema)
    for batch in batches:
        rest = pa.concat_tables([rest, pa.Table.from_batches([batch], schema)])
        for _ in range(rest.num_rows // BATCH):
            yield rest.slice(0, BATCH).combine_chunks().to_batches()[0]
            rest = rest.slice(BATCH)
    yield from rest.combine_chunks().to_batches()
