"""The targets of a learning record, and what is known of each without the model: the key columns of
`pipeline.formats.losses`.

All of it follows from the rows, the document index and the order of a training, so a stage writes it and an auditor
computes it again. Whose files these are and whether they are the promised ones is the caller's care.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.base.arrow import arrow_numbers
from pipeline.base.files import safe_join
from pipeline.base.paths import TOKENS
from pipeline.formats.lines import LineFile
from pipeline.formats.losses import HELD_OUT, KEYS, RUN, TRAINED_ON
from pipeline.formats.manifests import Evaluated, EvaluateParameters, RecipeParameters, Tokens, Trained
from pipeline.formats.order import permute, rows_of_samples
from pipeline.formats.rows import DocumentIndex, Rows, read_written_rows
from pipeline.release.release import Release

MULTIPLIER = np.uint64(0xD1342543DE82EF95)  # of a linear congruential generator modulo 2^64 (Steele and Vigna 2021)
FACTORS = tuple(map(np.uint64, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)))  # of SplitMix64's finalizer
SHIFTS = tuple(map(np.uint64, (30, 27, 31)))
GOLDEN = np.uint64(0x9E3779B97F4A7C15)

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Targets:
    """Rows whose targets have a loss, shape (rows, width), held-out ones first, and the key columns of all targets."""

    rows: Ids
    num_held_out: int
    keys: pa.Table

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and targets of each."""
        return len(self.rows), self.rows.shape[1] - 1


class _Part(NamedTuple):
    """The rows of one split, by number: ids, and the source of each id as a place in `sources`."""

    split: str
    numbers: list[int]
    ids: Ids
    source_of: Ids
    sources: list[str]


def targets_of_release(release: Release, model: str) -> Targets:
    """Give the targets of the record of a model, from files whose digests were compared."""
    tokens = release.manifest(Tokens)
    for split in ("validation", "train"):
        for shard in (*tokens.shards(split), tokens.shard(f"{split}_index")):
            release.file((TOKENS / shard.path).as_posix())
    parameters = release.manifest(Evaluated, model).parameters
    return targets_of(release.folder, tokens, release.model(model), parameters)


def targets_of(root: Path, tokens: Tokens, trained: Trained, parameters: EvaluateParameters) -> Targets:
    """Give the targets of the record of a model, from the rows below `root`."""
    recipe = trained.parameters
    num_held_out = min(tokens.splits.validation.rows, parameters.rows or tokens.splits.validation.rows)
    steps = sampled_rows(recipe, trained.stored_steps, tokens.splits.train.rows, parameters.train_rows)
    parts = [
        _part(root, tokens, HELD_OUT, range(num_held_out)),
        _part(root, tokens, TRAINED_ON, list(steps)),
    ]
    ids = np.concatenate([part.ids for part in parts])
    repetitions = _repetitions(root, tokens, ids, _times_read(recipe, tokens.splits.train.rows))
    keys = _keys(parts, ids, steps, repetitions)
    return Targets(ids, num_held_out, keys)


def sampled_rows(recipe: RecipeParameters, stored_steps: Sequence[int], num_rows: int, count: int) -> dict[int, int]:
    """Map each sampled training row, ascending, to the stored step whose batch it was first among: of each, the first
    `count` rows."""
    found: dict[int, int] = {}
    for step in sorted(stored_steps):
        if step > recipe.begun_at:
            first = recipe.sample(step - 1)
            stop = first + min(count, recipe.data.global_batch)
            for row in rows_of_samples(first, stop, num_rows, recipe.data.seed).tolist():
                found.setdefault(row, step)
    return dict(sorted(found.items()))


def _part(root: Path, tokens: Tokens, split: str, numbers: Sequence[int]) -> _Part:
    rows = Rows(root / TOKENS, tokens.shards(split), tokens.width, tokens.vocabulary)
    ids = np.array([rows[number] for number in numbers], dtype=np.int64).reshape(-1, tokens.width)
    index = DocumentIndex(root / TOKENS / tokens.shard(f"{split}_index").path, tokens.width, len(rows))
    spans = index.documents_of_rows(numbers)
    sources = sorted({span.source for row in spans for span in row})
    place = {source: number for number, source in enumerate(sources)}
    source_of = np.empty(ids.shape, dtype=np.int64)
    for number, row in enumerate(spans):
        for span in row:
            source_of[number, span.start : span.stop] = place[span.source]
    return _Part(split, list(numbers), ids, source_of, sources)


