"""Rows of foreign files: JSON lines, lines of text, CSV, parquet. Readers and the fetch from the Hub share them.

A row is a dict by column. A row that cannot be read is `Broken`, and the rest is read; a file that cannot be read is an
error that names it. Values stay as they are written: no type is inferred from a text.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.base.errors import EverystepError
from pipeline.sources import archives
from pipeline.sources.document import MAX_DETAIL, MAX_TEXT_BYTES, escaped
from pipeline.sources.rows import parse_row

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_LINE_BYTES = 2 * MAX_TEXT_BYTES  # escapes make a line longer than its text
BATCH_ROWS = 1000


class Broken(NamedTuple):
    """Row that cannot be read: the reason of its removal, and where and what."""

    reason: str
    detail: str


def numbered_lines(stream: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line), counted from 1; long lines are cut after `MAX_LINE_BYTES`."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        yield number, line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE_BYTES + 1)


def json_row(line: bytes, place: str) -> Any:
    """Parse a line of JSON; it may be `Broken`."""
    if len(line) > MAX_LINE_BYTES:
        return Broken("too_large", f"a line of more than {MAX_LINE_BYTES} bytes")
    try:
        return parse_row(line.decode(), place)
    except UnicodeDecodeError as error:
        return Broken("invalid_utf8", str(error))
    except EverystepError as error:
        return Broken("broken_record", str(error))


def json_rows(stream: io.BufferedReader, name: str) -> Iterator[Any]:
    """Yield the rows of JSON lines, or of one array, which must fit into memory (`archives.whole`)."""
    if stream.peek(1)[:1] == b"[":
        try:
            yield from parse_row(archives.whole(stream, name).decode(), name)
        except UnicodeDecodeError as error:
            raise EverystepError(f"{name}: not UTF-8: {error}") from error
        return
    for number, line in numbered_lines(stream):
        if line.strip():
            yield json_row(line, f"{name}:{number}")


def text_rows(stream: io.BufferedReader, _name: str) -> Iterator[Any]:
    """Yield a row with the column `text` for each line."""
    for _, line in numbered_lines(stream):
        if len(line) > MAX_LINE_BYTES:
            yield Broken("too_large", f"a line of more than {MAX_LINE_BYTES} bytes")
        else:
            yield {"text": line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")}


def csv_rows(stream: io.BufferedReader, name: str, separator: str) -> Iterator[Any]:
    """Yield the rows below the heading; each field is the string as written."""
    limit = csv.field_size_limit(MAX_LINE_BYTES)
    text = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="")
    table = csv.reader(text, delimiter=separator, strict=True)
    try:
        heading = next(table, [])
        if len(set(heading)) < len(heading):
            raise EverystepError(f"{name}: its heading names a column twice: {listed(heading)}; correct the file")
        for fields in table:
            if len(fields) == len(heading):
                yield dict(zip(heading, fields, strict=True))
            elif fields:
                wrong = f"{name}:{table.line_num}: {len(fields)} fields, where the heading has {len(heading)}"
                yield Broken("broken_record", wrong)
    except csv.Error as error:
        raise EverystepError(f"{name}: line {table.line_num}: {error}; the file is cut off or not CSV") from error
    finally:
        csv.field_size_limit(limit)


def parquet_rows(path: Path, name: str, wanted: Sequence[str], groups: Iterable[int] | None = None) -> Iterator[Any]:
    """Yield the rows of some row groups, or of all, with the top-level columns that hold what is `wanted`.

    `name` is the file's name in errors. A value that Python cannot represent (a year 20,000) is None.
    """
    from pipeline.base.parquet import MAX_TEXTS_PAGE_BYTES, batches, damage_named, open_parquet

    with open_parquet(path) as file:
        with damage_named(path):
            there = file.schema_arrow.names
        tops = sorted({top for column in wanted if (top := top_column(there, column)) in there})
        for top in tops:
            if there.count(top) > 1:
                raise EverystepError(f"{name}: has two columns {top!r}, and which is meant is unknown; rename one")
        chosen = range(file.num_row_groups) if groups is None else groups
        for batch in batches(file, path, BATCH_ROWS, tops, list(chosen), MAX_TEXTS_PAGE_BYTES):
            columns = [_values(batch.column(top)) for top in tops]
            for values in zip(*columns, strict=True) if tops else [()] * batch.num_rows:
                yield dict(zip(tops, values, strict=True))


def check_parquet_columns(path: Path, name: str, text: str, needed: Iterable[str]) -> None:
    """Raise unless the file has the columns, and the text column holds strings."""
    from pipeline.base.parquet import damage_named, open_parquet

    with open_parquet(path) as file, damage_named(path):
        schema = file.schema_arrow
    for column_name in needed:
        if top_column(schema.names, column_name) not in schema.names:
            raise no_column(name, column_name, schema.names)
    kind = _type_of(schema, text)
    if kind is not None and not _is_string(kind):
        cure = "set `text_column` to a column of strings"
        raise EverystepError(f"{name}: its column {text!r} holds {str(kind)[:80]!r}, not strings; {cure}")


def no_column(name: str, missing: str, there: Iterable[str]) -> EverystepError:
    """Make the error for a file that lacks a declared column."""
    return EverystepError(f"{name}: has no column {missing!r}, only {listed(there)}; correct the declaration")


def top_column(there: Sequence[str], name: str) -> str:
    """Find the column of a file that holds `name`: itself, or the one of which it is a field."""
    return name if name in there else name.split(".")[0]


def listed(names: Iterable[str]) -> str:
    """List names from a file so that they can be printed."""
    return escaped(", ".join(names))[:MAX_DETAIL]


def _type_of(schema: Any, name: str) -> Any:
    """Find the Arrow type of a column or nested field; None if it is missing, or holds only nulls."""
    import pyarrow as pa

    top = top_column(schema.names, name)
    if top not in schema.names:
        return None
    kind = schema.field(schema.names.index(top)).type
    for part in [] if top == name else name.split(".")[1:]:
        if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return kind
        kind = kind.field(part).type
    return None if pa.types.is_null(kind) else kind


def _is_string(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _values(column: Any) -> Iterable[Any]:
    """Convert an array, a long one lazily. A value that Python cannot represent does not affect the others."""
    try:
        return list(column.to_pylist()) if column.nbytes <= MAX_TEXT_BYTES else map(_value, column)
    except (MemoryError, OSError):  # no value is at fault
        raise
    except Exception:  # an encoding, a time, a time zone: convert each value by itself
        return map(_value, column)


def _value(scalar: Any) -> Any:
    """Convert a scalar. Bytes that are not UTF-8 become lone surrogates; a text that is too long to keep is cut."""
    import pyarrow as pa

    if isinstance(scalar, pa.DictionaryScalar):
        scalar = scalar.value
    if _is_string(scalar.type) and scalar.is_valid:
        raw = scalar.as_buffer()
        if raw.size > MAX_TEXT_BYTES:
            return raw.slice(0, MAX_TEXT_BYTES + 4).to_pybytes().decode("utf-8", "ignore")
        return raw.to_pybytes().decode("utf-8", "surrogateescape")
    try:
        if isinstance(scalar, pa.StructScalar) and scalar.is_valid:
            return {name: _value(scalar[name]) for name in scalar.type.names}
        if isinstance(scalar, pa.ListScalar) and scalar.is_valid:
            return [_value(item) for item in scalar.values]
        return scalar.as_py()
    except (ValueError, OverflowError, LookupError, ImportError):
        return None
