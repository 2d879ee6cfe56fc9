"""Order: the published order is what the seed gives, to the last byte of its lines."""

import hashlib
from collections.abc import Iterator

from pipeline.base.paths import TOKENS
from pipeline.formats.manifests import Tokens
from pipeline.formats.rows import order_frames
from pipeline.release.release import Release


def order_faults(release: Release) -> Iterator[str]:
    """That the order has other bytes."""
    tokens = release.manifest(Tokens)
    digest = hashlib.sha256()
    for frame in order_frames(tokens.splits.train.rows, tokens.parameters.seed):
        digest.update(frame)
    shard = tokens.shard("order")
    if shard.sha256 != digest.hexdigest():
        yield f"{TOKENS / shard.path}: its lines are not those that the seed {tokens.parameters.seed} gives"
