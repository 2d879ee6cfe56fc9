"""The two ways a command ends badly, and their exit codes.

Exit codes everywhere: 0 fine, 1 the bytes differ from what was promised, 2 misuse or bad input.
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


@contextmanager
def well_shaped(where: str | Path) -> Iterator[None]:
    """Around code that reads a tree as it should be: one with another shape is an error that names `where`."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError) as error:
        raise EverystepError(f"{where}: its content has not the shape of its format: {error!r:.500}") from error


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
