"""Files: written whole or not at all, digested by SHA-256, found only inside their folder.

A writer fills a sibling temporary name, flushes it to disk, then renames: a reader never sees half a
file, and two writers never mix. A path that comes from a manifest is checked before it is joined.
"""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import IO

from pipeline.formats.errors import EverystepError

TEMPORARY_SUFFIX = ".partial"
MAX_SMALL_BYTES = 256 << 20
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 1024
FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\:\ud800-\udfff]")


@contextmanager
def atomic_writer(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears at `path` only when the block ends without an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{token_hex(8)}{TEMPORARY_SUFFIX}")  # machines may share the folder
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EverystepError(f"{path}: the disk is full; free some room and run the same command again") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_writer(path) as file:
        file.write(content)


def read_small(path: Path) -> bytes:
    """The bytes of a file that is read as one: a manifest, a record, a config. One past `MAX_SMALL_BYTES` is refused.

    A sparse file claims any size, and parsed JSON takes twenty times its bytes.
    """
    size = path.stat().st_size
    if size > MAX_SMALL_BYTES:
        raise EverystepError(f"{path}: {size} bytes; a file of its kind has at most {MAX_SMALL_BYTES}")
    return path.read_bytes()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file as it is stored."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safe_join(folder: Path, relative: str) -> Path:
    """`folder / relative` for a name from outside; refuses every name that could leave `folder`.

    Refused: absolute paths, `.` and `..`, backslashes, control characters (a listing has one name a line),
    drive letters, empty parts, names longer than a file system takes, and an existing symbolic link on the way.
    """
    parts = PurePosixPath(relative).parts
    plain = "/".join(parts) == relative and parts and not parts[0].startswith("/") and ".." not in parts
    if not plain or FORBIDDEN.search(relative) or _is_too_long(relative):
        raise EverystepError(f"{relative!r} is not a plain relative path; a manifest may only name files in its folder")
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise EverystepError(f"{path}: a symbolic link stands where a file of the release is expected")
    return path


def list_files(folder: Path) -> list[str]:
    """Relative posix paths of every file below `folder`, sorted by code point.

    Symbolic links are listed, not followed.
    """
    found = []
    for root, folders, names in os.walk(folder, followlinks=False):
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        found += [(Path(root) / name).relative_to(folder).as_posix() for name in [*names, *links]]
    return sorted(found)


def fresh_folder(path: Path) -> Path:
    """An empty folder at `path`; what an interrupted run left there is removed."""
    shutil.rmtree(path, ignore_errors=True)  # a file may vanish meanwhile: workers of a killed run are still ending
    if path.exists():
        try:
            shutil.rmtree(path)
        except OSError as error:  # it names what it could not remove by its last part alone
            raise OSError(error.errno, error.strerror, str(path)) from error
    path.mkdir(parents=True)
    return path


def _is_too_long(relative: str) -> bool:
    parts = relative.encode().split(b"/")
    return max(map(len, parts)) > MAX_NAME_BYTES or len(relative.encode()) > MAX_PATH_BYTES
