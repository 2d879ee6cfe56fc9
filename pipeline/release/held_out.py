"""Held-out documents as texts, decoded from the rows that a release holds; nobody needs the documents themselves.

The stage `tasks` makes its minimal pairs of them, and an auditor makes them again. A document that ends in the dropped
tail is left out, since the rows hold only its beginning.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pipeline.base.errors import Differs
from pipeline.base.paths import TOKENIZER, TOKENS
from pipeline.formats.manifests import Tokens
from pipeline.formats.tables import DOCUMENT_INDEX, column_batches
from pipeline.formats.vocabulary import token_texts
from pipeline.release.release import Release
from pipeline.release.row_blocks import row_blocks


class HeldOut(NamedTuple):
    """A held-out document."""

    id: str
    source: str
    text: str


def held_out(release: Release) -> Iterator[HeldOut]:
    """Yield the held-out documents in the order of the index; each has the `text_sha256` that the index gives it."""
    tokens = release.manifest(Tokens)
    stream = np.concatenate(
        [np.empty(0, np.uint32), *(rows.ravel() for rows in row_blocks(release, tokens, "validation"))]
    )
    texts = token_texts(release.file(TOKENIZER))
    path = TOKENS / "validation.parquet"
    columns = ["id", "source", "text_sha256", "num_tokens"]
    end = 0
    for batch in column_batches(release.file(path), DOCUMENT_INDEX, columns):
        for id, source, sha256, number in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
            start, end = end, end + number
            if end > len(stream):
                return
            content = b"".join(map(texts.__getitem__, stream[start : end - 1].tolist()))
            if hashlib.sha256(content).hexdigest() != sha256:
                raise Differs(f"{path}: {id}: its rows hold another text than the one with the text_sha256 {sha256}")
            yield HeldOut(id, source, content.decode())
