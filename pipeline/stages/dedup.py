"""Deduplicate across all sources, with evidence, and shuffle what stays.

Reads `data/filtered/*`; writes `data/deduplicated` (shards of `train` and of the held-out `validation`
documents, and `removals.parquet`) and `manifests/deduplicated.json`. Documents are ranked
by (source priority, id); of duplicates the lowest rank stays, so neither workers nor the order of files
matter. Every removal names the document that stayed and the similarity measured on the two texts.

What stays is written in the order of a keyed hash of the ids, so sources mix and each shard is a range of
hashes: the order in which documents are packed into rows.
"""

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.blocks.duplicates import (
    Duplicate,
    DuplicateRules,
    band_hashes,
    find_duplicates,
    fingerprint,
    shingles,
    words_of,
)
from pipeline.console import note, progress, run_command
from pipeline.formats.documents import (
    Document,
    decode_document,
    id_hash,
    is_validation,
    read_documents,
    shard_name,
    write_documents,
)
from pipeline.formats.errors import EverystepError
from pipeline.formats.files import fresh_folder
from pipeline.formats.lines import LineFile, Shard
from pipeline.formats.manifests import manifest_path, read_manifest, shards_of, write_manifest
from pipeline.formats.project import DEDUPLICATED, FILTERED, REMOVALS_FILE
from pipeline.formats.tables import REMOVALS, removal, write_table
from pipeline.formats.yaml import Section
from pipeline.stages.parallel import ordered_map
from pipeline.stages.params import Positive, Seed, Share, load_section, load_source, source_names

CACHED_TEXTS = 2048


class DedupParams(Section):
    """Near duplicates; the alarm: a source that loses more than this share of its documents stops the build;
    then the held-out split and the shuffle of what stays."""

    near: DuplicateRules
    max_removed_share: Share
    validation_share: Annotated[float, Field(gt=0, lt=0.5)]
    seed: Seed
    bytes_per_shard: Positive


class Signed(NamedTuple):
    """What is kept in memory of the documents of one shard."""

    ids: list[str]
    fingerprints: list[bytes]
    bands: NDArray[np.uint64]
    sizes: list[int]


class Place(NamedTuple):
    """Where a document stands, and its rank key."""

    priority: int
    id: str
    source: str
    path: Path
    line: int
    size: int
    number: int


def dedup() -> None:
    """Deduplicate all sources of the release."""
    params = load_section(DedupParams, "dedup")
    folder = fresh_folder(DEDUPLICATED)
    names = source_names()
    upstream = [manifest_path("filter", name) for name in names]
    places, fingerprints, bands = _sign_all(names, params.near)
    duplicates = _find(places, fingerprints, bands, params.near)
    removals = [_evidence(duplicate, places) for duplicate in duplicates]
    _raise_alarm(places, removals, params.max_removed_share)
    removed = {duplicate.removed for duplicate in duplicates}
    kept = [place for rank, place in enumerate(places) if rank not in removed]
    splits: dict[str, list[Place]] = {"train": [], "validation": []}
    for place in kept:
        held_out = is_validation(place.id, params.validation_share, params.seed)
        splits["validation" if held_out else "train"].append(place)
    shards = {split: _write_shuffled(folder, split, members, params) for split, members in splits.items()}
    table = write_table(folder / REMOVALS_FILE, removals, REMOVALS, REMOVALS_FILE)
    write_manifest(
        "dedup",
        None,
        inputs=upstream,
        parameters=params.model_dump(),
        outputs={**shards, "removals": [table]},
        documents=len(kept),
        bytes=sum(place.size for place in kept),
        documents_by_source=dict(Counter(place.source for place in kept)),
        documents_by_split={split: len(members) for split, members in splits.items()},
        removed=dict(Counter(row["reason"] for row in removals)),
        removed_by_source=dict(Counter(row["source"] for row in removals)),
    )


