"""Shards: the documents that dedup passed on fill its shards, each a range of the hashes of ids, as manifests say."""

from collections.abc import Iterator

from pipeline.audit.recompute.columns import index_batches, removals
from pipeline.base.paths import SPLITS
from pipeline.formats.documents import id_hashes, shard_name
from pipeline.formats.manifests import Deduplicated
from pipeline.release.release import Release


def shard_faults(release: Release) -> Iterator[str]:
    """Each split whose shards do not follow from its documents."""
    dedup = release.manifest(Deduplicated)
    most = dedup.parameters.to_json()["bytes_per_shard"]
    for split in SPLITS:
        tables = [index_batches(release, split, ["id", "bytes"])]
        if split == "train":
            mixed = [removed for removed in removals(release) if removed.manifest.stage == "tokenize"]
            tables += [removed.batches(release, ["id", "bytes"]) for removed in mixed]
        sizes: dict[int, int] = {}
        for batches in tables:
            for batch in batches:
                ids, bytes_of = (column.to_pylist() for column in batch.columns)
                sizes |= zip(id_hashes(ids, "shuffle", dedup.parameters.seed), bytes_of, strict=True)
        number = max(1, -(-sum(sizes.values()) // most))
        if number != len(dedup.shards(split)):
            yield f"{dedup.path}: outputs.{split}: the documents fill {number:,} shards"
            continue
        lines = [0] * number
        for hashed in sizes:
            lines[hashed * number >> 64] += 1
        expected = [(f"{split}/{shard_name(place)}", count) for place, count in enumerate(lines)]
        if [(shard.path, shard.lines) for shard in dedup.shards(split)] != expected:
            yield f"{dedup.path}: outputs.{split}: the documents fill {number} shards of {lines} lines"
