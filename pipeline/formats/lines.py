"""JSONL in zstd frames of a fixed number of lines: plain JSONL to `zstdcat`, with any line one seek away.

Layout of a file (the public "zstd seekable format", so that other tools find the index too):

    frame 0 | frame 1 | ... | seek table

Each frame is a one-shot zstd compression (no threads, content size and checksum on) of exactly 64 lines; the last
may hold fewer. Text is compressed at level 3, lines of numbers at level 1. The seek table is a skippable frame, which
every zstd decoder skips. The digest of record is the SHA-256 of the lines, never of the compressed bytes.
"""

import hashlib
import io
import os
import struct
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import orjson
import zstandard
from numpy.typing import NDArray

from pipeline.base.batches import batched
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import atomic_writer
from pipeline.formats.canonical import Json, canonical
from pipeline.formats.typed import Count, Sha256, Typed

LINES_PER_FRAME = 64
LEVEL = 3
MAX_FRAMES = 1 << 24
MAX_FRAME_HEADER = 18
MAX_FRAME_BYTES = 1 << 30  # decompressed; a frame that claims more is refused before it is opened
SKIPPABLE_MAGIC = 0x184D2A5E
SEEKABLE_MAGIC = 0x8F92EAB1
FOOTER = struct.Struct("<IBI")  # number of frames, descriptor, magic
ENTRY = struct.Struct("<II")  # compressed bytes, decompressed bytes
FAST = orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE | orjson.OPT_STRICT_INTEGER


class Shard(Typed):
    """Entry of a manifest for one file of lines or rows."""

    path: str
    """Relative to the folder of the stage."""
    lines: Count
    """Lines, or rows of a table."""
    bytes: Count
    """Bytes of the uncompressed lines."""
    sha256: Sha256
    """SHA-256 of the uncompressed lines."""
    groups: list[Sha256] | None = None
    """Of a table that is read in parts, SHA-256 of the lines of each row group."""


def encode_line(value: Json) -> bytes:
    """Encode one RFC 8785 line with its LF.

    orjson with sorted keys writes strings, integers, ASCII keys and usual floats exactly as RFC 8785 does and is
    30 times faster; anything else takes the slow path (both are tested against each other).
    """
    try:
        try:
            return orjson.dumps(_plain(value), option=FAST)
        except _Unusual:
            return canonical(value) + b"\n"
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise EverystepError(f"not representable in canonical JSON: {error}") from error


def write_lines(path: Path, lines: Iterable[bytes], name: str, digits: bool = False) -> Shard:
    """Write lines, each with one LF at its end, to `path`; the returned `Shard` carries `name` as its path.

    `digits`: the lines hold numbers, not text; they are compressed at level 1.
    """
    return write_frames(path, (_joined(block, path) for block in batched(lines, LINES_PER_FRAME)), name, digits)


def write_frames(path: Path, frames: Iterable[bytes], name: str, digits: bool = False) -> Shard:
    """Write what `write_lines` writes, from lines that are joined already: `LINES_PER_FRAME` in each but the last."""
    digest = hashlib.sha256()
    compressor = _compressor(digits)
    entries: list[tuple[int, int]] = []
    num_lines = num_bytes = 0
    with atomic_writer(path) as file:
        for content in frames:
            lines = len(_ends(content))
            if num_lines % LINES_PER_FRAME or not 0 < lines <= LINES_PER_FRAME or not content.endswith(b"\n"):
                raise EverystepError(f"{path}: a frame to be written does not hold {LINES_PER_FRAME} whole lines")
            if len(content) > MAX_FRAME_BYTES:
                raise EverystepError(f"{path}: a frame holds {len(content)} bytes of lines, over {MAX_FRAME_BYTES}")
            digest.update(content)
            num_lines += lines
            num_bytes += len(content)
            entries.append((file.write(compressor.compress(content)), len(content)))
        file.write(_seek_table(entries))
    return Shard(path=name, lines=num_lines, bytes=num_bytes, sha256=digest.hexdigest())


