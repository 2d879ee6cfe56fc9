"""Files of a raw folder, and members of its zip and tar archives, read in place without unpacking to disk.

What an archive says about itself is not believed. Names that could leave a folder or be no id, links, devices, a
name that stands twice, members that share bytes, too many members, and more bytes than `MAX_RATIO` allows are
refused, by archive and member. So is what would only make a library see less: a broken tar header, bytes after the
end of an archive, and two records of a zip member that disagree. How a file is packed is told by its first bytes;
its name only says that it is packed.

A *part* names what one worker reads: `path` is a file or a whole tar archive, which has no index and is read in
its own order; `path!member` is one member of a zip archive.
"""

import io
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import zstandard

from pipeline.base.errors import EverystepError
from pipeline.base.files import list_files, safe_join
from pipeline.sources.decoders import CODECS, MAGIC_BYTES, PIECE, UNREAD, Member, Packed
from pipeline.sources.document import is_key, printable

MAX_MEMBERS = 200_000
MAX_RATIO = 200  # text compresses 3 to 20 times
MIN_BOUND = 1 << 30  # bytes that are always allowed, whatever the ratio
MAX_WHOLE_BYTES = 32 << 20  # of a file that is read as one; the largest descriptions of an API have 6 MB
MAX_PLACE = 500  # characters of a name in an error
LIBRARIES = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, zstandard.ZstdError, struct.error)
# The last five are what zipfile and tarfile let through where a header holds a number or name that they did not expect.
BROKEN = (*LIBRARIES, EOFError, OSError, NotImplementedError, ValueError, OverflowError, RecursionError, IndexError)

PACKED = re.compile(r"\.(gz|gzip|tgz|bz2|bzip2|tbz2?|xz|txz|zst|zstd|tzst)$", re.I)
ZIP = re.compile(r"\.(zip|whl)$", re.I)
TAR = re.compile(r"\.(tar|tgz|tbz2?|txz|tzst|tar\.(gz|gzip|bz2|bzip2|xz|zst|zstd))$", re.I)
ENDING = re.compile(r"\*(\.\w+)+")
END_OF_ZIP = struct.Struct("<4s6xH8xH")  # signature, number of members, bytes of comment
MANY = 0xFFFF  # members: their number stands elsewhere
MAX_NAMED = 3  # files in a message


