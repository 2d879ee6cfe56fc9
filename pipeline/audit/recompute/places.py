"""Places: every document is in the split and at the place that the hash of its id gives it.

Nobody chooses which documents are held out, nor in which order they are packed: dedup takes both from a keyed hash of
the id (`pipeline.formats.documents`), and a mixture draws copies by such hashes too (`pipeline.blocks.mixture`). So an
id that was given to another text, added or taken away is at a wrong place.
"""

from collections.abc import Iterator

import numpy as np

from pipeline.audit.recompute.columns import Keys, index_batches, index_path, joined, keys_of
from pipeline.base.paths import SPLITS
from pipeline.blocks.mixture import ONE, num_copies, place
from pipeline.formats.documents import id_hashes, share_limit
from pipeline.formats.manifests import Deduplicated, Tokens
from pipeline.release.release import Release

MOST_PASSES = 1000
"""Epochs that `params.yaml` may ask for."""


def place_faults(release: Release) -> Iterator[str]:
    """Each document that is in another split than its id gives it, and the first one out of order."""
    dedup = release.manifest(Deduplicated)
    seed, share = dedup.parameters.seed, dedup.parameters.to_json()["validation_share"]
    for split in SPLITS:
        last = -1
        is_mixed = split == "train" and set(release.manifest(Tokens).passes.values()) != {1}
        for batch in index_batches(release, split, ["id"]):
            ids = batch.column("id").to_pylist()
            for id, hashed in zip(ids, id_hashes(ids, "validation", seed), strict=True):
                if (hashed < share_limit(share)) != (split == "validation"):
                    yield f"{index_path(split)}: {id}: the hash of its id puts it into the other split"
            for id, hashed in zip(ids, id_hashes(ids, "shuffle", seed), strict=True) if not is_mixed else ():
                if hashed <= last:
                    yield f"{index_path(split)}: {id}: is not in the order of the hashes of ids, or appears twice"
                last = hashed
        if is_mixed:
            yield from _mixed(release, seed)


def _mixed(release: Release, seed: int) -> Iterator[str]:
    """The copies of each document, and their places, are those that the passes over its source give."""
    tokens = release.manifest(Tokens)
    if max(tokens.passes.values()) > MOST_PASSES:
        yield f"{tokens.path}: passes: a mixture makes at most {MOST_PASSES:,} over a source"
        return
    drawn = {source: round(passes * ONE) for source, passes in tokens.passes.items()}
    seen: set[int] = set()
    found: list[Keys] = []
    places: list[Keys] = []
    copied: list[Keys] = []
    for batch in index_batches(release, "train", ["id", "source"]):
        ids, sources = batch.column("id").to_pylist(), batch.column("source").to_pylist()
        found.append(keys_of(ids))
        for id, source, key in zip(ids, sources, found[-1].tolist(), strict=True):
            if key not in seen:
                seen.add(key)
                copies = num_copies(id, drawn.get(source, 0), seed)
                places.append(np.array([place(id, copy, seed) for copy in range(copies)], dtype=np.uint64))
                copied.append(np.full(copies, key, dtype=np.uint64))
    expected = joined(copied)[np.argsort(joined(places), kind="stable")]
    if not np.array_equal(expected, joined(found)):
        yield f"{index_path('train')}: its documents are not the copies that the mixture draws, in their order"
