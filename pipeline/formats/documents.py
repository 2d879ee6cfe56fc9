"""Documents: `{"id", "metadata", "text"}` lines, readable by datatrove and by `datasets`.

`id` is `{source}/{natural key}`, stable under cleaning. `metadata` holds at least `license`, `source` and
`text_sha256` (of the text next to it). Every choice about a document (validation split, caps,
packing order) is a function of a keyed hash of its id, so it does not depend on what else was fetched.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from pipeline.base.errors import EverystepError
from pipeline.formats.lines import LineFile, Shard, encode_line, write_lines

DOCUMENTS_PER_SHARD = 8192
METADATA_KEYS = {"license", "source", "text_sha256"}


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


def is_validation(id: str, share: float, seed: int) -> bool:
    """Whether a document is held out: its hash falls into the first `share` of all hashes."""
    return id_hash(id, "validation", seed) < share_limit(share)


def share_limit(share: float) -> int:
    """Return the number below which this share of all hashes lies."""
    return round(share * 10**9) * (2**64 // 10**9)


def encode_document(document: Document) -> bytes:
    return encode_line({"id": document.id, "metadata": document.metadata, "text": document.text})


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


def write_documents(path: Path, documents: Iterable[Document], name: str) -> Shard:
    """Write one shard."""
    return write_lines(path, (encode_document(document) for document in documents), name)


def write_sharded(folder: Path, documents: Iterable[Document]) -> list[Shard]:
    """Write `000000.jsonl.zst`, `000001...` of `DOCUMENTS_PER_SHARD` documents each, in their order."""
    shards: list[Shard] = []
    batch: list[Document] = []
    for document in documents:
        batch.append(document)
        if len(batch) == DOCUMENTS_PER_SHARD:
            shards.append(_write_numbered(folder, len(shards), batch))
            batch = []
    if batch or not shards:
        shards.append(_write_numbered(folder, len(shards), batch))
    return shards


def read_documents(path: Path) -> Iterator[Document]:
    """Read the documents of one shard in order."""
    with LineFile(path) as file:
        for line in file:
            yield decode_document(line, path)


def shard_name(number: int) -> str:
    return f"{number:06d}.jsonl.zst"


def _write_numbered(folder: Path, number: int, documents: list[Document]) -> Shard:
    name = shard_name(number)
    return write_documents(folder / name, documents, name)
