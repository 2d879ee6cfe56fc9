"""Work on many parts by several processes: results come in the order of the parts, whoever did them.

The number of processes is execution, not identity: it stands in no manifest and changes no byte.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from pipeline.formats.errors import EverystepError

Part = TypeVar("Part")
Result = TypeVar("Result")
WORKERS = "EVERYSTEP_WORKERS"
AHEAD = 2  # parts under way per process, so that a slow consumer does not pile up results


def num_workers() -> int:
    """Processes to use: `EVERYSTEP_WORKERS`, else one for each processor this process may run on."""
    asked = os.environ.get(WORKERS, "")
    if asked and not (asked.isdecimal() and int(asked) > 0):
        raise EverystepError(f"{WORKERS}={asked}: give a number of processes greater than 0, or unset it")
    return int(asked) if asked else len(os.sched_getaffinity(0))


def ordered_map(function: Callable[[Part], Result], parts: Sequence[Part]) -> Iterator[Result]:
    """`map(function, parts)` by several processes; the first exception of a part ends it."""
    workers = min(num_workers(), len(parts))
    if workers <= 1:
        yield from map(function, parts)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        pending = [pool.submit(function, part) for part in parts[: workers * AHEAD]]
        try:
            for i in range(len(parts)):
                yield pending[i].result()
                if len(pending) < len(parts):
                    pending.append(pool.submit(function, parts[len(pending)]))
                pending[i] = None  # type: ignore[call-overload]  # let go of the result
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
