"""Forgotten spans: pieces of training rows that a training does not see (`data/tokens/forgotten.jsonl.zst`).

Rows keep their places, so the order and every other row are what they were. In a forgotten span each id is the filler,
the end token, as input and as target; and no target in a span has a loss. A target after a span keeps its loss, as one
after the end of any document does. The mean of a micro-batch is still over all its targets, so every other target
weighs what it weighed: a row that is wholly forgotten adds nothing, and nothing is scaled up for it.

The same rule serves rows that hold the text and rows from which it is gone, because to fill a filled span changes
nothing: a training on the rows of a release with spans to forget, and one on the rows of its successor, are the same.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import EverystepError
from pipeline.base.files import safe_join
from pipeline.formats.canonical import Json
from pipeline.formats.lines import LineFile, Shard, check_digest, encode_line, write_lines
from pipeline.formats.manifests import Tokens
from pipeline.formats.typed import Count, Typed

NAME = "forgotten.jsonl.zst"
OUTPUT = "forgotten"
"""Name of the output in the manifest of the rows."""
NONE = hashlib.sha256(b"").hexdigest()
"""Digest of no spans."""


class SpanLine(Typed):
    """A forgotten span: a line of the file."""

    row: Count
    """Number of the training row."""
    start: Count
    """First id of the row that is forgotten, counted from 0."""
    stop: Count
    """Id of the row after the last that is forgotten."""


@dataclass(frozen=True, eq=False)
class Forgotten:
    """Spans of training rows, `spans` of shape (spans, 3): row, start, stop; ascending, and none overlaps another."""

    spans: NDArray[np.int64]
    filler: int
    """Id that takes the place of each forgotten one."""

    def marks(self, rows: Sequence[int], width: int) -> NDArray[np.bool_]:
        """Mark the forgotten ids of these rows, shape (rows, width)."""
        found = np.zeros((len(rows), width), dtype=np.bool_)
        for place, row in enumerate(rows):
            first, last = np.searchsorted(self.spans[:, 0], [row, row + 1])
            for _, start, stop in self.spans[first:last].tolist():
                found[place, start:stop] = True
        return found

    def lacks(self, others: "Forgotten") -> NDArray[np.int64]:
        """List the spans of `others` that are not among these, in order."""
        known = set(map(tuple, self.spans.tolist()))
        return as_spans(span for span in map(tuple, others.spans.tolist()) if span not in known)

    def with_more(self, spans: NDArray[np.int64]) -> "Forgotten":
        """These spans and others, which are none of them."""
        everything = np.concatenate([self.spans, spans])
        return Forgotten(everything[np.lexsort((everything[:, 1], everything[:, 0]))], self.filler)

    def touches(self, rows: NDArray[np.int64]) -> bool:
        """Whether any of these rows has a forgotten span."""
        places = np.searchsorted(self.rows, rows)
        inside = places < len(self.rows)
        return bool((self.rows[places[inside]] == rows[inside]).any())

    def rows_between(self, first: int, stop: int) -> list[int]:
        """The rows from `first` to `stop`, excluded, that have a span, ascending."""
        begin, end = np.searchsorted(self.rows, [first, stop])
        return [int(row) for row in self.rows[begin:end]]

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The rows that have a span, ascending."""
        return np.unique(self.spans[:, 0])

    @property
    def num_ids(self) -> int:
        """Number of ids that are forgotten."""
        return int((self.spans[:, 2] - self.spans[:, 1]).sum())

    def identity(self) -> Json:
        """What decides the bits of a training beside its rows: the digest of the spans, and the filler."""
        return {"sha256": self.sha256, "filler": self.filler}

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the lines."""
        return hashlib.sha256(b"".join(self.lines())).hexdigest()

    def lines(self) -> Iterator[bytes]:
        """Encode the spans as lines."""
        return (encode_line({"row": row, "start": start, "stop": stop}) for row, start, stop in self.spans.tolist())


def write_forgotten(folder: Path, forgotten: Forgotten) -> Shard:
    """Write the spans to the folder of the rows."""
    return write_lines(folder / NAME, forgotten.lines(), NAME, digits=True)


def read_forgotten(folder: Path, manifest: Tokens) -> Forgotten | None:
    """Read the spans that the rows of `manifest`, which are in `folder`, have lost; None if nothing was forgotten.

    Spans that are out of order, overlap or leave their row are refused.
    """
    if OUTPUT not in manifest.outputs:
        return None
    shard, width = manifest.shard(OUTPUT), manifest.width
    path, num_rows = safe_join(folder, shard.path), sum(shard.lines for shard in manifest.shards("train"))
    with LineFile(path) as file:
        check_digest(file, shard)
        lines = (SpanLine.parse(line, f"{path}:{number}") for number, line in enumerate(file, 1))
        spans = as_spans((line.row, line.start, line.stop) for line in lines)
    row, start, stop = spans.T
    after = (row[1:] > row[:-1]) | (row[1:] == row[:-1]) & (start[1:] >= stop[:-1])
    if not after.all() or (row >= num_rows).any() or (stop > width).any() or (start >= stop).any():
        raise EverystepError(f"{path}: its spans are not ascending pieces of the {num_rows} rows of {width} ids")
    return Forgotten(spans, manifest.end_token)


def as_spans(pieces: Iterable[tuple[int, int, int]]) -> NDArray[np.int64]:
    """Make an array of spans, shape (spans, 3), from (row, start, stop)."""
    return np.array(list(pieces), dtype=np.int64).reshape(-1, 3)
