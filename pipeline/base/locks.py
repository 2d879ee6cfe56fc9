"""One at a time: a lock that ends with its process, however that ends, on every file system."""

import errno
import fcntl
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.base.errors import EverystepError

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
"""What a file system answers that was mounted without locks, as Lustre is without its option `flock`."""


@contextmanager
def only_one(path: Path, busy: str) -> Iterator[bool]:
    """Hold the lock at `path`, or raise an `EverystepError` that says `busy`.

    Where the file system has no locks, a name in the kernel of this machine is held instead, which no other machine
    sees. True: the lock keeps away every machine that has this file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file, socket.socket(socket.AF_UNIX) as name:
        everywhere = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EverystepError(busy) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            everywhere = False
            try:
                name.bind(b"\0everystep/" + hashlib.sha256(os.fsencode(path.resolve())).digest())
            except OSError as taken:
                raise EverystepError(busy) from taken
        yield everywhere
