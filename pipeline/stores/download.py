"""One file from a store to this machine, across broken connections; what was written so far is gone on from."""

import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from pipeline.base.console import ReportTotal
from pipeline.base.errors import EverystepError
from pipeline.stores.retry import ATTEMPTS, with_retries
from pipeline.stores.store import Answer
from pipeline.stores.web import BROKEN_CONNECTION

FIRST_WAIT_SECONDS = 0.5
PROGRESS_BYTES = 1 << 20
"""What an attempt must bring for the count of failures to start again."""


def download(
    address: str, opened: Callable[[int], AbstractContextManager[Answer]], path: Path, limit: int, report: ReportTotal
) -> None:
    """Fill `path` to the end of what `opened(START)` gives, of at most `limit` bytes; `address` is for messages."""

    def size() -> int:
        return path.stat().st_size if path.exists() else 0

    def attempt() -> None:
        with opened(size()) as answer:
            _append(answer, path, limit, address, report)

    try:
        with_retries(attempt, is_broken, FIRST_WAIT_SECONDS, size, PROGRESS_BYTES)
    except BROKEN_CONNECTION as error:
        broken = f"the connection broke {ATTEMPTS} times ({error})"
        advice = "the part so far is kept; run the same command again"
        raise EverystepError(f"{address}: {broken}; {advice}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EverystepError(f"{path}: the disk is full; free some room and run again") from error
        raise


def is_broken(error: Exception) -> bool:
    """Whether a connection broke, so that it is worth to ask again."""
    return isinstance(error, BROKEN_CONNECTION)


def _append(answer: Answer, path: Path, limit: int, address: str, report: ReportTotal) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "wb") as file:
        file.seek(answer.start)
        file.truncate()
        for chunk in answer.chunks:
            if file.tell() + len(chunk) > limit:
                file.truncate(0)
                raise EverystepError(f"{address}: sends more than {limit} bytes; correct `bytes` or the address")
            file.write(chunk)
            report(file.tell(), answer.total)
        file.flush()
        os.fsync(file.fileno())
        if answer.total is not None and file.tell() < answer.total:
            raise ConnectionError(f"cut off at byte {file.tell()} of {answer.total}")
