"""Start the processes of a job in their numerics class. Loads no torch before the class is set.

Rank 0 is the process that calls: when it is killed, its peers fail at their next exchange and end. Under
torchrun (`RANK` is set) the caller is one rank of those that torchrun started, on any number of nodes.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from typing import Any

from pipeline.formats.errors import EverystepError
from trainer import numerics

PROCESSES = "EVERYSTEP_PROCESSES"


def default_processes(num_micro_batches: int) -> int:
    """`EVERYSTEP_PROCESSES`, else the largest power of two that fits the processors and the micro-batches."""
    asked = os.environ.get(PROCESSES, "")
    if asked:
        if not asked.isdecimal() or int(asked) < 1 or int(asked) & (int(asked) - 1) or int(asked) > num_micro_batches:
            raise EverystepError(f"{PROCESSES}={asked}: give a power of two up to {num_micro_batches} (micro-batches)")
        return int(asked)
    fitting = min(len(os.sched_getaffinity(0)), num_micro_batches)
    return 1 << fitting.bit_length() - 1


def launch(job: Callable[..., Any], processes: int, numerics_class: str, *arguments: Any) -> Any:
    """Run `job(world, *arguments)` in every process, and return what it returns at rank 0.

    `job` and `arguments` are pickled for the peers, so `job` is a function of a module that loads no torch.
    """
    numerics.enter(numerics_class)
    if "RANK" in os.environ:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        return _member(rank, size, "env://", job, arguments)
    if processes == 1:
        return _member(0, 1, "", job, arguments)
    with tempfile.TemporaryDirectory(prefix="everystep-") as folder:
        address = f"file://{folder}/store"
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        peers = [
            multiprocessing.get_context("spawn").Process(
                target=_peer, args=(rank, processes, address, numerics_class, job, arguments), daemon=True
            )
            for rank in range(1, processes)
        ]
        for peer in peers:
            peer.start()
        try:
            return _member(0, processes, address, job, arguments)
        finally:
            for peer in peers:
                peer.join(timeout=5)
                peer.kill()


def _peer(
    rank: int, size: int, address: str, numerics_class: str, job: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    numerics.enter(numerics_class)
    _member(rank, size, address, job, arguments)


def _member(rank: int, size: int, address: str, job: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    from trainer.parallel import joined

    with joined(rank, size, address) as world:
        return job(world, *arguments)
