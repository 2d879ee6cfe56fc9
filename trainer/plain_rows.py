"""Rows that no manifest of ours lists: each line is parsed once, before the first step, and never again.

First every file is read for its digest and the offsets of its lines. Then the lines are parsed, in pieces, by as many
processes as there are processors. The results are kept in a folder of our own, `.work/checked`:

    files/KEY             the digest of the file with this path, size, time and inode
    SHA256-BYTES.npy      where each line of this content begins, with the end appended (8 bytes a row)
    SHA256-WIDTH-VOCABULARY-RULE/ready or /FIRST-LAST
                          all lines, or those of a piece, are rows of that width and vocabulary
    heartbeat             touched while a process checks

So a start after a kill continues the check, and a start on the same files reads nothing. No file is held in memory: a
line is no longer than a row of the declared width can be, and rows are read by offset.
"""

import hashlib
import os
import time
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Event, Thread
from typing import IO

import numpy as np
from numpy.typing import NDArray

from pipeline.base.console import progress
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import atomic_writer, write_bytes
from pipeline.base.paths import WORK
from pipeline.formats.lines import Shard
from pipeline.formats.rows import MAX_OPEN, Row, decode_row
from trainer.workers import parallel_map

CHECKED = WORK / "checked"
RULE = "rows-1"  # version of the acceptance rule; results of another version are recomputed
OTHER_KEYS = 1 << 16  # bytes that a line may hold besides its ids: `source`, file names, addresses
PIECE = 1 << 26  # bytes that one process parses at a time: two seconds of work
READY = "ready"
HEARTBEAT = "heartbeat"
SECONDS_BETWEEN_BEATS = 5.0
SECONDS_TO_WAIT = 600.0
"""How long the other ranks wait for a sign of life from the one that checks."""


@dataclass(frozen=True)
class Piece:
    """Lines `first` to `last` (excluded) of a file, from byte `start` on. The file `mark` says that they are rows."""

    path: Path
    first: int
    last: int
    start: int
    size: int
    width: int
    vocabulary: int
    mark: Path


def check_rows(
    folder: Path, names: Sequence[str], width: int, vocabulary: int, cache: Path, title: str, parse: bool = True
) -> tuple[Shard, ...]:
    """Check that each line of these files is a row, and return the files as shards. An error names file and line.

    Without `parse` only digests and offsets are taken: enough for files whose digests the manifest of a run names.
    """
    paths = [folder / name for name in names]
    before = [_key(path) for path in paths]
    with _heartbeat(cache):
        _digest_all(paths, width, vocabulary, cache, title)
        shards = known_shards(folder, names, cache)
        assert shards is not None
        if parse:
            _parse_all(paths, shards, width, vocabulary, cache, title)
    for path, key in zip(paths, before, strict=True):
        if _key(path) != key:
            raise Differs(f"{path}: changed while it was being checked; start again when nothing writes to it")
    return shards


def wait_for_rows(folder: Path, names: Sequence[str], width: int, vocabulary: int, cache: Path) -> tuple[Shard, ...]:
    """Wait for the results of `check_rows` in another process that shares the folder `cache`: one rank checks."""
    seen, since = None, time.monotonic()
    while True:
        shards = known_shards(folder, names, cache)
        if shards and all((_marks(shard, width, vocabulary, cache) / READY).exists() for shard in shards):
            return shards
        beat = (cache / HEARTBEAT).stat().st_mtime_ns if (cache / HEARTBEAT).exists() else None
        if beat != seen:
            seen, since = beat, time.monotonic()
        if time.monotonic() - since > SECONDS_TO_WAIT:
            raise EverystepError(
                f"{folder}: the process that checks these rows has shown no sign of life for "
                f"{SECONDS_TO_WAIT / 60:.0f} minutes; see whether it still runs, then start again: "
                "what was checked is kept"
            )
        time.sleep(0.2)


