"""The rows of a release in their order, a block at a time: for readers who want all of them, not some by number."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.base.files import safe_join
from pipeline.base.paths import TOKENS
from pipeline.formats.lines import LineFile
from pipeline.formats.manifests import Tokens
from pipeline.formats.order import rows_read
from pipeline.formats.rows import read_written_rows
from pipeline.release.release import Release


def row_blocks(release: Release, tokens: Tokens, split: str) -> Iterator[NDArray[np.uint32]]:
    """Yield the rows of a split, shape (some, width), from shards whose digests were compared. Only rows as this
    program writes them are read."""
    for shard in tokens.shards(split):
        path = safe_join(TOKENS, shard.path).as_posix()
        with LineFile(release.file(path)) as file:
            for frame in file.frames():
                yield read_written_rows(frame, tokens.width, tokens.vocabulary, path)


def first_rows(release: Release, tokens: Tokens, number: int) -> NDArray[np.uint32]:
    """The training rows that the first `number` samples of the order read, shape (rows, width), by row number."""
    read = rows_read(number, tokens.splits.train.rows, tokens.parameters.seed)
    kept, start = [np.empty((0, tokens.width), dtype=np.uint32)], 0
    for block in row_blocks(release, tokens, "train"):
        kept.append(block[read[start : start + len(block)]])
        start += len(block)
    return np.concatenate(kept)