def _keys(parts: Sequence[_Part], ids: Ids, steps: dict[int, int], repetitions: Ids) -> pa.Table:
    context = ids.shape[1] - 1
    targets = [len(part.numbers) * context for part in parts]
    sources = [_named(part.sources, part.source_of[:, 1:]) for part in parts]
    read_by = [pa.nulls(targets[0], pa.int64()), _each(list(steps.values()), context)]
    absent = np.arange(1, context + 1) < RUN - 1
    return pa.table(
        {
            "split": pa.chunked_array(
                [pa.repeat(part.split, count) for part, count in zip(parts, targets, strict=True)]
            ),
            "row": pa.chunked_array([_each(part.numbers, context) for part in parts]),
            "position": arrow_numbers(np.tile(np.arange(1, context + 1, dtype=np.int32), len(ids))),
            "token": arrow_numbers(ids[:, 1:].astype(np.int32).ravel()),
            "source": pa.chunked_array(sources, pa.string()),
            "step": pa.chunked_array(read_by),
            "repetitions": pa.array(repetitions.ravel(), mask=np.tile(absent, len(ids))),
        },
        schema=KEYS,
    )


def _each(numbers: Sequence[int], context: int) -> pa.Array:
    """Repeat each number for all targets of its row."""
    return arrow_numbers(np.repeat(np.array(numbers, dtype=np.int64), context))


def _named(sources: Sequence[str], source_of: Ids) -> pa.Array:
    return pa.array(sources, pa.string()).take(arrow_numbers(source_of.ravel()))


def _times_read(recipe: RecipeParameters, num_rows: int) -> Ids:
    """Count how often the training read each row until its last step, shape (num_rows,)."""
    epochs, rest = divmod(recipe.sample(recipe.schedule.steps), num_rows)
    times = np.full(num_rows, epochs, dtype=np.int64)
    times[permute(np.arange(rest, dtype=np.uint64), num_rows, recipe.data.seed, epochs)] += 1
    return times


def _repetitions(root: Path, tokens: Tokens, ids: Ids, times: Ids) -> Ids:
    """Count, for each target of `ids`, how often the training read the run of `RUN` ids that ends with it: shape
    (rows, context), 0 where no whole run ends. Runs are compared by hashes of 64 bits."""
    counts = np.zeros((len(ids), ids.shape[1] - 1), dtype=np.int64)
    hashes = _hashes(ids)
    known, which = np.unique(hashes, return_inverse=True)
    if not len(known):
        return counts
    found = np.zeros(len(known), dtype=np.int64)
    begin = 0
    for block in _blocks(root, tokens):
        read = times[begin : begin + len(block)]
        begin += len(block)
        here = _hashes(block[read > 0])
        place = np.minimum(np.searchsorted(known, here), len(known) - 1)
        row, column = np.nonzero(known[place] == here)
        np.add.at(found, place[row, column], read[read > 0][row])
    counts[:, RUN - 2 :] = found[which].reshape(hashes.shape)
    return counts


def _blocks(root: Path, tokens: Tokens) -> Iterator[NDArray[np.uint32]]:
    for shard in tokens.shards(TRAINED_ON):
        path = safe_join(root / TOKENS, shard.path)
        with LineFile(path) as file:
            for frame in file.frames():
                yield read_written_rows(frame, tokens.width, tokens.vocabulary, str(path))


def _hashes(rows: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Hash every run of `RUN` ids within a row, shape (rows, width - RUN + 1): a polynomial of mixed ids."""
    runs = max(0, rows.shape[1] - RUN + 1)
    mixed = _mixed(rows.astype(np.uint64))
    found = np.zeros((len(rows), runs), dtype=np.uint64)
    for place in range(RUN if runs else 0):
        found = found * MULTIPLIER + mixed[:, place : place + runs]
    return found


def _mixed(ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread ids over 64 bits (SplitMix64; Steele, Lea and Flood 2014)."""
    values = (ids + np.uint64(1)) * GOLDEN
    for shift, factor in zip(SHIFTS, FACTORS, strict=False):
        values = (values ^ (values >> shift)) * factor
    return values ^ (values >> SHIFTS[2])
