"""Start the processes of a job in their numerics class. Loads no torch before the class is set.

Rank 0 is the process that calls: when it is killed, its peers fail at their next exchange and end. Under
torchrun (`RANK` is set) the caller is one rank of those that torchrun started, on any number of nodes.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from pipeline.formats.errors import EverystepError
from trainer import numerics

PROCESSES = "EVERYSTEP_PROCESSES"
MOST = 64
"""Processes that can share an optimizer (`trainer.optimizer.BLOCKS`)."""


def default_processes(num_leaves: int) -> int:
    """`EVERYSTEP_PROCESSES`, else the largest power of two that fits the processors and the leaves of the sum."""
    most = min(num_leaves, MOST)
    asked = os.environ.get("WORLD_SIZE", "") or os.environ.get(PROCESSES, "")
    if asked:
        if not asked.isdecimal() or int(asked) < 1 or int(asked) & (int(asked) - 1) or int(asked) > most:
            raise EverystepError(
                f"{asked} processes: give a power of two up to {most}, so that each has equally many of the recipe's "
                f"micro-batches ({PROCESSES}, or torchrun's --nnodes times --nproc-per-node)"
            )
        return int(asked)
    fitting = min(len(os.sched_getaffinity(0)), most)
    return 1 << fitting.bit_length() - 1


def launch(job: Callable[..., Any], processes: int, numerics_class: str, *arguments: Any) -> Any:
    """Run `job(world, *arguments)` in every process, and return what it returns at rank 0.

    `job` and `arguments` are pickled for the peers, so `job` is a function of a module that loads no torch.
    """
    numerics.enter(numerics_class)
    from trainer.parallel import open_store

    if "RANK" in os.environ:
        return _member(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), None, job, arguments)
    if processes == 1:
        return _member(0, 1, None, job, arguments)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = open_store()
    peers = [
        multiprocessing.get_context("spawn").Process(
            target=_peer, args=(rank, processes, store.port, numerics_class, job, arguments), daemon=True
        )
        for rank in range(1, processes)
    ]

    def lead(world: Any, *rest: Any) -> Any:
        """Rank 0's share. Interrupted or refused, it ends its peers before they tell at length that they lost it."""
        try:
            return job(world, *rest)
        except (KeyboardInterrupt, EverystepError):
            for peer in peers:
                peer.kill()
            raise

    for peer in peers:
        peer.start()
    try:
        return _member(0, processes, store, lead, arguments)
    except RuntimeError as error:  # among others, what torch says when a peer is gone
        _say_who_was_killed(peers, error)
        raise
    finally:
        for peer in peers:
            peer.join(timeout=5)
            peer.kill()


def _say_who_was_killed(peers: Sequence[BaseProcess], error: RuntimeError) -> None:
    for rank, peer in enumerate(peers, 1):
        peer.join(timeout=1)  # its end is seen on the network before it is seen here
        if peer.exitcode and peer.exitcode < 0:
            raise EverystepError(
                f"process {rank} of {len(peers) + 1} was ended by signal {-peer.exitcode} (memory full, or killed); "
                "run the same command again"
            ) from error


def _peer(
    rank: int, size: int, port: int, numerics_class: str, job: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; rank 0 answers it
    numerics.enter(numerics_class)
    _member(rank, size, port, job, arguments)


def _member(rank: int, size: int, store: Any, job: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    from trainer.parallel import joined

    with joined(rank, size, store) as world:
        return job(world, *arguments)
