"""Calls of a function on many parts by other processes: the result of a part, and the files of a call.

Processes of this machine communicate by pipes. Other machines share the project's folder, where a call has a folder
`.work/parts/STAGE/TOKEN` until all its results were read:

    function, parts/000000 ...    the input
    results/000000 ...            the results; each is emptied when the stage has read it
    trove/                        datatrove's completion marks and logs, Slurm's script and output

These are pickles. Whoever can write into the project's folder can also change its code, so loading them trusts
nobody new; nothing from outside is ever loaded here.
"""

import pickle
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple

from pipeline.base.files import write_bytes
from pipeline.base.paths import WORK

TRIES = 3  # times that a part is started if its worker dies
PARTS = WORK / "parts"
RUN_ID = token_hex(4)  # of this process; calls with another were left over by a stage that was killed or failed


class PartResult(NamedTuple):
    """Value of a part, or the exception that it raised."""

    value: Any = None
    error: BaseException | None = None

    def result(self) -> Any:
        """Return the value, or raise the exception."""
        if self.error is not None:
            raise self.error
        return self.value


def part_result(function: Callable[[Any], Any], part: Any) -> PartResult:
    """Call `function(part)` and catch its exception, with the worker's traceback as a note."""
    try:
        return PartResult(function(part))
    except Exception as error:
        return PartResult(error=_portable(error))


class Call:
    """Function and its parts in a folder that all machines share."""

    def __init__(self, function: Callable[[Any], Any], parts: Sequence[Any]) -> None:
        self.folder = (_stage_folder() / f"{RUN_ID}-{token_hex(4)}").absolute()
        self.num = len(parts)
        write_bytes(self.folder / "function", pickle.dumps(function))
        for number, part in enumerate(parts):
            write_bytes(_part(self.folder, number), pickle.dumps(part))

    def is_done(self, number: int) -> bool:
        """Tell whether the result of a part is visible here."""
        return _result(self.folder, number).exists()

    def missing(self) -> list[int]:
        """List the numbers of all parts without a result."""
        return [number for number in range(self.num) if not self.is_done(number)]

    def take(self, number: int) -> PartResult:
        """Take the result of a part, once. An empty file stays, so that no late worker does the part again."""
        path = _result(self.folder, number)
        outcome: PartResult = _load(path)
        path.write_bytes(b"")
        return outcome


def do_part(folder: Path, number: int) -> None:
    """Do one part of the call in `folder`, unless it is done, in the process of a worker."""
    if _result(folder, number).exists():
        return
    outcome = part_result(_load(folder / "function"), _load(_part(folder, number)))
    write_bytes(_result(folder, number), pickle.dumps(outcome))


def leftovers() -> list[Path]:
    """List the folders of calls of this stage that another process left."""
    return sorted(path for path in _stage_folder().glob("*") if not path.name.startswith(RUN_ID))


def _stage_folder() -> Path:
    """Name the folder by program and arguments, so that `filter plays` does not touch calls of `filter speeches`."""
    words = [Path(sys.argv[0]).stem, *sys.argv[1:]]
    return PARTS / re.sub(r"[^A-Za-z0-9]+", "-", "-".join(words)).strip("-")[:100]


def _part(folder: Path, number: int) -> Path:
    return folder / "parts" / f"{number:06d}"


def _result(folder: Path, number: int) -> Path:
    return folder / "results" / f"{number:06d}"


def _load(path: Path) -> Any:
    return pickle.loads(path.read_bytes())  # noqa: S301  # see the module's docstring


def _portable(error: Exception) -> Exception:
    """Return the error if it can be pickled, otherwise one with the same message."""
    note = f"in a worker:\n{traceback.format_exc()}"
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # bytes of the line itself
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(note)
    return error
