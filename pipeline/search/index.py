"""The index of a release, opened: where any run of ids is in the training rows.

    with open_index(release) as index:
        found = index.find([42, 7])        # the places of this run, in each shard
        found.count                        # how many there are
        index.rows(found)                  # their rows and offsets
        index.longest([42, 7, 3])          # how many ids from the first on are somewhere together

Files of the index are read in blocks, and every block is compared with the digest that the table of its shard has of it
before anything is made of it; the manifest has the digest of the table. From far away a search moves the tables, a node
or two of each shard, and the few blocks of ids that it looks at.
"""

import hashlib
import mmap
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import Differs, EverystepError
from pipeline.base.paths import SEARCH
from pipeline.formats.index_groups import Window
from pipeline.formats.lines import LineFile, Shard
from pipeline.formats.manifests import Searchable, Tokens, path_of
from pipeline.formats.search_index import (
    LONGEST_SHARED,
    NODE,
    SAMPLE,
    Node,
    Positions,
    decode_ids,
    decode_node,
    decode_positions,
    id_bytes,
    key_of,
    node_bytes,
    parse_table,
    rows_per_shard,
)
from pipeline.release.release import Release

FEW = 4
"""Pieces of a far-away file that are asked for one by one; more come as one piece with what is between them."""
NODES_KEPT = 256
Numbers = NDArray[np.int64]


class Found(NamedTuple):
    """The places of a run of ids."""

    ids: tuple[int, ...]
    """The run."""
    intervals: tuple[tuple[int, int], ...]
    """For each shard the sorted suffixes `start..stop` (stop excluded) that begin with it."""

    @property
    def count(self) -> int:
        """Number of places."""
        return sum(stop - start for start, stop in self.intervals)


@contextmanager
def open_index(release: Release) -> "Iterator[Index]":
    """Open the index of a release; what was brought of a far-away one is forgotten at the end."""
    path = path_of(Searchable)
    if path.as_posix() not in release.files:
        raise EverystepError(
            f"{release.folder}: has no index to search ({path}); it was built before there was one, or without its "
            "stage `search`. Its rows are whole: in a project that has them, `dvc repro search` writes one"
        )
    manifest, tokens = release.manifest(Searchable), release.manifest(Tokens)
    said, meant = (manifest.width, manifest.vocabulary), (tokens.width, tokens.vocabulary)
    if said != meant or manifest.places != tokens.splits.train.rows * tokens.width:
        raise Differs(f"{release.folder / path}: is not an index of the rows that {tokens.path} lists")
    with ExitStack() as opened:
        yield Index(release, manifest, opened)


