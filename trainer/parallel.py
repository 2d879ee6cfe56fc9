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
import platform
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from pipeline.base.errors import EverystepError
from trainer.numerics import is_on_cpu
from trainer.watch import START, Watch, patience

NO_LIMIT = timedelta(days=365)
"""What torch gets as the time that an exchange may take: `trainer.watch` knows better whether others live."""
# Their names from torch 2.12 on, and before.
all_gather = getattr(torch.distributed, "all_gather_single", None) or torch.distributed.all_gather_into_tensor
reduce_scatter = getattr(torch.distributed, "reduce_scatter_single", None) or torch.distributed.reduce_scatter_tensor


class World:
    """This process among its peers."""

    def __init__(self, rank: int, size: int, device: torch.device | None = None) -> None:
        self.rank = rank
        self.size = size
        self.device = device or torch.device("cpu")
        self.watch: Watch | None = None

    def begin(self, doing: str, waits: bool = False) -> None:
        """Have others know what this process does, or that it has done its part and waits."""
        if self.watch is not None:
            self.watch.doing, self.watch.waits = doing, waits

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

    def rows(self, total: int) -> tuple[int, int]:
        """Return the rows [start, stop) of a matrix of `total` that this process owns, as `shard` deals them out."""
        each = -(-total // self.size)
        return min(self.rank * each, total), min((self.rank + 1) * each, total)

    def gather_rows(self, owned: Tensor, total: int) -> Tensor:
        """Gather a matrix of `total` rows, of which each process owns those that `rows` says."""
        each = -(-total // self.size)
        sent = owned.new_zeros(each, *owned.shape[1:])
        sent[: len(owned)] = owned
        whole = owned.new_empty(self.size * each, *owned.shape[1:])
        self.gather(sent, whole)
        return whole[:total]

    def shard(self, model: nn.Module, units: Sequence[nn.Module]) -> None:
        """Have each process hold its rows of every parameter of `model`, from now on a `DTensor`, and of its gradient.

        Each unit is gathered when it computes, and what is in none of them while the model computes its loss
        (`fully_shard`, the second version of FSDP; Zhao et al., 2023). Gradients are summed over the processes.
        """
        # here, because these imports take half a second
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        mesh = init_device_mesh(self.device.type, (self.size,))
        for module in (*units, model):
            sharded = fully_shard(module, mesh=mesh)
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)
            self._choose_collectives(sharded)
        register_fsdp_forward_method(model, "loss")

    def place_gradient(self, parameter: Any, rows: Tensor) -> None:
        """Have the gradient of a sharded parameter summed in `rows`."""
        from torch.distributed.tensor import DTensor

        spread = parameter.device_mesh, parameter.placements
        about: dict[str, Any] = {"shape": parameter.shape, "stride": parameter.stride()}
        parameter.grad = DTensor.from_local(rows, *spread, run_check=False, **about)

    def _choose_collectives(self, sharded: Any) -> None:
        """Replace what gathers weights and sums gradients of a sharded module, if torch's own does not work here."""

    def _sendable(self, tensor: Tensor) -> Tensor:
        """Bring a tensor where the network takes it from."""
        return tensor


class Staged(World):
    """A world whose processes share a GPU. Sums are computed on it; what is sent goes through the host's memory."""

    def _sendable(self, tensor: Tensor) -> Tensor:
        return tensor.cpu()

    def _choose_collectives(self, sharded: Any) -> None:
        sharded.set_custom_all_gather(_StagedGather())
        sharded.set_custom_reduce_scatter(_StagedSum())


class _Allocating:
    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class _StagedGather(_Allocating):
    """What `fully_shard` gathers weights with, through the host's memory."""

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False) -> None:
        received = output_tensor.cpu()
        all_gather(received, input_tensor.cpu(), group=group)
        output_tensor.copy_(received)


class _StagedSum(_Allocating):
    """What `fully_shard` sums gradients with, through the host's memory."""

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False
    ) -> None:
        received = output_tensor.cpu()
        reduce_scatter(received, input_tensor.cpu(), op=op, group=group)
        output_tensor.copy_(received)


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
    """Open the meeting point of the processes of one machine: a free port, closed with this process. By itself torch
    would listen to the network, too."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    return TCPStore(
        "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach(), use_libuv=True
    )


@contextmanager
def joined(rank: int, size: int, store: Store | int | None, leave: Callable[[str, int], None]) -> Iterator[World]:
    """Join as rank `rank` of `size` processes that meet at a store or its port; None: as torchrun's variables say.

    Until the end a watch has `leave` end this process when another one no longer answers, so no exchange needs a limit.
    """
    device = device_of(int(os.environ.get("LOCAL_RANK", rank)))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        yield World(0, 1, device)
        return
    on_one_host = size if store is not None else int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    shares_gpu = device.type == "cuda" and on_one_host > torch.cuda.device_count()
    kind = Staged if shares_gpu else Host if device.type == "cpu" and on_one_host == size else World
    world = kind(rank, size, device)
    store = _met(rank, size, store)
    with Watch(rank, size, store.clone(), leave) as world.watch:  # type: ignore[attr-defined]
        torch.distributed.init_process_group(
            "nccl" if device.type == "cuda" and not shares_gpu else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=NO_LIMIT,
        )
        try:
            yield world
        finally:
            torch.distributed.destroy_process_group()


def _met(rank: int, size: int, store: Store | int | None) -> Store:
    """Connect to the store where the processes meet."""
    seconds = max(patience(), START)
    timeout = timedelta(seconds=seconds)
    try:
        if isinstance(store, int):
            return TCPStore("127.0.0.1", store, is_master=False, timeout=timeout)
        if store is not None:
            return store
        met: Iterator[Any] = torch.distributed.rendezvous("env://", rank, size, timeout=timeout)  # type: ignore[attr-defined]
        return next(met)[0]  # type: ignore[no-any-return]
    except RuntimeError as error:
        where = (
            ":".join(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT")) if store is None else store
        )
        raise EverystepError(
            f"process {rank} of {size} on {platform.node()} did not meet the others at {where} within "
            f"{seconds:.0f} seconds: {str(error).splitlines()[0]}"
        ) from error


def device_of(rank: int) -> torch.device:
    """Choose the device of process `rank` of this host: a GPU if there are any, and the class is not `portable`."""
    return torch.device("cpu") if is_on_cpu() else torch.device("cuda", rank % torch.cuda.device_count())


def fitting(processes: int) -> int:
    """Return the largest power of two of processes, up to this many, of which each has a device of its own."""
    return processes if is_on_cpu() else min(processes, 1 << torch.cuda.device_count().bit_length() - 1)