def parts(folder: Path, *patterns: str) -> list[str]:
    """Sorted parts below `folder` that fit a shell pattern, at least one; a tar archive counts as fitting."""
    found: list[str] = []
    seen: list[str] = []
    for name in list_files(folder):
        path = safe_join(folder, name)
        if ZIP.search(name):
            inside = members(_zip_of(path))
            seen += inside
            found += [f"{name}!{member}" for member in inside if fits(member, patterns)]
        elif TAR.search(name) or fits(name, patterns):
            found.append(name)
        else:
            seen.append(name)
    if not found:
        raise nothing_fits(folder, patterns, seen)
    return sorted(found)


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether a shell pattern fits. One that is only an ending, `*.jsonl`, also fits `A.JSONL` and `a.jsonl.gz`."""
    bare = PACKED.sub("", name).lower()
    return any(
        fnmatchcase(name, pattern) or (ENDING.fullmatch(pattern) and fnmatchcase(bare, pattern.lower()))
        for pattern in patterns
    )


def nothing_fits(folder: Path, patterns: Iterable[str], seen: Sequence[str]) -> EverystepError:
    """What to raise where no file or member fits."""
    there = printable(", ".join(seen[:MAX_NAMED])) + f" and {len(seen) - MAX_NAMED} more" * (len(seen) > MAX_NAMED)
    cure = "correct `reader`, or set `members` to a pattern that fits"
    return EverystepError(f"{folder}: nothing matches {' or '.join(patterns)}, there is {there or 'no file'}; {cure}")


def streams(folder: Path, part: str, *patterns: str) -> Iterator[tuple[str, io.BufferedReader]]:
    """The named byte streams of a part. Each must be read before the next is asked for."""
    name, is_member, member = part.partition("!")
    path = safe_join(folder, name)
    if is_member:
        with open_member(_zip_of(path), member) as stream:
            yield member, stream
    elif TAR.search(name):
        with path.open("rb") as file:
            yield from _tar_streams(file, path, patterns)
    else:
        with path.open("rb") as file:
            yield name, file


def streams_of(path: Path, *patterns: str) -> Iterator[tuple[str, io.BufferedReader]]:
    """The streams of one file, whatever it is called: itself, or the members of an archive that fit a pattern."""
    inside = members(_zip_of(path)) if ZIP.search(path.name) else []
    fitting = [f"{path.name}!{member}" for member in inside if fits(member, patterns)]
    if inside and not fitting:
        raise nothing_fits(path, patterns, inside)
    for part in fitting or [path.name]:
        yield from streams(path.parent, part, *patterns)


def size(folder: Path, part: str) -> int:
    """Bytes of the file that holds the part."""
    return safe_join(folder, part.partition("!")[0]).stat().st_size


def open_zip(file: Path | IO[bytes], where: str) -> zipfile.ZipFile:
    """A zip archive whose index has been checked. `where` names it in errors."""
    try:
        archive = zipfile.ZipFile(file)
    except BROKEN as error:
        raise EverystepError(f"{where}: not a whole zip archive ({error}); remove it and fetch again") from error
    archive.filename = where
    infos = archive.infolist()
    _refuse(len(infos) > MAX_MEMBERS, where, f"{len(infos)} members, more than {MAX_MEMBERS}")
    _refuse(sum(info.file_size for info in infos) > bound(_length(archive)), where, "unpacks to an absurd size")
    seen: set[str] = set()
    for info in infos:
        mode = stat.S_IFMT(info.external_attr >> 16)
        place = f"{where}: {info.orig_filename!r}"
        _refuse("\0" in info.orig_filename, place, "is not a plain relative path")  # the library cuts it there
        _check_name(info.filename, place, seen)
        _refuse(mode not in (0, stat.S_IFREG, stat.S_IFDIR), place, "is a link or device")
        _refuse(bool(info.flag_bits & 1), place, "is encrypted")
        packing = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        _refuse(not packing, place, "is neither stored nor deflated")
    _refuse(_overlap(infos), where, "two members share bytes")
    _check_ends(archive, infos, where)
    return archive


def _check_ends(archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo], where: str) -> None:
    """That the archive is all of the file, and that each member is called the same where it stands.

    The library takes the last end that it finds, wherever; and a member with a damaged name would not be asked for.
    """
    assert archive.fp is not None
    try:
        archive.fp.seek(-END_OF_ZIP.size - len(archive.comment), os.SEEK_END)
        signature, number, comment = END_OF_ZIP.unpack(archive.fp.read(END_OF_ZIP.size))
        ended = signature == b"PK\5\6" and comment == len(archive.comment) and number in (len(infos), MANY)
        if not ended or (infos and min(info.header_offset for info in infos)):
            raise zipfile.BadZipFile("bytes that belong to no member, or members that are missing")
        for info in infos:
            archive.open(info).close()
    except BROKEN as error:
        raise EverystepError(f"{where}: not a whole zip archive ({error}); remove it and fetch again") from error


def _overlap(infos: list[zipfile.ZipInfo]) -> bool:
    """Whether members lie over each other, as in Fifield's "A better zip bomb" (WOOT 2019)."""
    placed = sorted((info.header_offset, info.header_offset + info.compress_size) for info in infos)
    return any(end > start for (_, end), (start, _) in pairwise(placed))


def members(archive: zipfile.ZipFile) -> list[str]:
    """Sorted names of the files in a checked zip archive."""
    return sorted(info.filename for info in archive.infolist() if not info.is_dir())


def open_member(archive: zipfile.ZipFile, name: str) -> io.BufferedReader:
    """A member of a checked zip archive, as a stream of at most its declared size."""
    where = f"{archive.filename}: {name!r}"
    try:
        info = archive.getinfo(name)
        return bounded(archive.open(info), info.file_size, where)
    except (KeyError, *BROKEN) as error:
        raise EverystepError(f"{where}: cannot be read ({error}); remove the archive and fetch again") from error


def decompressed(stream: io.BufferedReader, name: str, packed_bytes: int) -> io.BufferedReader:
    """`stream` unpacked as its first bytes say, and as it is where they say nothing; `packed_bytes` gives the bound."""
    first = stream.peek(MAGIC_BYTES)[:MAGIC_BYTES]
    for codec in CODECS:
        if codec.magic.match(first):
            return bounded(Packed(stream, codec), bound(packed_bytes), name)
    for packing, magic in UNREAD.items():
        if first.startswith(magic):
            raise EverystepError(f"{name}: packed as {packing}, which is not read; pack it as zst, gz, xz or bz2")
    if PACKED.search(name):
        raise EverystepError(
            f"{name}: has the name of a compressed file but is not compressed; fetch it again or rename it"
        )
    return stream


