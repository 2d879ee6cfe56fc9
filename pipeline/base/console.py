"""The terminal: progress with rate and time left, errors without tracebacks, exit codes.

Everything goes to stderr; nothing here is ever hashed. `exit_codes` surrounds every program, the stages and the command
`everystep`: it maps each fault that a user can fix to one message and an exit code.
"""

import errno
import re
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from pipeline.base.errors import EverystepError

INTERRUPTED = 130  # 128 + SIGINT, as in shells
SECONDS_BETWEEN_LINES = 15.0
SECONDS_BETWEEN_FRAMES = 0.1
SECONDS_OF_RATE = 60.0
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
FIXES = {
    errno.ENOSPC: "the disk is full; free some room and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some room and run the same command again",
    errno.EROFS: "cannot be written, the file system is read-only; work in a folder that you can write to",
    errno.EACCES: "permission denied; check the owner and mode of the file and of its folder",
    errno.EPERM: "the operation is not permitted; check the owner and mode of the file and of its folder",
    errno.EMFILE: "too many open files; raise the limit (`ulimit -n 4096`) and run the same command again",
}
"""Fixes for errors of the operating system whose own message does not say what to do."""


class Advance(Protocol):
    """Callback for progress: `done` more units are done. `detail` replaces the text after the rate."""

    def __call__(self, done: float, detail: str = "", total: float | None = None) -> None: ...


ReportTotal = Callable[[int, int | None], None]
"""Callback for progress that can fall back, as of a download: units done so far, and in all if known."""


def printable(text: str, keep: str = "\n\t") -> str:
    """Make text from outside safe for a terminal: draw or escape every control character except those in `keep`.

    File names, ids, titles and the output of a model may hold escape sequences, marks that change the direction of
    writing, and bytes that are not UTF-8 (which Python keeps as lone surrogates).
    """
    return UNPRINTABLE.sub(lambda match: match[0] if match[0] in keep else _drawn(match[0]), text)


