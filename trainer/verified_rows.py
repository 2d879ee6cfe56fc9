"""Rows that a manifest vouches for: a shard is digested when a step first reads from it, before its bytes are used.

A start opens no shard, however many there are. What was found right is remembered in a folder of our own: an empty
file there, named by path, size, time, inode and digest of a shard, says that this very file was digested. Frames carry
checksums of their own, so damage that comes after that is found too.
"""

import hashlib
import os
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.base.console import Advance
from pipeline.base.files import safe_join
from pipeline.formats.lines import LineFile, Shard, check_digest
from pipeline.formats.rows import Rows


class VerifiedRows(Rows):
    """The rows of shards whose digests are known. `memory` is where a checked shard is remembered; None: nowhere."""

    def __init__(
        self, folder: Path, shards: Sequence[Shard], width: int, vocabulary: int, memory: Path | None = None
    ) -> None:
        super().__init__(folder, shards, width, vocabulary)
        self._memory = memory
        self._right: dict[int, str] = {}

    def check(self, numbers: Sequence[int]) -> None:
        """Digest the shards that hold these rows and were not checked yet, as many at a time as there are processors.

        Raises `Differs` for the first that is not what its manifest promises.
        """
        unknown = sorted({bisect_right(self._starts, number) - 1 for number in numbers} - self._right.keys())
        self.check_shards(unknown)

    def check_shards(self, shards: Sequence[int], advance: Advance = lambda done, detail="", total=None: None) -> None:
        """`check` of whole shards, by their place in the list."""
        if len(shards) <= 1:
            for shard in shards:
                self._opened(shard).close()
                advance(1)
            return
        threads = ThreadPoolExecutor(min(len(shards), len(os.sched_getaffinity(0))))  # digests need no lock of Python
        try:
            for file in threads.map(self._opened, shards):
                file.close()
                advance(1)
        finally:
            threads.shutdown(cancel_futures=True)

    def _opened(self, shard: int) -> LineFile:
        """What is digested is what will be read: the file that is open, not what has its name."""
        file = LineFile(safe_join(self._folder, self._shards[shard].path))
        try:
            key = self._key(file, self._shards[shard])
            if self._right.get(shard) != key:
                self._digest(file, self._shards[shard], key)
                self._right[shard] = key
        except BaseException:
            file.close()
            raise
        return file

    def _digest(self, file: LineFile, shard: Shard, key: str) -> None:
        mark = self._memory and self._memory / key[:2] / key[2:]
        if mark and mark.exists():
            return
        check_digest(file, shard)
        if mark and self._key(file, shard) == key:  # else it changed while it was digested
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()

    def _key(self, file: LineFile, shard: Shard) -> str:
        about = file.stat()
        named = f"{file.path}\0{about.st_size}\0{about.st_mtime_ns}\0{about.st_ino}\0{shard.sha256}"
        return hashlib.sha256(os.fsencode(named)).hexdigest()
