"""Files of a raw folder, and members of its zip and tar archives, read in place without unpacking to disk.

Archives are not trusted. Names that could leave a folder or cannot be ids, links, devices, duplicate names, members
that share bytes, too many members, and more bytes than `max_unpacked` allows are refused, by archive and member. So is
damage that would only make a library see less: a broken tar header, bytes after the end of an archive, and two records
of a zip member that disagree. The first bytes of a file say how it is packed; its name only says that it is packed.

A *part* names the input of one worker: `path` is a file or a whole tar archive, which has no index and is read in
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
from pipeline.base.files import list_files, max_unpacked, safe_join
from pipeline.sources.decoders import CODECS, MAGIC_BYTES, PIECE, UNREAD, Member, Packed
from pipeline.sources.document import escaped, is_key

MAX_MEMBERS = 200_000
MAX_WHOLE_BYTES = 32 << 20  # of a file that must fit into memory; the largest descriptions of an API have 6 MB
MAX_PLACE = 500  # characters of a name in an error
TOO_LARGE = "unpacks to far more bytes than its size explains"
LIBRARIES = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, zstandard.ZstdError, struct.error)
# zipfile and tarfile raise the last five where a header holds a number or name that they did not expect.
BROKEN = (*LIBRARIES, EOFError, OSError, NotImplementedError, ValueError, OverflowError, RecursionError, IndexError)

PACKED = re.compile(r"\.(gz|gzip|tgz|bz2|bzip2|tbz2?|xz|txz|zst|zstd|tzst)$", re.I)
ZIP = re.compile(r"\.(zip|whl)$", re.I)
TAR = re.compile(r"\.(tar|tgz|tbz2?|txz|tzst|tar\.(gz|gzip|bz2|bzip2|xz|zst|zstd))$", re.I)
ENDING = re.compile(r"\*(\.\w+)+")
END_OF_ZIP = struct.Struct("<4s6xH8xH")  # signature, number of members, bytes of comment
MANY = 0xFFFF  # members; their number is then stored elsewhere
MAX_NAMED = 3  # files in a message


def parts(folder: Path, *patterns: str) -> list[str]:
    """List the parts below `folder` that match a shell pattern, sorted, at least one; a tar archive always matches."""
    found: list[str] = []
    seen: list[str] = []
    for name in list_files(folder):
        path = safe_join(folder, name)
        if ZIP.search(name):
            inside = zip_members(_zip_of(path))
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
    """Tell whether a shell pattern matches. A mere ending, `*.jsonl`, also matches `A.JSONL` and `a.jsonl.gz`."""
    bare = PACKED.sub("", name).lower()
    return any(
        fnmatchcase(name, pattern) or (ENDING.fullmatch(pattern) and fnmatchcase(bare, pattern.lower()))
        for pattern in patterns
    )


def nothing_fits(folder: Path, patterns: Iterable[str], seen: Sequence[str]) -> EverystepError:
    """Make the error for a folder in which no file or member matches."""
    there = escaped(", ".join(seen[:MAX_NAMED])) + f" and {len(seen) - MAX_NAMED} more" * (len(seen) > MAX_NAMED)
    cure = "correct `reader`, or set `members` to a pattern that fits"
    return EverystepError(f"{folder}: nothing matches {' or '.join(patterns)}, there is {there or 'no file'}; {cure}")


def streams(folder: Path, part: str, *patterns: str) -> Iterator[tuple[str, io.BufferedReader]]:
    """Yield the named byte streams of a part. Each must be read before the next is requested."""
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
    """Yield the streams of one file of any name: itself, or the members of an archive that match a pattern."""
    inside = zip_members(_zip_of(path)) if ZIP.search(path.name) else []
    fitting = [f"{path.name}!{member}" for member in inside if fits(member, patterns)]
    if inside and not fitting:
        raise nothing_fits(path, patterns, inside)
    for part in fitting or [path.name]:
        yield from streams(path.parent, part, *patterns)


def size(folder: Path, part: str) -> int:
    """Give the size of the file that holds the part."""
    return safe_join(folder, part.partition("!")[0]).stat().st_size


def open_zip(file: Path | IO[bytes], where: str) -> zipfile.ZipFile:
    """Open a zip archive and check its index. `where` names it in errors."""
    try:
        archive = zipfile.ZipFile(file)
    except BROKEN as error:
        raise EverystepError(f"{where}: not a whole zip archive ({error}); remove it and fetch again") from error
    archive.filename = where
    infos = archive.infolist()
    _refuse(len(infos) > MAX_MEMBERS, where, f"{len(infos)} members, more than {MAX_MEMBERS}")
    _refuse(sum(info.file_size for info in infos) > max_unpacked(_length(archive)), where, TOO_LARGE)
    seen: set[str] = set()
    for info in infos:
        mode = stat.S_IFMT(info.external_attr >> 16)
        place = f"{where}: {info.orig_filename!r}"
        _refuse("\0" in info.orig_filename, place, "is not a plain relative path")  # the library truncates it there
        _check_name(info.filename, place, seen)
        _refuse(mode not in (0, stat.S_IFREG, stat.S_IFDIR), place, "is a link or device")
        _refuse(bool(info.flag_bits & 1), place, "is encrypted")
        packing = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        _refuse(not packing, place, "is neither stored nor deflated")
    _refuse(_overlap(infos), where, "two members share bytes")
    _check_ends(archive, infos, where)
    return archive


def _check_ends(archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo], where: str) -> None:
    """Check that the archive is the whole file, and that each member has the same name in its own header.

    The library accepts an end anywhere in the file; and a member with a damaged name would never be read.
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
    """Tell whether members overlap, as in Fifield's "A better zip bomb" (WOOT 2019)."""
    placed = sorted((info.header_offset, info.header_offset + info.compress_size) for info in infos)
    return any(end > start for (_, end), (start, _) in pairwise(placed))


