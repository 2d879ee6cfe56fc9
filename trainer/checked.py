"""Files of rows, checked before the first step: each line once, in one pass, and never again while the bytes stay.

A file is known by the SHA-256 of its content. Where each line of it begins, and so how many rows it has, is kept in
`.work/checked` under that digest, the width and the vocabulary it was checked for: a second start only digests.
Nothing holds a file: a line is no longer than a row of the declared width can be, and rows are read by offset.
"""

import hashlib
import time
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from pipeline.console import Advance
from pipeline.formats.errors import EverystepError
from pipeline.formats.files import atomic_writer
from pipeline.formats.lines import LineFile, Shard
from pipeline.formats.project import WORK
from pipeline.formats.rows import MAX_OPEN, Row, decode_row

CHECKED = WORK / "checked"
RULE = "rows-1"  # of what is accepted; what was found by another rule is found anew
OTHER_KEYS = 1 << 16  # bytes of a line that are not its ids: `source`, file names, addresses
PIECE = 1 << 22  # bytes between two reports of progress
LINE_FILE = ".zst"


def check_rows(folder: Path, name: str, width: int, vocabulary: int, cache: Path | None, advance: Advance) -> Shard:
    """The file `name` in `folder`, after each of its lines was found to be a row; a fault is named by file and line.

    Plain JSONL or a line file of ours. With `cache` None nothing is kept. `advance` counts bytes of content.
    """
    path = folder / name
    if not path.is_file():
        raise EverystepError(f"{path}: no such file; rows are expected there")
    if cache is None:
        return _scan(path, name, width, vocabulary, advance)[0]
    wanted = f"{path.stat().st_size}-{width}-{vocabulary}-{RULE}.npy"
    if any(cache.glob(f"*-{wanted}")):  # else it is new: check and digest in one pass
        num_bytes, digest = _digest(path, advance)
        if (cache / f"{digest}-{wanted}").is_file():
            return Shard(name, len(_offsets(cache / f"{digest}-{wanted}")) - 1, num_bytes, digest)
    shard, offsets = _scan(path, name, width, vocabulary, advance)
    with atomic_writer(cache / f"{shard.sha256}-{wanted}") as file:
        np.save(file, offsets)
    return shard


class PlainRows(Sequence[Row]):
    """The rows of checked plain files by number, counted through the files in their order."""

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
        name = f"{shard.sha256}-{path.stat().st_size}-{self.width}-{self.vocabulary}-{RULE}.npy"
        return path.open("rb", buffering=0), _offsets(self._cache / name)


def _scan(path: Path, name: str, width: int, vocabulary: int, advance: Advance) -> tuple[Shard, NDArray[np.int64]]:
    """What the file holds, and where each line begins, with the end appended (8 bytes a row)."""
    digest = hashlib.sha256()
    offsets = array("q", [0])
    began, told = time.monotonic(), 0
    for line in _lines(path, width, vocabulary):
        where = f"{path}:{len(offsets)}"
        try:
            decode_row(line.rstrip(b"\n"), width, vocabulary, where)
        except EverystepError as error:
            if line.endswith(b"\n"):
                raise
            raise EverystepError(f"{where}: the last line is cut off; fetch the file again") from error
        digest.update(line)
        offsets.append(offsets[-1] + len(line))
        if offsets[-1] - told >= PIECE:
            rate = (len(offsets) - 1) * width / (time.monotonic() - began) / 1e6
            advance(offsets[-1] - told, f"{name}, {rate:.1f} million tokens/s")
            told = offsets[-1]
    if len(offsets) == 1:
        raise EverystepError(f"{path}: is empty; rows are expected there")
    advance(offsets[-1] - told)
    return Shard(name, len(offsets) - 1, offsets[-1], digest.hexdigest()), np.frombuffer(offsets, dtype=np.int64)


def _lines(path: Path, width: int, vocabulary: int) -> Iterator[bytes]:
    """The lines with their LF; one that no row could be is refused before it is held."""
    if path.suffix == LINE_FILE:
        with LineFile(path) as lines:
            yield from (line + b"\n" for line in lines)
        return
    longest = width * (len(str(vocabulary)) + 2) + OTHER_KEYS
    with path.open("rb", buffering=1 << 20) as file:
        number = 0
        while line := file.readline(longest + 1):
            number += 1
            if len(line) > longest:
                raise EverystepError(
                    f"{path}:{number}: a line of more than {longest} bytes; "
                    f"a row of {width} ids below {vocabulary} is shorter"
                )
            yield line


def _digest(path: Path, advance: Advance) -> tuple[int, str]:
    """(bytes, SHA-256) of the content."""
    if path.suffix == LINE_FILE:
        with LineFile(path) as lines:
            _, num_bytes, sha256 = lines.digest()
        advance(num_bytes)
        return num_bytes, sha256
    digest, num_bytes = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            num_bytes += len(piece)
            advance(len(piece), path.name)
    return num_bytes, digest.hexdigest()


def _offsets(path: Path) -> NDArray[np.int64]:
    offsets: NDArray[np.int64] = np.load(path, mmap_mode="r")
    return offsets