def _sign_all(names: list[str], rules: DuplicateRules) -> tuple[list[Place], list[bytes], NDArray[np.uint64]]:
    """Places, fingerprints and band hashes of all documents, by rank."""
    paths = [
        (name, FILTERED / name / shard.path)
        for name in names
        for shard in shards_of(read_manifest(manifest_path("filter", name), "filter"), "documents")
    ]
    places: list[Place] = []
    fingerprints: list[bytes] = []
    bands: list[NDArray[np.uint64]] = []
    with progress("dedup: signatures", len(paths), "shards") as advance:
        signed = ordered_map(partial(_sign_shard, rules=rules), [path for _, path in paths])
        for (name, path), shard in zip(paths, signed, strict=True):
            priority = load_source(name).priority
            for line, (id, size) in enumerate(zip(shard.ids, shard.sizes, strict=True)):
                places.append(Place(priority, id, name, path, line, size, len(places)))
            fingerprints += shard.fingerprints
            bands.append(shard.bands)
            advance(1)
    places.sort()
    numbers = [place.number for place in places]
    return places, [fingerprints[i] for i in numbers], np.concatenate(bands)[numbers]


def _sign_shard(path: Path, rules: DuplicateRules) -> Signed:
    ids, marks, sizes = [], [], []
    bands = []
    for document in read_documents(path):
        words = words_of(document.text)
        ids.append(document.id)
        marks.append(fingerprint(words))
        sizes.append(len(document.text.encode()))
        bands.append(band_hashes(words, rules))
    return Signed(ids, marks, np.array(bands, dtype=np.uint64).reshape(-1, rules.bands), sizes)


def _find(
    places: list[Place], fingerprints: list[bytes], bands: NDArray[np.uint64], rules: DuplicateRules
) -> list[Duplicate]:
    files = {path: LineFile(path) for path in {place.path for place in places}}

    @lru_cache(maxsize=CACHED_TEXTS)
    def shingles_of(rank: int) -> set[str]:
        place = places[rank]
        document = decode_document(files[place.path][place.line], place.path)
        return shingles(words_of(document.text), rules.shingle_words)

    with progress("dedup: compare", len(places), "documents") as advance:

        def counted() -> Iterator[bytes]:
            for mark in fingerprints:
                yield mark
                advance(1)

        return list(find_duplicates(counted(), bands, shingles_of, rules.min_similarity))


def _evidence(duplicate: Duplicate, places: list[Place]) -> dict[str, Any]:
    gone, kept = places[duplicate.removed], places[duplicate.kept]
    reason = "exact_duplicate" if duplicate.exact else "near_duplicate"
    return removal(
        "dedup", gone.source, gone.id, reason, kept=kept.id, similarity=duplicate.similarity, bytes=gone.size
    )


def _raise_alarm(places: list[Place], removals: list[dict[str, Any]], max_share: float) -> None:
    """Stop when a source loses more than the declared share: a false cluster has eaten it."""
    totals = Counter(place.source for place in places)
    for source, lost in sorted(Counter(row["source"] for row in removals).items()):
        share = lost / totals[source]
        note(f"dedup: {source}: {lost:,} of {totals[source]:,} documents removed ({share:.1%})")
        if share > max_share:
            raise EverystepError(
                f"params.yaml: dedup.max_removed_share: {source} loses {share:.1%} of its documents, more than "
                f"{max_share:.1%}; look at what is near-identical in it, then raise the share or the threshold"
            )


def _write_shuffled(folder: Path, split: str, kept: list[Place], params: DedupParams) -> list[Shard]:
    """Shards that are ranges of the shuffle hash; their number follows from the bytes alone."""
    num_shards = max(1, -(-sum(place.size for place in kept) // params.bytes_per_shard))
    ranges: list[list[tuple[int, Place]]] = [[] for _ in range(num_shards)]
    for place in kept:
        key = id_hash(place.id, "shuffle", params.seed)
        ranges[key * num_shards >> 64].append((key, place))
    parts = [
        (folder, f"{split}/{shard_name(number)}", [place for _, place in sorted(keyed)])
        for number, keyed in enumerate(ranges)
    ]
    shards = []
    with progress(f"dedup: shuffle {split}", num_shards, "shards") as advance:
        for shard in ordered_map(_write_range, parts):
            shards.append(shard)
            advance(1)
    return shards


def _write_range(part: tuple[Path, str, list[Place]]) -> Shard:
    """One shard: its documents are read in the order of their files, so that each frame is opened once."""
    folder, name, places = part
    documents: dict[int, Document] = {}
    by_file: dict[Path, list[int]] = {}
    for i, place in enumerate(places):
        by_file.setdefault(place.path, []).append(i)
    for path, members in by_file.items():
        with LineFile(path) as file:
            for i in sorted(members, key=lambda i: places[i].line):
                documents[i] = decode_document(file[places[i].line], path)
    return write_documents(folder / name, (documents[i] for i in range(len(places))), name)


if __name__ == "__main__":
    run_command(dedup, "")