class Index:
    """The index of a release."""

    def __init__(self, release: Release, manifest: Searchable, opened: ExitStack) -> None:
        self.width = manifest.width
        """Ids of a row."""
        self.vocabulary = manifest.vocabulary
        """Number of tokens."""
        self.places = manifest.places
        """Ids of all rows."""
        files = [manifest.shards(name) for name in ("ids", "nodes", "tables")]
        counts = [shard.lines for shard in files[0]]
        where = f"{release.folder / manifest.path}: outputs"
        if len({*map(len, files)}) != 1 or sum(counts) != self.num_rows:
            raise Differs(f"{where}: its shards do not hold the {self.num_rows} rows, or not one file of each kind")
        if any(not 0 < count <= rows_per_shard(self.width) for count in counts):
            raise Differs(f"{where}: a shard of no rows, or of more than {rows_per_shard(self.width)}")
        self._first_rows = np.cumsum([0, *counts])[:-1]
        self._shards = [
            _Shard(release, opened, count * self.width, self.width, self.vocabulary, *three)
            for count, *three in zip(counts, *files, strict=True)
        ]

    @property
    def num_rows(self) -> int:
        """Number of training rows."""
        return self.places // self.width

    def find(self, ids: Sequence[int]) -> Found:
        """The places where `ids` follow one another within a row; every place if there are none."""
        self._require_ids(ids)
        return Found(tuple(ids), tuple(shard.interval(ids) for shard in self._shards))

    def ends(self, ids: Sequence[int]) -> int:
        """At how many places `ids` end their row, so that nothing follows."""
        self._require_ids(ids)
        return sum(shard.ends(ids) for shard in self._shards) if ids else 0

    def longest(self, ids: Sequence[int]) -> int:
        """How many of `ids`, from the first on, are somewhere together in a row."""
        self._require_ids(ids)
        return max((shard.longest(ids) for shard in self._shards), default=0)

    def rows(self, found: Found, first: int | None = None) -> tuple[Numbers, Numbers]:
        """Row and offset in it of each place, in the order of the suffixes; of the first ones only, if asked."""
        places = []
        left = found.count if first is None else first
        for shard, begin, (start, stop) in zip(self._shards, self._first_rows.tolist(), found.intervals, strict=True):
            stop = min(stop, start + left)
            if stop > start:
                places.append(shard.positions(start, stop).astype(np.int64) + begin * self.width)
                left -= stop - start
        together = np.concatenate(places) if places else np.empty(0, dtype=np.int64)
        return together // self.width, together % self.width

    def ids_at(self, rows: Numbers, offsets: Numbers) -> Numbers:
        """The id at each of these places."""
        ids = np.empty(len(rows), dtype=np.int64)
        which = np.searchsorted(self._first_rows, rows, side="right") - 1
        for number in np.unique(which).tolist():
            chosen = which == number
            places = (rows[chosen] - self._first_rows[number]) * self.width + offsets[chosen]
            ids[chosen] = self._shards[number].ids_at(places)
        return ids

    def row(self, number: int) -> list[int]:
        """The ids of a row."""
        shard = int(np.searchsorted(self._first_rows, number, side="right")) - 1
        start = (number - int(self._first_rows[shard])) * self.width
        return self._shards[shard].ids(start, start + self.width)

    def _require_ids(self, ids: Sequence[int]) -> None:
        if outside := [id for id in ids if not 0 <= id < self.vocabulary]:
            raise EverystepError(f"id {outside[0]}: outside the vocabulary, whose ids are 0..{self.vocabulary - 1}")


