"""The ways a command ends badly, and their exit codes.

Exit codes everywhere: 0 fine, 1 the bytes differ from what was promised, 2 misuse or bad input. A command that reads a
release ends with 4 where a link stands in place of a file; `verify` has a code 3 as well (`pipeline.audit.report`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb


class EverystepError(Exception):
    """Something a person can mend. The message names the file, the key and the fix."""

    exit_code = 2


class Differs(EverystepError):  # noqa: N818  # reads as the sentence that it is
    """Bytes, a digest or a replay differ from what a manifest promised."""

    exit_code = 1


class Linked(EverystepError):  # noqa: N818  # reads as the sentence that it is
    """A symbolic link, `link`, stands where a file is expected, and links are not followed."""

    exit_code = 4

    def __init__(self, link: Path) -> None:
        super().__init__(
            f"{link}: a symbolic link stands where a file of the release is expected; "
            "read through it with --follow-links, or copy the folder with `cp -rL`"
        )
        self.link = link


@contextmanager
def well_shaped(where: str | Path) -> Iterator[None]:
    """Around code that reads a tree as it should be: one with another shape is an error that names `where`."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        what = str(error) if type(error) is ValueError else repr(error)
        raise EverystepError(f"{where}: does not match its format: {what:.500}") from error


def how_to_install(extra: str) -> str:
    """The command that installs one of our extras: from a clone, for anybody may register our name on an index."""
    return (
        "in a clone of Everystep, run "
        f"pip install --constraint constraints.txt --constraint constraints-dev.txt --editable '.[{extra}]'"
    )


NOT_THE_DOCUMENTS = (MemoryError, OSError, ImportError, EverystepError)
"""Errors that stop a build at once, wherever they are met: no document is at fault."""


def failure(error: Exception) -> str:
    """What is on record of a document on which code failed: `ValueError at rows.py:40`, never the message, which may
    quote the text."""
    frame = extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
