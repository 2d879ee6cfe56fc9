"""Search: the training rows as an index in which anybody finds where a run of token ids is, and when it was read.

Reads `data/tokens/train`; writes `data/search` (see `pipeline.formats.search_index`) and `manifests/search.json`:

    000000.ids            the ids of a run of rows
    000000.nodes          their suffixes, sorted, with a small tree over each 4,096
    000000.jsonl.zst      the digest of each block of both, and where each node begins

A shard has as many rows as fit 2^24 ids, so memory is flat: about 12 bytes an id while suffixes are sorted.
libdivsufsort sorts bytes; an id becomes two or three of them, big-endian and one higher, so that 0 can end each row.
Which suffix comes first depends on the rows alone, and any other program that sorts suffixes writes the same bytes.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.base.console import progress
from pipeline.base.files import fresh_folder
from pipeline.base.paths import SEARCH, TOKENS
from pipeline.executor.ordered_map import ordered_map
from pipeline.formats.current import read_current, take_basis, write_manifest
from pipeline.formats.lines import Shard, promised_lines
from pipeline.formats.manifests import Searchable, Tokens
from pipeline.formats.rows import decode_row
from pipeline.formats.search_index import MAX_PLACES, Positions, rows_per_shard, write_index_shard
from pipeline.formats.stages import manifest_path

AT_ONCE = 1 << 20
"""Sorted suffixes that are looked at together."""


class Cut(NamedTuple):
    """Rows `start..stop` (stop excluded) that make one shard of the index, and the files that hold them."""

    number: int
    start: int
    stop: int
    skipped: int
    """Rows of the first file before these."""
    files: list[Shard]


def search() -> None:
    """Index the training rows of the release."""
    basis = take_basis([manifest_path("tokenize")])
    tokens = read_current(Tokens)
    folder = fresh_folder(SEARCH)
    cuts = cuts_of(tokens.shards("train"), rows_per_shard(tokens.width))
    write = partial(write_cut, folder=folder, rows=TOKENS, width=tokens.width, vocabulary=tokens.vocabulary)
    outputs: dict[str, list[Shard]] = {"ids": [], "nodes": [], "tables": []}
    with progress("search: sort", tokens.splits.train.rows, "rows") as advance:
        for cut, written in zip(cuts, ordered_map(write, cuts), strict=True):
            for name, shard in written.items():
                outputs[name].append(shard)
            advance(cut.stop - cut.start)
    write_manifest(
        Searchable,
        None,
        basis,
        parameters={},
        outputs=outputs,
        width=tokens.width,
        vocabulary=tokens.vocabulary,
        places=tokens.splits.train.rows * tokens.width,
    )


def cuts_of(files: list[Shard], rows: int) -> list[Cut]:
    """Cut the rows of these files into shards of `rows` rows."""
    starts = np.cumsum([0, *(file.lines for file in files)]).tolist()
    cuts = []
    for number, start in enumerate(range(0, starts[-1], rows)):
        stop = min(start + rows, starts[-1])
        held = [i for i in range(len(files)) if starts[i] < stop and starts[i + 1] > start]
        cuts.append(Cut(number, start, stop, start - starts[held[0]], [files[i] for i in held]))
    return cuts


def write_cut(cut: Cut, folder: Path, rows: Path, width: int, vocabulary: int) -> dict[str, Shard]:
    """Write one shard of the index into `folder`, from the files of rows in the folder `rows`."""
    ids = np.empty((cut.stop - cut.start, width), dtype=np.uint16 if vocabulary <= 1 << 16 else np.uint32)
    for number, line in enumerate(_lines(cut, rows)):
        if cut.skipped <= number < cut.skipped + len(ids):
            ids[number - cut.skipped] = decode_row(line, width, vocabulary, f"{rows}: row {cut.start + number}")
    suffixes = sorted_suffixes(ids, vocabulary)
    return write_index_shard(folder, f"{cut.number:06d}", ids.ravel(), suffixes, width, vocabulary)


def sorted_suffixes(ids: NDArray[np.unsignedinteger], vocabulary: int) -> Positions:
    """Sort the places of rows of ids, shape (rows, width), by what follows up to the end of the row.

    Of two that are equal up to there, one is the end of the other or both are the same; then the next rows decide.
    """
    from pydivsufsort import divsufsort

    rows, width = ids.shape
    if ids.size > MAX_PLACES:
        raise ValueError(f"{ids.size} ids; a shard has at most {MAX_PLACES}")
    size = 1 + sum(vocabulary >= 1 << bits for bits in (8, 16, 24))
    ended = np.zeros((rows, width + 1, size), dtype=np.uint8)
    above = ids.astype(np.uint32) + np.uint32(1)
    for byte in range(size):
        ended[:, :width, size - 1 - byte] = above >> np.uint32(8 * byte) & np.uint32(0xFF)
    del above
    order = divsufsort(ended.reshape(-1)).view(np.uint32)
    filled = 0
    for start in range(0, len(order), AT_ONCE):  # in place: what is kept is at most what was read
        places = order[start : start + AT_ONCE]
        row, offset = np.divmod(places[places % size == 0] // size, width + 1)
        kept = (row * width + offset)[offset < width]
        order[filled : filled + len(kept)] = kept
        filled += len(kept)
    return order[:filled]


def _lines(cut: Cut, rows: Path) -> Iterator[bytes]:
    for file in cut.files:
        yield from promised_lines(rows, file)
