"""The launch of a job's processes in their numerics class. No torch is loaded before the class is set.

Rank 0 is the calling process: its peers end when it ends, however it ends, and it reports why a peer ended. Under
torchrun (`RANK` is set) the caller is one of the ranks that torchrun started, on any number of nodes.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from pipeline.base.errors import EverystepError
from pipeline.base.paths import RECIPES
from trainer import numerics
from trainer.startup import Startup, fault_of
from trainer.watch import AGAIN
from trainer.workers import end_with_parent

if TYPE_CHECKING:
    from trainer.recipe import Recipe

PROCESSES = "EVERYSTEP_PROCESSES"
SHARDS = "EVERYSTEP_SHARDS"
"""If set, a training runs in this many processes, and each of them holds its rows of every tensor (`trainer.sharded`)
instead of all weights. Class `native` only: it decides bits."""
MOST = 64
"""Largest number of processes that can share an optimizer (`trainer.optimizer.BLOCKS`)."""


def default_processes(num_leaves: int) -> int:
    """Return `EVERYSTEP_PROCESSES`, or the largest power of two that fits the processors and the leaves of the sum.

    Where GPUs compute, `launch` takes at most one process for each, unless the variable asks for more.
    """
    most = min(num_leaves, MOST)
    asked = os.environ.get("WORLD_SIZE", "") or os.environ.get(PROCESSES, "")
    if asked:
        if not _is_power_of_two(asked) or int(asked) > most:
            raise EverystepError(
                f"{asked} processes: give a power of two up to {most}, so that each gets the same number of the "
                f"recipe's micro-batches ({PROCESSES}, or torchrun's --nnodes times --nproc-per-node)"
            )
        return int(asked)
    fitting = min(len(os.sched_getaffinity(0)), most)
    return 1 << fitting.bit_length() - 1


def num_shards() -> int:
    """Return over how many processes a training is sharded: `EVERYSTEP_SHARDS`, or 1."""
    asked = os.environ.get(SHARDS, "") or "1"
    if not _is_power_of_two(asked):
        raise EverystepError(f"{SHARDS}={asked}: give a power of two, the number of processes")
    return int(asked)


def _is_power_of_two(text: str) -> bool:
    return text.isdecimal() and int(text) > 0 and not int(text) & (int(text) - 1)


def launch_training(job: Callable[..., Any], recipe: "Recipe", *arguments: Any) -> Any:
    """Launch a job that trains: in as many processes as there are shards, if `EVERYSTEP_SHARDS` asks for it."""
    shards, leaves = num_shards(), recipe.data.num_leaves
    if shards == 1:
        return launch(job, default_processes(leaves), recipe.numerics, *arguments)
    asked = os.environ.get("WORLD_SIZE", "") or os.environ.get(PROCESSES, "") or str(shards)
    if recipe.numerics != "native":
        raise EverystepError(
            f"{SHARDS}={shards}: {RECIPES}/{recipe.name}.yaml has numerics: {recipe.numerics}, whose bits may not "
            f"depend on the number of processes; unset {SHARDS}, or train with numerics: native"
        )
    if shards > leaves:
        raise EverystepError(
            f"{SHARDS}={shards}: {RECIPES}/{recipe.name}.yaml has micro-batches for {leaves} processes at most; "
            "choose fewer shards, or a smaller data.micro_batch"
        )
    if asked != str(shards):
        raise EverystepError(
            f"{SHARDS}={shards}, but {asked} processes: each has one shard, so set {PROCESSES}, or torchrun's --nnodes "
            f"times --nproc-per-node, to {shards}"
        )
    return launch(job, shards, recipe.numerics, *arguments, needs_all=True)


def launch(
    job: Callable[..., Any], processes: int, numerics_class: str, *arguments: Any, needs_all: bool = False
) -> Any:
    """Run `job(world, *arguments)` in every process, and return what it returns at rank 0.

    `job` and `arguments` are pickled for the peers, so `job` is a function of a module that loads no torch. On GPUs it
    runs in fewer processes if some would have none for themselves, unless it `needs_all` or the environment asks.
    """
    numerics.prepare(numerics_class)
    with Startup() as startup:
        if "RANK" in os.environ:
            numerics.load(numerics_class)
            return _member(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), None, startup, job, arguments)
        if numerics_class == "native" and PROCESSES not in os.environ and not needs_all:  # as many as there are GPUs
            numerics.load(numerics_class)
            from trainer.parallel import fitting

            processes = fitting(processes)
        if processes > 1:
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        # The peers load their libraries while this process loads its own, and then hear where to meet.
        ports = [_start_peer(startup, rank, processes, numerics_class, job, arguments) for rank in range(1, processes)]
        numerics.load(numerics_class)
        if processes == 1:
            return _member(0, 1, None, startup, job, arguments)
        from trainer.parallel import open_store

        store = open_store()
        for port in ports:
            with suppress(BrokenPipeError):  # a peer that has ended: the watch says how
                port.send(store.port)
        return _lead(processes, store, startup, job, arguments)


def _start_peer(
    startup: Startup,
    rank: int,
    processes: int,
    numerics_class: str,
    job: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> Connection:
    """Start a process; return the end of a pipe through which it waits for the port of the meeting point."""
    context = multiprocessing.get_context("spawn")
    said, tell = context.Pipe(duplex=False)
    port, send_port = context.Pipe(duplex=False)
    about = (rank, processes, port, numerics_class, tell, job, arguments)
    startup.add_peer(context.Process(target=_peer, args=about, daemon=True), said)
    tell.close()
    port.close()
    return send_port


def _lead(processes: int, store: Any, startup: Startup, job: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Run the job as rank 0. Interrupted or refused, it kills its peers before they report its loss at length."""

    def work(world: Any, *rest: Any) -> Any:
        try:
            return job(world, *rest)
        except (KeyboardInterrupt, EverystepError):
            for peer, _ in startup.peers:
                peer.kill()
            raise
        except RuntimeError as error:  # among others, what torch raises when a peer is gone
            # the network notices its end before we do
            if fault := fault_of(startup.peers, within=1, at=f" at {world.watch.doing}"):
                raise fault from error
            raise

    try:
        return _member(0, processes, store, startup, work, arguments)
    finally:
        for peer, _ in startup.peers:
            peer.join(timeout=5)
            peer.kill()


def _peer(
    rank: int,
    size: int,
    port: Connection,
    numerics_class: str,
    tell: Connection,
    job: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; rank 0 answers it
    end_with_parent(f"error: process 0 of {size} was killed; {AGAIN}")
    try:
        numerics.enter(numerics_class)
        with Startup() as startup:
            _member(rank, size, port.recv(), startup, job, arguments)
    except EverystepError as error:
        tell.send(error)
        sys.exit(error.exit_code)


def _member(
    rank: int, size: int, store: Any, startup: Startup, job: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    from trainer.parallel import joined

    with joined(rank, size, store, lambda message, code: startup.leave(f"error: {message}", code)) as world:
        startup.end()
        return job(world, *arguments)
