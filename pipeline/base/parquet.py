"""Read untrusted parquet files in bounded memory, whole or not at all.

The sizes and counts in a footer are only claims. The page headers decide how much memory a reader needs, because no
page is unpacked past the size in its header, so they are read first (parquet-format, `parquet.thrift`: FileMetaData and
PageHeader, in Thrift's compact protocol). Pages that are too large, counts of values or rows that disagree, wrong page
checksums, and more rows or bytes than is plausible for the size of the file are refused. If rows are long, or a page
can repeat one long string (a dictionary, or strings that share prefixes), fewer rows are read at a time.
"""

import io
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.base.errors import EverystepError
from pipeline.base.files import max_unpacked

MAX_PAGE_BYTES = 128 << 20
"""Size limit of an unpacked page; writers aim at 1 MiB."""
MAX_TEXTS_PAGE_BYTES, MAX_TEXT_BYTES = 1 << 30, 16 << 20
"""The same for corpora of long texts, since pyarrow checks the size of a page only after every 1,024 values. A page
over `MAX_PAGE_BYTES` must hold enough values to explain its size."""
BATCH_BYTES = 64 << 20
"""Target for the strings of a batch; a single row may be longer."""
MAX_ROWS_PER_BYTE, MIN_ROWS = 8, 1 << 20
MAX_FOOTER_BYTES = 64 << 20
HEADER_BYTES, MAX_HEADER_BYTES = 1 << 12, 16 << 20  # of a page
BUFFER_BYTES = 1 << 20
FOOTER, MAGIC = struct.Struct("<I4s"), b"PAR1"
DICTIONARY_PAGE, SHARED_PREFIXES = 2, 7
BROKEN = (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError)

Fields = dict[int, Any]


class _Page(NamedTuple):
    """Header of a page, and where the next page begins."""

    is_dictionary: bool
    encoding: int
    values: int
    bytes: int
    next: int


