"""Is the index that of the rows? Recomputed from the rows alone, without sorting, in time linear in their ids.

Suffixes are in order if neighbours are: of two that follow one another, the first has the lesser first id, or the same
id and the lesser rest, and a rest is a suffix too, whose place in the order is known. Where a row ends there is no
rest; then the next rows decide, as in the sorting. With that, every other byte of the index follows.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import Differs, EverystepError
from pipeline.base.paths import SEARCH
from pipeline.formats.lines import LineFile, Shard
from pipeline.formats.manifests import Searchable, Tokens
from pipeline.formats.search_index import (
    NODE,
    Positions,
    encode_ids,
    id_bytes,
    parse_table,
    suffixes_of_nodes,
    trees,
)
from pipeline.release.release import Release
from pipeline.release.row_blocks import row_blocks
from pipeline.search.index import open_index

AT_ONCE = 1 << 20


def search_faults(release: Release) -> Iterator[str]:
    """What is wrong with the search index of a release, compared with its rows."""
    try:
        with open_index(release):
            pass
    except (Differs, EverystepError) as error:
        yield str(error)
        return
    manifest, tokens = release.manifest(Searchable), release.manifest(Tokens)
    blocks = row_blocks(release, tokens, "train")
    rest = np.empty((0, tokens.width), dtype=np.uint32)
    files = [manifest.shards(name) for name in ("ids", "nodes", "tables")]
    start = 0
    for ids, nodes, table in zip(*files, strict=True):
        pieces, held = [rest], len(rest)
        while held < ids.lines and (block := next(blocks, None)) is not None:
            pieces.append(block)
            held += len(block)
        together = np.concatenate(pieces)
        rows, rest = together[: ids.lines], together[ids.lines :]
        if len(rows) < ids.lines:
            yield f"{SEARCH / ids.path}: is of {ids.lines} rows, and only {len(rows)} are left"
            return
        yield from _faults(release, rows, tokens.vocabulary, start, (ids, nodes, table))
        start += ids.lines


def _faults(
    release: Release, rows: NDArray[np.uint32], vocabulary: int, start: int, files: tuple[Shard, Shard, Shard]
) -> Iterator[str]:
    """The faults of one shard, of the rows from `start` on."""
    width, size, stop = rows.shape[1], id_bytes(vocabulary), start + len(rows)
    paths = [release.file(SEARCH / file.path) for file in files]
    names = [SEARCH / file.path for file in files]
    ids = rows.astype(np.uint16) if size == 2 else rows
    text = encode_ids(ids.ravel(), size)
    if paths[0].read_bytes() != text:
        yield f"{names[0]}: is not the ids of the rows {start} to {stop - 1}"
        return
    content = paths[1].read_bytes()
    suffixes = suffixes_of_nodes(content, ids.size, size)
    if fault := _disorder(ids.ravel(), suffixes, width):
        yield f"{names[1]}: {fault}"
        return
    with LineFile(paths[2]) as lines:
        blocks = parse_table(lines, paths[2])
    at = 0
    for number, (first, node) in enumerate(trees(text, suffixes, width, size)):
        block = text[number * NODE * size : (number + 1) * NODE * size]
        if content[at : at + len(node)] != node:
            yield f"{names[1]}: the tree of node {number} is not that of its suffixes"
        digests = (hashlib.sha256(block).hexdigest(), hashlib.sha256(node).hexdigest())
        if (blocks[number].first, blocks[number].ids_sha256, blocks[number].node_sha256) != (first, *digests):
            yield f"{names[2]}: line {number + 1} is not that of its node and its ids"
        at += len(node)


def _disorder(ids: NDArray[np.unsignedinteger], suffixes: Positions, width: int) -> str | None:
    """What is wrong with the order of suffixes, if anything."""
    count = len(ids)
    if suffixes.max(initial=0) >= count:
        return f"place {suffixes.max()} of {count}"
    rank = np.full(count, count, dtype=np.uint32)
    rank[suffixes] = np.arange(count, dtype=np.uint32)
    if (rank == count).any():
        return "lists some places twice, and others never"
    for start in range(0, count - 1, AT_ONCE):
        places = suffixes[start : start + AT_ONCE + 1].astype(np.int64)
        rest = rank[(places + 1) % count].astype(np.int64)
        rest[places % width == width - 1] -= count
        rest[places == count - 1] = -count - 1
        first = ids[places]
        less = (first[:-1] < first[1:]) | ((first[:-1] == first[1:]) & (rest[:-1] < rest[1:]))
        if not less.all():
            return f"suffixes {start + int(np.argmin(less))} and the next are not in order"
    return None
