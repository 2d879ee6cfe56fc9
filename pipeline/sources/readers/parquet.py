"""Parquet files; a document is one row, a part one row group.

Only the declared columns are read. Without an `id_column` the key is the row's place: `train-0001.parquet:17`,
counted from 1 over the whole file.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pipeline.formats.errors import EverystepError
from pipeline.formats.files import list_files, safe_join
from pipeline.sources.declaration import Declared
from pipeline.sources.document import Document, Rejected
from pipeline.sources.rows import row_document

MEMBERS = "*.parquet"
BATCH_ROWS = 1000


def parts(folder: Path, source: Declared) -> list[str]:
    """`FILE#ROW_GROUP` of each file that matches, sorted."""
    pattern = source.members or MEMBERS
    names = [name for name in list_files(folder) if fnmatchcase(name, pattern)]
    if not names:
        raise EverystepError(f"{folder}: nothing matches {pattern}; correct `reader` or `members`")
    return [f"{name}#{group:06}" for name in names for group in range(_open(safe_join(folder, name)).num_row_groups)]


def read(folder: Path, part: str, source: Declared) -> Iterator[Document | Rejected]:
    """The rows of a row group in their order."""
    name, _, group = part.rpartition("#")
    with _open(safe_join(folder, name)) as file:
        number = sum(file.metadata.row_group(before).num_rows for before in range(int(group)))
        columns = _columns(file, name, source)
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[int(group)], columns=columns):
            for row in _rows(batch):
                number += 1
                place = f"{name}:{number}"
                yield Rejected(place, "invalid_utf8", row) if isinstance(row, str) else row_document(row, place, source)


def _rows(batch: Any) -> Iterator[dict[str, Any] | str]:
    """The rows as dicts; one with a string that is no UTF-8 as what is wrong with it."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            yield str(error)
            return
        for number in range(batch.num_rows):
            yield from _rows(batch.slice(number, 1))


def _columns(file: Any, name: str, source: Declared) -> list[str]:
    """The top columns that hold what is declared; the text and the id must be there."""
    there = file.schema_arrow.names
    wanted = [source.text_column, *([source.id_column] if source.id_column else []), *source.metadata_columns]
    tops = [column if column in there else column.split(".")[0] for column in wanted]
    for column, top in zip(wanted, tops, strict=True):
        if top not in there and column not in source.metadata_columns:
            raise EverystepError(f"{name}: has no column {column!r}, only {', '.join(there)}; correct the declaration")
    return sorted({top for top in tops if top in there})


def _open(path: Path) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise EverystepError(f"{path}: not a whole parquet file ({error}); remove it and fetch again") from error
