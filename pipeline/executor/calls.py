"""A function called on many parts by other processes: what became of each part, and the files of a call.

Processes of this machine are told by pipes. Other machines see the project's folder, where a call is laid out in
`.work/parts/STAGE/TOKEN` until all its results were read:

    function, parts/000000 ...    what to do
    results/000000 ...            what came of it; emptied when the stage has read it
    trove/                        datatrove's marks and logs, Slurm's script and output

These are pickles. Who can write into the project's folder can write its code too, so reading them back trusts
nobody new; nothing from outside is ever read here.
"""

import io
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

TRIES = 3  # times in all that a part is begun whose worker dies
PARTS = WORK / "parts"
RUN_ID = token_hex(4)  # of this process; the calls of others were left behind by a stage that was killed or failed


class Outcome(NamedTuple):
    """The value of a part, or the exception that it raised."""

    value: Any = None
    error: BaseException | None = None

    def result(self) -> Any:
        """The value; raises the exception of the part."""
        if self.error is not None:
            raise self.error
        return self.value


def outcome_of(function: Callable[[Any], Any], part: Any) -> Outcome:
    """`function(part)`, an exception included; its traceback in the worker stands in its notes."""
    try:
        return Outcome(function(part))
    except Exception as error:
        return Outcome(error=_portable(error))


class Call:
    """A function and its parts in a folder that all machines see."""

    def __init__(self, function: Callable[[Any], Any], parts: Sequence[Any]) -> None:
        self.folder = (_stage_folder() / f"{RUN_ID}-{token_hex(4)}").absolute()
        self.num = len(parts)
        self.main = _name_of_main()
        write_bytes(self.folder / "function", pickle.dumps(function))
        for number, part in enumerate(parts):
            write_bytes(_part(self.folder, number), pickle.dumps(part))

    def is_done(self, number: int) -> bool:
        """Whether the result of a part can be seen from here."""
        return _result(self.folder, number).exists()

    def missing(self) -> list[int]:
        """The numbers of all parts without a result."""
        return [number for number in range(self.num) if not self.is_done(number)]

    def take(self, number: int) -> Outcome:
        """What became of a part, once. An empty file stays, so that no late worker does the part again."""
        path = _result(self.folder, number)
        outcome: Outcome = _load(path, self.main, "__main__")
        path.write_bytes(b"")
        return outcome


def do_part(folder: Path, main: str, number: int) -> None:
    """Do one part of the call in `folder`, in the process of a worker; nothing if it is done. `main` is the module
    that was the program of the stage."""
    if _result(folder, number).exists():
        return
    function = _load(folder / "function", "__main__", main)
    outcome = outcome_of(function, _load(_part(folder, number), "__main__", main))
    write_bytes(_result(folder, number), pickle.dumps(outcome))


def leftovers() -> list[Path]:
    """The folders of calls of this stage that another process left behind."""
    return sorted(path for path in _stage_folder().glob("*") if not path.name.startswith(RUN_ID))


def _stage_folder() -> Path:
    """Named by the program and its arguments, so that `filter plays` does not touch what `filter speeches` does."""
    words = [Path(sys.argv[0]).stem, *sys.argv[1:]]
    return PARTS / re.sub(r"[^A-Za-z0-9]+", "-", "-".join(words))[:100]


def _part(folder: Path, number: int) -> Path:
    return folder / "parts" / f"{number:06d}"


def _result(folder: Path, number: int) -> Path:
    return folder / "results" / f"{number:06d}"


def _name_of_main() -> str:
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else "__main__"


def _load(path: Path, old: str, new: str) -> Any:
    """What was pickled to `path`, with what stood in the module `old` taken from `new`."""

    class Renaming(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return super().find_class(new if module == old else module, name)

    return Renaming(io.BytesIO(path.read_bytes())).load()


def _portable(error: Exception) -> Exception:
    """The error itself if it survives being pickled, else one that says the same."""
    told = f"in a worker:\n{traceback.format_exc()}"
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # bytes of the line itself
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(told)
    return error
