"""Plain text and markdown files, also packed, in a folder or in zip and tar archives; a document is one file.

Only a file with the ending of a packing is unpacked: a text may begin with any bytes. Keys are paths inside the
artefact: `books/persuasion.txt`.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipeline.sources import archives
from pipeline.sources.declaration import Declared
from pipeline.sources.document import MAX_TEXT_BYTES, RawDocument, Rejected, attempted, document

MEMBERS = ("*.txt", "*.md")


def parts(folder: Path, source: Declared) -> list[str]:
    """List one part per file or zip member, and one per tar archive."""
    return archives.parts(folder, *_patterns(source))


def read(folder: Path, part: str, source: Declared) -> Iterator[RawDocument | Rejected]:
    """Yield the files of a part in its own order. A byte order mark is dropped; line ends stay as they are."""
    packed_bytes = archives.size(folder, part)
    for name, stream in archives.streams(folder, part, *_patterns(source)):
        if archives.PACKED.search(name):
            stream = archives.decompressed(stream, name, packed_bytes)
        raw = stream.read(MAX_TEXT_BYTES + 4).removeprefix(b"\xef\xbb\xbf")
        yield attempted(name, partial(document, name, raw, {"member": name}))


def _patterns(source: Declared) -> tuple[str, ...]:
    return (source.members,) if source.members else MEMBERS
