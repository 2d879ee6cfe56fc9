"""The search index: for each shard of training rows their ids, the suffix array of these, and a table of both.

A suffix is what follows a place up to the end of its row, so that no match runs from one row into the next. Ids are
stored big-endian, so bytes compare as ids do. The suffix array is cut into nodes of `NODE` suffixes. A node begins with
a small tree over every `SAMPLE`th of its suffixes: how many ids it shares with the sample before, and its id after
these. With it a reader finds a place in a node from one look at the ids; the table says which node, and has the digest
of each. So a search of a far-away index moves a few blocks, every one compared before it is used.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import EverystepError
from pipeline.base.files import atomic_writer
from pipeline.formats.lines import Shard, encode_line, write_lines
from pipeline.formats.typed import Sha256, Typed

NODE = 4096
"""Suffixes of a node, and ids of a block."""
SAMPLE = 4
"""Every how many suffixes the tree of a node has a sample."""
POSITION_BYTES = 3
MAX_PLACES = 1 << (8 * POSITION_BYTES)
"""Ids of a shard at most; what sorts them takes 12 bytes for each."""
LONGEST_SHARED = 255
"""What the tree writes for this many shared ids or more."""
NODES_AT_ONCE = 64
"""Nodes whose trees are made together."""
Positions = NDArray[np.uint32]


class Block(Typed):
    """A line of the table: the node and the block of ids of this number."""

    first: list[int]
    """The least run of ids that is greater than the last suffix of the node before: a beginning of the first suffix
    of the node, or, if that is the same, all of it and 0. Empty in the first line."""
    ids_sha256: Sha256
    """SHA-256 of the block of ids."""
    node_sha256: Sha256
    """SHA-256 of the node."""


class Node(NamedTuple):
    """A node, decoded."""

    shared: list[int]
    """For each sample, the ids it shares with the sample before, at most `LONGEST_SHARED`; 0 for the first."""
    branch: list[int]
    """For each sample, its id after the shared ones; 0 where there is none, or it is not known how many they are."""
    positions: Positions
    """The places of the suffixes, in the order of these."""


def id_bytes(vocabulary: int) -> int:
    """Bytes of an id: 2, or 3 for a vocabulary of more than 65,536."""
    return 2 if vocabulary <= 1 << 16 else 3


def rows_per_shard(width: int) -> int:
    """Rows of each shard but the last."""
    return MAX_PLACES // width


def node_bytes(suffixes: int, size: int) -> int:
    """Bytes of a node; `size` is that of an id."""
    samples = -(-suffixes // SAMPLE)
    return samples * (1 + size) + suffixes * POSITION_BYTES


def encode_ids(ids: NDArray[np.integer], size: int) -> bytes:
    """Write ids big-endian, `size` bytes each."""
    return ids.astype(">u4").view(np.uint8).reshape(-1, 4)[:, 4 - size :].tobytes()


def decode_ids(content: bytes, size: int) -> NDArray[np.uint32]:
    """Read ids, shape (number,)."""
    wide = np.zeros((len(content) // size, 4), dtype=np.uint8)
    wide[:, 4 - size :] = np.frombuffer(content, dtype=np.uint8).reshape(-1, size)
    return wide.view(">u4").ravel().astype(np.uint32)


def encode_node(shared: NDArray[np.integer], branch: NDArray[np.integer], positions: Positions, size: int) -> bytes:
    """Write a node: shared ids, branches, positions (little-endian)."""
    places = positions.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :POSITION_BYTES]
    return shared.astype(np.uint8).tobytes() + encode_ids(branch, size) + places.tobytes()


def decode_node(content: bytes, suffixes: int, size: int) -> Node:
    """Read a node of `suffixes` suffixes."""
    samples = -(-suffixes // SAMPLE)
    if len(content) != node_bytes(suffixes, size):
        raise EverystepError(f"a node of {len(content)} bytes; {suffixes} suffixes take {node_bytes(suffixes, size)}")
    trees = samples * (1 + size)
    return Node(
        shared=list(content[:samples]),
        branch=decode_ids(content[samples:trees], size).tolist(),
        positions=decode_positions(content[trees:]),
    )


def decode_positions(content: bytes) -> Positions:
    """Read the places at the end of a node."""
    wide = np.zeros((len(content) // POSITION_BYTES, 4), dtype=np.uint8)
    wide[:, :POSITION_BYTES] = np.frombuffer(content, dtype=np.uint8).reshape(-1, POSITION_BYTES)
    return wide.view("<u4").ravel().astype(np.uint32)


def suffixes_of_nodes(content: bytes, places: int, size: int) -> Positions:
    """The places in all nodes of a shard, shape (places,)."""
    parts, at = [], 0
    for start in range(0, places, NODE):
        suffixes = min(NODE, places - start)
        end = at + node_bytes(suffixes, size)
        parts.append(decode_positions(content[end - suffixes * POSITION_BYTES : end]))
        at = end
    return np.concatenate(parts)


def write_index_shard(
    folder: Path, name: str, ids: NDArray[np.unsignedinteger], suffixes: Positions, width: int, vocabulary: int
) -> dict[str, Shard]:
    """Write the three files of a shard: `ids` of whole rows, shape (places,), and their sorted suffixes."""
    size = id_bytes(vocabulary)
    text = encode_ids(ids, size)
    blocks: list[Block] = []

    def nodes() -> Iterator[bytes]:
        for start, (first, node) in zip(range(0, len(ids), NODE), trees(text, suffixes, width, size), strict=True):
            block = text[start * size : (start + NODE) * size]
            digests = (hashlib.sha256(part).hexdigest() for part in (block, node))
            blocks.append(Block(first=first, ids_sha256=next(digests), node_sha256=next(digests)))
            yield node

    return {
        "ids": _write_binary(folder, f"{name}.ids", [text], len(ids) // width),
        "nodes": _write_binary(folder, f"{name}.nodes", nodes(), -(-len(ids) // NODE)),
        "tables": write_lines(
            folder / f"{name}.jsonl.zst", (encode_line(block.to_json()) for block in blocks), f"{name}.jsonl.zst"
        ),
    }


def trees(text: bytes, suffixes: Positions, width: int, size: int) -> Iterator[tuple[list[int], bytes]]:
    """Yield, for each node, the beginning that the table has of it, and its bytes. `text` is the ids, encoded."""
    words = words_of(text)
    for start in range(0, len(suffixes), NODES_AT_ONCE * NODE):
        part = suffixes[start : start + NODES_AT_ONCE * NODE]
        before, heads = suffixes[max(start - 1, 0) : start + len(part) - 1 : NODE], part[::NODE]
        if not start:  # nothing is before the first
            before = np.concatenate([heads[:1], suffixes[NODE - 1 : len(part) - 1 : NODE]])
        alike = shared_ids(words, before, heads, width, size)
        samples = part[::SAMPLE]
        shared = np.zeros(len(samples), dtype=np.uint32)
        shared[1:] = shared_ids(words, samples[:-1], samples[1:], width, size)
        shared[:: NODE // SAMPLE] = 0
        branch = ids_at(text, samples, shared, width, size)
        branch[shared >= LONGEST_SHARED] = 0
        branch[:: NODE // SAMPLE] = 0
        shared = np.minimum(shared, LONGEST_SHARED)
        for number, (head, length) in enumerate(zip(heads.tolist(), alike.tolist(), strict=True)):
            first = _beginning(text, head, length + 1, width, size) if start or number else []
            inside = slice(number * NODE // SAMPLE, (number + 1) * NODE // SAMPLE)
            positions = part[number * NODE : (number + 1) * NODE]
            yield first, encode_node(shared[inside], branch[inside], positions, size)


def _beginning(text: bytes, place: int, length: int, width: int, size: int) -> list[int]:
    """The first `length` ids of a suffix; of one that is an id shorter, all of it and 0."""
    end = min(place + length, place - place % width + width)
    ids: list[int] = decode_ids(text[place * size : end * size], size).tolist()
    return ids if len(ids) == length else [*ids, 0]


def words_of(text: bytes) -> NDArray[np.uint64]:
    """Eight bytes from each byte of a text on, little-endian; zeros follow its end."""
    return np.ndarray(len(text) + 1, dtype="<u8", buffer=text + bytes(8), strides=(1,))


def shared_ids(
    words: NDArray[np.uint64], left: Positions, right: Positions, width: int, size: int
) -> NDArray[np.uint32]:
    """Count the ids that the suffixes at `left` and `right` have in common from their start, pair by pair."""
    found = np.zeros(len(left), dtype=np.int64)
    limits = (width - np.maximum(left % width, right % width)).astype(np.int64)
    a, b = left.astype(np.int64) * size, right.astype(np.int64) * size
    alive = np.arange(len(left))
    while len(alive):
        done = found[alive]
        differ = words[a[alive] + done] ^ words[b[alive] + done]
        lowest = differ & (~differ + np.uint64(1))
        equal = np.where(differ == 0, 8, np.log2(np.maximum(lowest, 1).astype(np.float64)) // 8).astype(np.int64)
        found[alive] += equal
        alive = alive[(equal == 8) & (found[alive] < limits[alive] * size)]
    return np.minimum(found // size, limits).astype(np.uint32)


def ids_at(text: bytes, positions: Positions, skipped: NDArray[np.uint32], width: int, size: int) -> NDArray[np.uint32]:
    """The id of each suffix after `skipped` ids; 0 where the row has ended."""
    places = positions.astype(np.int64) + skipped
    ended = positions % width + skipped >= width
    raw = np.frombuffer(text, dtype=np.uint8).reshape(-1, size)
    ids = decode_ids(raw[np.where(ended, 0, places)].tobytes(), size)
    ids[ended] = 0
    return ids


def parse_table(lines: Iterable[bytes], where: Path) -> list[Block]:
    """The lines of a table."""
    return [Block.parse(line, where) for line in lines]


def key_of(ids: Sequence[int], size: int) -> bytes:
    """Ids as bytes that compare as they do."""
    return b"".join(id.to_bytes(size, "big") for id in ids)


def _write_binary(folder: Path, name: str, parts: Iterable[bytes], lines: int) -> Shard:
    digest = hashlib.sha256()
    num_bytes = 0
    with atomic_writer(folder / name) as file:
        for part in parts:
            file.write(part)
            digest.update(part)
            num_bytes += len(part)
    return Shard(path=name, lines=lines, bytes=num_bytes, sha256=digest.hexdigest())
