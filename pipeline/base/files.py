"""Files: written whole or not at all, digested by SHA-256, never outside their folder.

A writer fills a temporary sibling, flushes it to disk, then renames it: a reader never sees half a
file, and two writers never mix. A path from a manifest is checked before it is joined.
"""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import IO, NamedTuple

from pipeline.base.errors import EverystepError, Linked

TEMPORARY_SUFFIX = ".partial"
MAX_SMALL_BYTES = 64 << 20
MAX_LINE_BYTES = 1 << 20
MAX_UNPACKED_RATIO, MIN_UNPACKED_BYTES = 200, 1 << 30
"""Limit of decompression: 200 times the packed size, but at least 1 GiB. Text compresses 3 to 20 times."""
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 1024
PLAIN_NAME = r"[a-z0-9][a-z0-9.-]{0,99}"
FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\:\ud800-\udfff]")


@contextmanager
def atomic_writer(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that appears at `path` only when the block ends without an exception."""
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


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a scratch folder that becomes `path` when the block ends without an exception, and is removed otherwise.

    `path` must not exist, neither before nor after: of several processes that make it at once, one succeeds.
    """
    taken = EverystepError(f"{path}: already exists; name a new folder")
    if os.path.lexists(path):
        raise taken
    scratch = path.with_name(f".{path.name}.{token_hex(8)}{TEMPORARY_SUFFIX}")
    scratch.mkdir(parents=True)
    try:
        yield scratch
        try:
            scratch.rename(path)
        except OSError as error:
            raise (taken if os.path.lexists(path) else error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_writer(path) as file:
        file.write(content)


def read_small(path: Path) -> bytes:
    """Read a file that must fit into memory: a manifest, a record, a config. More than `MAX_SMALL_BYTES` are refused.

    A sparse file can claim any size, and parsed JSON takes twenty times its bytes.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(MAX_SMALL_BYTES + 1) if size <= MAX_SMALL_BYTES else b""
    size = max(size, len(content))  # it may have grown
    if size > MAX_SMALL_BYTES:
        raise EverystepError(f"{path}: {size} bytes; a file of this kind may have at most {MAX_SMALL_BYTES}")
    return content


def plain_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a plain file without LF. A line over `MAX_LINE_BYTES` or without LF is refused."""
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES):
            if not line.endswith(b"\n"):
                raise EverystepError(f"{path}: a line has no line end, or more than {MAX_LINE_BYTES} bytes")
            yield line[:-1]


def sha256_file(path: Path) -> str:
    """Compute the hex SHA-256 of a file as it is stored."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def max_unpacked(packed_bytes: int) -> int:
    """Give the limit of what a file of this size may unpack to."""
    return max(MIN_UNPACKED_BYTES, MAX_UNPACKED_RATIO * packed_bytes)


def safe_join(folder: Path, relative: str, follow_links: bool = False) -> Path:
    """Join `folder / relative` for a name from outside, and refuse every name that could leave `folder`.

    Refused are absolute paths, `.` and `..`, backslashes, control characters (a listing has one name a line),
    drive letters, empty parts, names longer than a file system takes, and (`Linked`) an existing symbolic link on the
    way, unless links are followed.
    """
    parts = PurePosixPath(relative).parts
    plain = "/".join(parts) == relative and parts and not parts[0].startswith("/") and ".." not in parts
    if not plain or FORBIDDEN.search(relative) or _is_too_long(relative):
        raise EverystepError(f"{relative!r} is not a plain relative path; a manifest may only name files in its folder")
    path = folder
    for part in parts:
        path = path / part
        if not follow_links and path.is_symlink():
            raise Linked(path)
    return path


def plain_name(name: object, where: str) -> str:
    """Return `name` if it may become part of a path: the one check of every name of a source, model, recipe or
    release, from a person or from a manifest. `where` names file and key."""
    if isinstance(name, str) and re.fullmatch(PLAIN_NAME, name):
        return name
    hint = "; put it in quotes" if isinstance(name, int | float) else ""
    raise EverystepError(
        f"{where}: {name!r:.200} cannot be a name: write a lower-case letter or a digit, "
        f"then at most 99 of a-z, 0-9, `.` and `-`{hint}"
    )


class Listing(NamedTuple):
    """Content of a folder, as relative posix paths. `others` are pipes, sockets and devices; `closed` are folders that
    could not be listed, were passed over, or lie deeper than a path of `MAX_PATH_BYTES` reaches."""

    files: list[str]
    links: list[str]
    others: list[str]
    closed: list[str]


def list_folder(folder: Path, passed_over: Callable[[str], bool] = lambda path: False) -> Listing:
    """List everything below `folder`, sorted by code point. Links are listed, not followed. Folders that are
    `passed_over` are listed as closed."""
    found = Listing([], [], [], [])
    pending = [""]
    while pending:
        inside = pending.pop()
        try:
            with os.scandir(folder / inside) as entries:
                for entry in entries:
                    path = f"{inside}{entry.name}"
                    if not entry.is_dir(follow_symlinks=False):
                        _list_of(found, entry).append(path)
                    elif len(os.fsencode(path)) > MAX_PATH_BYTES or passed_over(path):
                        found.closed.append(path)
                    else:
                        pending.append(f"{path}/")
        except OSError:
            found.closed.append(inside.removesuffix("/") or ".")
    return Listing(*map(sorted, found))


def list_files(folder: Path) -> list[str]:
    """List every file below `folder` by its relative posix path, sorted by code point; none if there is no folder.

    Symbolic links are listed, not followed. A folder that cannot be listed is an error.
    """
    found = list_folder(folder) if folder.exists() else Listing([], [], [], [])
    if found.closed:
        raise EverystepError(f"{folder / found.closed[0]}: cannot be listed, or is nested too deep")
    return sorted([*found.files, *found.links, *found.others])


def fresh_folder(path: Path) -> Path:
    """Make an empty folder at `path`, and remove what an interrupted run left there."""
    shutil.rmtree(path, ignore_errors=True)  # a file may vanish meanwhile: workers of a killed run are still ending
    if path.exists():
        try:
            shutil.rmtree(path)
        except OSError as error:  # it names only the last part of the path that it could not remove
            raise OSError(error.errno, error.strerror, str(path)) from error
    path.mkdir(parents=True)
    return path


def _list_of(found: Listing, entry: os.DirEntry[str]) -> list[str]:
    if entry.is_symlink():
        return found.links
    return found.files if entry.is_file(follow_symlinks=False) else found.others


def _is_too_long(relative: str) -> bool:
    parts = relative.encode().split(b"/")
    return max(map(len, parts)) > MAX_NAME_BYTES or len(relative.encode()) > MAX_PATH_BYTES
