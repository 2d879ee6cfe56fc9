"""Footers: what a Parquet file claims of its rows is true, so that no reader who trusts it misses one.

DuckDB, polars and pyarrow skip row groups and pages by the smallest and largest value that footer and page headers
claim. Here every such claim is compared with the values; filters, indexes and sort orders, which we do not write, are
refused; row groups have `BATCH` rows, and every byte between the magic numbers belongs to a page or to the footer.
Parquet bytes change with the writer's version, so they are not compared themselves.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.base.errors import well_shaped
from pipeline.base.parquet import FOOTER, column_place, damage_named, page_headers, read_footer
from pipeline.formats.tables import BATCH, open_table, read_columns
from pipeline.release.release import Release

Fields = dict[int, Any]
# Field numbers of parquet.thrift.
ROWS_OF_FILE, GROUPS, METADATA = 3, 4, 5
COLUMNS, ROWS_OF_GROUP = 1, 3
CHUNK_METADATA, OFFSET = 3, 2
STATISTICS, PAGE_STATISTICS = 12, 5
MAX, MIN, NULLS, MAX_VALUE, MIN_VALUE, IS_MAX_EXACT, IS_MIN_EXACT = 1, 2, 3, 5, 6, 7, 8
SIZES = 16
KNOWN = {
    "file": {1, 2, ROWS_OF_FILE, GROUPS, METADATA, 6, 7},
    "row group": {COLUMNS, 2, ROWS_OF_GROUP, 5, 6, 7},
    "column": {OFFSET, CHUNK_METADATA},
    "metadata of a column": {1, 2, 3, 4, 5, 6, 7, 9, 11, STATISTICS, 13, SIZES},
    "statistics": {MAX, MIN, NULLS, MAX_VALUE, MIN_VALUE, IS_MAX_EXACT, IS_MIN_EXACT},
    "page": {1, 2, 3, 4, 5, 7, 8},
}
"""Fields that may be there: no path of another file, no offsets of indexes or Bloom filters, no sort order."""


def footer_faults(release: Release) -> Iterator[str]:
    """Each claim of a table of the release that its rows deny."""
    for path in sorted(path for path in release.files if path.endswith(".parquet")):
        with well_shaped(release.folder / path):
            yield from (f"{path}: {fault}" for fault in _table(release.file(path)))


def _table(path: Path) -> Iterator[str]:
    footer = read_footer(path)
    yield from _unknown("file", footer)
    if [entry.get(1) for entry in footer.get(METADATA, [])] != [b"ARROW:schema"]:
        yield "its footer has other metadata than the schema"
    groups = footer.get(GROUPS, [])
    rows = [group[ROWS_OF_GROUP] for group in groups]
    if rows != [BATCH] * (len(rows) - 1) + rows[-1:] or sum(rows) != footer[ROWS_OF_FILE]:
        yield f"its row groups do not hold {BATCH} rows each"
    end = 4
    with damage_named(path):
        schema = pq.read_schema(pa.OSFile(os.fsencode(path)))  # a str would have to be valid UTF-8
        with open_table(path, schema) as file:
            for number, group in enumerate(groups):
                yield from _unknown("row group", group)
                values = read_columns(file, path, schema.names, [number])
                for name, chunk in zip(schema.names, group[COLUMNS], strict=True):
                    about = chunk[CHUNK_METADATA]
                    start, stop = column_place(about)
                    if start != end:
                        yield f"holds bytes before its column {name} of row group {number} that no page has"
                    end = stop
                    column = values[name].combine_chunks()
                    for fault in (*_unknown("column", chunk), *_column(path, column, about, stop)):
                        yield f"row group {number}, column {name}: {fault}"
    size = path.stat().st_size
    with path.open("rb") as raw:
        raw.seek(size - FOOTER.size)
        if end + FOOTER.unpack(raw.read())[0] + FOOTER.size != size:
            yield "holds bytes before its footer that no page has"


def _column(path: Path, column: pa.Array, about: Fields, stop: int) -> Iterator[str]:
    """The faults of a column of a row group, and of its pages."""
    yield from _unknown("metadata of a column", about)
    yield from _statistics(column, about.get(STATISTICS, {}))
    ends = [0]
    begin = 0
    for header, end in page_headers(path, about):
        ends.append(end)
        yield from _unknown("page", header)
        data = header.get(5) or header.get(8)
        if data:
            yield from _statistics(column.slice(begin, data[1]), data.get(PAGE_STATISTICS if 5 in header else 8, {}))
            begin += data[1]
    if ends[-1] != stop:
        yield "holds bytes after its pages"


def _statistics(column: pa.Array, claimed: Fields) -> Iterator[str]:
    yield from _unknown("statistics", claimed)
    if claimed.get(NULLS, column.null_count) != column.null_count:
        yield f"claims {claimed[NULLS]} nulls, has {column.null_count}"
    least, most = _bounds(column)
    for fields, found, what in (((MIN, MIN_VALUE), least, "smallest"), ((MAX, MAX_VALUE), most, "largest")):
        for field in fields:
            if claimed.get(field, found) != found:
                yield f"claims {claimed[field]!r:.80} as its {what} value, has {found!r:.80}"
    if not (claimed.get(IS_MAX_EXACT, True) and claimed.get(IS_MIN_EXACT, True)):
        yield "claims bounds that are not values"


def _bounds(column: pa.Array) -> tuple[bytes | None, bytes | None]:
    """The smallest and largest value as Parquet writes them; none if all are null."""
    bounds = pc.min_max(column)
    return _plain(bounds["min"], "-"), _plain(bounds["max"], "")


def _plain(value: pa.Scalar, zero: str) -> bytes | None:
    if not value.is_valid:
        return None
    if pa.types.is_string(value.type):
        return str(value.as_py()).encode()
    if pa.types.is_floating(value.type):
        return struct.pack("<d" if pa.types.is_float64(value.type) else "<f", value.as_py() or float(f"{zero}0"))
    if pa.types.is_boolean(value.type):
        return bytes([value.as_py()])
    return int(value.as_py()).to_bytes(value.type.bit_width // 8, "little", signed=True)


def _unknown(what: str, fields: Fields) -> Iterator[str]:
    if odd := sorted(fields.keys() - KNOWN[what]):
        yield f"has fields of a {what} that Everystep does not write: {', '.join(map(str, odd))}"
