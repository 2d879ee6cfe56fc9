"""Texts to token ids: gigatoken encodes, `tokenizers` is the reference that it is compared with.

gigatoken takes the spelling of a special token in a text for that token. So it is given another `tokenizer.json`, in
which a text can spell no special token but the end token, and that one only by a noncharacter. Texts are joined by
it and encoded in one call: the end tokens come out by themselves, and nothing is paid for each document. A text that
holds the noncharacter is encoded by the reference.
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
    """Encodes texts as ordinary characters, whatever they spell, with one end token behind each."""

    def __init__(self, tokenizer_json: Path) -> None:
        from gigatoken import Tokenizer

        self._path = tokenizer_json
        self._tokenizer = Tokenizer.from_json(_with_separator(tokenizer_json))
        self._end = end_token(tokenizer_json)

    def encode(self, texts: pa.Array) -> tuple[Ids, NDArray[np.int64]]:
        """The ids of these strings one behind the other, and how many each has, its end token included."""
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
    """The library that made the tokenizer, told to read special tokens' spellings in a text as ordinary characters."""

    def __init__(self, tokenizer_json: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(tokenizer_json))
        self._tokenizer.encode_special_tokens = True

    def encode(self, text: str) -> list[int]:
        """Ids of one text, without an end token."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _with_separator(tokenizer_json: Path) -> bytes:
    """The tokenizer without special tokens but the end token, which is spelled `SEPARATOR`."""
    tree: dict[str, Any] = orjson.loads(tokenizer_json.read_bytes())
    end = next(token for token in tree["added_tokens"] if token["content"] == END_OF_TEXT)
    tree["added_tokens"] = [token for token in tree["added_tokens"] if not token["special"]]
    tree["added_tokens"].append(end | {"content": SEPARATOR})
    vocabulary = tree["model"]["vocab"]
    vocabulary[SEPARATOR] = vocabulary.pop(END_OF_TEXT, end["id"])
    return orjson.dumps(tree)
