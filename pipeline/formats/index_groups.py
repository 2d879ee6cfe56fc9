"""The document index by its row groups: what a few rows hold, from a few thousand lines of a table of any size.

A row group has a digest of its own in the manifest, so a reader far away moves a group or two of an index of
terabytes, and still knows that every line is the promised one. The footer of the file only says where to look: the
documents that come must follow one another and fill the row, whatever it claimed.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.base.errors import Differs, EverystepError
from pipeline.base.parquet import FOOTER, damage_named
from pipeline.formats.rows import Span
from pipeline.formats.tables import DOCUMENT_INDEX, open_table, read_group

TAIL_BYTES = 1 << 16
"""What is read first of a file: its footer, unless it is longer."""


class Window(Protocol):
    """A file of which only those bytes are surely here that were asked for."""

    path: Path
    size: int

    def need(self, start: int, stop: int) -> None:
        """Bring the bytes from `start` up to `stop`."""


OpenWindow = AbstractContextManager[Window]


def documents_of_rows(
    window: Window, groups: Sequence[str], width: int, num_rows: int, rows: Sequence[int]
) -> list[list[Span]]:
    """List the pieces of documents in each of `rows`, in order. `groups` are the digests of the row groups.

    Each row has `width` ids; row numbers are below `num_rows`.
    """
    path = window.path
    _need_footer(window)
    with open_table(path, DOCUMENT_INDEX) as file, damage_named(path):
        if file.num_row_groups != len(groups):
            raise Differs(f"{path}: has {file.num_row_groups} row groups, the manifest promises {len(groups)}")
        firsts = [_first_row(file, group) for group in range(len(groups))]
        read: dict[int, pa.Table] = {}
        found = []
        for row in rows:
            if not 0 <= row < num_rows:
                raise EverystepError(f"{path}: row {row} of {num_rows}")
            # A document of the group before may reach into the row, and a group may begin within it.
            numbers = range(max(0, bisect_left(firsts, row) - 1), max(1, bisect_right(firsts, row)))
            for group in numbers:
                if group not in read:
                    window.need(*_place(file, group))
                    read[group] = read_group(file, path, DOCUMENT_INDEX, group, groups[group])
            found.append(_spans(path, pa.concat_tables([read[group] for group in numbers]), width, row))
    return found


def _need_footer(window: Window) -> None:
    window.need(max(0, window.size - TAIL_BYTES), window.size)
    with window.path.open("rb") as file:
        file.seek(max(0, window.size - FOOTER.size))
        end = file.read()
    length = FOOTER.unpack(end)[0] + FOOTER.size if len(end) == FOOTER.size else 0
    if TAIL_BYTES < length <= window.size:
        window.need(window.size - length, window.size - TAIL_BYTES)


def _first_row(file: pq.ParquetFile, group: int) -> int:
    """The first row that a document of the group is in, by the footer."""
    statistics = file.metadata.row_group(group).column(DOCUMENT_INDEX.names.index("first_row")).statistics
    return int(statistics.min) if statistics is not None and statistics.has_min_max else 0


def _place(file: pq.ParquetFile, group: int) -> tuple[int, int]:
    """The bytes of a row group."""
    about = file.metadata.row_group(group)
    columns = [about.column(number) for number in range(about.num_columns)]
    starts = [
        min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset) for column in columns
    ]
    stops = [start + column.total_compressed_size for start, column in zip(starts, columns, strict=True)]
    return min(starts), max(stops)


def _spans(path: Path, documents: pa.Table, width: int, row: int) -> list[Span]:
    starts = documents["first_row"].to_numpy() * width + documents["offset"].to_numpy()
    stops = starts + documents["num_tokens"].to_numpy()
    first, last = row * width, (row + 1) * width
    inside = np.flatnonzero((stops > first) & (starts < last))
    whole = len(inside) and starts[inside[0]] <= first and stops[inside[-1]] >= last
    if not whole or (starts[inside[1:]] != stops[inside[:-1]]).any():
        raise EverystepError(f"{path}: its documents do not fill row {row} without gaps")
    about = documents.select(["id", "source", "license"]).take(pa.array(inside)).to_pylist()
    return [
        Span(**names, row=row, start=max(int(starts[i]) - first, 0), stop=min(int(stops[i]) - first, width))
        for names, i in zip(about, inside.tolist(), strict=True)
    ]
