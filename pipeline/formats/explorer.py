"""What the explorer of the page reads in ranges: documents by id, documents by place, losses of rows.

Browsers read neither Parquet nor zstd, so these are JSON lines in the order of a search, and records of one size.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.formats.tables import BATCH, json_lines

SHOWN = ("first_row", "id", "license", "num_tokens", "offset")
"""Columns of the document index that a line has; `source` is how the id begins."""
FORGOTTEN = "forgotten"
"""Column that a line has, too, in a release that has forgotten documents."""
UNITS_PER_NAT, LARGEST = 1000, 2**16 - 1
LINE_FEED = 10


class DocumentLines:
    """The documents of an index as lines, sorted by id, copies of one by their place; `width` ids are a row."""

    def __init__(self, index: pa.Table, width: int) -> None:
        self._index, self._width = (
            index.select([name for name in (*SHOWN, FORGOTTEN) if name in index.column_names]),
            width,
        )
        keys = [(name, "ascending") for name in ("id", "first_row", "offset")]
        self._order = pc.sort_indices(self._index, sort_keys=keys)
        self._starts = np.zeros(len(self._order) + 1, dtype=np.uint64)

    def pieces(self) -> Iterator[bytes]:
        """The lines, some thousands at a time; notes where each begins."""
        for first in range(0, len(self._order), BATCH):
            batch = self._index.take(self._order.slice(first, BATCH)).combine_chunks().to_batches()[0]
            content = json_lines(batch)
            ends = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == LINE_FEED) + 1
            self._starts[first + 1 : first + 1 + len(ends)] = self._starts[first] + ends.astype(np.uint64)
            yield content

    def places(self) -> bytes:
        """For each document, in the order of the index, the place of its first id and the byte at which its line
        begins. To be asked for after the last piece."""
        places = np.empty((len(self._order), 2), dtype="<u8")
        places[:, 0] = self._index["first_row"].to_numpy() * self._width + self._index["offset"].to_numpy()
        places[self._order.to_numpy(), 1] = self._starts[:-1]
        return places.tobytes()


def loss_record(row: int, losses: Iterable[NDArray[np.float32]]) -> bytes:
    """The number of a row, then the losses of its targets, checkpoint after checkpoint."""
    return b"".join([np.uint64(row).astype("<u8").tobytes(), *(in_units(values).tobytes() for values in losses)])


def in_units(losses: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Losses in thousandths of a nat, half to even; what is larger than 65.535 nats is 65.535."""
    return np.minimum(np.rint(losses.astype(np.float64) * UNITS_PER_NAT), LARGEST).astype("<u2")
