"""Encoding of texts to token ids: gigatoken encodes, `tokenizers` is the reference that it is compared with.

gigatoken reads the name of a special token in a text as that token. So it gets another `tokenizer.json`, which has no
special token but the end token, under a noncharacter as its name. Texts are joined by this noncharacter and encoded in
one call, which also gives the end tokens and has no cost per document. If a text contains the noncharacter, the
reference encodes it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.formats.vocabulary import END_OF_TEXT, end_token

SEPARATOR = "\U0010ffff"  # one character, so that none of its occurrences overlaps another
Ids = NDArray[np.uint32]


class Encoder:
    """Encoder of texts as ordinary characters, also for names of special tokens, with one end token after each."""

    def __init__(self, tokenizer_json: Path) -> None:
        from gigatoken import Tokenizer

        self._path = tokenizer_json
        self._tokenizer = Tokenizer.from_json(_with_separator(tokenizer_json))
        self._end = end_token(tokenizer_json)

    def encode(self, texts: pa.Array) -> tuple[Ids, NDArray[np.int64]]:
        """Encode strings; return their concatenated ids, and the number for each, its end token included."""
        together = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts)
        joined = pc.binary_join(together, SEPARATOR)[0].as_buffer()  # element by element takes ten times as long
        ids: Ids = self._tokenizer.encode(b"".join([joined, SEPARATOR.encode()]))
        ends = np.flatnonzero(ids == self._end)
        if len(ends) != len(texts):
            return self._one_by_one(texts.to_pylist())
        return ids, np.diff(ends, prepend=-1)

    def _one_by_one(self, texts: Sequence[str]) -> tuple[Ids, NDArray[np.int64]]:
        reference = Reference(self._path)
        pieces = [[*reference.encode(text), self._end] for text in texts]
        counts = np.array([len(piece) for piece in pieces], dtype=np.int64)
        return np.array([id for piece in pieces for id in piece], dtype=np.uint32), counts


class Reference:
    """Encoder by the library that made the tokenizer; here it reads names of special tokens as ordinary characters."""

    def __init__(self, tokenizer_json: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(tokenizer_json))
        self._tokenizer.encode_special_tokens = True

    def encode(self, text: str) -> list[int]:
        """Encode one text, without an end token."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _with_separator(tokenizer_json: Path) -> bytes:
    """Make a tokenizer with the end token as its only special token, under the name `SEPARATOR`."""
    tree: dict[str, Any] = orjson.loads(tokenizer_json.read_bytes())
    end = next(token for token in tree["added_tokens"] if token["content"] == END_OF_TEXT)
    tree["added_tokens"] = [token for token in tree["added_tokens"] if not token["special"]]
    tree["added_tokens"].append(end | {"content": SEPARATOR})
    vocabulary = tree["model"]["vocab"]
    vocabulary[SEPARATOR] = vocabulary.pop(END_OF_TEXT, end["id"])
    return orjson.dumps(tree)
