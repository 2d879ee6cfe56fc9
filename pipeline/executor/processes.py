"""Worker processes on this machine, each of which does one part of a stage at a time.

A `ProcessPoolExecutor` would not do: it breaks as a whole when a process is killed, does not say which part was lost,
and its processes outlive a stage that was killed. Each process imports this module's imports before its first part.
"""

import multiprocessing
import os
import reprlib
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, TypeVar

from pipeline.base.errors import EverystepError
from pipeline.executor.calls import TRIES, PartResult, part_result

Part = TypeVar("Part")
Result = TypeVar("Result")
AHEAD = 2  # parts in flight per process, so that results do not pile up for a slow consumer


def on_processes(function: Callable[[Part], Result], parts: Sequence[Part], num: int) -> Iterator[Result]:
    """Compute `map(function, parts)` with `num` processes, or in this one if `num` is 1."""
    if num == 1:
        yield from map(function, parts)
        return
    workers = [_idle.pop() if _idle else _Worker() for _ in range(num)]
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def run(number: int) -> Any:
        worker = idle.get()
        try:
            for _ in range(TRIES):
                if outcome := worker.run(function, parts[number]):
                    return outcome.result()
            part = f"part {number + 1} of {len(parts)} ({reprlib.repr(parts[number])})"
            raise EverystepError(f"{part}: its worker died {TRIES} times; if memory ran out, use fewer workers")
        finally:
            idle.put(worker)

    with ThreadPoolExecutor(num) as threads:
        under_way: deque[Future[Any]] = deque()
        try:
            for number in range(len(parts)):
                under_way.append(threads.submit(run, number))
                if len(under_way) == num * AHEAD:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
            _idle.extend(workers)
            workers = []
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.end()


_idle: list["_Worker"] = []
"""Workers that have finished a call and keep their libraries for the next call of the stage. They end with it."""


class _Worker:
    """Process for one part at a time; it is restarted after it was killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_over = False
        self._start()

    def run(self, function: Callable[[Any], Any], part: Any) -> PartResult | None:
        """Do a part and return its result; None if the process was killed."""
        try:
            self._pipe.send((function, part))
            outcome: PartResult = self._pipe.recv()
        except (EOFError, OSError):
            with self._lock:
                self._process.join()
                if self._is_over or self._process.exitcode == -signal.SIGINT:
                    return PartResult(error=KeyboardInterrupt())
                self._start()
            return None
        return outcome

    def end(self) -> None:
        """Kill the process, idle or not, without a restart."""
        with self._lock:
            self._is_over = True
            self._process.kill()
            self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()


def _serve(pipe: Connection) -> None:
    """Do part after part in a worker process, until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            function, part = pipe.recv()
        except EOFError:
            return
        pipe.send(part_result(function, part))


def _end_with_parent() -> None:
    """End with the parent, so that no process of a killed stage still writes while the stage runs again."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