class LineFile:
    """Random access to the lines of one file. Holds one open file and the last frame it read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise EverystepError(f"{path}: cannot be read: {error.strerror}") from error
        self._decompressor = zstandard.ZstdDecompressor()
        try:
            self._offsets, self._sizes = _read_seek_table(self._file, path)
        except BaseException:
            self._file.close()
            raise
        self._frame_number = -1
        self._frame, self._ends = b"", [-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        frames = len(self._sizes)
        return (frames - 1) * LINES_PER_FRAME + self._read_frame(frames - 1) if frames else 0

    def __getitem__(self, number: int) -> bytes:
        """Line `number` without its LF. Reads one frame."""
        frame, line = divmod(number, LINES_PER_FRAME)
        if not 0 <= frame < len(self._sizes) or line >= self._read_frame(frame):
            raise IndexError(f"{self.path}: no line {number}")
        return self._frame[self._ends[line] + 1 : self._ends[line + 1]]

    def __iter__(self) -> Iterator[bytes]:
        for content in self.frames():
            yield from content[:-1].split(b"\n")

    def frames(self) -> Iterator[bytes]:
        """Yield the lines of each frame in order, LF included."""
        for frame in range(len(self._sizes)):
            content = self._decompress(frame)
            self._check_whole(frame, content)
            yield content

    def odd_frame(self) -> int | None:
        """Return the first frame whose header `write_frames` does not write: no checksum, or a dictionary."""
        for frame, (start, stop) in enumerate(pairwise(self._offsets.tolist())):
            self._file.seek(start)
            header = zstandard.get_frame_parameters(self._file.read(min(stop - start, MAX_FRAME_HEADER)))
            if not header.has_checksum or header.dict_id:
                return frame
        return None

    def close(self) -> None:
        self._file.close()

    def stat(self) -> os.stat_result:
        """Stat the open file, which may have another name by now."""
        return os.fstat(self._file.fileno())

    def digest(self) -> tuple[int, int, str]:
        """Compute (lines, bytes, SHA-256) of the uncompressed content."""
        digest = hashlib.sha256()
        num_lines = num_bytes = 0
        for content in self.frames():
            digest.update(content)
            num_lines += len(_ends(content))
            num_bytes += len(content)
        return num_lines, num_bytes, digest.hexdigest()

    def _read_frame(self, frame: int) -> int:
        """Read a frame, unless it was the last one read, and return its number of lines."""
        if frame != self._frame_number:
            content = self._decompress(frame)
            self._ends = [-1, *self._check_whole(frame, content)]
            self._frame, self._frame_number = content, frame
        return len(self._ends) - 1

    def _decompress(self, frame: int) -> bytes:
        self._file.seek(self._offsets[frame])
        stored = self._file.read(int(self._offsets[frame + 1] - self._offsets[frame]))
        try:
            if zstandard.get_frame_parameters(stored).content_size != self._sizes[frame]:
                raise EverystepError(f"{self.path}: frame {frame} and the seek table disagree about its size")
            # Other decoders would show what follows the frame, so nothing may.
            return self._decompressor.decompress(stored, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise EverystepError(f"{self.path}: frame {frame} is damaged: {error}") from error

    def _check_whole(self, frame: int, content: bytes) -> list[int]:
        """Return where the lines end."""
        ends = _ends(content)
        last = frame == len(self._sizes) - 1
        if not content.endswith(b"\n") or len(ends) > LINES_PER_FRAME or (len(ends) < LINES_PER_FRAME and not last):
            raise EverystepError(f"{self.path}: frame {frame} does not hold {LINES_PER_FRAME} whole lines")
        return ends


def promised_frames(folder: Path, shard: Shard) -> Iterator[bytes]:
    """Yield the frames of a shard, LF included. After the last, `Differs` is raised unless they were what the manifest
    promised, so that nothing made from other lines is ever renamed into place."""
    digest = hashlib.sha256()
    num_lines = num_bytes = 0
    with LineFile(folder / shard.path) as file:
        for content in file.frames():
            digest.update(content)
            num_lines += content.count(b"\n")
            num_bytes += len(content)
            yield content
    _require_promised(folder / shard.path, shard, (num_lines, num_bytes, digest.hexdigest()))


def promised_lines(folder: Path, shard: Shard) -> Iterator[bytes]:
    """Yield the lines of a shard without LF, under the same promise."""
    for content in promised_frames(folder, shard):
        yield from content[:-1].split(b"\n")


def check_shard(folder: Path, shard: Shard) -> None:
    """Raise `Differs` unless the lines in the file are the ones the manifest promised."""
    with LineFile(folder / shard.path) as file:
        check_digest(file, shard)


def check_digest(file: LineFile, shard: Shard) -> None:
    """Check a file that is open, as `check_shard` does."""
    _require_promised(file.path, shard, file.digest())


def _require_promised(path: Path, shard: Shard, found: tuple[int, int, str]) -> None:
    if found != (shard.lines, shard.bytes, shard.sha256):
        raise Differs(
            f"{path}: the manifest promises {shard.lines} lines with sha256 {shard.sha256}, "
            f"found {found[0]} lines with {found[2]}"
        )


class _Unusual(Exception):  # noqa: N818  # a signal, not an error
    """Value that orjson may write differently from RFC 8785."""


def _plain(value: Json) -> Json:
    """Return `value` with integral floats turned into ints, as RFC 8785 prints them."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is dict and all(type(key) is str and key.isascii() for key in value):
        return {key: _plain(item) for key, item in value.items()}
    if kind is list:
        return [_plain(item) for item in value]
    if kind is float and abs(value) < 1e15:
        if value.is_integer():
            return int(value)
        if abs(value) > 1e-4:
            return value
    raise _Unusual


