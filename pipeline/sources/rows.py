"""From a row with named columns to a document: what `jsonl` and `parquet` share.

`text_column` must be a string. `id_column` is the natural key, a string or an integer; without one the key is the
row's place in the pinned artefact. `a.b` is field `b` of column `a`, unless a column is really called `a.b`.
"""

from typing import Any

from pipeline.formats.canonical import canonical
from pipeline.formats.errors import EverystepError
from pipeline.sources.declaration import Declared
from pipeline.sources.document import Document, Rejected, document, is_key


def row_document(row: Any, place: str, source: Declared) -> Document | Rejected:
    """The document in `row`, or a rejected one under the key `place`."""
    text = column(row, source.text_column)
    if not isinstance(text, str):
        return Rejected(place, "broken_record", f"column {source.text_column!r} holds no string")
    key = column(row, source.id_column) if source.id_column else place
    if isinstance(key, int) and not isinstance(key, bool):
        key = str(key)
    if not isinstance(key, str) or not is_key(key):
        return Rejected(place, "broken_record", f"column {source.id_column!r} holds no key")
    values = {name: column(row, name) for name in source.metadata_columns}
    try:
        metadata = {name: as_text(value) for name, value in values.items() if value is not None}
    except (EverystepError, UnicodeError) as error:
        return Rejected(place, "broken_record", str(error))
    return document(key, text, metadata)


def column(row: Any, name: str) -> Any:
    """The value of a column or nested field, None if there is none."""
    if isinstance(row, dict) and name in row:
        return row[name]
    for part in name.split("."):
        row = row.get(part) if isinstance(row, dict) else None
    return row


def as_text(value: Any) -> str:
    """A string as it is, a time as ISO 8601, anything else as canonical JSON."""
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    text = value if isinstance(value, str) else canonical(value).decode()
    text.encode()
    return text