@contextmanager
def _heartbeat(cache: Path) -> Iterator[None]:
    """Touch a file while the block runs: those who wait see that the check goes on, however large a file is."""
    cache.mkdir(parents=True, exist_ok=True)
    over = Event()

    def beat() -> None:
        while not over.wait(SECONDS_BETWEEN_BEATS):
            (cache / HEARTBEAT).touch()

    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def known_shards(folder: Path, names: Sequence[str], cache: Path) -> tuple[Shard, ...] | None:
    """Return what is known about these files without reading them; None if one has not been read."""
    shards = []
    for name in names:
        path = folder / name
        known = cache / "files" / _key(path)
        if not known.is_file():
            return None
        size, sha256 = path.stat().st_size, known.read_text()
        lines = cache / f"{sha256}-{size}.npy"
        if not lines.is_file():
            return None
        shards.append(Shard(path=name, lines=len(_offsets(lines)) - 1, bytes=size, sha256=sha256))
    return tuple(shards)


class PlainRows(Sequence[Row]):
    """Rows of checked plain files, numbered through the files in their order."""

    def __init__(self, folder: Path, shards: Sequence[Shard], width: int, vocabulary: int, cache: Path) -> None:
        self._folder, self._shards, self._cache = folder, shards, cache
        self._starts = list(accumulate((shard.lines for shard in shards), initial=0))
        self._open = lru_cache(MAX_OPEN)(self._opened)
        self.width, self.vocabulary = width, vocabulary

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, number: int) -> Row:  # type: ignore[override]  # slices are not offered
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        shard = bisect_right(self._starts, number) - 1
        line = number - self._starts[shard]
        file, offsets = self._open(shard)
        file.seek(int(offsets[line]))
        content = file.read(int(offsets[line + 1] - offsets[line])).rstrip(b"\n")
        return decode_row(content, self.width, self.vocabulary, f"{file.name}:{line + 1}")

    def _opened(self, number: int) -> tuple[IO[bytes], NDArray[np.int64]]:
        shard = self._shards[number]
        path = self._folder / shard.path
        file = path.open("rb", buffering=0)
        known = self._cache / "files" / _key(path, os.fstat(file.fileno()))
        if not known.is_file() or known.read_text() != shard.sha256:
            raise Differs(f"{path}: changed since its rows were checked; put it back and start again")
        return file, _offsets(self._cache / f"{shard.sha256}-{shard.bytes}.npy")


def _digest_all(paths: Sequence[Path], width: int, vocabulary: int, cache: Path, title: str) -> None:
    """Digest each file that is not known yet, several at a time."""
    new = [path for path in paths if known_shards(path.parent, [path.name], cache) is None]
    longest = width * (len(str(vocabulary)) + 2) + OTHER_KEYS
    sizes = [path.stat().st_size for path in new]
    processes = min(max(1, len(new)), _processes(sum(sizes)))
    with progress(f"{title}: digests", sum(sizes), "bytes", quiet=not new) as advance:
        tasks = [(path, longest, cache) for path in new]
        for size, _ in zip(sizes, parallel_map(_digest, tasks, processes), strict=True):
            advance(size)


def _digest(task: tuple[Path, int, Path]) -> None:
    """Record the digest of a file and the offsets of its lines. A line longer than any row is refused unread."""
    path, longest, cache = task
    digest, offsets = hashlib.sha256(), array("q", [0])
    with path.open("rb", buffering=1 << 20) as file:
        key = _key(path, os.fstat(file.fileno()))
        while line := file.readline(longest + 1):
            if len(line) > longest:
                raise EverystepError(
                    f"{path}:{len(offsets)}: a line of more than {longest} bytes; "
                    "no row of the declared width is that long"
                )
            digest.update(line)
            offsets.append(offsets[-1] + len(line))
    if len(offsets) == 1:
        raise EverystepError(f"{path}: is empty; rows are expected there")
    with atomic_writer(cache / f"{digest.hexdigest()}-{offsets[-1]}.npy") as lines:
        np.save(lines, np.frombuffer(offsets, dtype=np.int64))
    write_bytes(cache / "files" / key, digest.hexdigest().encode())


