"""Processes of this machine that do parts of a stage, one at a time each.

Not a `ProcessPoolExecutor`: that one breaks as a whole when a process is killed and does not say over which part, and
its processes outlive a stage that was killed. What is imported here, each process imports before its first part.
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
from pipeline.executor.calls import TRIES, Outcome, outcome_of

Part = TypeVar("Part")
Result = TypeVar("Result")
AHEAD = 2  # parts under way per process, so that a slow consumer does not pile up results


def on_processes(function: Callable[[Part], Result], parts: Sequence[Part], num: int) -> Iterator[Result]:
    """`map(function, parts)` by `num` processes; by this one alone if one is enough."""
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
"""Those that are through with a call, libraries loaded: a stage calls several times. They end with this process."""


class _Worker:
    """A process for one part at a time, started anew when it was killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_over = False
        self._start()

    def run(self, function: Callable[[Any], Any], part: Any) -> Outcome | None:
        """What became of the part; None if the process was killed."""
        try:
            self._pipe.send((function, part))
            outcome: Outcome = self._pipe.recv()
        except (EOFError, OSError):
            with self._lock:
                self._process.join()
                if self._is_over or self._process.exitcode == -signal.SIGINT:
                    return Outcome(error=KeyboardInterrupt())
                self._start()
            return None
        return outcome

    def end(self) -> None:
        """Kill the process, idle or not; it is not started again."""
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
    """A worker process: part after part, until there is nobody to give the result to."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            function, part = pipe.recv()
        except EOFError:
            return
        pipe.send(outcome_of(function, part))


def _end_with_parent() -> None:
    """A stage that was killed leaves no process that still writes while the stage runs again."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
