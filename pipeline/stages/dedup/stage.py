"""Deduplicate all sources together, with evidence for every removal; then shuffle and split what stays.

Reads `data/filtered`; writes `data/deduplicated` (`train/` and `validation/` shards of shuffled
documents, and `removals.parquet`) and `manifests/deduplicated.json`. Documents are ranked by (source priority, id);
of duplicates the lowest rank stays, so neither workers nor the order of files matter. Every removal names the document
that stayed and the similarity measured on the two texts.

What stays is written in the order of a keyed hash of the ids, so sources mix and each shard is a range of
hashes: the order in which documents are packed into rows.

Each text is read once, and once more if it shares a band with another: signed, with all that is needed later, and laid
down in the order of the shuffle (`signed.py`); then shards are gathered from there. The stage itself holds a byte for
each document, some 33 more while a band is looked through, and ids and numbers of those that share one.
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
from pipeline.base.console import note, progress, run_command
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
    Judged,
    Links,
    Ranks,
    Sets,
    all_stay,
    first_copies,
    judge,
    linked,
    members,
    reached,
    shared,
    with_copies,
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
    Part,
    ids_of,
    lines_of,
    shingles_of,
    sign,
)

SHINGLES, STAYS = SCRATCH / "shingles", SCRATCH / "stays"
BLOCK = 1024  # documents compared with what stays before the next ones' shingles are read
ROWS = 4096  # of evidence, at a time


class DedupParams(Section):
    """Near duplicates; the alarm: a source that loses more than this share of its documents stops the build;
    then the held-out split and the shuffle of what stays."""

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
    documents: int
    bytes: int


def dedup() -> None:
    """Deduplicate all sources of the release."""
    params = load_section(DedupParams, "dedup")
    basis = take_basis([manifest_path("filter", name) for name in source_names()], ["sources", "dedup"])
    folder, _ = fresh_folder(DEDUPLICATED), fresh_folder(SCRATCH)
    parts = _parts(source_names())
    signing = partial(sign, rules=params.near, validation_share=params.validation_share, seed=params.seed)
    with progress("dedup: signatures", parts[-1].stop if parts else 0, "documents") as advance:
        for part, _ in zip(parts, ordered_map(signing, parts), strict=True):
            advance(part.stop - part.first)
    candidates = _ranked(parts, _sharing_a_band(parts, params.near.bands))
    duplicates, in_part = _find(parts, candidates, params.near)
    stays = np.ones(parts[-1].stop if parts else 0, dtype=bool)
    stays[candidates.numbers[duplicates.removed]] = False
    lost = _count_by_source(parts, ~stays)
    _raise_alarm(_count_by_source(parts, np.ones_like(stays)), lost, params.max_removed_share)
    evidence = _evidence(parts, candidates, duplicates)
    table = write_batches(folder / REMOVALS_FILE, evidence, REMOVALS, REMOVALS_FILE)
    splits = _splits(parts, stays)
    _refuse_empty(splits, params.validation_share)
    shards = _write_shuffled(folder, parts, stays, splits, params.bytes_per_shard)
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
        documents_by_source=_count_by_source(parts, stays),
        documents_by_split={name: split.documents for name, split in splits.items()},
        removed={reason: number for reason, number in removed.items() if number},
        removed_by_source=lost,
        **partly,
    )


def _parts(names: list[str]) -> list[Part]:
    """The shards that hold any document."""
    parts: list[Part] = []
    for name, manifest in read_all_current(Filtered, names).items():
        for shard in manifest.shards("documents"):
            first = parts[-1].stop if parts else 0
            if shard.lines:
                parts.append(Part(name, shard, first))
    return parts


def _sharing_a_band(parts: list[Part], bands: int) -> Numbers:
    """The numbers of the documents that share a band with another; exact copies share all. One band at a time."""
    found = np.zeros(parts[-1].stop if parts else 0, dtype=bool)
    for band in range(bands):
        found |= shared(_joined(part.numbers()[BANDS + band] for part in parts))
    return np.flatnonzero(found)


def _ranked(parts: list[Part], numbers: Numbers) -> Candidates:
    """Ranks are by the priority of the source, then by id."""
    priorities = {name: load_source(name).priority for name in {part.source for part in parts}}
    tasks = _by_part(parts, numbers)
    ids = arrow_strings(id for task in tasks for id in ids_of(*task))
    priority = np.repeat([priorities[part.source] for part, _ in tasks], [len(places) for _, places in tasks])
    order = np.from_dlpack(pc.array_sort_indices(ids)).astype(np.int64)
    order = order[np.argsort(priority[order], kind="stable")]
    return Candidates(numbers[order], ids, order)


def _by_part(parts: list[Part], numbers: Numbers) -> list[tuple[Part, Numbers]]:
    """Ascending numbers as places in the parts that have any."""
    cuts = [np.searchsorted(numbers, [part.first, part.stop]) for part in parts]
    pairs = ((part, numbers[start:stop] - part.first) for part, (start, stop) in zip(parts, cuts, strict=True))
    return [(part, places) for part, places in pairs if len(places)]


def _find(parts: list[Part], candidates: Candidates, rules: DuplicateRules) -> tuple[Duplicates, int]:
    """All duplicates, by rank; and how many documents stay that were compared with a part of their candidates."""
    numbers = candidates.numbers
    copies = first_copies(np.stack([_row(parts, numbers, FINGERPRINT + half) for half in (0, 1)]))
    bands = (_row(parts, numbers, BANDS + band) for band in range(rules.bands))
    links = linked(copies, bands, rules.bands)
    judged = all_stay(len(copies))
    met = members(links)
    if len(met):
        _compare(met, links, _write_shingles(parts, numbers, met, rules.shingle_words), rules.min_similarity, judged)
    in_part = int((judged.cut_short & (judged.kept == np.arange(len(copies)))).sum())
    if in_part:
        note(
            f"dedup: {in_part:,} documents stay that share a band with more others than the {MAX_COMPARED} that they "
            "were compared with; docs/add-a-corpus.md says what that means (What is compared with what)"
        )
    return with_copies(copies, judged), in_part


def _compare(ranks: Ranks, links: Links, spans: tuple[Numbers, Numbers], min_similarity: float, judged: Judged) -> None:
    """Judge all, with the shingles of a block and of what it may meet in memory at a time."""
    file_starts, lengths = spans
    starts, stops = np.zeros((2, len(lengths)), dtype=np.int64)
    with SHINGLES.open("rb") as file, progress("dedup: compare", len(ranks), "documents") as advance:
        for start in range(0, len(ranks), BLOCK):
            block = ranks[start : start + BLOCK]
            needed = reached(block, links, judged)
            pieces = zip((8 * file_starts[needed]).tolist(), (8 * lengths[needed]).tolist(), strict=True)
            hashes = np.frombuffer(b"".join([os.pread(file.fileno(), size, at) for at, size in pieces]), "<u8")
            stops[needed] = np.cumsum(lengths[needed])
            starts[needed] = stops[needed] - lengths[needed]
            judge(block, links, Sets(hashes, starts, stops), min_similarity, judged)
            advance(len(block))


def _row(parts: list[Part], numbers: Numbers, row: int) -> Hashes:
    """One of the 64-bit numbers of each of some documents."""
    order = np.argsort(numbers)
    values = np.empty(len(numbers), dtype=np.uint64)
    values[order] = _joined(part.numbers()[row][places] for part, places in _by_part(parts, numbers[order]))
    return values


def _joined(arrays: Iterable[Hashes]) -> Hashes:
    return np.concatenate([np.empty(0, dtype=np.uint64), *arrays])


def _write_shingles(parts: list[Part], numbers: Numbers, ranks: Ranks, size: int) -> tuple[Numbers, Numbers]:
    """Write the shingles of some documents to one file; where each begins there and how many they are, by rank."""
    ranks = ranks[np.argsort(numbers[ranks])]
    tasks = _by_part(parts, numbers[ranks])
    found = []
    with SHINGLES.open("wb") as file, progress("dedup: shingles", len(ranks), "documents") as advance:
        for sets, lengths_of_part in ordered_map(partial(shingles_of, size=size), tasks):
            file.write(sets.data)
            found.append(lengths_of_part)
            advance(len(lengths_of_part))
    starts, lengths = np.zeros((2, len(numbers)), dtype=np.int64)
    lengths[ranks] = np.concatenate(found)
    starts[ranks] = np.cumsum(lengths[ranks]) - lengths[ranks]
    return starts, lengths


def _evidence(parts: list[Part], candidates: Candidates, duplicates: Duplicates) -> Iterator[pa.RecordBatch]:
    sizes = _row(parts, candidates.numbers, SIZE).astype(np.int64)
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


def _count_by_source(parts: list[Part], chosen: Flags) -> dict[str, int]:
    """How many of the chosen documents are of each source that has any."""
    counts: Counter[str] = Counter()
    for part in parts:
        counts[part.source] += int(chosen[part.first : part.stop].sum())
    return dict(+counts)


def _raise_alarm(totals: dict[str, int], lost: dict[str, int], max_share: float) -> None:
    """Stop when a source loses more than the declared share: a false cluster has eaten it."""
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


def _splits(parts: list[Part], stays: Flags) -> dict[str, Split]:
    """How much of each split stays."""
    found = dict.fromkeys(SPLITS, Split(0, 0))
    for part in parts:
        numbers, own = part.numbers(), stays[part.first : part.stop]
        for held_out, name in enumerate(SPLITS):
            chosen = own & (numbers[HELD_OUT] == held_out)
            documents, size = found[name]
            found[name] = Split(documents + int(chosen.sum()), size + int(numbers[SIZE][chosen].sum()))
    return found


def _refuse_empty(splits: dict[str, Split], validation_share: float) -> None:
    """Stop before anything is trained on a split that holds nothing."""
    for name, split in splits.items():
        if not split.documents:
            raise EverystepError(
                f"params.yaml: dedup.validation_share: at {validation_share:g} the {name} split holds no document of "
                f"{sum(each.documents for each in splits.values()):,}; declare more text, or another share"
            )


def _write_shuffled(
    folder: Path, parts: list[Part], stays: Flags, splits: dict[str, Split], bytes_per_shard: int
) -> dict[str, list[Shard]]:
    """Shards that are ranges of the shuffle hash; their number follows from the bytes alone."""
    STAYS.write_bytes(stays.data)
    tasks = []
    for name, split in splits.items():
        num_shards = max(1, -(-split.bytes // bytes_per_shard))
        tasks += [(name, number, num_shards) for number in range(num_shards)]
    shards: dict[str, list[Shard]] = {name: [] for name in splits}
    documents = sum(split.documents for split in splits.values())
    with progress("dedup: shuffle", documents, "documents") as advance:
        for shard in ordered_map(partial(_gather, folder=folder, parts=parts), tasks):
            shards[Path(shard.path).parent.name].append(shard)
            advance(shard.lines)
    return shards


def _gather(task: tuple[str, int, int], folder: Path, parts: list[Part]) -> Shard:
    """The shard `number` of a split: what stays of its range of hashes, from all parts."""
    split, number, num_shards = task
    lowest, highest = -(-(number << 64) // num_shards), -(-(number + 1 << 64) // num_shards) - 1
    stays = np.memmap(STAYS, bool, "r") if parts else np.empty(0, dtype=bool)
    found: list[tuple[int, bytes]] = []
    for part in parts:
        numbers = part.numbers()
        begin, end = np.searchsorted(numbers[HELD_OUT], np.array([0, 1], dtype=np.uint64) + SPLITS.index(split))
        keys = numbers[KEY, begin:end]
        start = begin + np.searchsorted(keys, np.uint64(lowest))
        stop = begin + np.searchsorted(keys, np.uint64(highest), side="right")
        places = start + np.flatnonzero(stays[part.first + start : part.first + stop])
        found += zip(numbers[KEY, places].tolist(), lines_of(part, places), strict=True)
    name = f"{split}/{shard_name(number)}"
    return write_lines(folder / name, (line for _, line in sorted(found)), name)


if __name__ == "__main__":
    run_command(dedup, "")
