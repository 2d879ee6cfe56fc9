"""A watch over the processes of a job: one that no longer answers ends the others, and they say which one it was.

Each process has a thread that tells a store (a small server that all can reach) again and again that it lives, what it
does and on which host. The first process compares what all say; the others look at the first one and at its verdict.
A process that is slow is heard all the same, so it ends nothing, however long a step takes. One that was stopped, or
that the network cut off, is not: after `EVERYSTEP_PATIENCE` seconds all others end. Nothing is lost, because a start
goes on from the last checkpoint.

Silence is counted in short spans in which this process itself ran: after Ctrl-Z and `fg`, nobody is late.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

from pipeline.base.console import note
from pipeline.base.errors import Differs, EverystepError

PATIENCE = "EVERYSTEP_PATIENCE"
SECONDS = 600.0
START = 60.0
"""Seconds in which a process must be heard for the first time, if the patience is shorter: libraries load slowly."""
AGAIN = "run the same command again to go on from the last checkpoint"
_VERDICT = "everystep/verdict"
DONE = -1
"""The last number of a process."""


def patience() -> float:
    """Return the seconds of silence after which a process is given up: `EVERYSTEP_PATIENCE`, or ten minutes."""
    asked = os.environ.get(PATIENCE, "") or str(SECONDS)
    try:
        seconds = float(asked)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds < float("inf"):
        raise EverystepError(f"{PATIENCE}={asked}: give a number of seconds, at least 1")
    return seconds


class Beat(NamedTuple):
    """What a process last said of itself; `number` grows each time, until it is done."""

    number: int
    doing: str
    waits: bool
    host: str


class Verdict(NamedTuple):
    """Why a job ends, in all its processes."""

    code: int
    """The exit code."""
    text: str


class Watch:
    """This process's part of the watch. Use as a context manager around the job.

    `store` must be a connection of its own. `leave` ends this process at once, whatever it is doing, with
    a message and an exit code.
    """

    def __init__(self, rank: int, size: int, store: Any, leave: Callable[[str, int], None]) -> None:
        self.doing, self.waits = "work", False
        self._rank, self._size, self._store, self._leave = rank, size, store, leave
        self._patience = patience()
        self._span = min(2.0, self._patience / 8)
        self._others = [other for other in range(size) if other != rank]
        self._watched = self._others if rank == 0 else [0]
        self._beats: dict[int, Beat] = {}
        self._silence = dict.fromkeys(self._others, 0.0)
        self._verdict: Verdict | None = None
        self._over = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._talk, self._judge)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the watch. A failure is told to the others, unless it was that of another process: then it is named."""
        reason = self._reason_elsewhere() if isinstance(error, RuntimeError) else None
        self._over.set()
        if error is not None:
            about = str(error) if isinstance(error, EverystepError) else f"{type(error).__name__}: {error}"
            ours = f"process {self._rank} of {self._size} on {platform.node()} failed at {self.doing}: {about}"
            self._tell(reason or Verdict(getattr(error, "exit_code", EverystepError.exit_code), ours))
        for thread in self._threads:
            thread.join(timeout=self._span)
        if error is None:
            with suppress(RuntimeError):  # the store may be gone with a process that was done before
                self._say(DONE)
        if reason is not None:
            raise (Differs if reason.code == Differs.exit_code else EverystepError)(reason.text) from error

    def _reason_elsewhere(self) -> Verdict | None:
        """Listen to all for some spans, after an exchange failed: what another process said, or which one is silent."""
        self._watched = self._others
        until = time.monotonic() + 4 * self._span
        while time.monotonic() < until and self._verdict is None:
            time.sleep(self._span / 4)
        lost = self._most_silent()
        if self._verdict is None and self._silence[lost] > 2 * self._span:
            return Verdict(EverystepError.exit_code, f"{self._name(lost)} ended or cannot be reached; {AGAIN}")
        return self._verdict

    def _talk(self) -> None:
        """Tell what this process does, and hear the others. Where the store is gone, its process falls silent."""
        number = 0
        with suppress(RuntimeError):
            while not self._over.is_set():
                number += 1
                self._say(number)
                for other in self._watched:
                    if (said := self._get(_key(other))) is not None:
                        self._beats[other] = Beat(*json.loads(said))
                if (verdict := self._get(_VERDICT)) is not None:
                    self._verdict = Verdict(*json.loads(verdict))
                self._over.wait(self._span)

    def _say(self, number: int) -> None:
        beat = Beat(number, self.doing, self.waits, platform.node())
        self._store.set(_key(self._rank), json.dumps(beat))

    def _get(self, key: str) -> str | None:
        return self._store.get(key).decode() if self._store.check([key]) else None

    def _judge(self) -> None:
        """Give up a process that has been silent for too long."""
        before: dict[int, Beat] = {}
        waited, last = 0.0, time.monotonic()
        while not self._over.wait(self._span):
            span, last = min(time.monotonic() - last, 2 * self._span), time.monotonic()
            now = dict(self._beats)
            for other in self._watched:
                heard = now.get(other)
                is_silent = heard == before.get(other) and (heard is None or heard.number != DONE)
                self._silence[other] = self._silence[other] + span if is_silent else 0.0
            before = now
            if self._verdict is not None:
                self._leave(self._verdict.text, self._verdict.code)
                return
            lost = self._most_silent()
            limit = self._patience if lost in now else max(self._patience, START)
            if self._silence[lost] > limit:
                silent = f"{self._name(lost)} has not answered for {limit:.0f} seconds; {AGAIN}"
                verdict = Verdict(EverystepError.exit_code, silent)
                if self._tell(verdict):
                    time.sleep(2 * self._span)  # the others read it
                self._leave(verdict.text, verdict.code)
                return
            waited = self._note_slow(waited + span) if self.waits else 0.0

    def _most_silent(self) -> int:
        return max(self._watched, key=lambda other: self._silence[other])

    def _note_slow(self, waited: float) -> float:
        """Name the processes that all others wait for, again after each tenth of the patience."""
        if self._rank or waited < self._patience / 10:
            return waited
        slow = [other for other, beat in sorted(self._beats.items()) if not beat.waits]
        if slow:
            note(f"note: the others wait for {' and '.join(map(self._name, slow))} which still computes")
        return 0.0

    def _tell(self, verdict: Verdict) -> bool:
        """Publish a verdict, unless there is one; False if the store does not answer."""
        done = threading.Event()

        def tell() -> None:
            with suppress(RuntimeError):
                self._store.compare_set(_VERDICT, "", json.dumps(verdict))
                done.set()

        threading.Thread(target=tell, daemon=True).start()
        return done.wait(self._span)

    def _name(self, other: int) -> str:
        beat = self._beats.get(other)
        if beat is None:
            return f"process {other} of {self._size}, from which nothing was heard,"
        return f"process {other} of {self._size} on {beat.host}, at {beat.doing},"


def _key(rank: int) -> str:
    return f"everystep/beat/{rank}"
