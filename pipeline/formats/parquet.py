"""Parquet from outside, read in little memory whatever it says of itself.

A footer's sizes and counts are claims. What a reader will hold is told by the headers of the pages, because no page
is unpacked past the size in its header: so these are walked first (parquet-format, `parquet.thrift`: FileMetaData and
PageHeader, in the compact protocol of Thrift). Refused are pages of more than `MAX_PAGE_BYTES`, counts of values that
disagree, and more rows or more bytes than so small a file has a reason to hold. Where a page can say one long string
many times (a dictionary, or strings that share beginnings), fewer rows are read at a time.
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

from pipeline.formats.errors import EverystepError

MAX_PAGE_BYTES = 128 << 20  # unpacked; writers aim at 1 MiB, and overshoot where a text is longer
BATCH_BYTES = 64 << 20  # that the strings of a batch may hold at most, but for a single row
MAX_RATIO, MIN_BOUND = 200, 1 << 30  # unpacked bytes that a file may hold: so many times its own, and always so many
MAX_ROWS_PER_BYTE, MIN_ROWS = 8, 1 << 20
MAX_FOOTER_BYTES = 64 << 20
HEADER_BYTES, MAX_HEADER_BYTES = 1 << 12, 16 << 20  # of a page
BUFFER_BYTES = 1 << 20
FOOTER, MAGIC = struct.Struct("<I4s"), b"PAR1"
DICTIONARY_PAGE, SHARED_BEGINNINGS = 2, 7
BROKEN = (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError)

Fields = dict[int, Any]


class _Page(NamedTuple):
    """What the header of a page says, and where the next one begins."""

    is_dictionary: bool
    encoding: int
    values: int
    bytes: int
    next: int


def open_parquet(path: Path, as_dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    """The file, if its footer can be read and promises no absurd number of rows. Read it by `batches`.

    Columns `as_dictionaries` are not spelled out: of few values, that takes most of the time.
    """
    with damage_named(path):
        source = pa.OSFile(os.fsencode(path))  # given a str, it would want a path that is UTF-8
        file = pq.ParquetFile(source, read_dictionary=as_dictionaries, pre_buffer=False, buffer_size=BUFFER_BYTES)
        rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        most = max(MIN_ROWS, MAX_ROWS_PER_BYTE * path.stat().st_size)
    if min(rows, default=0) < 0 or sum(rows) > most:
        raise EverystepError(f"{path}: {sum(rows)} rows, where {most} would be many; nothing of it is read")
    return file


def batches(
    file: pq.ParquetFile, path: Path, batch_rows: int, columns: Sequence[str], groups: Sequence[int]
) -> Iterator[pa.RecordBatch]:
    """The rows of some row groups in their order, at most `batch_rows` at a time; `columns` are top columns."""
    left = max(MIN_BOUND, MAX_RATIO * path.stat().st_size)
    with damage_named(path):
        status = path.stat()
        for group in groups:
            longest = _longest_repeated(path, status.st_size, status.st_mtime_ns, group, tuple(columns))
            rows = max(1, min(batch_rows, BATCH_BYTES // max(longest, 1)))
            # Threads would take as long and twice the processor: parts of a stage run in processes.
            for batch in file.iter_batches(rows, row_groups=[group], columns=list(columns), use_threads=False):
                left -= batch.nbytes
                if left < 0:
                    raise EverystepError(f"{path}: unpacks to an absurd size; no more of it is read")
                yield batch


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Around calls of the library: whatever it finds broken becomes an error that names the file."""
    try:
        yield
    except BROKEN as error:
        raise EverystepError(f"{path}: not a readable parquet file: {error}") from error