class _Shard:
    """The index of some rows."""

    def __init__(
        self,
        release: Release,
        opened: ExitStack,
        places: int,
        width: int,
        vocabulary: int,
        ids: Shard,
        nodes: Shard,
        table: Shard,
    ) -> None:
        self._places, self._width, self._vocabulary = places, width, vocabulary
        self._size = id_bytes(vocabulary)
        path = release.file(SEARCH / table.path)
        with LineFile(path) as lines:
            blocks = parse_table(lines, path)
        if len(blocks) != -(-places // NODE):
            raise Differs(f"{path}: {len(blocks)} lines; {places} ids take {-(-places // NODE)}")
        self._firsts = [key_of(block.first, self._size) for block in blocks]
        if self._firsts[0] or any(a > b for a, b in zip(self._firsts, self._firsts[1:], strict=False)):
            raise Differs(f"{path}: its nodes are not in order")
        sizes = [min(NODE, places - start) for start in range(0, places, NODE)]
        far = release.mirror is not None

        def blocks_of(name: str, digests: list[str], sizes: list[int]) -> _Blocks:
            window = opened.enter_context(release.window(SEARCH / name, sum(sizes)))
            return _Blocks(window, digests, sizes, far)

        self._ids = blocks_of(ids.path, [block.ids_sha256 for block in blocks], [n * self._size for n in sizes])
        node_sizes = [node_bytes(n, self._size) for n in sizes]
        self._nodes = blocks_of(nodes.path, [block.node_sha256 for block in blocks], node_sizes)
        self._node = lru_cache(NODES_KEPT)(self._decoded)

    def interval(self, ids: Sequence[int]) -> tuple[int, int]:
        """The suffixes that begin with `ids`.

        Their end is found in the trees alone, but for the few suffixes between two samples: of neighbours that share
        as many ids as `ids` has, both begin with them or neither.
        """
        if not ids:
            return 0, self._places
        key, length = key_of(ids, self._size), len(ids)
        number = self._node_of(ids)
        start, sample, is_alike = self._place(number, ids)
        last = self._node_of(after) if (after := self._after(ids)) else len(self._firsts) - 1
        if length > LONGEST_SHARED:
            return start, self._lower(after) if after else self._places
        if last > number and not self._firsts[last].startswith(key):
            return start, last * NODE
        if last == number and not is_alike:
            return start, self._end_of_alike(start, number * NODE + sample * SAMPLE, ids)
        shared = self._node(last).shared
        sample = 0 if last > number else sample
        end = next((i for i in range(sample + 1, len(shared)) if shared[i] < length), len(shared))
        return start, self._end_of_alike(last * NODE + (end - 1) * SAMPLE + 1, last * NODE + end * SAMPLE, ids)

    def ends(self, ids: Sequence[int]) -> int:
        """The suffixes that are `ids` and no more: the first of those that begin with them."""
        return self._lower([*ids, 0]) - self._lower(ids)

    def longest(self, ids: Sequence[int]) -> int:
        """How many of `ids` a suffix begins with: one beside the place where they would be."""
        at = self._lower(ids) if ids else 0
        return max(self._shared(ids, int(self.positions(i, i + 1)[0])) for i in (at - 1, at) if 0 <= i < self._places)

    def positions(self, start: int, stop: int) -> Positions:
        """The places of the suffixes `start..stop`."""
        numbers = range(start // NODE, -(-stop // NODE))
        if len(numbers) == 1:
            return self._node(numbers[0]).positions[start % NODE : start % NODE + stop - start]
        self._nodes.need(numbers)
        parts = [decode_positions(self._nodes.block(number)[self._tree_bytes(number) :]) for number in numbers]
        return np.concatenate(parts)[start % NODE :][: stop - start]

    def ids_at(self, places: Numbers) -> NDArray[np.uint32]:
        """The id at each of these places."""
        self._ids.need(np.unique(places // NODE).tolist())
        return decode_ids(self._ids.array(self._size)[places].tobytes(), self._size)

    def ids(self, start: int, stop: int) -> list[int]:
        """The ids at the places `start..stop`."""
        self._ids.need(range(start // NODE, (stop - 1) // NODE + 1))
        ids: list[int] = decode_ids(self._ids.content[start * self._size : stop * self._size], self._size).tolist()
        return ids

    def _lower(self, ids: Sequence[int]) -> int:
        """The number of suffixes that are less than `ids`."""
        return self._place(self._node_of(ids), ids)[0]

    def _after(self, ids: Sequence[int]) -> list[int]:
        """The least run that is greater than all that begin with `ids`; empty if there is none."""
        after = list(ids)
        while after and after[-1] == self._vocabulary - 1:
            after.pop()
        return [*after[:-1], after[-1] + 1] if after else []

    def _node_of(self, ids: Sequence[int]) -> int:
        """The node in which, or at whose end, `ids` would be."""
        return bisect_right(self._firsts, key_of(ids, self._size)) - 1

    def _place(self, number: int, ids: Sequence[int]) -> tuple[int, int, bool]:
        """In the node of `ids`: the first suffix that is not less, the first sample that is not, and whether the
        sample begins with them."""
        node, wanted = self._node(number), list(ids)
        low, high, sample, is_alike = 0, len(node.positions), 0, False
        if len(ids) <= LONGEST_SHARED:
            sample, is_alike = self._first_sample(node, ids)
            low, high = max(0, (sample - 1) * SAMPLE + 1), min(high, sample * SAMPLE)
        while low < high:
            middle = (low + high) // 2
            if self._text(int(node.positions[middle]), len(wanted)) < wanted:
                low = middle + 1
            else:
                high = middle
        return number * NODE + low, sample, is_alike

    def _end_of_alike(self, low: int, high: int, ids: Sequence[int]) -> int:
        """The first suffix from `low` on, up to `high`, that does not begin with `ids`; all before it do."""
        high, wanted = min(high, self._places), list(ids)
        while low < high:
            middle = (low + high) // 2
            if self._text(int(self.positions(middle, middle + 1)[0]), len(wanted)) == wanted:
                low = middle + 1
            else:
                high = middle
        return low

    def _first_sample(self, node: Node, ids: Sequence[int]) -> tuple[int, bool]:
        """The first sample of a node that is not less than `ids` (the number of samples if all are), and whether it
        begins with them.

        What the tree alone can tell is a sample with which `ids` share as many first ids as with any (the search in a
        Patricia trie; Ferguson's bit-tree). A look at its text gives that number, and with it the place among all.
        """
        shared, branch, length = node.shared, node.branch, len(ids)
        nearest, i = 0, 1
        while i < len(shared):
            depth = shared[i]
            i += 1
            if depth >= length:
                continue
            if ids[depth] >= branch[i - 1]:
                nearest = i - 1
            else:
                while i < len(shared) and shared[i] >= depth:
                    i += 1
        text = self._text(int(node.positions[nearest * SAMPLE]), length)
        common = _common(ids, text)
        if common < length and (common == len(text) or text[common] < ids[common]):
            i = nearest + 1
            while i < len(shared) and (shared[i] > common or (shared[i] == common and branch[i] <= ids[common])):
                i += 1
            return i, False
        bound = common if common == length else common + 1
        while nearest and shared[nearest] >= bound:
            nearest -= 1
        return nearest, common == length

    def _shared(self, ids: Sequence[int], place: int) -> int:
        return _common(ids, self._text(place, len(ids)))

    def _text(self, place: int, length: int) -> list[int]:
        """At most `length` ids from a place on, up to the end of its row."""
        return self.ids(place, min(place + length, place - place % self._width + self._width))

    def _decoded(self, number: int) -> Node:
        self._nodes.need([number])
        return decode_node(self._nodes.block(number), min(NODE, self._places - number * NODE), self._size)

    def _tree_bytes(self, number: int) -> int:
        return -(-min(NODE, self._places - number * NODE) // SAMPLE) * (1 + self._size)


class _Blocks:
    """A file in blocks, each compared with its digest when it is first needed."""

    def __init__(self, window: Window, digests: list[str], sizes: list[int], far: bool) -> None:
        self._window, self._digests, self._far = window, digests, far
        self._starts = np.cumsum([0, *sizes]).tolist()
        self._is_known = bytearray(len(digests))
        if window.size != self._starts[-1]:
            raise Differs(f"{window.path}: {window.size} bytes; {self._starts[-1]} are promised")
        with window.path.open("rb") as file:
            self.content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            """The file; only what was needed is sure."""

    def block(self, number: int) -> bytes:
        """The bytes of a block that was needed."""
        return self.content[self._starts[number] : self._starts[number + 1]]

    def array(self, size: int) -> NDArray[np.uint8]:
        """The file as numbers of `size` bytes, shape (numbers, size)."""
        return np.frombuffer(self.content, dtype=np.uint8).reshape(-1, size)

    def need(self, numbers: Sequence[int]) -> None:
        """Bring these blocks (ascending), and compare each with its digest."""
        missing = [number for number in numbers if not self._is_known[number]]
        if not missing:
            return
        pieces = [missing[:1]]
        for number in missing[1:]:
            if number == pieces[-1][-1] + 1:
                pieces[-1].append(number)
            else:
                pieces.append([number])
        if self._far and len(pieces) > FEW:
            pieces = [list(range(missing[0], missing[-1] + 1))]
        for piece in pieces:
            self._window.need(self._starts[piece[0]], self._starts[piece[-1] + 1])
            for number in piece:
                if hashlib.sha256(self.block(number)).hexdigest() != self._digests[number]:
                    raise Differs(f"{self._window.path}: block {number} is not what its table promises")
                self._is_known[number] = 1


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many numbers both begin with."""
    for i, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return i
    return min(len(left), len(right))
