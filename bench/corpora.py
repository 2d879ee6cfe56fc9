"""Real documents for benches of the data side: what `extract` made of the release's sources, and copies of them.

A project must be there in which `dvc repro extract` (or more) has run; texts come from `data/documents`.
"""

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from pipeline.base.paths import DOCUMENTS
from pipeline.formats.documents import Document, read_documents, text_sha256

SEED = 20261123
PLANTED = (1, 5, 10, 20, 40)
"""Percentages of words that are replaced in planted near duplicates."""


def documents(*sources: str) -> Iterator[Document]:
    """All documents of some sources in turn."""
    for source in sources:
        paths = sorted((DOCUMENTS / source).glob("*.jsonl.zst"))
        if not paths:
            raise SystemExit(f"{DOCUMENTS / source}: nothing there; run `dvc repro` first, then start from the project")
        for path in paths:
            yield from read_documents(path)


def some(megabytes: float, *sources: str) -> list[Document]:
    """The first documents of each source, as many bytes of each."""
    chosen: list[Document] = []
    for source in sources:
        left = megabytes * 1e6 / len(sources)
        for document in documents(source):
            left -= len(document.text.encode())
            if left < 0:
                break
            chosen.append(document)
    return chosen


def planted(originals: list[Document], every: int) -> list[Document]:
    """A copy of every `every`th text of at least 50 words for each percentage; words are replaced at random places."""
    copies = []
    long = (document for document in originals if len(document.text.split()) >= 50)
    for number, document in enumerate(islice(long, 0, None, every)):
        percent = PLANTED[number % len(PLANTED)]
        copies.append(changed(document, percent))
    return copies


def changed(document: Document, percent: int) -> Document:
    draw = random.Random(f"{SEED}/{document.id}/{percent}")  # noqa: S311
    words = document.text.split(" ")
    for place in draw.sample(range(len(words)), round(len(words) * percent / 100)):
        words[place] = f"{draw.getrandbits(32):x}"
    text = " ".join(words)
    metadata = document.metadata | {"text_sha256": text_sha256(text)}
    return Document(f"{document.source}/planted-{percent}/{document.id}", text, metadata)


def shuffled(document: Document, copy: int) -> Document:
    """The text with its lines and sentences in another order: real words, another document."""
    draw = random.Random(f"{SEED}/{document.id}/{copy}")  # noqa: S311
    lines = document.text.split("\n")
    sentences = [piece for line in lines for piece in line.split(". ")]
    draw.shuffle(sentences)
    text = ". ".join(sentences)
    metadata = document.metadata | {"text_sha256": text_sha256(text)}
    return Document(f"{document.source}/copy-{copy}/{document.id}", text, metadata)


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
