"""Declarations for tests: complete ones, of which a test changes what it is about."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.sources.declaration import Source, parse_source
from pipeline.sources.document import RawDocument, Rejected
from pipeline.sources.readers import READERS

COMMON: dict[str, Any] = {
    "license": "CC0-1.0",
    "languages": ["en"],
    "priority": 1,
    "reader": "text",
}
BY_KIND: dict[str, dict[str, Any]] = {
    "package": {"package": "demo", "version": "1.0", "sha256": "0" * 64},
    "url": {"url": "https://example.org/corpus.zip", "sha256": "0" * 64},
    "huggingface": {"repository": "owner/name", "revision": "a" * 40, "split": "train", "reader": "jsonl"},
}


def tree(kind: str, **changes: Any) -> dict[str, Any]:
    """The YAML of a source of a kind; a change to None takes the key out."""
    merged = {"kind": kind} | COMMON | BY_KIND[kind] | changes
    return {key: value for key, value in merged.items() if value is not None}


def declared(kind: str, **changes: Any) -> Source:
    """The checked source."""
    return parse_source("demo", tree(kind, **changes), "params.yaml")


def read_all(folder: Path, **changes: Any) -> list[RawDocument | Rejected]:
    """Every document of a raw folder, part by part."""
    return list(read_lazily(folder, **changes))


def read_lazily(folder: Path, **changes: Any) -> Iterator[RawDocument | Rejected]:
    """The same, none of them held."""
    source = declared("url", **changes)
    reader = READERS[source.reader]
    for part in reader.parts(folder, source):
        yield from reader.read(folder, part, source)