def _drawn(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode's control pictures
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def note(message: str) -> None:
    """Print a line to stderr."""
    print(printable(message), file=sys.stderr, flush=True)


def run_command(command: Callable[..., None], usage: str) -> None:
    """Call `command` with the program's arguments, under `exit_codes`."""
    arguments = sys.argv[1:]
    if len(arguments) != len(usage.split()):
        note(f"usage: python -m ... {usage}".rstrip())
        sys.exit(EverystepError.exit_code)
    with exit_codes():
        command(*arguments)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn faults that a user can fix into one message and an exit code, without a traceback; wraps a whole program."""
    try:
        yield
    except EverystepError as error:
        note(f"error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:
        note(f"error: {explained(error)}")
        sys.exit(EverystepError.exit_code)
    except MemoryError:
        note("error: not enough memory for what the files claim to hold")
        sys.exit(EverystepError.exit_code)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C must not turn the exit code into a signal
        note("interrupted; run the same command again")
        sys.exit(INTERRUPTED)


def explained(error: OSError) -> str:
    """Describe an error of the operating system: the file, and the fix if one is known."""
    files = [str(name) for name in (error.filename, error.filename2) if name is not None]
    fix = FIXES.get(error.errno or 0)
    where = " -> ".join(files) or ("a file" if fix else type(error).__name__)
    return f"{where}: {fix or error.strerror or error}"


def total_of(advance: Advance) -> ReportTotal:
    """Adapt `advance` for code that reports totals."""
    before = 0

    def report(done: int, total: int | None) -> None:
        nonlocal before
        advance(done - before, total=total)
        before = done

    return report


@contextmanager
def progress(title: str, total: float | None, unit: str, quiet: bool = False, done: float = 0.0) -> Iterator[Advance]:
    """Show a bar on a terminal, else a line now and then. `total` may be unknown; `done` units were done before."""
    title = printable(title, keep="")
    if quiet:
        yield lambda done, detail="", total=None: None
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
        TextColumn("{task.fields[status]}", markup=False, table_column=Column(no_wrap=True)),
    )
    pace = _Pace(before, total, unit)
    with Progress(*columns, console=Console(stderr=True), expand=True) as bars:
        task = bars.add_task(title, total=total, status="")
        bars.update(task, completed=before)

        def advance(done: float, detail: str = "", total: float | None = None) -> None:
            if pace.count(done, detail, total, SECONDS_BETWEEN_FRAMES):
                bars.update(task, completed=pace.done, total=pace.total, status=pace.status())

        yield advance
        bars.update(task, completed=pace.done, total=pace.total, status=pace.summary())


@contextmanager
def _lines(title: str, total: float | None, unit: str, before: float) -> Iterator[Advance]:
    pace = _Pace(before, total, unit)

    def advance(done: float, detail: str = "", total: float | None = None) -> None:
        if pace.count(done, detail, total, SECONDS_BETWEEN_LINES):
            note(f"{title}: {pace.reached()}, {pace.status()}")

    yield advance
    note(f"{title}: {amount(pace.done - before, unit)} {pace.summary()}")


class _Pace:
    """Units done and their rate over the last minute, so that a slow start or a pause does not distort the estimate."""

    def __init__(self, done: float, total: float | None, unit: str) -> None:
        self.done = self._before = done
        self.total = total
        self._unit = unit
        self._detail = ""
        self._began = self._shown = time.monotonic()
        self._seen = deque([(self._began, done)])

    def count(self, done: float, detail: str, total: float | None, seconds: float) -> bool:
        """Add `done`; return whether `seconds` have passed since progress was last shown."""
        self.done += done
        self.total = total or self.total
        self._detail = printable(detail, keep="") or self._detail
        now = time.monotonic()
        if now - self._seen[-1][0] >= 1:
            self._seen.append((now, self.done))
        while len(self._seen) > 2 and now - self._seen[1][0] > SECONDS_OF_RATE:
            self._seen.popleft()
        if now - self._shown < seconds:
            return False
        self._shown = now
        return True

    def reached(self) -> str:
        """`7 of 26 shards`, `7.9 MB of 45.0 MB`; without a total `7 shards`."""
        if not self.total:
            return amount(self.done, self._unit)
        if self._unit == "bytes":
            return f"{in_bytes(self.done)} of {in_bytes(self.total)}"
        return f"{self.done:,.0f} of {amount(self.total, self._unit)}"

    def status(self) -> str:
        """`1,582 tokens/s, step 5 of 128, loss 6.123, 2:45 left`"""
        since, done = self._seen[0]
        rate = (self.done - done) / max(time.monotonic() - since, 1e-6)
        left = clock((self.total - self.done) / rate) + " left" if self.total and rate else ""
        return ", ".join(filter(None, (f"{amount(rate, self._unit)}/s", self._detail, left)))

    def summary(self) -> str:
        """`in 2:50, 1,540 tokens/s, step 128 of 128, loss 4.321`"""
        seconds = time.monotonic() - self._began
        rate = (self.done - self._before) / max(seconds, 1e-6)
        took = f"in {seconds:.1f} s" if seconds < 60 else f"in {clock(seconds)}"
        return ", ".join(filter(None, (took, f"{amount(rate, self._unit)}/s", self._detail)))


def amount(number: float, unit: str) -> str:
    """Format as `1,582 tokens`, `1 shard`, `0.5 shards`; bytes as `7.9 MB`."""
    if unit == "bytes":
        return in_bytes(number)
    shown = f"{number:,.0f}" if number >= 10 else f"{number:.2g}"
    return f"{shown} {unit.removesuffix('s') if shown == '1' else unit}"


def in_bytes(number: float) -> str:
    """Format as `512 bytes`, `7.9 MB`, `1.2 GB`: powers of 1,000, as disks and networks are sold."""
    if number < 999.5:
        return f"{number:.0f} bytes"
    units = ["kB", "MB", "GB", "TB", "PB"]
    power = next((power for power in range(1, len(units)) if number / 1000**power < 999.95), len(units))
    return f"{number / 1000**power:,.1f} {units[power - 1]}"


def clock(seconds: float) -> str:
    """Format as `0:07`, `12:34`, `5:00:00`, `1 day 0:00:00`, `3 days 4:00:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    shown = f"{hours}:{minutes:02}:{rest:02}" if hours or days else f"{minutes}:{rest:02}"
    return f"{days} {'day' if days == 1 else 'days'} {shown}" if days else shown
