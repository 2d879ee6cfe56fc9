"""The training log: one canonical JSON line a step, and the same as CSV for spreadsheets and `dvc plots`.

A log holds no clock and no speed, so a rebuild must give the same bytes. A line describes the update that
led to state `step`: the loss of its batch before the update, the gradient norm before clipping, the rate.
"""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from pipeline.base.errors import EverystepError
from pipeline.base.files import plain_lines, write_bytes
from pipeline.formats.bounds import MAX_STEPS
from pipeline.formats.canonical import Json, canonical
from pipeline.formats.typed import Count, TensorsDigest, Typed

JSONL, CSV = "log.jsonl", "log.csv"


class Entry(Typed):
    """One line: the update that led to state `step`."""

    step: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    """Updates so far."""
    tokens: Count
    """Tokens read so far."""
    loss: float
    """Mean loss of the batch before the update, in nats per token."""
    gradient_norm: float
    """Norm of the gradient before clipping."""
    learning_rate: float
    """Rate of the update."""
    weights_digest: TensorsDigest | None
    """Digest of the weights after it; null at steps between digests (`digest_every` in the recipe)."""


def append(path: Path, entry: Entry) -> None:
    """Add a line while training runs. A half line after a kill is cut off by `read_until`."""
    with path.open("ab") as file:
        file.write(canonical(entry.to_json()) + b"\n")


def sync(path: Path) -> None:
    """Flush the lines so far to disk, before a checkpoint that will need them."""
    with path.open("ab") as file:
        os.fsync(file.fileno())


def read(path: Path) -> Iterator[Entry]:
    """Read the entries of a finished log, one at a time: the log may be larger than memory."""
    for number, line in enumerate(plain_lines(path), 1):
        yield Entry.parse(line, f"{path}:{number}")


def read_until(path: Path, step: int, begun_at: int = 0) -> list[Entry]:
    """Read the entries after `begun_at` up to `step`, all of which must be there. A kill may have cut the log anywhere
    after that."""
    lines = path.read_bytes().split(b"\n")[:-1][: step - begun_at] if path.exists() else []
    entries = [Entry.parse(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]
    if [entry.step for entry in entries] != list(range(begun_at + 1, step + 1)):
        raise EverystepError(
            f"{path}: does not hold the steps {begun_at + 1} to {step}; remove {path.parent} to start over"
        )
    return entries


def write(folder: Path, entries: list[Entry]) -> None:
    """Write the whole log in both forms."""
    write_bytes(folder / JSONL, b"".join(canonical(entry.to_json()) + b"\n" for entry in entries))
    write_bytes(folder / CSV, as_csv([entry.to_json() for entry in entries]))


def as_csv(rows: list[dict[str, Json]]) -> bytes:
    """Write a table as CSV with LF; numbers look as in the JSON lines."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0].keys())
    for row in rows:
        writer.writerow(["" if value is None else _cell(value) for value in row.values()])
    return text.getvalue().encode()


def _cell(value: Json) -> str:
    return value if isinstance(value, str) else canonical(value).decode()
