"""Rows that a manifest lists: a shard is verified when a step first reads from it, before its bytes are used.

A start opens no shard, however many there are. Verified shards are remembered in a folder of our own: an empty file
there, named by path, size, time, inode and digest of a shard, says that this very file was digested. Frames carry
checksums of their own, so later damage is found too.
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
    """Rows of shards whose digests are known. `memory` is the folder that remembers verified ones, if any."""

    def __init__(
        self, folder: Path, shards: Sequence[Shard], width: int, vocabulary: int, memory: Path | None = None
    ) -> None:
        super().__init__(folder, shards, width, vocabulary)
        self._memory = memory
        self._verified: dict[int, str] = {}

    def check(self, numbers: Sequence[int]) -> None:
        """Verify the shards that hold these rows, unless they were before, as many at a time as there are processors.

        Raises `Differs` for the first that is not what its manifest promises.
        """
        unknown = sorted({bisect_right(self._starts, number) - 1 for number in numbers} - self._verified.keys())
        self.check_shards(unknown)

    def check_shards(self, shards: Sequence[int], advance: Advance = lambda done, detail="", total=None: None) -> None:
        """Verify whole shards, given by their indices."""
        if len(shards) <= 1:
            for shard in shards:
                self._opened(shard).close()
                advance(1)
            return
        threads = ThreadPoolExecutor(min(len(shards), len(os.sched_getaffinity(0))))  # hashing releases Python's lock
        try:
            for file in threads.map(self._opened, shards):
                file.close()
                advance(1)
        finally:
            threads.shutdown(cancel_futures=True)

    def trust(self, shards: Sequence[int]) -> None:
        """Remember whole shards, given by their indices, as verified: a release has just compared these files."""
        for shard in shards:
            with LineFile(safe_join(self._folder, self._shards[shard].path)) as file:
                self._verified[shard] = self._key(file, self._shards[shard])
            self._remember(self._verified[shard])

    def _opened(self, shard: int) -> LineFile:
        """Open a verified shard. What is digested is the open file that will be read, not whatever has its name."""
        file = LineFile(safe_join(self._folder, self._shards[shard].path))
        try:
            key = self._key(file, self._shards[shard])
            if self._verified.get(shard) != key:
                self._digest(file, self._shards[shard], key)
                self._verified[shard] = key
        except BaseException:
            file.close()
            raise
        return file

    def _digest(self, file: LineFile, shard: Shard, key: str) -> None:
        if self._memory and (self._memory / key[:2] / key[2:]).exists():
            return
        check_digest(file, shard)
        if self._key(file, shard) == key:  # else it changed while it was digested
            self._remember(key)

    def _remember(self, key: str) -> None:
        if self._memory:
            mark = self._memory / key[:2] / key[2:]
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()

    def _key(self, file: LineFile, shard: Shard) -> str:
        about = file.stat()
        named = f"{file.path}\0{about.st_size}\0{about.st_mtime_ns}\0{about.st_ino}\0{shard.sha256}"
        return hashlib.sha256(os.fsencode(named)).hexdigest()
