"""What a person sees of a command: progress with rate and time left, errors without tracebacks, exit codes.

Everything goes to stderr; nothing here is ever hashed.
"""

import errno
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from pipeline.formats.errors import EverystepError

INTERRUPTED = 130  # as shells say it
SECONDS_BETWEEN_LINES = 15.0
SECONDS_BETWEEN_FRAMES = 0.1
SECONDS_OF_RATE = 60.0
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Advance(Protocol):
    """Report `done` more units; `detail` replaces what stands behind the rate."""

    def __call__(self, done: float, detail: str = "") -> None: ...


def printable(text: str, keep: str = "\n\t") -> str:
    """Text from outside, made safe for a terminal: what would steer it is drawn or escaped, except for `keep`.

    Names of files, ids, titles and what a model says may hold escape sequences, marks that turn the direction of
    writing, and bytes that are not UTF-8 (which Python keeps as lone surrogates).
    """
    return UNPRINTABLE.sub(lambda match: match[0] if match[0] in keep else _drawn(match[0]), text)


def _drawn(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)  # the control pictures of Unicode
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def note(message: str) -> None:
    """One line on stderr."""
    print(printable(message), file=sys.stderr, flush=True)


def run_command(command: Callable[..., None], usage: str) -> None:
    """Call `command` with the program's arguments; a mendable fault is one message and an exit code."""
    arguments = sys.argv[1:]
    if len(arguments) != len(usage.split()):
        note(f"usage: python -m ... {usage}".rstrip())
        sys.exit(EverystepError.exit_code)
    try:
        command(*arguments)
    except EverystepError as error:
        note(f"error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        note(f"error: {error.filename or 'a file'}: the disk is full; free some room and run the same command again")
        sys.exit(EverystepError.exit_code)
    except KeyboardInterrupt:
        note("interrupted; run the same command again")
        sys.exit(INTERRUPTED)


@contextmanager
def progress(title: str, total: float | None, unit: str, quiet: bool = False, done: float = 0.0) -> Iterator[Advance]:
    """A bar on a terminal, else a line now and then. `total` may be unknown; `done` of it was done before."""
    if quiet:
        yield lambda done, detail="": None
    elif sys.stderr.isatty():
        with _bar(title, total, unit, done) as advance:
            yield advance
    else:
        with _lines(title, total, unit, done) as advance:
            yield advance


@contextmanager
def _bar(title: str, total: float | None, unit: str, before: float) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.table import Column

    columns = (
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=None, table_column=Column(min_width=4, ratio=1)),
        TaskProgressColumn(),
        TextColumn("{task.fields[told]}", markup=False, table_column=Column(no_wrap=True)),
    )
    pace = _Pace(before)
    with Progress(*columns, console=Console(stderr=True), expand=True) as bars:
        task = bars.add_task(title, total=total, told="")
        bars.update(task, completed=before)

        def advance(done: float, detail: str = "") -> None:
            if pace.count(done, detail, SECONDS_BETWEEN_FRAMES):
                bars.update(task, completed=pace.done, told=pace.told(total, unit))

        yield advance
        bars.update(task, completed=pace.done, told=pace.told_at_end(unit))


@contextmanager
def _lines(title: str, total: float | None, unit: str, before: float) -> Iterator[Advance]:
    pace = _Pace(before)
    of_total = f" of {total:,.0f}" if total else ""

    def advance(done: float, detail: str = "") -> None:
        if pace.count(done, detail, SECONDS_BETWEEN_LINES):
            note(f"{title}: {pace.done:,.0f}{of_total} {unit}, {pace.told(total, unit)}")

    yield advance
    note(f"{title}: {pace.done - before:,.0f} {unit} {pace.told_at_end(unit)}")


class _Pace:
    """What was done and how fast: over the last minute, so that a slow start or a pause does not blur what comes."""

    def __init__(self, done: float) -> None:
        self.done = self._before = done
        self._detail = ""
        self._began = self._told = time.monotonic()
        self._seen = deque([(self._began, done)])

    def count(self, done: float, detail: str, seconds: float) -> bool:
        """Add `done`; whether `seconds` have passed since it was last worth telling."""
        self.done += done
        self._detail = printable(detail, keep="") or self._detail
        now = time.monotonic()
        if now - self._seen[-1][0] >= 1:
            self._seen.append((now, self.done))
        while len(self._seen) > 2 and now - self._seen[1][0] > SECONDS_OF_RATE:
            self._seen.popleft()
        if now - self._told < seconds:
            return False
        self._told = now
        return True

    def told(self, total: float | None, unit: str) -> str:
        """`1,582 tokens/s, step 5 of 128, loss 6.123, 2:45 left`"""
        since, done = self._seen[0]
        rate = (self.done - done) / max(time.monotonic() - since, 1e-6)
        left = _clock((total - self.done) / rate) + " left" if total and rate else ""
        return ", ".join(filter(None, (f"{_rate(rate)} {unit}/s", self._detail, left)))

    def told_at_end(self, unit: str) -> str:
        """`in 2:50, 1,540 tokens/s, step 128 of 128, loss 4.321`"""
        seconds = time.monotonic() - self._began
        rate = (self.done - self._before) / max(seconds, 1e-6)
        took = f"in {seconds:.1f} s" if seconds < 60 else f"in {_clock(seconds)}"
        return ", ".join(filter(None, (took, f"{_rate(rate)} {unit}/s", self._detail)))


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _clock(seconds: float) -> str:
    """`0:07`, `12:34`, `5:00:00`, `3 days 4:00:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours}:{minutes:02}:{rest:02}" if hours or days else f"{minutes}:{rest:02}"
    return f"{days} days {clock}" if days else clock