def open_parquet(path: Path, as_dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    """Open a file whose footer can be read and claims a plausible number of rows. Read it by `batches`.

    Columns `as_dictionaries` stay dictionary-encoded: for columns of few values, decoding takes most of the time.
    """
    with damage_named(path):
        file = pq.ParquetFile(
            pa.OSFile(os.fsencode(path)),  # a str would have to be valid UTF-8
            read_dictionary=as_dictionaries,
            pre_buffer=False,
            buffer_size=BUFFER_BYTES,
            page_checksum_verification=True,
        )
        rows = group_rows(file)
        most = max(MIN_ROWS, MAX_ROWS_PER_BYTE * path.stat().st_size)
    if min(rows, default=0) < 0 or sum(rows) > most:
        raise EverystepError(f"{path}: claims {sum(rows)} rows; a file of this size may have at most {most}")
    if sum(rows) != file.metadata.num_rows:
        raise EverystepError(f"{path}: claims {file.metadata.num_rows} rows, its row groups hold {sum(rows)}; damaged")
    return file


def group_rows(file: pq.ParquetFile) -> list[int]:
    """List the number of rows that each row group claims."""
    return [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]


def batches(
    file: pq.ParquetFile,
    path: Path,
    batch_rows: int,
    columns: Sequence[str],
    groups: Sequence[int],
    max_page_bytes: int = MAX_PAGE_BYTES,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of some row groups in order, at most `batch_rows` at a time; `columns` are top-level columns."""
    left = max_unpacked(path.stat().st_size)
    with damage_named(path):
        status = path.stat()
        for group in groups:
            promised = file.metadata.row_group(group).num_rows
            row_bytes = _row_bytes(path, status.st_size, status.st_mtime_ns, group, tuple(columns), max_page_bytes)
            rows = max(1, min(batch_rows, BATCH_BYTES // max(row_bytes, 1)))
            # Threads would take as long and twice the processor time: the parts of a stage already run in processes.
            for batch in file.iter_batches(rows, row_groups=[group], columns=list(columns), use_threads=False):
                left -= batch.nbytes
                promised -= batch.num_rows
                if left < 0:
                    raise EverystepError(f"{path}: unpacks to far more bytes than its size explains; refused")
                yield batch
            if promised:
                raise EverystepError(f"{path}: row group {group} lacks {promised} of its rows; damaged")


def read_footer(path: Path) -> Fields:
    """Parse the footer of a file, whatever it claims: `FileMetaData` by field number."""
    with path.open("rb") as raw, damage_named(path):
        return _footer(raw, path, path.stat().st_size)


def page_headers(path: Path, column: Fields) -> Iterator[tuple[Fields, int]]:
    """Yield the header of each page of a column (by its `ColumnMetaData`), and the first byte after the page."""
    with path.open("rb") as raw, damage_named(path):
        start, _ = column_place(column)
        for page in _pages(raw, column, str(path)):
            raw.seek(start)
            yield _Compact(raw.read(min(page.next - start, MAX_HEADER_BYTES))).struct(), page.next
            start = page.next


def column_place(column: Fields) -> tuple[int, int]:
    """Give the first byte of a column, and the first after it, by its `ColumnMetaData`."""
    start = column[9]
    if 0 < column.get(11, 0) < start:
        start = column[11]
    return start, start + column[7]


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn the library's errors about a damaged file into one that names the file."""
    try:
        yield
    except BROKEN as error:
        raise EverystepError(f"{path}: not a readable parquet file: {error}") from error


@lru_cache(maxsize=4096)
def _row_bytes(path: Path, size: int, mtime_ns: int, group: int, columns: tuple[str, ...], max_page_bytes: int) -> int:
    """Bound the bytes of one row: the sum over columns of the largest page whose value can be repeated, or of the
    largest average size of a value."""
    tops = {name.split(".")[0] for name in columns}
    in_a_row = 0
    with path.open("rb") as raw:
        about = _row_groups(path, size, mtime_ns)[group]
        for column in (chunk[3] for chunk in about[1]):
            name = b".".join(column[3]).decode()
            if name.split(".")[0] in tops:
                value_bytes = _value_bytes(raw, column, f"{path}: {ascii(name)[1:-1]}", max_page_bytes)
                in_a_row += value_bytes * max(1, -(-column[5] // max(about[3], 1)))
    return in_a_row


def _value_bytes(raw: IO[bytes], column: Fields, where: str, max_page_bytes: int) -> int:
    values = longest = 0
    for page in _pages(raw, column, where):
        most = max(MAX_PAGE_BYTES, min(max_page_bytes, MAX_TEXT_BYTES * page.values))
        if page.bytes > most:
            raise EverystepError(f"{where}: a page has {page.bytes} bytes; at most {most} are allowed")
        repeats = page.is_dictionary or page.encoding == SHARED_PREFIXES
        longest = max(longest, page.bytes if repeats else -(-page.bytes // max(page.values, 1)))
        values += 0 if page.is_dictionary else page.values
    if values != column[5]:
        raise EverystepError(f"{where}: claims {column[5]} values, its pages hold {values}; damaged")
    return longest


@lru_cache(maxsize=4)
def _row_groups(path: Path, size: int, _mtime_ns: int) -> list[Fields]:
    """Parse the row groups in the footer. The library's own view of a column aborts the process on a wrong count."""
    with path.open("rb") as raw:
        groups: list[Fields] = _footer(raw, path, size).get(4, [])
    return groups


def _footer(raw: IO[bytes], path: Path, size: int) -> Fields:
    raw.seek(-FOOTER.size, io.SEEK_END)
    length, magic = FOOTER.unpack(raw.read(FOOTER.size))
    if magic != MAGIC or length > min(MAX_FOOTER_BYTES, size - FOOTER.size):
        raise EverystepError(f"{path}: the footer has {length} bytes; at most {MAX_FOOTER_BYTES} are allowed")
    raw.seek(-FOOTER.size - length, io.SEEK_END)
    return _Compact(raw.read(length)).struct()


def _pages(raw: IO[bytes], column: Fields, where: str) -> Iterator[_Page]:
    """Yield the pages of a column until it has all its values. Old writers got its claimed size wrong."""
    left, size = column[5], raw.seek(0, io.SEEK_END)
    start, _ = column_place(column)
    while left > 0:
        page = _page(raw, start, HEADER_BYTES)
        if not start < page.next <= size or page.values < 0 or page.bytes < 0:
            raise EverystepError(f"{where}: no page at byte {start}; damaged")
        yield page
        left -= 0 if page.is_dictionary else page.values
        start = page.next


def _page(raw: IO[bytes], start: int, most: int) -> _Page:
    raw.seek(start)
    compact = _Compact(raw.read(most))
    try:
        header = compact.struct()
    except IndexError:
        if most >= MAX_HEADER_BYTES:
            raise
        return _page(raw, start, MAX_HEADER_BYTES)  # long because of its statistics: the smallest and largest text
    about = header.get(5) or header.get(7) or header.get(8) or {1: 0}
    encoding = about.get(4 if 8 in header else 2, 0)
    return _Page(header[1] == DICTIONARY_PAGE, encoding, about[1], header[2], start + compact.place + header[3])


class _Compact:
    """Parser of Thrift's compact protocol: structs as dicts by field number. `IndexError` if it is cut off."""

    MAX_DEPTH = 16

    def __init__(self, content: bytes) -> None:
        self._content, self.place = content, 0

    def struct(self, depth: int = 0) -> Fields:
        """Parse the struct that begins at `place`."""
        fields: Fields = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth + 1)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if depth > self.MAX_DEPTH:
            raise ValueError("a footer or page header is nested too deep")
        match kind:
            case 1 | 2 | 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._integer()
            case 7:
                return self._bytes(8)
            case 8:
                return self._bytes(self._varint())
            case 9 | 10:
                head = self._byte()
                size = self._varint() if head >> 4 == 15 else head >> 4
                return [self._value(head & 15, depth + 1) for _ in range(size)]
            case 12:
                return self.struct(depth + 1)
        raise ValueError(f"a footer or page header has a field of unknown kind {kind}")

    def _integer(self) -> int:
        number = self._varint()
        return number >> 1 ^ -(number & 1)

    def _varint(self) -> int:
        number = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
        raise ValueError("a footer or page header has a number of too many bytes")

    def _byte(self) -> int:
        self.place += 1
        return self._content[self.place - 1]

    def _bytes(self, size: int) -> bytes:
        self.place += size
        if self.place > len(self._content):
            raise IndexError("a footer or page header is cut off")
        return self._content[self.place - size : self.place]
