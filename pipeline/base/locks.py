"""Locks that are released when their process ends, in whatever way, on every file system."""

import errno
import fcntl
import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipeline.base.console import note
from pipeline.base.errors import EverystepError

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
"""Errors of a file system that was mounted without locks, as Lustre is without its option `flock`."""
SECONDS_BETWEEN_TRIES = 0.2


class Busy(EverystepError):  # noqa: N818  # reads as the sentence that it is
    """Lock that another process holds."""


@contextmanager
def in_turn(path: Path, waiting: str) -> Iterator[bool]:
    """Hold the lock at `path` as `only_one` does, but wait for it; `waiting` says so, once."""
    with ExitStack() as held:
        said = False
        while True:
            try:
                everywhere = held.enter_context(only_one(path, waiting))
                break
            except Busy:
                if not said:
                    note(waiting)
                said = True
                time.sleep(SECONDS_BETWEEN_TRIES)
        yield everywhere


@contextmanager
def only_one(path: Path, busy: str) -> Iterator[bool]:
    """Hold the lock at `path`, or raise `Busy` with the message `busy`.

    If the file system has no locks, an abstract socket of this machine is held instead, which no other machine sees.
    Yields True if the lock excludes every machine that shares the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file, socket.socket(socket.AF_UNIX) as name:
        everywhere = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(busy) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            everywhere = False
            try:
                name.bind(b"\0everystep/" + hashlib.sha256(os.fsencode(path.resolve())).digest())
            except OSError as taken:
                raise Busy(busy) from taken
        yield everywhere