@lru_cache(maxsize=4096)
def _longest_repeated(path: Path, size: int, mtime_ns: int, group: int, columns: tuple[str, ...]) -> int:
    """Bytes that the strings of one row may hold though they stand in the file once: of each column, its longest."""
    tops = {name.split(".")[0] for name in columns}
    in_a_row = 0
    with path.open("rb") as raw:
        for column in (chunk[3] for chunk in _row_groups(path, size, mtime_ns)[group][1]):
            name = b".".join(column[3]).decode()
            if name.split(".")[0] in tops:
                in_a_row += _longest_of(raw, column, f"{path}: {name}")
    return in_a_row


def _longest_of(raw: IO[bytes], column: Fields, where: str) -> int:
    values = longest = 0
    for page in _pages(raw, column, where):
        if page.bytes > MAX_PAGE_BYTES:
            raise EverystepError(f"{where}: a page of {page.bytes} bytes; at most {MAX_PAGE_BYTES} are allowed")
        if page.is_dictionary or page.encoding == SHARED_BEGINNINGS:
            longest = max(longest, page.bytes)
        values += 0 if page.is_dictionary else page.values
    if values != column[5]:
        raise EverystepError(f"{where}: {column[5]} values are promised, its pages hold {values}")
    return longest


@lru_cache(maxsize=4)
def _row_groups(path: Path, size: int, _mtime_ns: int) -> list[Fields]:
    """The row groups of the footer. The library's own view of a column ends the process where a count is wrong."""
    with path.open("rb") as raw:
        raw.seek(-FOOTER.size, io.SEEK_END)
        length, magic = FOOTER.unpack(raw.read(FOOTER.size))
        if magic != MAGIC or length > min(MAX_FOOTER_BYTES, size - FOOTER.size):
            raise EverystepError(f"{path}: a footer of {length} bytes; at most {MAX_FOOTER_BYTES} are allowed")
        raw.seek(-FOOTER.size - length, io.SEEK_END)
        groups: list[Fields] = _Compact(raw.read(length)).struct().get(4, [])
    return groups


def _pages(raw: IO[bytes], column: Fields, where: str) -> Iterator[_Page]:
    start = column[9]
    if 0 < column.get(11, 0) < start:
        start = column[11]
    end = start + column[7]
    if not 0 <= start <= end <= raw.seek(0, io.SEEK_END):
        raise EverystepError(f"{where}: lies outside the file")
    while start < end:
        page = _page(raw, start, HEADER_BYTES)
        if not start < page.next <= end or page.values < 0 or page.bytes < 0:
            raise EverystepError(f"{where}: no page at byte {start}")
        yield page
        start = page.next


def _page(raw: IO[bytes], start: int, most: int) -> _Page:
    raw.seek(start)
    compact = _Compact(raw.read(most))
    try:
        header = compact.struct()
    except IndexError:
        if most >= MAX_HEADER_BYTES:
            raise
        return _page(raw, start, MAX_HEADER_BYTES)  # it holds statistics: the smallest and the largest text
    about = header.get(5) or header.get(7) or header.get(8) or {1: 0}
    encoding = about.get(4 if 8 in header else 2, 0)
    return _Page(header[1] == DICTIONARY_PAGE, encoding, about[1], header[2], start + compact.place + header[3])


class _Compact:
    """Thrift's compact protocol: structs as dicts by field number. `IndexError` where the bytes end too early."""

    MAX_DEPTH = 16

    def __init__(self, content: bytes) -> None:
        self._content, self.place = content, 0

    def struct(self, depth: int = 0) -> Fields:
        """The struct that begins at `place`."""
        fields: Fields = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth + 1)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if depth > self.MAX_DEPTH:
            raise ValueError("a footer or page header that is nested too deep")
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
        raise ValueError(f"a footer or page header with a field of kind {kind}")

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
        raise ValueError("a footer or page header with an endless number")

    def _byte(self) -> int:
        self.place += 1
        return self._content[self.place - 1]

    def _bytes(self, size: int) -> bytes:
        self.place += size
        if self.place > len(self._content):
            raise IndexError("a footer or page header that is cut off")
        return self._content[self.place - size : self.place]
