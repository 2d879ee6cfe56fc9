"""Mix sources: draw, repeat and shuffle encoded documents once more, before they are cut into rows.

This happens only if `mixture` asks for it; otherwise documents stay in the order of `dedup`. It is an external sort:
every shard draws its copies and sorts them by place; then every bucket, a range of places, gathers its run from all
shards. Nothing larger than a bucket is held in memory.
"""

import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from pipeline.base.console import progress
from pipeline.base.errors import EverystepError
from pipeline.base.files import fresh_folder
from pipeline.base.params import Share
from pipeline.base.paths import REMOVALS_FILE
from pipeline.base.yaml import Section
from pipeline.blocks.mixture import ONE, Wish, num_copies, passes, place
from pipeline.executor.ordered_map import ordered_map
from pipeline.formats.lines import Shard
from pipeline.formats.tables import REMOVALS, removal, write_table
from pipeline.stages.tokenize.encode import EncodedShard, Ids

Places = NDArray[np.uint64]


class SourceMixture(Section):
    """Share of the training tokens, and passes over the source; with a share, `epochs` is an upper limit."""

    share: Share | None = None
    epochs: Annotated[float, Field(gt=0, le=1000)] = 1.0


class MixtureParams(Section):
    """Sources that are not taken exactly once as they are."""

    sources: dict[str, SourceMixture]

    def passes(self, tokens: Mapping[str, int], declared: list[str]) -> dict[str, int]:
        """Compute the billionths of a pass over each source that has tokens left."""
        for source in sorted(set(self.sources) - set(declared)):
            raise EverystepError(f"params.yaml: mixture.sources.{source}: not declared under sources")
        wishes = {source: Wish(wish.share, wish.epochs) for source, wish in self.sources.items()}
        return passes(dict.fromkeys(wishes, 0) | dict(tokens), wishes)


def mix(
    parts: list[EncodedShard], drawn: Mapping[str, int], seed: int, scratch: Path, folder: Path
) -> tuple[list[EncodedShard], Shard]:
    """Draw the encoded documents into new shards, ascending by place; record those left out in `folder`.

    `drawn` holds the billionths of a pass over each source.
    """
    runs_folder, mixed_folder = fresh_folder(scratch / "runs"), fresh_folder(scratch / "mixed")
    runs = [part._replace(scratch=runs_folder / part.scratch.name) for part in parts]
    with progress("mixture: draw", _num_documents(parts), "documents") as advance:

        def left_out() -> Iterator[dict[str, Any]]:
            draws = ordered_map(partial(_draw, drawn=drawn, seed=seed), list(zip(parts, runs, strict=True)))
            for part, rows in zip(parts, draws, strict=True):
                yield from rows
                advance(_num_documents([part]))

        record = write_table(folder / REMOVALS_FILE, left_out(), REMOVALS, REMOVALS_FILE)
    _refuse_undrawn(runs, drawn)
    before, after = (sum(len(part.ids()) for part in some) for some in (parts, runs))
    num_buckets = max(1, -(-after * len(parts) // max(before, 1)))
    buckets = [runs[0]._replace(scratch=mixed_folder / f"{number:06d}") for number in range(num_buckets)]
    with progress("mixture: shuffle", _num_documents(runs), "documents") as advance:
        gathering = ordered_map(partial(_gather, runs=runs, num_buckets=num_buckets), list(enumerate(buckets)))
        for bucket, _ in zip(buckets, gathering, strict=True):
            advance(_num_documents([bucket]))
    shutil.rmtree(runs_folder)
    return buckets, record


def _num_documents(parts: list[EncodedShard]) -> int:
    return sum(part.table().num_rows for part in parts)


def _refuse_undrawn(runs: list[EncodedShard], drawn: Mapping[str, int]) -> None:
    """Stop the build if a source takes part in the mixture, but with so few passes that no document was drawn."""
    found = {source for run in runs for source in pc.unique(run.table()["source"]).to_pylist()}
    for source in sorted({source for source, billionths in drawn.items() if billionths} - found):
        raise EverystepError(
            f"params.yaml: mixture.sources.{source}: none of its documents is drawn at {drawn[source] / ONE:g} passes; "
            "raise its share or epochs, or set its share to 0"
        )


def _draw(task: tuple[EncodedShard, EncodedShard], drawn: Mapping[str, int], seed: int) -> list[dict[str, Any]]:
    """Write the copies of a shard's documents in the order of their places; return the removals of those left out."""
    part, run = task
    table = part.table()
    sources = table["source"].to_pylist()
    lines: list[int] = []
    places: list[int] = []
    left_out = []
    for line, (id, source) in enumerate(zip(table["id"].to_pylist(), sources, strict=True)):
        copies = num_copies(id, drawn[source], seed)
        lines += [line] * copies
        places += [place(id, copy, seed) for copy in range(copies)]
        if not copies:
            detail = f"{drawn[source] / ONE:g} passes over its source"
            size = table["bytes"][line].as_py()
            left_out.append(removal("tokenize", source, id, "mixture", detail=detail, bytes=size))
    _write_sorted(run, part.ids(), table, np.array(lines, dtype=np.int64), np.array(places, dtype=np.uint64))
    return left_out


def _gather(task: tuple[int, EncodedShard], runs: list[EncodedShard], num_buckets: int) -> None:
    """Write a bucket: the copies with floor(place * num_buckets / 2^64) = its number, from all runs."""
    number, bucket = task
    first, last = (-(-(edge << 64) // num_buckets) for edge in (number, number + 1))
    ids: list[Ids] = []
    tables: list[pa.Table] = []
    places: list[Places] = []
    for run in runs:
        table, stored = run.table(), np.fromfile(_places_of(run), dtype=np.uint64)
        begin = int(np.searchsorted(stored, np.uint64(first)))
        end = len(stored) if last >> 64 else int(np.searchsorted(stored, np.uint64(last)))
        stops = np.concatenate([[0], table["num_tokens"].to_numpy().cumsum()])
        ids.append(run.ids()[stops[begin] : stops[end]])
        tables.append(table.slice(begin, end - begin))
        places.append(stored[begin:end])
    table = pa.concat_tables(tables)
    _write_sorted(bucket, np.concatenate(ids), table, np.arange(table.num_rows), np.concatenate(places))


def _write_sorted(part: EncodedShard, ids: Ids, table: pa.Table, lines: NDArray[np.int64], places: Places) -> None:
    """Write these lines of a table, and the ids of each, sorted by place; the sort is stable."""
    order = np.argsort(places, kind="stable")
    stops = table["num_tokens"].to_numpy().cumsum()
    starts = stops - table["num_tokens"].to_numpy()
    with part.scratch.with_suffix(".ids").open("wb") as file:
        for line in lines[order].tolist():
            file.write(ids[starts[line] : stops[line]].tobytes())
    part.write_table(table.take(lines[order]))
    _places_of(part).write_bytes(places[order].tobytes())


def _places_of(part: EncodedShard) -> Path:
    return part.scratch.with_suffix(".places")
