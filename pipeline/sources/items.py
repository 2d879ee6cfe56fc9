"""Rows of evaluation sets in an artefact: `.arrow` streams and lines of JSON, also packed, read in place."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.base.errors import EverystepError
from pipeline.formats.canonical import parse
from pipeline.sources import archives

END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
"""Last bytes of an Arrow stream (columnar format, IPC streaming format)."""


def rows_of(folder: Path, members: str) -> Iterator[Any]:
    """Yield the rows of the files, or members of archives, of an artefact in `folder` that match a shell pattern."""
    for part in archives.parts(folder, members):
        packed_bytes = archives.size(folder, part)
        for name, packed in archives.streams(folder, part, members):
            stream = archives.decompressed(packed, name, packed_bytes)
            if name.endswith(".arrow"):
                yield from _arrow_rows(stream, f"{folder}: {name}")
            else:
                yield from (parse(line, name) for line in stream if line.strip())


def _arrow_rows(stream: Any, where: str) -> Iterator[Any]:
    """Yield the rows of an Arrow stream as dicts; each batch is checked before it is read.

    The library mistakes a stream that is cut off between two batches for a shorter one, so its last bytes are checked.
    """
    try:
        watched = _Watched(stream)
        with pa.ipc.open_stream(pa.PythonFile(watched, "r")) as reader:
            for batch in reader:
                batch.validate(full=True)
                yield from batch.to_pylist()
        if stream.read(1) or watched.last != END_OF_STREAM:
            raise EverystepError(f"{where}: cut off, or bytes follow its end; fetch it again")
    except (pa.ArrowException, OSError) as error:  # a short read is an OSError there
        raise EverystepError(f"{where}: not a readable Arrow stream: {error}") from error


class _Watched:
    """Stream that remembers the last bytes that were read."""

    closed = False

    def __init__(self, stream: Any) -> None:
        self._stream, self.last = stream, b""

    def read(self, size: int) -> bytes:
        content: bytes = self._stream.read(size)
        self.last = (self.last + content)[-len(END_OF_STREAM) :]
        return content

    def close(self) -> None:
        self.closed = True