def whole(stream: IO[bytes], name: str) -> bytes:
    """All of a stream that is read as one; a longer one than `MAX_WHOLE_BYTES` is refused."""
    content = stream.read(MAX_WHOLE_BYTES + 1)
    _refuse(len(content) > MAX_WHOLE_BYTES, name, f"is longer than {MAX_WHOLE_BYTES} bytes")
    return content


def bound(packed_bytes: int) -> int:
    """Bytes that so many packed bytes may become."""
    return max(MIN_BOUND, MAX_RATIO * packed_bytes)


def bounded(stream: Any, limit: int, where: str) -> io.BufferedReader:
    """`stream`, which raises an error naming `where` at a byte past `limit` and at broken compression."""
    return io.BufferedReader(_Bounded(stream, limit, where), PIECE)


class _Bounded(io.RawIOBase):
    def __init__(self, stream: Any, limit: int, where: str) -> None:
        self.stream, self.left, self.where = stream, limit, where

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.stream.read(len(buffer))
        except BROKEN as error:
            raise EverystepError(f"{self.where}: broken ({error}); remove the artefact and fetch again") from error
        self.left -= len(data)
        _refuse(self.left < 0, self.where, "gives more bytes than its size allows")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self.stream.close()
        super().close()


def _tar_streams(
    file: io.BufferedReader, path: Path, patterns: tuple[str, ...]
) -> Iterator[tuple[str, io.BufferedReader]]:
    seen: set[str] = set()
    packed_bytes = path.stat().st_size
    try:
        with tarfile.open(fileobj=decompressed(file, path.name, packed_bytes), mode="r|", tarinfo=Member) as archive:
            for member in archive:
                place = f"{path}: {member.name!r}"
                _check_name(member.name, place, seen)
                _refuse(len(seen) > MAX_MEMBERS, str(path), f"more than {MAX_MEMBERS} members")
                plain = (member.isfile() or member.isdir()) and not member.issparse()
                _refuse(not plain, place, "is a link, device or sparse file")
                _refuse(member.size > bound(packed_bytes), place, "unpacks to an absurd size")
                if member.isfile() and fits(member.name, patterns):
                    yield member.name, bounded(archive.extractfile(member), member.size, place)
            _check_padding(archive.fileobj)
    except BROKEN as error:
        raise EverystepError(f"{path}: not a whole tar archive ({error}); remove it and fetch again") from error


def _check_padding(rest: Any) -> None:
    """That nothing but zeros follows the end of a tar archive, and that what it is packed in ends well."""
    while piece := rest.read(PIECE):
        if piece.count(0) != len(piece):
            raise tarfile.ReadError("bytes follow its end, as where archives were joined")


def _check_name(name: str, place: str, seen: set[str]) -> None:
    plain = name.removesuffix("/").removeprefix("./") or "."
    leaves = not name or name.startswith("/") or ".." in plain.split("/") or "" in plain.split("/")
    odd = re.search(r"\\|^[A-Za-z]:", name) or not is_key(plain)
    _refuse(leaves or bool(odd), place[:MAX_PLACE], "is not a plain relative path")
    _refuse(plain in seen, place, "stands twice")
    seen.add(plain)


def _refuse(wrong: bool, place: str, what: str) -> None:
    if wrong:
        raise EverystepError(f"{place}: {what}; refused: no legitimate corpus contains this")


def _zip_of(path: Path) -> zipfile.ZipFile:
    """The checked archive; parsed once a process, because a file position shared across a fork mixes reads."""
    status = path.stat()
    return _zip_cached(path, status.st_size, status.st_mtime_ns, os.getpid())


@lru_cache(maxsize=4)
def _zip_cached(path: Path, _size: int, _mtime_ns: int, _process: int) -> zipfile.ZipFile:
    return open_zip(path, str(path))


def _length(archive: zipfile.ZipFile) -> int:
    assert archive.fp is not None
    place = archive.fp.tell()
    length = archive.fp.seek(0, os.SEEK_END)
    archive.fp.seek(place)
    return length
