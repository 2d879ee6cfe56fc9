"""Parquet files; a document is one row, a part one row group.

Only the declared columns are read. Without an `id_column` the key is file and row: `train-0001.parquet:17`,
counted from 1 over the whole file.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipeline.base.files import list_files, safe_join
from pipeline.sources import archives
from pipeline.sources.declaration import Declared
from pipeline.sources.document import RawDocument, Rejected, attempted
from pipeline.sources.records import check_parquet_columns, parquet_rows
from pipeline.sources.rows import row_document

MEMBERS = "*.parquet"


def parts(folder: Path, source: Declared) -> list[str]:
    """List one part `FILE#ROW_GROUP` per row group of each file that matches, sorted."""
    pattern = source.members or MEMBERS
    there = list_files(folder)
    names = [name for name in there if archives.fits(name, [pattern])]
    if not names:
        raise archives.nothing_fits(folder, [pattern], there)
    for name in names:
        check_parquet_columns(safe_join(folder, name), str(folder / name), source.text_column, source.needed_columns)
    return [f"{name}#{group:06}" for name in names for group in range(len(_group_rows(safe_join(folder, name))))]


def read(folder: Path, part: str, source: Declared) -> Iterator[RawDocument | Rejected]:
    """Yield the rows of a row group in their order."""
    name, _, group = part.rpartition("#")
    path = safe_join(folder, name)
    number = sum(_group_rows(path)[: int(group)])
    for row in parquet_rows(path, str(path), source.columns, [int(group)]):
        number += 1
        place = f"{name}:{number}"
        yield attempted(place, partial(row_document, row, place, source))


def _group_rows(path: Path) -> list[int]:
    from pipeline.base.parquet import group_rows, open_parquet

    with open_parquet(path) as file:
        return group_rows(file)
