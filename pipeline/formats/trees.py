"""Merkle trees (RFC 6962, section 2.1) over leaves of which some are shown and the others stay digests.

A proof lists the digests of the largest subtrees without a shown leaf, from left to right. It is as long as the shown
leaves need, and there is exactly one for each set of them.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence

from pipeline.base.errors import Differs


def leaf(content: bytes | memoryview) -> bytes:
    """Digest the content of a leaf."""
    return hashlib.sha256(b"\0" + content).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Combine the digests of all leaves."""
    level = list(leaves) or [hashlib.sha256(b"").digest()]
    while len(level) > 1:
        odd = [level[-1]] if len(level) % 2 else []
        level = [_node(left, right) for left, right in zip(level[::2], level[1::2], strict=False)] + odd
    return level[0]


def prove(leaves: Sequence[bytes], shown: Collection[int]) -> list[bytes]:
    """Return the proof for the leaves numbered `shown`. Law: `root_from(n, shown leaves, prove(...)) == root(...)`."""
    numbers = sorted(shown)

    def part(start: int, stop: int) -> Iterator[bytes]:
        if not _any_between(numbers, start, stop):
            yield root(leaves[start:stop])
        elif stop - start > 1:
            middle = _middle(start, stop)
            yield from part(start, middle)
            yield from part(middle, stop)

    return list(part(0, len(leaves)))


def root_from(count: int, shown: Mapping[int, bytes], proof: Sequence[bytes]) -> bytes:
    """Compute the root of `count` leaves from the digests of some, by number, and the proof. `Differs` if the proof is
    not one for these leaves."""
    given, numbers = iter(proof), sorted(shown)

    def part(start: int, stop: int) -> bytes:
        if not _any_between(numbers, start, stop):
            digest = next(given, None)
            if digest is None:
                raise Differs("a proof is too short for its leaves")
            return digest
        if stop - start == 1:
            return shown[start]
        middle = _middle(start, stop)
        return _node(part(start, middle), part(middle, stop))

    found = part(0, max(count, 1))
    if next(given, None) is not None:
        raise Differs("a proof is too long for its leaves")
    return found


def _any_between(numbers: Sequence[int], start: int, stop: int) -> bool:
    place = bisect_left(numbers, start)
    return place < len(numbers) and numbers[place] < stop


def _middle(start: int, stop: int) -> int:
    """Split after the largest power of two of leaves that is smaller than their number."""
    return start + (1 << (stop - start - 1).bit_length() - 1)


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()
