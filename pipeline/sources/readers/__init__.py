"""One module per natural document format, each with the same two functions.

`parts` names the independent units of work in a raw folder, sorted; `read` yields the documents of one part in a
fixed order. Every part can be read by another process, and the number of processes changes nothing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from pipeline.sources.declaration import Declared
from pipeline.sources.document import RawDocument, Rejected
from pipeline.sources.readers import aws_api, google_api, jsonl, parquet, plays, speeches, text


class Reader(Protocol):
    """Interface of each module here."""

    def parts(self, folder: Path, source: Declared) -> list[str]: ...

    def read(self, folder: Path, part: str, source: Declared) -> Iterator[RawDocument | Rejected]: ...


READERS: dict[str, Reader] = {
    "aws_api": aws_api,
    "google_api": google_api,
    "jsonl": jsonl,
    "parquet": parquet,
    "plays": plays,
    "speeches": speeches,
    "text": text,
}