def _parse_all(
    paths: Sequence[Path], shards: Sequence[Shard], width: int, vocabulary: int, cache: Path, title: str
) -> None:
    """Parse, in pieces, the lines that are not known to be rows yet."""
    marks = [_marks(shard, width, vocabulary, cache) for shard in shards]
    pieces: list[Piece] = []
    for path, shard, mark in zip(paths, shards, marks, strict=True):
        if not (mark / READY).exists():
            offsets = _offsets(cache / f"{shard.sha256}-{shard.bytes}.npy")
            pieces += _pieces(path, offsets, width, vocabulary, mark)
    left = [piece for piece in pieces if not piece.mark.exists()]
    total, to_do = (sum(piece.size for piece in some) for some in (pieces, left))
    began, num_rows = time.monotonic(), 0
    with progress(title, total, "bytes", quiet=not left, done=total - to_do) as advance:
        processes = min(max(1, len(left)), _processes(to_do))
        for piece, _ in zip(left, parallel_map(_parse, left, processes), strict=True):
            num_rows += piece.last - piece.first
            rate = num_rows * width / (time.monotonic() - began) / 1e6
            advance(piece.size, f"{piece.path.name}, {rate:.1f} million tokens/s")
    for mark in marks:
        if not (mark / READY).exists():
            mark.mkdir(parents=True, exist_ok=True)
            (mark / READY).touch()
        for piece_mark in mark.glob("[0-9]*"):
            piece_mark.unlink()


def _pieces(path: Path, offsets: NDArray[np.int64], width: int, vocabulary: int, marks: Path) -> Iterator[Piece]:
    firsts = np.unique(np.searchsorted(offsets[:-1], np.arange(0, offsets[-1], PIECE)))
    for first, last in zip(firsts, [*firsts[1:], len(offsets) - 1], strict=True):
        start, stop = int(offsets[first]), int(offsets[last])
        yield Piece(path, int(first), int(last), start, stop - start, width, vocabulary, marks / f"{first}-{last}")


def _parse(piece: Piece) -> None:
    with piece.path.open("rb", buffering=1 << 20) as file:
        file.seek(piece.start)
        for number in range(piece.first, piece.last):
            line = file.readline(piece.size)
            where = f"{piece.path}:{number + 1}"
            try:
                decode_row(line.rstrip(b"\n"), piece.width, piece.vocabulary, where)
            except EverystepError as error:
                if line.endswith(b"\n"):
                    raise
                raise EverystepError(f"{where}: the last line is cut off; fetch the file again") from error
    piece.mark.parent.mkdir(parents=True, exist_ok=True)
    piece.mark.touch()


def _processes(num_bytes: int) -> int:
    """Return how many processes to use: as many as there are processors, but no more than pieces."""
    return min(len(os.sched_getaffinity(0)), num_bytes // PIECE + 1)


def _marks(shard: Shard, width: int, vocabulary: int, cache: Path) -> Path:
    return cache / f"{shard.sha256}-{width}-{vocabulary}-{RULE}"


def _key(path: Path, about: os.stat_result | None = None) -> str:
    """Name the record about a file. The name changes as soon as somebody writes to the file."""
    if about is None and not path.is_file():
        raise EverystepError(f"{path}: no such file; rows are expected there")
    about = about or path.stat()
    named = f"{path}\0{about.st_size}\0{about.st_mtime_ns}\0{about.st_ino}"
    return hashlib.sha256(os.fsencode(named)).hexdigest()


def _offsets(path: Path) -> NDArray[np.int64]:
    offsets: NDArray[np.int64] = np.load(path, mmap_mode="r")
    return offsets
