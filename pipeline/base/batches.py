"""Consecutive items in lists of a given size, as `itertools.batched` gives them from Python 3.12 on."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items; the last may be shorter. No item is lost or read ahead."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
