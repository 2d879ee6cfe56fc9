"""The text of a step: the rows that a step read, decoded, each piece with its document.

A release ships ids, not texts. What a reader sees here is what the model saw, as far as characters show it: every id
of a row but the last is an input, every id but the first a target, pieces of fill-in-the-middle are in their changed
order, and bytes that are not UTF-8, since a row may cut a character, become U+FFFD.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.audit.trace import trace_step
from pipeline.base.paths import TOKENIZER, TOKENS
from pipeline.formats.lines import LineFile
from pipeline.formats.manifests import Tokens
from pipeline.formats.rows import Row, decode_row
from pipeline.formats.vocabulary import special_tokens, token_texts
from pipeline.release.release import Release


@dataclass(frozen=True)
class Piece:
    """A piece of a document in a row."""

    id: str
    source: str
    license: str
    start: int
    """First of its ids in the row."""
    stop: int
    text: str
    """What its ids encode; a special token by its name."""


@dataclass(frozen=True)
class ReadRow:
    """A row that a step read."""

    sample: int
    """Its place in the batch."""
    row: int
    pieces: list[Piece]


def step_texts(release: Release, model: str, step: int) -> list[ReadRow]:
    """Decode the rows of the batch that led from state `step - 1` to state `step`, in reading order."""
    spans = trace_step(release, model, step)
    path = release.file(TOKENIZER)
    names = special_tokens(path)
    texts = [names[id].encode() if id in names else text for id, text in enumerate(token_texts(path))]
    rows = _rows(release, sorted({span["row"] for span in spans}))
    read: dict[int, ReadRow] = {}
    for span in spans:
        ids = rows[span["row"]][span["start"] : span["stop"]].tolist()
        text = b"".join(texts[id] for id in ids).decode(errors="replace")
        piece = Piece(span["id"], span["source"], span["license"], span["start"], span["stop"], text)
        read.setdefault(span["sample"], ReadRow(span["sample"], span["row"], [])).pieces.append(piece)
    return list(read.values())


def _rows(release: Release, wanted: Sequence[int]) -> dict[int, Row]:
    """Read these rows by number; of a release elsewhere only their shards are brought."""
    tokens = release.manifest(Tokens)
    rows: dict[int, Row] = {}
    first = 0
    for shard in tokens.shards("train"):
        here = [number for number in wanted if first <= number < first + shard.lines]
        if here:
            path = release.file(TOKENS / shard.path)
            with LineFile(path) as lines:
                for number in here:
                    where = f"{path}:{number - first + 1}"
                    rows[number] = decode_row(lines[number - first], tokens.width, tokens.vocabulary, where)
        first += shard.lines
    return rows
