"""`pip install` for the Makefile, `pip download` for a capsule: one line says what pip does now, on a terminal kept up
to date, else every 15 s.

Runs before any library is there. Arguments are those of `pip install`. pip's warnings and errors appear as they come,
and the end of all that it said where it fails.
"""

import shutil
import subprocess
import sys
import sysconfig
import time
from collections import deque
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from pipeline.base.console import INTERRUPTED, SECONDS_BETWEEN_LINES, amount, clock, note

SECONDS_BETWEEN_LOOKS = 0.5
LAST_LINES = 15
LOUD = ("WARNING", "DEPRECATION", "ERROR", "error")
QUIET = "Expected     or"
"""One more hash that would have been right; of a package with many wheels there are a hundred."""
CLEARED = "\r\033[K"
NEW_PACKAGE = ("Collecting", "Processing", "Obtaining")


def install(*arguments: str) -> int:
    """Run `pip install` with these arguments; gives its exit code."""
    return pip("install", *arguments)


def pip(command: str, *arguments: str) -> int:
    """Run a command of pip that fetches packages; gives its exit code."""
    program = Path(sys.executable).parent / "pip"
    process = subprocess.Popen(
        [program, "--disable-pip-version-check", command, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines: SimpleQueue[str | None] = SimpleQueue()
    Thread(target=_read, args=(process, lines), daemon=True).start()
    last = _watch(lines)
    code = process.wait()
    if code:
        note("\n".join([*last, f"error: pip ended with {code}; fix the error above and run the same command again"]))
    return code


def _read(process: subprocess.Popen[str], lines: "SimpleQueue[str | None]") -> None:
    assert process.stdout
    for line in process.stdout:
        lines.put(line.rstrip("\n"))
    lines.put(None)


def _watch(lines: "SimpleQueue[str | None]") -> deque[str]:
    """Show what pip does until it ends; gives the last lines that it printed."""
    on_terminal = sys.stderr.isatty()
    last: deque[str] = deque(maxlen=LAST_LINES)
    said = _Said()
    began = told = time.monotonic()
    while True:
        try:
            line = lines.get(timeout=SECONDS_BETWEEN_LOOKS)
        except Empty:
            line = ""
        now = time.monotonic()
        if line is None:
            _show(f"  {clock(now - began)}  {said}", on_terminal)
            if on_terminal:
                note("")
            return last
        if line.startswith(LOUD):
            if on_terminal:
                print(CLEARED, end="", file=sys.stderr)
            note(line)
        elif line and not line.lstrip().startswith(QUIET):
            last.append(line)
            said.take(line)
        if on_terminal or now - told >= SECONDS_BETWEEN_LINES:
            told = now
            _show(f"  {clock(now - began)}  {said}", on_terminal)


class _Said:
    """What pip's lines so far amount to."""

    def __init__(self) -> None:
        self._found = 0
        self._now = "looking for packages"
        self._to_install = 0
        self._before = _num_installed()

    def take(self, line: str) -> None:
        """Learn from one line."""
        first, _, rest = line.strip().partition(" ")
        if first in NEW_PACKAGE:
            self._found += 1
            self._now = rest.rpartition("/")[2]
        elif first in ("Downloading", "Using") and rest:
            self._now = rest.removeprefix("cached ").rpartition("/")[2]
        elif line.startswith("Installing collected packages: "):
            self._to_install = len(line.partition(": ")[2].split(", "))

    def __str__(self) -> str:
        """`57 packages, torch-2.13.0-cp311-cp311-linux_x86_64.whl (192.4 MB)`, then `38 of 147 packages installed`."""
        if self._to_install:
            return f"{_num_installed() - self._before} of {self._to_install} packages installed"
        return f"{amount(self._found, 'packages')}, {self._now}" if self._found else self._now


def _num_installed() -> int:
    return len(list(Path(sysconfig.get_path("purelib")).glob("*.dist-info")))


def _show(text: str, on_terminal: bool) -> None:
    if on_terminal:
        width = shutil.get_terminal_size().columns - 1
        print(f"{CLEARED}{text[:width]}", end="", file=sys.stderr, flush=True)
    else:
        note(text)


if __name__ == "__main__":
    try:
        sys.exit(install(*sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
