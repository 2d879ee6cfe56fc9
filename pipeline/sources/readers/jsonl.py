"""JSON lines, plain or packed as gz, bz2, xz or zst, as files or in archives; a document is one line.

The rows that `huggingface` fetches are read in the same way. A line that is not a JSON object is rejected and counted.
Without an `id_column` the key is file and line: `part-0003.jsonl.gz:17`, counted from 1.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipeline.sources import archives
from pipeline.sources.declaration import Declared, HuggingfaceSource
from pipeline.sources.document import RawDocument, Rejected, attempted, rejected
from pipeline.sources.records import Broken, json_row, numbered_lines
from pipeline.sources.rows import row_document

MEMBERS = ("*.jsonl", *(f"*.json.{packing}" for packing in ("gz", "gzip", "bz2", "xz", "zst", "zstd")))


def parts(folder: Path, source: Declared) -> list[str]:
    """List one part per file or zip member, and one per tar archive."""
    return archives.parts(folder, *_patterns(source))


def read(folder: Path, part: str, source: Declared) -> Iterator[RawDocument | Rejected]:
    """Yield the lines of a part in their order. Blank lines are skipped, but counted in keys."""
    packed_bytes = archives.size(folder, part)
    for name, packed in archives.streams(folder, part, *_patterns(source)):
        stream = archives.decompressed(packed, name, packed_bytes)
        for number, line in numbered_lines(stream):
            if line.strip():
                place = f"{name}:{number}"
                yield attempted(place, partial(_read_line, line, place, source))


def _read_line(line: bytes, place: str, source: Declared) -> RawDocument | Rejected:
    row = json_row(line, place)
    if isinstance(source, HuggingfaceSource) and isinstance(row, list):
        row = Broken(*row)  # as `huggingface` keeps rows that it could not read
    return rejected(place, *row) if isinstance(row, Broken) else row_document(row, place, source)


def _patterns(source: Declared) -> tuple[str, ...]:
    return (source.members,) if source.members else MEMBERS
