"""Parquet files; a document is one row, a part one row group.

Only the declared columns are read. Without an `id_column` the key is the row's place: `train-0001.parquet:17`,
counted from 1 over the whole file.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.formats.errors import EverystepError
from pipeline.formats.files import list_files, safe_join
from pipeline.sources.declaration import Declared
from pipeline.sources.document import Document, Rejected, attempted, rejected
from pipeline.sources.rows import row_document

MEMBERS = "*.parquet"
BATCH_ROWS = 1000


def parts(folder: Path, source: Declared) -> list[str]:
    """`FILE#ROW_GROUP` of each file that matches, sorted."""
    pattern = source.members or MEMBERS
    names = [name for name in list_files(folder) if fnmatchcase(name, pattern)]
    if not names:
        raise EverystepError(f"{folder}: nothing matches {pattern}; correct `reader` or `members`")
    return [f"{name}#{group:06}" for name in names for group in range(_num_row_groups(safe_join(folder, name)))]


def read(folder: Path, part: str, source: Declared) -> Iterator[Document | Rejected]:
    """The rows of a row group in their order."""
    from pipeline.formats.parquet import batches, open_parquet

    name, _, group = part.rpartition("#")
    path = safe_join(folder, name)
    with open_parquet(path) as file:
        number = sum(file.metadata.row_group(before).num_rows for before in range(int(group)))
        for batch in batches(file, path, BATCH_ROWS, _columns(file, path, source), [int(group)]):
            for row in _rows(batch):
                number += 1
                place = f"{name}:{number}"
                yield attempted(place, partial(_read_row, row, place, source))


def _rows(batch: Any) -> Iterator[Any]:
    """The rows as dicts; as batches of one row where Python cannot hold one of them."""
    try:
        rows = batch.to_pylist()
    except Exception:  # of an encoding, a time, a time zone: each row is asked for again and says so itself
        rows = [batch.slice(number, 1) for number in range(batch.num_rows)]
    yield from rows


def _read_row(row: Any, place: str, source: Declared) -> Document | Rejected:
    try:
        fields = row if isinstance(row, dict) else row.to_pylist()[0]
    except (ValueError, OverflowError) as error:
        return rejected(place, "invalid_utf8" if isinstance(error, UnicodeError) else "broken_record", str(error))
    return row_document(fields, place, source)


def _columns(file: Any, path: Path, source: Declared) -> list[str]:
    """The top columns that hold what is declared, each once; text, id and licence must be there."""
    from pipeline.formats.parquet import damage_named

    with damage_named(path):
        there = file.schema_arrow.names
    tops = [column if column in there else column.split(".")[0] for column in source.columns]
    for column, top in zip(source.columns, tops, strict=True):
        if top not in there and column in (source.text_column, source.id_column, source.license_column):
            raise EverystepError(f"{path}: has no column {column!r}, only {', '.join(there)}; correct the declaration")
        if there.count(top) > 1:
            raise EverystepError(f"{path}: its column {top!r} stands twice; no reader can say which is meant")
    return sorted({top for top in tops if top in there})


def _num_row_groups(path: Path) -> int:
    from pipeline.formats.parquet import open_parquet

    with open_parquet(path) as file:
        return int(file.num_row_groups)
