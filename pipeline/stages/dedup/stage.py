"""Deduplicate all sources together, with evidence for every removal; then shuffle and split what stays.

Reads `data/filtered`; writes `data/deduplicated` (`train/` and `validation/` shards of shuffled
documents, and `removals.parquet`) and `manifests/deduplicated.json`. There are four passes:

1. Sketch every shard (`minhash.py`): its documents in the order of the shuffle, with fingerprint and MinHash bands.
2. Find the documents that share a band with another, one band at a time, and rank them by (source priority, id).
3. Read these once more, and compare their sets of shingles. Of duplicates the lowest rank stays, so neither workers
   nor the order of files matter. Every removal names the document that stayed and the measured similarity.
4. Write what stays, gathered from the sketches, in the order of a keyed hash of the ids: so sources mix, and each shard
   is a range of hashes. In this order documents are packed into rows.

The stage itself holds a byte for each document, some 33 more during pass 2, and the ids and numbers of the documents
that share a band.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.base.arrow import arrow_numbers, arrow_strings
from pipeline.base.console import note, progress
from pipeline.base.errors import EverystepError
from pipeline.base.files import fresh_folder
from pipeline.base.params import Positive, Seed, Share, load_section, source_names
from pipeline.base.paths import DEDUPLICATED, REMOVALS_FILE, SPLITS
from pipeline.base.yaml import Section
from pipeline.blocks.duplicates import (
    MAX_COMPARED,
    DuplicateRules,
    Duplicates,
    Flags,
    Ranks,
    Sets,
    find_duplicates,
    first_copies,
    linked,
    linked_ranks,
    shared,
)
from pipeline.blocks.shingles import Hashes
from pipeline.executor.ordered_map import ordered_map
from pipeline.formats.current import read_all_current, take_basis, write_manifest
from pipeline.formats.documents import shard_name
from pipeline.formats.lines import Shard, write_lines
from pipeline.formats.manifests import Deduplicated, Filtered
from pipeline.formats.stages import manifest_path
from pipeline.formats.tables import REMOVALS, write_batches
from pipeline.sources.declaration import load_source
from pipeline.stages.dedup.minhash import (
    BANDS,
    FINGERPRINT,
    HELD_OUT,
    KEY,
    SCRATCH,
    SIZE,
    Numbers,
    Sketch,
    shingles_of,
    write_sketch,
)

SHINGLES, STAYS = SCRATCH / "shingles", SCRATCH / "stays"
ROWS = 4096  # of evidence written at a time


class DedupParams(Section):
    """Rules for near duplicates; the share of its documents that a source may lose before the build stops; then the
    held-out split and the shuffle of what stays."""

    near: DuplicateRules
    max_removed_share: Share
    validation_share: Annotated[float, Field(gt=0, lt=0.5)]
    seed: Seed
    bytes_per_shard: Positive


class Candidates(NamedTuple):
    """Documents that share a band with another: by rank, their numbers, and the places of their ids in `ids`."""

    numbers: Numbers
    ids: pa.LargeStringArray
    places: Numbers


class Split(NamedTuple):
    """Size of a split."""

    documents: int
    bytes: int


def dedup() -> None:
    """Deduplicate all sources of the release."""
    params = load_section(DedupParams, "dedup")
    basis = take_basis([manifest_path("filter", name) for name in source_names()], ["sources", "dedup"])
    folder, _ = fresh_folder(DEDUPLICATED), fresh_folder(SCRATCH)
    sketches = _sketches(source_names())
    write = partial(write_sketch, rules=params.near, validation_share=params.validation_share, seed=params.seed)
    with progress("dedup: sketches", sketches[-1].stop if sketches else 0, "documents") as advance:
        for sketch, _ in zip(sketches, ordered_map(write, sketches), strict=True):
            advance(sketch.stop - sketch.first)
    candidates = _ranked(sketches, _sharing_a_band(sketches, params.near.bands))
    duplicates, in_part = _find(sketches, candidates, params.near)
    stays = np.ones(sketches[-1].stop if sketches else 0, dtype=bool)
    stays[candidates.numbers[duplicates.removed]] = False
    lost = _count_by_source(sketches, ~stays)
    _raise_alarm(_count_by_source(sketches, np.ones_like(stays)), lost, params.max_removed_share)
    evidence = _evidence(sketches, candidates, duplicates)
    table = write_batches(folder / REMOVALS_FILE, evidence, REMOVALS, REMOVALS_FILE)
    splits = _splits(sketches, stays)
    _refuse_empty(splits, params.validation_share)
    shards = _write_shuffled(folder, sketches, stays, splits, params.bytes_per_shard)
    fresh_folder(SCRATCH).rmdir()
    num_exact = int(duplicates.exact.sum())
    removed = {"exact_duplicate": num_exact, "near_duplicate": len(duplicates.exact) - num_exact}
    partly: dict[str, Any] = {"compared_in_part": in_part} if in_part else {}
    write_manifest(
        Deduplicated,
        None,
        basis,
        parameters=params.model_dump(),
        outputs={**shards, "removals": [table]},
        documents=sum(split.documents for split in splits.values()),
        bytes=sum(split.bytes for split in splits.values()),
        documents_by_source=_count_by_source(sketches, stays),
        documents_by_split={name: split.documents for name, split in splits.items()},
        removed={reason: number for reason, number in removed.items() if number},
        removed_by_source=lost,
        duplicates=_pairs(sketches, candidates, duplicates),
        **partly,
    )


def _sketches(names: list[str]) -> list[Sketch]:
    """Plan a sketch for each shard that holds any document."""
    sketches: list[Sketch] = []
    for name, manifest in read_all_current(Filtered, names).items():
        for shard in manifest.shards("documents"):
            first = sketches[-1].stop if sketches else 0
            if shard.lines:
                sketches.append(Sketch(name, shard, first))
    return sketches


def _sharing_a_band(sketches: list[Sketch], bands: int) -> Numbers:
    """Find the numbers of the documents that share a band with another, band by band; exact copies share all."""
    found = np.zeros(sketches[-1].stop if sketches else 0, dtype=bool)
    for band in range(bands):
        found |= shared(_joined(sketch.numbers()[BANDS + band] for sketch in sketches))
    return np.flatnonzero(found)


def _ranked(sketches: list[Sketch], numbers: Numbers) -> Candidates:
    """Rank documents by the priority of their source, then by id."""
    priorities = {name: load_source(name).priority for name in {sketch.source for sketch in sketches}}
    tasks = _by_sketch(sketches, numbers)
    ids = arrow_strings(id for sketch, places in tasks for id in sketch.ids(places))
    priority = np.repeat([priorities[sketch.source] for sketch, _ in tasks], [len(places) for _, places in tasks])
    order = np.from_dlpack(pc.array_sort_indices(ids)).astype(np.int64)
    order = order[np.argsort(priority[order], kind="stable")]
    return Candidates(numbers[order], ids, order)


def _by_sketch(sketches: list[Sketch], numbers: Numbers) -> list[tuple[Sketch, Numbers]]:
    """Turn ascending numbers into places in the sketches that hold any of them."""
    cuts = [np.searchsorted(numbers, [sketch.first, sketch.stop]) for sketch in sketches]
    pairs = ((sketch, numbers[start:stop] - sketch.first) for sketch, (start, stop) in zip(sketches, cuts, strict=True))
    return [(sketch, places) for sketch, places in pairs if len(places)]


def _find(sketches: list[Sketch], candidates: Candidates, rules: DuplicateRules) -> tuple[Duplicates, int]:
    """Find all duplicates, by rank, and count the documents that stay but were compared with only some candidates."""
    numbers = candidates.numbers
    copies = first_copies(np.stack([_row(sketches, numbers, FINGERPRINT + half) for half in (0, 1)]))
    bands = (_row(sketches, numbers, BANDS + band) for band in range(rules.bands))
    links = linked(copies, bands, rules.bands)
    ranks = linked_ranks(links)
    file_starts, lengths = _write_shingles(sketches, numbers, ranks, rules.shingle_words)
    starts, stops = np.zeros((2, len(lengths)), dtype=np.int64)
    with SHINGLES.open("rb") as file, progress("dedup: compare", len(ranks), "documents") as advance:

        def read_sets(needed: Ranks) -> Sets:
            pieces = zip((8 * file_starts[needed]).tolist(), (8 * lengths[needed]).tolist(), strict=True)
            hashes = np.frombuffer(b"".join([os.pread(file.fileno(), size, at) for at, size in pieces]), "<u8")
            stops[needed] = np.cumsum(lengths[needed])
            starts[needed] = stops[needed] - lengths[needed]
            return Sets(hashes, starts, stops)

        duplicates, in_part = find_duplicates(copies, links, read_sets, rules.min_similarity, advance)
    if in_part:
        note(
            f"dedup: {in_part:,} documents stay, though they share a band with more others than the {MAX_COMPARED} "
            "that they were compared with; see docs/add-a-corpus.md, What is compared with what"
        )
    return duplicates, in_part


def _row(sketches: list[Sketch], numbers: Numbers, row: int) -> Hashes:
    """Read one of the 64-bit numbers of some documents."""
    order = np.argsort(numbers)
    values = np.empty(len(numbers), dtype=np.uint64)
    values[order] = _joined(sketch.numbers()[row][places] for sketch, places in _by_sketch(sketches, numbers[order]))
    return values


def _joined(arrays: Iterable[Hashes]) -> Hashes:
    return np.concatenate([np.empty(0, dtype=np.uint64), *arrays])


def _write_shingles(sketches: list[Sketch], numbers: Numbers, ranks: Ranks, size: int) -> tuple[Numbers, Numbers]:
    """Write the shingles of some documents to one file; return where each set begins and its length, by rank."""
    ranks = ranks[np.argsort(numbers[ranks])]
    tasks = _by_sketch(sketches, numbers[ranks])
    found = [np.empty(0, dtype=np.int64)]
    with SHINGLES.open("wb") as file, progress("dedup: shingles", len(ranks), "documents") as advance:
        for sets, lengths_of_sketch in ordered_map(partial(shingles_of, size=size), tasks):
            file.write(sets.data)
            found.append(lengths_of_sketch)
            advance(len(lengths_of_sketch))
    starts, lengths = np.zeros((2, len(numbers)), dtype=np.int64)
    lengths[ranks] = np.concatenate(found)
    starts[ranks] = np.cumsum(lengths[ranks]) - lengths[ranks]
    return starts, lengths


def _evidence(sketches: list[Sketch], candidates: Candidates, duplicates: Duplicates) -> Iterator[pa.RecordBatch]:
    sizes = _row(sketches, candidates.numbers, SIZE).astype(np.int64)
    for start in range(0, len(duplicates.removed), ROWS):
        removed, kept, similarity, exact = (array[start : start + ROWS] for array in duplicates)
        ids, stayed = (candidates.ids.take(arrow_numbers(candidates.places[ranks])) for ranks in (removed, kept))
        reasons = ("near_duplicate", "exact_duplicate")
        columns = {
            "id": ids,
            "source": arrow_strings([id.partition("/")[0].encode() for id in ids.to_pylist()]),
            "stage": arrow_strings([b"dedup"] * len(ids)),
            "reason": arrow_strings([reasons[flag].encode() for flag in exact.tolist()]),
            "detail": pa.nulls(len(ids)),
            "kept": stayed,
            "similarity": arrow_numbers(np.array([round(value, 6) for value in similarity.tolist()])),
            "bytes": arrow_numbers(sizes[removed]),
        }
        yield from pa.table(columns).cast(REMOVALS).to_batches()


def _count_by_source(sketches: list[Sketch], chosen: Flags) -> dict[str, int]:
    """Count the chosen documents by source, for sources that have any."""
    counts: Counter[str] = Counter()
    for sketch in sketches:
        counts[sketch.source] += int(chosen[sketch.first : sketch.stop].sum())
    return dict(+counts)


def _pairs(sketches: list[Sketch], candidates: Candidates, duplicates: Duplicates) -> dict[str, dict[str, int]]:
    """Count duplicates by the source of what is removed, then by that of what is kept in its place."""
    stops = np.array([sketch.stop for sketch in sketches], dtype=np.int64)
    ranks = np.stack([duplicates.removed, duplicates.kept])
    places = np.searchsorted(stops, candidates.numbers[ranks], side="right")
    counts = Counter((sketches[removed].source, sketches[kept].source) for removed, kept in places.T.tolist())
    found: dict[str, dict[str, int]] = {}
    for (removed, kept), number in sorted(counts.items()):
        found.setdefault(removed, {})[kept] = number
    return found


def _raise_alarm(totals: dict[str, int], lost: dict[str, int], max_share: float) -> None:
    """Stop the build if a source loses more than the declared share, as to a false cluster."""
    for source, removed in sorted(lost.items()):
        share = removed / totals[source]
        note(f"dedup: {source}: {removed:,} of {totals[source]:,} documents removed ({share:.1%})")
        if removed == totals[source] and share <= max_share:
            note(f"dedup: {source}: all are duplicates, so the release will contain nothing from this source")
        if share > max_share:
            raise EverystepError(
                f"params.yaml: dedup.max_removed_share: {source} loses {share:.1%} of its documents, more than "
                f"{max_share:.1%}; look at what is near-identical in it, then raise the share or the threshold"
            )


def _splits(sketches: list[Sketch], stays: Flags) -> dict[str, Split]:
    """Measure what stays of each split."""
    found = dict.fromkeys(SPLITS, Split(0, 0))
    for sketch in sketches:
        numbers, own = sketch.numbers(), stays[sketch.first : sketch.stop]
        for held_out, name in enumerate(SPLITS):
            chosen = own & (numbers[HELD_OUT] == held_out)
            documents, size = found[name]
            found[name] = Split(documents + int(chosen.sum()), size + int(numbers[SIZE][chosen].sum()))
    return found


def _refuse_empty(splits: dict[str, Split], validation_share: float) -> None:
    """Stop the build before anything is trained on an empty split."""
    for name, split in splits.items():
        if not split.documents:
            raise EverystepError(
                f"params.yaml: dedup.validation_share: at {validation_share:g} the {name} split holds no document of "
                f"{sum(each.documents for each in splits.values()):,}; declare more text, or another share"
            )


def _write_shuffled(
    folder: Path, sketches: list[Sketch], stays: Flags, splits: dict[str, Split], bytes_per_shard: int
) -> dict[str, list[Shard]]:
    """Write shards that are ranges of the shuffle hash; their number follows from the bytes alone."""
    STAYS.write_bytes(stays.data)
    tasks = []
    for name, split in splits.items():
        num_shards = max(1, -(-split.bytes // bytes_per_shard))
        tasks += [(name, number, num_shards) for number in range(num_shards)]
    shards: dict[str, list[Shard]] = {name: [] for name in splits}
    documents = sum(split.documents for split in splits.values())
    with progress("dedup: shuffle", documents, "documents") as advance:
        for shard in ordered_map(partial(_gather, folder=folder, sketches=sketches), tasks):
            shards[Path(shard.path).parent.name].append(shard)
            advance(shard.lines)
    return shards


def _gather(task: tuple[str, int, int], folder: Path, sketches: list[Sketch]) -> Shard:
    """Write shard `number` of a split: what stays of its range of hashes, from all sketches."""
    split, number, num_shards = task
    lowest, highest = -(-(number << 64) // num_shards), -(-(number + 1 << 64) // num_shards) - 1
    stays = np.memmap(STAYS, bool, "r") if sketches else np.empty(0, dtype=bool)
    found: list[tuple[int, bytes]] = []
    for sketch in sketches:
        numbers = sketch.numbers()
        begin, end = np.searchsorted(numbers[HELD_OUT], np.array([0, 1], dtype=np.uint64) + SPLITS.index(split))
        keys = numbers[KEY, begin:end]
        start = begin + np.searchsorted(keys, np.uint64(lowest))
        stop = begin + np.searchsorted(keys, np.uint64(highest), side="right")
        places = start + np.flatnonzero(stays[sketch.first + start : sketch.first + stop])
        found += zip(numbers[KEY, places].tolist(), sketch.lines(places), strict=True)
    name = f"{split}/{shard_name(number)}"
    return write_lines(folder / name, (line for _, line in sorted(found)), name)
