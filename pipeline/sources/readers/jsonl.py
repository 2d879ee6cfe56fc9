"""JSON lines, plain or packed as gz, bz2, xz or zst, as files or in archives; a document is one line.

Also reads the rows that `huggingface` stores. A line that is no JSON object is rejected and counted. Without an
`id_column` the key is file and line: `part-0003.jsonl.gz:17`, counted from 1.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

from pipeline.formats.errors import EverystepError
from pipeline.sources import archives
from pipeline.sources.declaration import Declared
from pipeline.sources.document import MAX_TEXT_BYTES, Document, Rejected, attempted, rejected
from pipeline.sources.rows import parse_bounded, row_document

MEMBERS = ("*.jsonl", "*.jsonl.gz", "*.jsonl.bz2", "*.jsonl.xz", "*.jsonl.zst", "*.json.gz", "*.json.zst")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_LINE_BYTES = 2 * MAX_TEXT_BYTES  # escapes make a line longer than its text


def parts(folder: Path, source: Declared) -> list[str]:
    """One part per file or zip member, and one per tar archive."""
    return archives.parts(folder, *_patterns(source))


def read(folder: Path, part: str, source: Declared) -> Iterator[Document | Rejected]:
    """The lines of a part in their order. Blank lines are passed over, and counted in keys."""
    packed_bytes = archives.size(folder, part)
    for name, packed in archives.streams(folder, part, *_patterns(source)):
        stream = archives.decompressed(packed, name, packed_bytes)
        for number, line in enumerate(_lines(stream), 1):
            line = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
            place = f"{name}:{number}"
            if len(line) > MAX_LINE_BYTES:
                yield rejected(place, "too_large", f"a line of more than {MAX_LINE_BYTES} bytes")
            elif line.strip():
                yield attempted(place, partial(_read_line, line, place, source))


def _read_line(line: bytes, place: str, source: Declared) -> Document | Rejected:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return rejected(place, "invalid_utf8", str(error))
    try:
        row = parse_bounded(text, place)
    except EverystepError as error:
        return rejected(place, "broken_record", str(error))
    return row_document(row, place, source)


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Lines, the long ones cut behind `MAX_LINE_BYTES` so that none can fill the memory."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        yield line
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE_BYTES + 1)


def _patterns(source: Declared) -> tuple[str, ...]:
    return (source.members,) if source.members else MEMBERS
