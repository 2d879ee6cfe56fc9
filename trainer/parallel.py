"""Several processes that compute the bits of one. The only importer of torch.distributed.

A global batch is a fixed number of micro-batches. Their gradients are summed in a fixed binary tree over the
micro-batch number (a leaf is an odd number of them): a process computes a contiguous run and sums its subtree; the
roots of the subtrees are exchanged piece by piece, and every process sums the pieces it owns in the same tree. So the
sum is the same for 1, 2, 4 ... processes.

Across hosts the pieces are sent (all-to-all, as many bytes as an all-reduce) and the weights gathered: by NCCL between
GPUs, by gloo between processors. Processes of one host share memory for both: each reads pieces where they were summed,
and updates its share of the weights there. NCCL refuses two processes on one GPU: what these exchange goes through the
host's memory.
"""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from trainer.numerics import is_on_cpu

MINUTES_TO_WAIT = 10
# Its name from torch 2.12 on, and before.
all_gather = getattr(torch.distributed, "all_gather_single", None) or torch.distributed.all_gather_into_tensor


class World:
    """This process among its peers."""

    def __init__(self, rank: int, size: int, device: torch.device | None = None) -> None:
        self.rank = rank
        self.size = size
        self.device = device or torch.device("cpu")

    def part(self, total: int) -> tuple[int, int]:
        """Return the contiguous share [start, stop) of `total` equal things that this process owns."""
        each = total // self.size
        return self.rank * each, (self.rank + 1) * each

    def zeros(self, size: int) -> Tensor:
        """Allocate a vector of zeros for this process alone."""
        return torch.zeros(size, device=self.device)

    def weights(self, size: int) -> Tensor:
        """Allocate a vector of zeros of which each process will update its part, for `complete`."""
        return self.zeros(size)

    def subtree(self, size: int) -> Tensor:
        """Allocate a vector of zeros in which this process sums its gradients, for `exchange`."""
        return self.zeros(size)

    def exchange(self, subtree: Tensor) -> Tensor:
        """Sum, over processes in tree order, the slice of `subtree` that this process owns."""
        if self.size == 1:
            return subtree
        sent = self._sendable(subtree)
        received = torch.empty_like(sent)
        torch.distributed.all_to_all_single(received, sent)
        return tree_sum(list(received.to(self.device).chunk(self.size)))

    def complete(self, weights: Tensor) -> None:
        """Wait until every process sees every other's updated part (all-gather)."""
        self.gather(weights[slice(*self.part(len(weights)))], weights)

    def gather(self, owned: Tensor, whole: Tensor) -> None:
        """Fill `whole` with every process's `owned`, by rank. `owned` may be a view of its own place in `whole`."""
        if self.size == 1:
            if owned.data_ptr() != whole.data_ptr():
                whole.copy_(owned)
            return
        received = self._sendable(whole)
        all_gather(received, self._sendable(owned.clone()))
        if received is not whole:
            whole.copy_(received)

    def collect(self, owned: Tensor) -> Tensor:
        """Copy every process's `owned`, by rank, into one vector in the host's memory."""
        if self.size == 1:
            return self.to_host(owned)
        whole = torch.empty(len(owned) * self.size, device=owned.device)
        self.gather(owned, whole)
        return whole.cpu()

    def to_host(self, vector: Tensor) -> Tensor:
        """Copy a vector that every process sees whole into the host's memory."""
        return vector.to("cpu", copy=True)

    def gather_floats(self, numbers: list[float]) -> list[float]:
        """Gather every process's numbers (the same count from each), by rank."""
        whole = torch.empty(len(numbers) * self.size, dtype=torch.float64, device=self.device)
        self.gather(torch.tensor(numbers, dtype=torch.float64, device=self.device), whole)
        return [float(number) for number in whole]

    def _sendable(self, tensor: Tensor) -> Tensor:
        """Bring a tensor where the network takes it from."""
        return tensor


class Staged(World):
    """A world whose processes share a GPU. Sums are computed on it; what is sent goes through the host's memory."""

    def _sendable(self, tensor: Tensor) -> Tensor:
        return tensor.cpu()


