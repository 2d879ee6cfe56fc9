"""Parallel map over parts, on this machine or a cluster, with results in the order of the parts.

`executor` in `params.yaml` chooses processes of this machine, a Ray cluster or Slurm. That is execution, not
identity: it is in no manifest and changes no byte. A killed worker leaves no partial file, because every writer is
atomic; its part is done again.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from pipeline.base.errors import EverystepError
from pipeline.base.params import load_section
from pipeline.executor.calls import leftovers
from pipeline.executor.processes import on_processes
from pipeline.executor.settings import ExecutorParams

Part = TypeVar("Part")
Result = TypeVar("Result")
EXECUTOR, WORKERS = "EVERYSTEP_EXECUTOR", "EVERYSTEP_WORKERS"
NAMES = ("local", "ray", "slurm")


def ordered_map(function: Callable[[Part], Result], parts: Sequence[Part]) -> Iterator[Result]:
    """Compute `map(function, parts)` with several workers; the first exception of a part ends it.

    `function` must be importable by its name, or a `partial` of such a function; arguments and results can be pickled.
    """
    if not parts:
        return
    settings = chosen_executor()
    if left := leftovers():
        from pipeline.executor.cluster import clear  # loads datatrove, which takes a second

        clear(left)
    if settings.name == "local":
        yield from on_processes(function, parts, min(settings.workers or _processors(), len(parts)))
    else:
        from pipeline.executor.cluster import on_cluster

        yield from on_cluster(settings, function, parts)


def chosen_executor() -> ExecutorParams:
    """Read the section `executor`; `EVERYSTEP_EXECUTOR` and `EVERYSTEP_WORKERS` override it."""
    settings = load_section(ExecutorParams, "executor")
    name, workers = os.environ.get(EXECUTOR, ""), os.environ.get(WORKERS, "")
    if name and name not in NAMES:
        raise EverystepError(f"{EXECUTOR}={name}: set it to one of {', '.join(NAMES)}, or unset it")
    if workers and not (workers.isdecimal() and int(workers) > 0):
        raise EverystepError(f"{WORKERS}={workers}: set it to a number of processes greater than 0, or unset it")
    asked = {"name": name or settings.name, "workers": int(workers) if workers else settings.workers}
    return settings.model_copy(update=asked)


def _processors() -> int:
    return len(os.sched_getaffinity(0))
