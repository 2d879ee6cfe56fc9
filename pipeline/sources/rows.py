"""Documents from rows with named columns, as `jsonl`, `parquet` and data sets of the Hub have them.

`text_column` must be a string. `id_column` is the natural key, a string or an integer; without one the key is the
row's place in the pinned artefact. `license_column` names the licence of the row in the words of the data, which
`licenses` translates. `a.b` is field `b` of column `a`, unless a column is really called `a.b`.

Only a bad text or key can remove a document: every other value can be stored in some form (docs/formats.md, 4.4).
"""

import re
from base64 import b64encode
from datetime import date, time, timedelta
from decimal import Decimal
from math import isfinite
from typing import Any
from uuid import UUID

from pipeline.base.errors import EverystepError
from pipeline.formats.canonical import Json, canonical, parse, parse_foreign
from pipeline.sources.declaration import Declared
from pipeline.sources.document import RawDocument, Rejected, document, is_key, rejected

MAX_VALUES = 1_000_000
"""Limit of values in one JSON text. Each takes up to 200 bytes of memory, and may be two bytes long."""
MAX_SAID = 100  # characters on record of an unknown licence
MAX_INTEGER = 2**53 - 1
NO_TEXT = re.compile("[\0\ud800-\udfff]")
STRING = re.compile(r'"[^"\\]*+(?:\\.?[^"\\]*+)*+(?:"|\Z)', re.DOTALL)  # one that never ends is looked at once


def parse_bounded(text: str, where: str) -> Json:
    """Parse as `parse` does, but refuse a text whose values could fill the memory."""
    _refuse_many_values(text, where)
    return parse(text, where)


def parse_row(text: str, where: str) -> Any:
    """Parse as `parse_foreign` does, but refuse a text whose values could fill the memory."""
    _refuse_many_values(text, where)
    return parse_foreign(text, where)


def _refuse_many_values(text: str, where: str) -> None:
    if _num_marks(text) > MAX_VALUES and _num_marks(STRING.sub("", text)) > MAX_VALUES:
        raise EverystepError(f"{where}: more than {MAX_VALUES} values")


def _num_marks(text: str) -> int:
    return text.count(",") + text.count(":") if len(text) > MAX_VALUES else 0


def row_document(row: Any, place: str, source: Declared) -> RawDocument | Rejected:
    """Make the document in `row`, or reject it under the key `place`. An integer key becomes its decimal digits."""
    text = column(row, source.text_column)
    if not isinstance(text, str):
        return rejected(place, "broken_record", f"column {source.text_column!r} holds no string")
    key = column(row, source.id_column) if source.id_column else place
    if isinstance(key, int) and not isinstance(key, bool):
        key = str(key)
    if not isinstance(key, str) or not is_key(key):
        return rejected(place, "broken_record", f"column {source.id_column!r} holds no key")
    values = {name: plain(column(row, name)) for name in source.metadata_columns}
    metadata = {name: as_text(value) for name, value in values.items() if value is not None}
    said = as_text(column(row, source.license_column)) if source.license_column else ""
    if source.license_column and source.unknown_license == "remove" and said not in source.meanings:
        return rejected(key, "unknown_license", said[:MAX_SAID])
    return document(key, text, metadata, source.meanings.get(said))


def column(row: Any, name: str) -> Any:
    """Look up a column or nested field; None if there is none."""
    if isinstance(row, dict) and name in row:
        return row[name]
    for part in name.split("."):
        row = row.get(part) if isinstance(row, dict) else None
    return row


def as_text(value: Any) -> str:
    """Return a string as it is, anything else as canonical JSON of `plain`; `null` for none."""
    value = plain(value)
    return value if isinstance(value, str) else canonical(value).decode()


def plain(value: Any) -> Json:
    """Convert a value of a foreign file to JSON by the table in docs/formats.md, 4.4."""
    match value:
        case None | bool():
            return value
        case str():
            return NO_TEXT.sub("\ufffd", value)
        case int():
            return value if abs(value) <= MAX_INTEGER else str(value)
        case float():
            return value if isfinite(value) else None
        case Decimal():
            return format(value, "f")
        case date() | time():
            return value.isoformat()
        case timedelta():
            return format(Decimal(value // timedelta(microseconds=1)).scaleb(-6), "f")
        case bytes():
            return b64encode(value).decode()
        case UUID():
            return str(value)
        case list() | tuple():
            return [plain(item) for item in value]
        case dict():
            return {NO_TEXT.sub("\ufffd", name): plain(item) for name, item in value.items()}
    raise TypeError(f"no JSON form for a value of type {type(value).__name__}")