class Host(World):
    """A world on one host: weights and subtrees lie in memory that its processes share, and nothing is sent."""

    def weights(self, size: int) -> Tensor:
        return self._common(size)

    def subtree(self, size: int) -> Tensor:
        self._subtrees = self._common(self.size * size).chunk(self.size)
        return self._subtrees[self.rank]

    def exchange(self, subtree: Tensor) -> Tensor:
        """Sum in the slices themselves; each belongs to one process alone until `complete`."""
        torch.distributed.barrier()
        return tree_sum([other.chunk(self.size)[self.rank] for other in self._subtrees])

    def complete(self, weights: Tensor) -> None:
        torch.distributed.barrier()

    def _common(self, size: int) -> Tensor:
        """Allocate zeros in unnamed memory of rank 0, which is freed with the last process, however that ends."""
        file = os.memfd_create("everystep") if self.rank == 0 else -1
        if self.rank == 0:
            os.ftruncate(file, size * torch.float32.itemsize)
        owner, number, *_ = self.gather_floats([os.getpid(), file])
        with Path(f"/proc/{owner:.0f}/fd/{number:.0f}").open("r+b") as common:
            memory = mmap.mmap(common.fileno(), 0)
        torch.distributed.barrier()
        if self.rank == 0:
            os.close(file)
        return torch.frombuffer(memory, dtype=torch.float32)


def tree_sum(parts: list[Tensor]) -> Tensor:
    """Sum a power of two of tensors as ((a + b) + (c + d)) ..., into the first of each pair."""
    while len(parts) > 1:
        parts = [left.add_(right) for left, right in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


class TreeSum:
    """A tree sum of tensors that are filled one after another, in as few buffers as it takes: `root`, which ends up
    holding the sum, and log2(n) others."""

    def __init__(self, root: Tensor) -> None:
        self._root = root
        self._stack: list[tuple[int, Tensor]] = []
        self._free = [root]

    def buffer(self) -> Tensor:
        """Return a vector of zeros to fill and then `add`. The first one is the root, which absorbs all others."""
        return self._free.pop().zero_() if self._free else torch.zeros_like(self._root)

    def add(self, tensor: Tensor) -> None:
        height = 0
        while self._stack and self._stack[-1][0] == height:
            left = self._stack.pop()[1].add_(tensor)
            self._free.append(tensor)
            tensor, height = left, height + 1
        self._stack.append((height, tensor))

    def total(self) -> Tensor:
        """Return the sum of a power of two of tensors. It is valid until the next `buffer`, which reuses its memory."""
        ((_, root),) = self._stack
        self._stack.clear()
        self._free.append(root)
        return root


def open_store() -> TCPStore:
    """Open the meeting point of the processes of one machine: a free port on the loopback, closed with this process."""
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


@contextmanager
def joined(rank: int, size: int, store: Store | int | None) -> Iterator[World]:
    """Join as rank `rank` of `size` processes that meet at a store or its port; None: as torchrun's variables say."""
    device = device_of(int(os.environ.get("LOCAL_RANK", rank)))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        yield World(0, 1, device)
        return
    if isinstance(store, int):
        store = TCPStore("127.0.0.1", store, is_master=False)
    on_one_host = size if store is not None else int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    shares_gpu = device.type == "cuda" and on_one_host > torch.cuda.device_count()
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" and not shares_gpu else "gloo",
        init_method="env://" if store is None else None,
        store=store,
        rank=rank,
        world_size=size,
        timeout=timedelta(minutes=MINUTES_TO_WAIT),
    )
    kind = Staged if shares_gpu else Host if device.type == "cpu" and on_one_host == size else World
    try:
        yield kind(rank, size, device)
    finally:
        torch.distributed.destroy_process_group()


def device_of(rank: int) -> torch.device:
    """Choose the device of process `rank` of this host: a GPU if there are any, and the class is not `portable`."""
    return torch.device("cpu") if is_on_cpu() else torch.device("cuda", rank % torch.cuda.device_count())


def fitting(processes: int) -> int:
    """Return the largest power of two of processes, up to this many, of which each has a device of its own."""
    return processes if is_on_cpu() else min(processes, 1 << torch.cuda.device_count().bit_length() - 1)
