"""Errors that a person can fix, and their exit codes.

Exit codes everywhere: 0 fine, 1 the bytes differ from what was promised, 2 misuse or bad input. A command that reads a
release exits with 4 if it meets a link in place of a file; `verify` has a code 3 as well (`pipeline.audit.report`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb


class EverystepError(Exception):
    """Error that a person can fix. The message names the file, the key and the fix."""

    exit_code = 2


class Differs(EverystepError):  # noqa: N818  # reads as the sentence that it is
    """Bytes, a digest or a replay that differ from what a manifest promised."""

    exit_code = 1


class Linked(EverystepError):  # noqa: N818  # reads as the sentence that it is
    """Symbolic link, `link`, in place of a file, where links are not followed."""

    exit_code = 4

    def __init__(self, link: Path) -> None:
        super().__init__(
            f"{link}: a symbolic link, where a file of the release is expected; "
            "follow links with --follow-links, or copy the folder with `cp -rL`"
        )
        self.link = link


@contextmanager
def well_shaped(where: str | Path) -> Iterator[None]:
    """Turn the errors of code that reads a tree of the wrong shape into one that names `where`."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        what = str(error) if type(error) is ValueError else repr(error)
        raise EverystepError(f"{where}: does not match its format: {what:.500}") from error


def how_to_install(extra: str) -> str:
    """Give the command that installs one of our extras: from a clone, as anybody may register our name on an index."""
    return (
        "in a clone of Everystep, run "
        f"pip install --constraint constraints.txt --constraint constraints-dev.txt --editable '.[{extra}]'"
    )


ALWAYS_FATAL = (MemoryError, OSError, ImportError, EverystepError)
"""Errors that stop a build at once, because no single document is at fault."""


def error_site(error: Exception) -> str:
    """Name the kind of error and the line that raised it, `ValueError at rows.py:40`, for the record of a document;
    never the message, which may quote the text."""
    frame = extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
