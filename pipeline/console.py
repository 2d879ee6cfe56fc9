"""What a person sees of a command: progress with rate and time left, errors without tracebacks, exit codes.

Everything goes to stderr; nothing here is ever hashed.
"""

import errno
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from pipeline.formats.errors import EverystepError

SECONDS_BETWEEN_LINES = 15.0


class Advance(Protocol):
    """Report `done` more units; `detail` replaces what stands behind the rate."""

    def __call__(self, done: float, detail: str = "") -> None: ...


def note(message: str) -> None:
    """One line on stderr."""
    print(message, file=sys.stderr, flush=True)


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


@contextmanager
def progress(title: str, total: float | None, unit: str, quiet: bool = False) -> Iterator[Advance]:
    """A bar on a terminal, else a line now and then; `total` may be unknown."""
    if quiet:
        yield lambda done, detail="": None
    elif sys.stderr.isatty():
        with _bar(title, total, unit) as advance:
            yield advance
    else:
        with _lines(title, total, unit) as advance:
            yield advance


@contextmanager
def _bar(title: str, total: float | None, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    start = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(title, total=total, detail="")

        def advance(done: float, detail: str = "") -> None:
            bars.update(task, advance=done)
            rate = bars.tasks[task].completed / max(time.monotonic() - start, 1e-6)
            bars.update(task, detail=f"{rate:,.0f} {unit}/s {detail}")

        yield advance


@contextmanager
def _lines(title: str, total: float | None, unit: str) -> Iterator[Advance]:
    start = last = time.monotonic()
    done_so_far = 0.0

    def advance(done: float, detail: str = "") -> None:
        nonlocal done_so_far, last
        done_so_far += done
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            note(f"{title}: {_summary(done_so_far, total, unit, now - start)}{detail and ', ' + detail}")

    yield advance
    seconds = time.monotonic() - start
    note(f"{title}: {done_so_far:,.0f} {unit} in {seconds:.1f} s, {done_so_far / max(seconds, 1e-6):,.0f}/s")


def _summary(done: float, total: float | None, unit: str, seconds: float) -> str:
    rate = done / seconds
    if not total or not rate:
        return f"{done:,.0f} {unit}, {rate:,.0f}/s"
    return f"{done:,.0f} of {total:,.0f} {unit}, {rate:,.0f}/s, {(total - done) / rate:.0f} s left"
