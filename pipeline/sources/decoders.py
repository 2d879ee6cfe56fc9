"""Decoders of packed streams and of tar headers, with memory limits, and without mistaking damage for the end.

The libraries' own readers mistake a stream that is cut off in its second frame, or followed by garbage, for a shorter
one. `Packed` reads whole streams only: the last one must be complete, and only padding may follow.
"""

import bz2
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable
from typing import IO, Any, NamedTuple, Protocol, Self

import zstandard

MAX_WINDOW_BYTES = 128 << 20
"""Memory that a decoder may use: `xz -9` takes 65 MiB, `zstd --ultra -22` takes 128."""
MAX_HEADER_BYTES = 1 << 20
"""Size limit of the extended header, such as a long name, of a member of a tar archive."""
PIECE = 1 << 16
STEP = 1 << 10
"""Packed bytes that zstd is given at a time: it unpacks all of them, and four bytes may become 128 KiB."""
LONG_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, *LONG_NAMES)


class Decoder(Protocol):
    """Decoder of one stream, like those of `bz2` and `lzma`."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class Codec(NamedTuple):
    """Magic bytes of a packing, and its decoder. Zero bytes between its streams must be a multiple of `padding`."""

    magic: re.Pattern[bytes]
    decoder: Callable[[], Decoder]
    padding: int = 0


class Packed:
    """Content of the packed streams in a file, one after another, each of them complete."""

    def __init__(self, stream: IO[bytes], codec: Codec) -> None:
        self._stream, self._codec, self._packed = stream, codec, b""
        self._decoder: Decoder | None = codec.decoder()

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes, none at the end. Damage raises an error of the library, or `EOFError`."""
        while self._decoder or self._begin():
            assert self._decoder
            if self._decoder.needs_input and not self._packed:
                self._packed = self._stream.read(PIECE)
                if not self._packed:
                    raise EOFError("it is cut off")
            content = self._decoder.decompress(self._packed, size)
            self._packed = b""
            if self._decoder.eof:
                self._packed, self._decoder = self._decoder.unused_data, None
            if content:
                return content
        return b""

    def _begin(self) -> bool:
        """Prepare the decoder of the next stream; return False if none follows."""
        padding = 0
        while True:
            rest = self._packed.lstrip(b"\0") if self._codec.padding else self._packed
            padding += len(self._packed) - len(rest)
            self._packed = rest or self._stream.read(PIECE)
            if rest or not self._packed:
                break
        if padding and padding % self._codec.padding:
            raise EOFError(f"{padding} zero bytes follow the end of a stream")
        self._decoder = self._codec.decoder() if rest else None
        return bool(rest)

    def close(self) -> None:
        """Close the packed stream."""
        self._stream.close()


class _Gzip:
    """Decoder of one member of a gzip file."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=31)
        self.eof, self.needs_input, self.unused_data = False, True, b""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        content = self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)
        self.eof, self.unused_data = self._decoder.eof, self._decoder.unused_data
        self.needs_input = len(content) < max_length and not self._decoder.unconsumed_tail
        return content


class _Zstd:
    """Decoder of one frame of a zstd file, data or skippable."""

    def __init__(self) -> None:
        self._decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
        self._packed, self._content = b"", io.BytesIO()
        self.eof, self.needs_input, self.unused_data = False, True, b""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        self._packed += data
        content = self._content.read(max_length)
        if not content and not self._decoder.eof:
            step, self._packed = self._packed[:STEP], self._packed[STEP:]
            self._content = io.BytesIO(self._decoder.decompress(step))
            content = self._content.read(max_length)
        self.needs_input = not content and not self._packed
        if self._decoder.eof and not content:
            self.eof, self.unused_data = True, self._decoder.unused_data + self._packed
        return content


def _xz() -> Decoder:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_WINDOW_BYTES)


CODECS = (
    Codec(re.compile(rb"\x1f\x8b"), _Gzip, padding=1),
    Codec(re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), bz2.BZ2Decompressor),
    Codec(re.compile(rb"\xfd7zXZ\0"), _xz, padding=4),
    Codec(re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), _Zstd),  # a frame, or one to be skipped
)
UNREAD = {
    "lz4": b"\x04\x22\x4d\x18",
    "zip": b"PK\3\4",
    "7z": b"7z\xbc\xaf\x27\x1c",
    "rar": b"Rar!\x1a\7",
    "compress": b"\x1f\x9d",
    "lzma": b"\x5d\0\0",
}
"""Packings that are recognized only to be refused by name."""
MAGIC_BYTES = 10


class Member(tarfile.TarInfo):
    """Header in a tar archive. The library mistakes a broken one for the end, and reads a name of any length."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Parse the header in a block of 512 bytes; only a block of zeros is the end."""
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.count(0) == tarfile.BLOCKSIZE:
                raise
            raise tarfile.ReadError(f"a header is broken or missing: {error}") from error
        if member.type in HEADERS and member.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {member.size} bytes")
        return member

    def _proc_gnusparse_10(self, *_: Any) -> None:
        """Refuse a map of holes, which is part of the data and may be endless; called by the library."""
        raise tarfile.ReadError(f"{self.name!r} is a sparse file")