def zip_members(archive: zipfile.ZipFile) -> list[str]:
    """List the files in a checked zip archive, sorted by name."""
    return sorted(info.filename for info in archive.infolist() if not info.is_dir())


def open_member(archive: zipfile.ZipFile, name: str) -> io.BufferedReader:
    """Open a member of a checked zip archive as a stream of at most its declared size."""
    where = f"{archive.filename}: {name!r}"
    try:
        info = archive.getinfo(name)
        return _bounded(archive.open(info), info.file_size, where)
    except (KeyError, *BROKEN) as error:
        raise EverystepError(f"{where}: cannot be read ({error}); remove the archive and fetch again") from error


def decompressed(stream: io.BufferedReader, name: str, packed_bytes: int) -> io.BufferedReader:
    """Unpack a stream by its first bytes, and return it unchanged if they name no packing; `packed_bytes` limits it."""
    first = stream.peek(MAGIC_BYTES)[:MAGIC_BYTES]
    for codec in CODECS:
        if codec.magic.match(first):
            return _bounded(Packed(stream, codec), max_unpacked(packed_bytes), name)
    for packing, magic in UNREAD.items():
        if first.startswith(magic):
            raise EverystepError(f"{name}: {packing} is not a supported packing; pack it as zst, gz, xz or bz2")
    if PACKED.search(name):
        raise EverystepError(
            f"{name}: has the name of a compressed file but is not compressed; fetch it again or rename it"
        )
    return stream


def whole(stream: IO[bytes], name: str) -> bytes:
    """Read all of a stream; one of more than `MAX_WHOLE_BYTES` is refused."""
    content = stream.read(MAX_WHOLE_BYTES + 1)
    _refuse(len(content) > MAX_WHOLE_BYTES, name, f"is longer than {MAX_WHOLE_BYTES} bytes")
    return content


def _bounded(stream: Any, limit: int, where: str) -> io.BufferedReader:
    """Wrap a stream to raise an error that names `where` after `limit` bytes, or where it is damaged."""
    return io.BufferedReader(_Bounded(stream, limit, where), PIECE)


class _Bounded(io.RawIOBase):
    """Stream of at most `limit` bytes."""

    def __init__(self, stream: Any, limit: int, where: str) -> None:
        self.stream, self.left, self.where = stream, limit, where

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.stream.read(len(buffer))
        except BROKEN as error:
            raise EverystepError(f"{self.where}: damaged ({error}); remove the artefact and fetch again") from error
        self.left -= len(data)
        _refuse(self.left < 0, self.where, "unpacks to more bytes than its size allows")
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
                _refuse(member.size > max_unpacked(packed_bytes), place, TOO_LARGE)
                if member.isfile() and fits(member.name, patterns):
                    yield member.name, _bounded(archive.extractfile(member), member.size, place)
            _check_padding(archive.fileobj)
    except BROKEN as error:
        raise EverystepError(f"{path}: not a whole tar archive ({error}); remove it and fetch again") from error


def _check_padding(rest: Any) -> None:
    """Check that only zeros follow the end of a tar archive, and that its compressed stream is complete."""
    while piece := rest.read(PIECE):
        if piece.count(0) != len(piece):
            raise tarfile.ReadError("bytes follow its end; were archives concatenated?")


def _check_name(name: str, place: str, seen: set[str]) -> None:
    plain = name.removesuffix("/").removeprefix("./") or "."
    leaves = not name or name.startswith("/") or ".." in plain.split("/") or "" in plain.split("/")
    odd = re.search(r"\\|^[A-Za-z]:", name) or not is_key(plain)
    _refuse(leaves or bool(odd), place[:MAX_PLACE], "is not a plain relative path")
    _refuse(plain in seen, place, "appears twice")
    seen.add(plain)


def _refuse(wrong: bool, place: str, what: str) -> None:
    if wrong:
        raise EverystepError(f"{place}: {what}; refused: no legitimate corpus contains this")


def _zip_of(path: Path) -> zipfile.ZipFile:
    """Open and check the archive, once per process: processes that share a file position after a fork mix reads."""
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
