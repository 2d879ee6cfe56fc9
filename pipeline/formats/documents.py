"""Documents: `{"id", "metadata", "text"}` lines, readable by datatrove and by `datasets`.

`id` is `{source}/{natural key}`, stable under cleaning. `metadata` holds at least `license`, `source` and
`text_sha256` (of the text next to it). Every choice about a document (validation split, caps,
packing order) is a function of a keyed hash of its id, so it does not depend on what else was fetched.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.json import ParseOptions, ReadOptions, read_json

from pipeline.base.errors import EverystepError
from pipeline.formats.lines import FAST, LineFile, encode_line

DOCUMENTS_PER_SHARD = 8192
METADATA_KEYS = {"license", "source", "text_sha256"}
COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("metadata", pa.struct([(key, pa.string()) for key in sorted(METADATA_KEYS)])),
    ]
)
"""Fields of a line that become columns."""


@dataclass(frozen=True)
class Document:
    """One text and its origin. `metadata` values are strings."""

    id: str
    text: str
    metadata: dict[str, str]

    @property
    def source(self) -> str:
        return self.metadata["source"]

    @property
    def license(self) -> str:
        return self.metadata["license"]

    def with_text(self, text: str) -> "Document":
        """Return the same document with another text and its digest."""
        return Document(self.id, text, self.metadata | {"text_sha256": text_sha256(text)})


def text_sha256(text: str) -> str:
    """Return the hex SHA-256 of the UTF-8 bytes of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def id_hash(id: str, purpose: str, seed: int = 0) -> int:
    """Hash a document id to 64 bits, independently for each purpose and seed.

    The first 8 bytes, big-endian, of SHA-256 over `everystep-v1`, purpose, seed and id, joined by LF.
    """
    return id_hashes([id], purpose, seed)[0]


def id_hashes(ids: Iterable[str], purpose: str, seed: int = 0) -> list[int]:
    """Hash each id as `id_hash` does."""
    prefix = f"everystep-v1\n{purpose}\n{seed}\n".encode()
    digests = (hashlib.sha256(prefix + id.encode()).digest() for id in ids)
    return [int.from_bytes(digest[:8], "big") for digest in digests]


def share_limit(share: float) -> int:
    """Return the number below which this share of all hashes lies."""
    return round(share * 10**9) * (2**64 // 10**9)


def encode_document(document: Document) -> bytes:
    """Encode one line, by orjson at once if it sorts the keys as RFC 8785 does."""
    tree = {"id": document.id, "metadata": document.metadata, "text": document.text}
    if all(map(str.isascii, document.metadata)):
        try:
            return orjson.dumps(tree, option=FAST)
        except orjson.JSONEncodeError:  # the slower way says why
            pass
    return encode_line(tree)


def decode_document(line: bytes, where: Path) -> Document:
    """Parse one line; anything but the three keys with strings in them is refused."""
    try:
        tree = orjson.loads(line)
        id, text, metadata = tree["id"], tree["text"], tree["metadata"]
        if len(tree) != 3 or {type(id), type(text), *map(type, metadata.values())} != {str}:
            raise TypeError("expected id, text and metadata, all strings")
        if not metadata.keys() >= METADATA_KEYS:
            raise TypeError(f"metadata lacks {', '.join(sorted(METADATA_KEYS - metadata.keys()))}")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise EverystepError(f"{where}: a line is not a document: {error}") from error
    return Document(id, text, metadata)


def decode_texts(lines: Iterable[bytes], where: Path) -> tuple[list[str], list[str]]:
    """Ids and texts of lines of documents; nothing else of them is looked at, which takes half the time."""
    try:
        trees = [orjson.loads(line) for line in lines]
        ids, texts = [tree["id"] for tree in trees], [tree["text"] for tree in trees]
        if not {*map(type, ids), *map(type, texts)} <= {str}:
            raise TypeError("expected id and text, both strings")
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise EverystepError(f"{where}: a line is not a document: {error}") from error
    return ids, texts


def decode_columns(lines: bytes, where: Path) -> dict[str, pa.Array]:
    """Parse lines of documents, LF included, into Arrow columns, without a Python object for each value."""
    options = {
        "read_options": ReadOptions(use_threads=False, block_size=len(lines) + 1),
        "parse_options": ParseOptions(explicit_schema=COLUMNS, unexpected_field_behavior="ignore"),
    }
    try:
        (batch,) = read_json(pa.BufferReader(lines), **options).combine_chunks().to_batches()
        batch.validate(full=True)  # the parser accepts bytes that are not UTF-8
    except pa.ArrowInvalid:
        batch = None
    columns = {}
    if batch is not None and batch.num_rows == np.count_nonzero(np.frombuffer(lines, np.uint8) == ord("\n")):
        columns = {"id": batch["id"], "text": batch["text"]}
        columns |= {
            field.name: pc.struct_field(batch["metadata"], field.name) for field in COLUMNS.field("metadata").type
        }
    if not columns or any(column.null_count for column in columns.values()):
        for line in lines[:-1].split(b"\n"):
            decode_document(line, where)
        raise EverystepError(f"{where}: a line is not a document")
    return columns


def read_documents(path: Path) -> Iterator[Document]:
    """Read the documents of one shard in order."""
    with LineFile(path) as file:
        for line in file:
            yield decode_document(line, path)


def shard_name(number: int) -> str:
    return f"{number:06d}.jsonl.zst"
