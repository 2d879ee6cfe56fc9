"""Runs of items of at most one size, in order: `itertools.batched`, which Python has from 3.12 on."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last may be shorter; nothing is lost, and nothing read ahead."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
