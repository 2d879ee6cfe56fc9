"""From a row with named columns to a document: what `jsonl` and `parquet` share.

`text_column` must be a string. `id_column` is the natural key, a string or an integer; without one the key is the
row's place in the pinned artefact. `license_column` names the licence of the row in the words of the data, which
`licenses` translates. `a.b` is field `b` of column `a`, unless a column is really called `a.b`.
"""

import re
from typing import Any

from pipeline.formats.canonical import canonical, parse
from pipeline.formats.errors import EverystepError
from pipeline.sources.declaration import Declared
from pipeline.sources.document import Document, Rejected, document, is_key, rejected

MAX_VALUES = 1_000_000
"""Of one JSON text. Each takes up to 200 bytes of memory, and may be two bytes long."""
MAX_SAID = 100  # characters on record of what the data say of a licence
STRING = re.compile(r'"[^"\\]*+(?:\\.?[^"\\]*+)*+(?:"|\Z)', re.DOTALL)  # one that never ends is looked at once


def parse_bounded(text: str, where: str) -> Any:
    """`parse`, of a text whose values cannot fill the memory."""
    if _num_marks(text) > MAX_VALUES and _num_marks(STRING.sub("", text)) > MAX_VALUES:
        raise EverystepError(f"{where}: more than {MAX_VALUES} values")
    return parse(text, where)


def _num_marks(text: str) -> int:
    return text.count(",") + text.count(":") if len(text) > MAX_VALUES else 0


def row_document(row: Any, place: str, source: Declared) -> Document | Rejected:
    """The document in `row`, or a rejected one under the key `place`. A whole number is a key as it is spelled."""
    text = column(row, source.text_column)
    if not isinstance(text, str):
        return rejected(place, "broken_record", f"column {source.text_column!r} holds no string")
    key = column(row, source.id_column) if source.id_column else place
    if isinstance(key, int) and not isinstance(key, bool):
        key = str(key)
    elif isinstance(key, float) and 2**53 <= key < 1e21:
        key = canonical(key).decode()
    if not isinstance(key, str) or not is_key(key):
        return rejected(place, "broken_record", f"column {source.id_column!r} holds no key")
    values = {name: column(row, name) for name in source.metadata_columns}
    try:
        metadata = {name: as_text(value) for name, value in values.items() if value is not None}
        said = as_text(column(row, source.license_column)) if source.license_column else ""
    except (EverystepError, ValueError) as error:
        return rejected(place, "broken_record", str(error))
    if source.license_column and source.unknown_license == "remove" and said not in source.meanings:
        return rejected(key, "unknown_license", said[:MAX_SAID])
    return document(key, text, metadata, source.meanings.get(said))


def column(row: Any, name: str) -> Any:
    """The value of a column or nested field, None if there is none."""
    if isinstance(row, dict) and name in row:
        return row[name]
    for part in name.split("."):
        row = row.get(part) if isinstance(row, dict) else None
    return row


def as_text(value: Any) -> str:
    """A string as it is, a time as ISO 8601, anything else as canonical JSON; `null` for none."""
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    text = value if isinstance(value, str) else canonical(value).decode()
    text.encode()
    return text
