"""Several processes that compute the bits of one. The only importer of torch.distributed.

A global batch is a fixed number of micro-batches (a power of two). Their gradients are summed in a fixed
binary tree over the micro-batch number: a process computes a contiguous run of them and sums its subtree; the
roots of the subtrees are exchanged piece by piece (all-to-all), and every process sums the pieces it owns in
the same tree. It moves as many bytes as an all-reduce, and the sum is the same for 1, 2, 4 ... processes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor

MINUTES_TO_WAIT = 10


class World:
    """This process among its peers."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size

    def part(self, total: int) -> tuple[int, int]:
        """The contiguous share [start, stop) of `total` equal things that this process has."""
        each = total // self.size
        return self.rank * each, (self.rank + 1) * each

    def exchange(self, subtree: Tensor) -> Tensor:
        """The sum over processes of the slice of `subtree` that this process owns, in tree order."""
        if self.size == 1:
            return subtree
        received = torch.empty_like(subtree)
        torch.distributed.all_to_all_single(received, subtree)
        return tree_sum(list(received.chunk(self.size)))

    def gather(self, owned: Tensor, whole: Tensor) -> None:
        """Fill `whole` with every process's `owned`, by rank."""
        if self.size == 1:
            whole.copy_(owned)
        else:
            torch.distributed.all_gather_single(whole, owned)

    def gather_floats(self, numbers: list[float]) -> list[float]:
        """Every process's numbers (equally many each), by rank."""
        whole = torch.empty(len(numbers) * self.size, dtype=torch.float64)
        self.gather(torch.tensor(numbers, dtype=torch.float64), whole)
        return [float(number) for number in whole]


def tree_sum(parts: list[Tensor]) -> Tensor:
    """((a + b) + (c + d)) ... of a power of two of tensors. Sums into the first of each pair."""
    while len(parts) > 1:
        parts = [left.add_(right) for left, right in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


class TreeAccumulator:
    """The same sum for tensors that come one after another; holds log2(n) of them at most."""

    def __init__(self) -> None:
        self._stack: list[tuple[int, Tensor]] = []

    def add(self, tensor: Tensor) -> None:
        height = 0
        while self._stack and self._stack[-1][0] == height:
            tensor = self._stack.pop()[1].add_(tensor)
            height += 1
        self._stack.append((height, tensor))

    def total(self) -> Tensor:
        """The sum; the number of tensors added must be a power of two."""
        ((_, tensor),) = self._stack
        return tensor


@contextmanager
def joined(rank: int, size: int, address: str) -> Iterator[World]:
    """This process as member `rank` of `size` that meet at `address` (`file://...` or `env://`)."""
    if size == 1:
        yield World(0, 1)
        return
    wait = timedelta(minutes=MINUTES_TO_WAIT)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=size, timeout=wait)
    try:
        yield World(rank, size)
    finally:
        torch.distributed.destroy_process_group()
