"""Worker processes that check files in parallel; none outlives the process that started it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from pipeline.base.console import note
from pipeline.base.errors import EverystepError


def parallel_map(function: Callable[..., Any], parts: Iterable[Any], processes: int) -> Iterator[Any]:
    """Map `function` over `parts` in this many processes, results in order; in this process if one is enough."""
    if processes == 1:
        yield from map(function, parts)
        return
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin)
    try:
        yield from executor.map(function, parts)
    except BaseException as error:
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
        if isinstance(error, BrokenProcessPool):
            raise EverystepError(
                "a process that checks rows was killed, perhaps because memory ran out; run the same command again: "
                "what was checked is kept"
            ) from error
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def end_with_parent(message: str | None = None) -> None:
    """Have this process end, however busy it is, when the one that started it ends; with a message, if there is one."""
    threading.Thread(target=_wait_for_parent, args=(message,), daemon=True).start()


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()


def _wait_for_parent(message: str | None) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    if message:
        note(message)
    os.kill(os.getpid(), signal.SIGKILL)