def _compressor(digits: bool) -> zstandard.ZstdCompressor:
    """Make the compressor: for ids in decimal, level 1 for inputs of unknown size takes half the time of level 3."""
    if not digits:
        return zstandard.ZstdCompressor(level=LEVEL, threads=0, write_content_size=True, write_checksum=True)
    long = zstandard.ZstdCompressionParameters.from_level(1, threads=0, write_content_size=True, write_checksum=True)
    return zstandard.ZstdCompressor(compression_params=long)


def _ends(content: bytes) -> list[int]:
    """Find each LF, up to one more than a frame may hold. On long lines ten times as fast as `count`."""
    ends: list[int] = []
    end = content.find(b"\n")
    while end >= 0 and len(ends) <= LINES_PER_FRAME:
        ends.append(end)
        end = content.find(b"\n", end + 1)
    return ends


def _joined(block: list[bytes], path: Path) -> bytes:
    content = b"".join(block)
    if len(_ends(content)) != len(block) or not all(line.endswith(b"\n") for line in block):
        raise EverystepError(f"{path}: a line to be written holds no LF at its end, or more than one LF")
    return content


def _seek_table(entries: list[tuple[int, int]]) -> bytes:
    body = b"".join(ENTRY.pack(*entry) for entry in entries) + FOOTER.pack(len(entries), 0, SEEKABLE_MAGIC)
    return struct.pack("<II", SKIPPABLE_MAGIC, len(body)) + body


def _read_seek_table(file: io.BufferedReader, path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read (frame offsets with the end appended, decompressed sizes); every claim is checked against the file."""
    end = file.seek(0, io.SEEK_END)
    damaged = EverystepError(f"{path}: not a line file of Everystep: the seek table at its end is missing or damaged")
    if end < 8 + FOOTER.size:
        raise damaged
    file.seek(end - FOOTER.size)
    frames, descriptor, magic = FOOTER.unpack(file.read(FOOTER.size))
    table = 8 + frames * ENTRY.size + FOOTER.size
    if magic != SEEKABLE_MAGIC or descriptor != 0 or table > end:
        raise damaged
    if frames > MAX_FRAMES:
        raise EverystepError(f"{path}: {frames} frames; a file may have at most {MAX_FRAMES}")
    file.seek(end - table)
    content = file.read(table)
    if struct.unpack_from("<II", content) != (SKIPPABLE_MAGIC, table - 8):
        raise damaged
    compressed, sizes = np.frombuffer(content[8 : table - FOOTER.size], dtype="<u4").reshape(-1, 2).T.astype(np.int64)
    if sizes.max(initial=0) > MAX_FRAME_BYTES:
        raise EverystepError(f"{path}: a frame claims {sizes.max()} bytes; at most {MAX_FRAME_BYTES} are allowed")
    offsets = np.concatenate([[0], np.cumsum(compressed)])
    if offsets[-1] + table != end:
        raise damaged
    return offsets, sizes
