"""Tables for people: columns padded with blanks, one row a line.

With a maximum width, long text folds within its column, widest column first; figures and short words never do. If that
is not enough, the columns that do not fit follow in a second table that repeats the first column.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from textwrap import wrap

GAP = "  "
FOLDED_WIDTH = 16
"""No column of words is made narrower than this."""
FIGURE = re.compile(r"[-+]?[0-9][0-9.,]*%?")

Row = Sequence[str]


def table(header: Row, rows: Sequence[Row], width: int | None = None) -> Iterator[str]:
    """Yield the lines of a table, each at most `width` characters long where its figures allow that."""
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
    if width is not None:
        widths = _narrowed(header, rows, widths, width)
        fitting = _num_fitting(widths, width)
        if fitting < len(header):
            picked = [0, *range(fitting, len(header))]
            yield from table(header[:fitting], [row[:fitting] for row in rows], width)
            yield ""
            yield from table([header[i] for i in picked], [[row[i] for i in picked] for row in rows], width)
            return
    for line in [header, ["-" * each for each in widths], *rows]:
        yield from _folded(line, widths)


def _narrowed(header: Row, rows: Sequence[Row], widths: list[int], width: int) -> list[int]:
    """Shrink columns until they fit into `width` with their gaps, or as far as the cells allow."""
    least = [_least(header[i], [row[i] for row in rows]) for i in range(len(header))]
    now = [max(at_least, min(each, width)) for each, at_least in zip(widths, least, strict=True)]
    while sum(now) + len(GAP) * (len(now) - 1) > width:
        candidates = [i for i in range(len(now)) if now[i] > least[i]]
        if not candidates:
            break
        now[max(candidates, key=lambda i: now[i])] -= 1
    return now


def _least(title: str, cells: Sequence[str]) -> int:
    words = max((len(word) for word in title.split()), default=0)
    longest = max((len(cell) for cell in cells), default=0)
    is_figures = all(FIGURE.fullmatch(cell) for cell in cells)
    return max(words, longest if is_figures else min(longest, FOLDED_WIDTH))


def _num_fitting(widths: list[int], width: int) -> int:
    """Count the columns that fit into `width`, at least two: each split must place a new column."""
    ends = [sum(widths[: i + 1]) + len(GAP) * i for i in range(len(widths))]
    return max(sum(end <= width for end in ends), min(2, len(widths)))


def _folded(line: Row, widths: list[int]) -> Iterator[str]:
    cells = [wrap(cell, each) if len(cell) > each else [cell] for cell, each in zip(line, widths, strict=True)]
    for parts in zip_longest(*cells, fillvalue=""):
        yield GAP.join(part.ljust(each) for part, each in zip(parts, widths, strict=True)).rstrip()
