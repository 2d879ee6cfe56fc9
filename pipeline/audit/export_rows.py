"""Our rows as the plain files that other trainers read, in the order in which ours reads them.

    mobilellm   1/train.jsonl ... N/train.jsonl: what each node of 8 ranks reads, a step after the other
    llm360      train_000.jsonl ... : K chunks of equally many steps; checkpoint i follows chunk i

The number of a chunk has three digits, as AmberDatasets is published and MobiLlama's trainer reads it; LLM360's own
trainer reads `train_0.jsonl`, one digit.

Both hold whole steps of `global_batch` rows. Line n of a file of `mobilellm` is for rank n mod 8. The lines of a
chunk are ordered so that the permutation in which our trainer reads a chunk gives the published order
(docs/formats.md).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.base.console import progress
from pipeline.base.errors import EverystepError
from pipeline.base.files import atomic_writer, new_folder
from pipeline.base.paths import TOKENS
from pipeline.formats.lines import check_shard
from pipeline.formats.manifests import Tokens
from pipeline.formats.order import rows_of_samples, rows_of_step, unpermute
from pipeline.formats.rows import Rows, encode_row
from pipeline.release.release import Release

RANKS = 8
IDS_AT_ONCE = 1 << 20
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Exported:
    """What was written; `left_out` counts the rows of the first epoch that fill no step."""

    layout: str
    files: int
    rows: int
    steps: int
    global_batch: int
    left_out: int
    width: int
    seed: int
    dtype: str = ""
    """Type of an id in a file without a description of its own (`npy`)."""


def export_mobilellm(release: Release, out: Path, nodes: int, global_batch: int | None, steps: int | None) -> Exported:
    """Folders 1 to `nodes`. Without `global_batch` each rank reads one row a step, without `steps` it is one epoch."""
    batch = global_batch or nodes * RANKS
    if batch % (nodes * RANKS):
        raise EverystepError(
            f"--global-batch {batch}: not a multiple of {nodes * RANKS}; each rank of {nodes} nodes reads equally many"
        )
    source = PublishedRows.open(release)
    steps = steps or source.steps(batch)

    def lines_of(node: int) -> Iterator[Numbers]:
        for step in range(steps):
            of_node = source.step(step, batch).reshape(nodes, RANKS, -1)[node]
            yield of_node.T.ravel()  # rank after rank, then the next row of each

    files = {f"{node + 1}/train.jsonl": lines_of(node) for node in range(nodes)}
    return _write(source, out, files, Exported("mobilellm", nodes, *source.counts(steps, batch)))


def export_llm360(
    release: Release, out: Path, chunks: int, digits: int, global_batch: int | None, steps: int | None
) -> Exported:
    """`chunks` chunks. Without `global_batch` a step is one row, without `steps` it is one epoch."""
    batch = global_batch or 1
    source = PublishedRows.open(release)
    in_chunk = (steps or source.steps(batch)) // chunks
    if not in_chunk or (steps and steps % chunks):
        raise EverystepError(
            f"--chunks {chunks}: {steps or source.steps(batch)} steps of {batch} rows do not divide equally"
        )

    def lines_of(chunk: int) -> Iterator[Numbers]:
        num_rows = in_chunk * batch
        places = unpermute(np.arange(num_rows, dtype=np.uint64), num_rows, source.seed, chunk)
        yield source.step(chunk, num_rows)[places.astype(np.int64)]

    files = {f"train_{chunk:0{digits}d}.jsonl": lines_of(chunk) for chunk in range(chunks)}
    return _write(source, out, files, Exported("llm360", chunks, *source.counts(in_chunk * chunks, batch)))


@dataclass(frozen=True)
class PublishedRows:
    """The training rows of a project or a release, their digests checked, in the published order."""

    rows: Rows
    seed: int

    @classmethod
    def open(cls, release: Release) -> "PublishedRows":
        tokens = release.manifest(Tokens)
        shards = tokens.shards("train")
        for shard in shards:
            release.file(TOKENS / shard.path)
            check_shard(release.folder / TOKENS, shard)
        return cls(Rows(release.folder / TOKENS, shards, tokens.width, tokens.vocabulary), tokens.parameters.seed)

    def step(self, step: int, global_batch: int) -> Numbers:
        return rows_of_step(step, global_batch, len(self.rows), self.seed)

    def blocks(self, start: int, stop: int) -> Iterator[Numbers]:
        """Yield the rows of the samples `start` to `stop` (excluded), shape (rows, width), at most `rows_at_once`."""
        while start < stop:
            end = min(start + self.rows_at_once, stop)
            numbers = rows_of_samples(start, end, len(self.rows), self.seed)
            block = np.empty((end - start, self.rows.width), dtype=np.int64)
            for place in np.argsort(numbers).tolist():  # by row number: neighbours are in one frame of their shard
                block[place] = self.rows[int(numbers[place])]
            yield block
            start = end

    @property
    def rows_at_once(self) -> int:
        """Rows of a block, of about `IDS_AT_ONCE` ids: what an export holds in memory."""
        return max(1, IDS_AT_ONCE // self.rows.width)

    def steps(self, global_batch: int) -> int:
        """Whole steps of one epoch."""
        if len(self.rows) < global_batch:
            raise EverystepError(
                f"{len(self.rows)} rows do not fill one step of {global_batch}; give --steps or a smaller one"
            )
        return len(self.rows) // global_batch

    def counts(self, steps: int, batch: int) -> tuple[int, int, int, int, int, int]:
        left_out = max(0, len(self.rows) - steps * batch)
        return steps * batch, steps, batch, left_out, self.rows.width, self.seed


def _write(source: PublishedRows, out: Path, files: dict[str, Iterator[Numbers]], exported: Exported) -> Exported:
    with new_folder(out) as scratch, progress(f"export {exported.layout}", exported.rows, "rows") as advance:
        for name, blocks in files.items():
            with atomic_writer(scratch / name) as file:
                for numbers in blocks:
                    for number in numbers.tolist():
                        file.write(encode_row(source.rows[number]))
                        advance(1, name)
    return exported
