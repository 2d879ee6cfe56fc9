"""Word n-grams of evaluation sets: a table of 64-bit hashes, each with the item in which it was first found.

`ngrams.parquet` is sorted by hash, without repetition. A hash is 16 hex digits, because a table's rows are digested
as JSON, which has no 64-bit integers. `pipeline.blocks.contamination` defines what is hashed.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.base.errors import EverystepError
from pipeline.formats.lines import Shard
from pipeline.formats.tables import read_table, write_table

NGRAMS_FILE = "ngrams.parquet"
HEX_DIGITS = 16
NGRAMS = pa.schema(
    [
        pa.field("hash", pa.string(), nullable=False),
        pa.field("set", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
    ]
)


def write_ngrams(folder: Path, hashes: NDArray[np.uint64], owners: Sequence[tuple[str, str]]) -> Shard:
    """Write hashes, shape (N,), sorted and without repetition, and the (set, item) of each."""

    def rows() -> Iterator[dict[str, str]]:
        for value, (name, item) in zip(hashes.tolist(), owners, strict=True):
            yield {"hash": f"{value:0{HEX_DIGITS}x}", "set": name, "item": item}

    return write_table(folder / NGRAMS_FILE, rows(), NGRAMS, NGRAMS_FILE)


def read_ngrams(folder: Path) -> tuple[NDArray[np.uint64], Callable[[int], tuple[str, str]]]:
    """Read the hashes, shape (N,), and return them with a function from the index of a hash to its (set, item)."""
    path = folder / NGRAMS_FILE
    table = read_table(path, NGRAMS)
    try:
        digits = table["hash"].cast(pa.binary()).cast(pa.binary(HEX_DIGITS)).combine_chunks()
        content = bytes.fromhex(digits.buffers()[1].to_pybytes()[: HEX_DIGITS * len(digits)].decode())
        hashes = np.frombuffer(content, dtype=">u8").astype(np.uint64)
    except (pa.ArrowException, ValueError) as error:
        raise EverystepError(f"{path}: a hash is not 16 hex digits; build it again") from error
    if len(hashes) != table.num_rows or not (hashes[1:] > hashes[:-1]).all():
        raise EverystepError(f"{path}: its hashes are not sorted and unique; build it again")
    sets, items = table["set"], table["item"]
    return hashes, lambda place: (sets[place].as_py(), items[place].as_py())
