"""The vocabulary of a `tokenizer.json`, read without the tokenizer library.

Only byte-level BPE is accepted, in which every character of a token encodes one byte (Radford et al. 2019, the
byte-to-unicode table).
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import EverystepError
from pipeline.base.files import read_small
from pipeline.formats.canonical import Json, parse

END_OF_TEXT = "<|endoftext|>"
FILL_PREFIX, FILL_SUFFIX, FILL_MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
"""Sentinels of fill-in-the-middle, for releases that use it: each names the part that follows it."""
PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
OTHERS = (byte for byte in range(0x100) if byte not in PRINTABLE)
BYTE_OF = {chr(byte): byte for byte in PRINTABLE} | {chr(0x100 + i): byte for i, byte in enumerate(OTHERS)}
"""The byte that a character of a token encodes: its own if printable; the others are counted from U+0100 on."""


def token_texts(tokenizer_json: Path) -> list[bytes]:
    """Return the bytes of text of each token id; special tokens have none.

    An added token that isn't special encodes its own UTF-8 bytes.
    """
    tree = _read(tokenizer_json)
    try:
        if tree["model"]["type"] != "BPE" or tree["decoder"]["type"] != "ByteLevel":
            raise EverystepError(f"{tokenizer_json}: not a byte-level BPE; its tokens are not bytes of text")
        added = {token["id"]: b"" if token["special"] else token["content"].encode() for token in tree["added_tokens"]}
        learned = {number: token for token, number in tree["model"]["vocab"].items() if number not in added}
        texts = added | {number: bytes(map(BYTE_OF.__getitem__, token)) for number, token in learned.items()}
        if sorted(texts) != list(range(len(texts))):
            raise EverystepError(f"{tokenizer_json}: its token ids are not 0..{len(texts) - 1}")
    except (KeyError, TypeError, AttributeError) as error:
        raise EverystepError(f"{tokenizer_json}: not a tokenizer: {error!r}") from error
    return [texts[number] for number in range(len(texts))]


def token_bytes(tokenizer_json: Path) -> NDArray[np.int64]:
    """Count the bytes of text of each token id, shape (vocabulary,): the lengths of `token_texts`."""
    return np.array([len(text) for text in token_texts(tokenizer_json)], dtype=np.int64)


def end_token(tokenizer_json: Path) -> int:
    """Return the id of the end-of-text token."""
    return special_token(tokenizer_json, END_OF_TEXT)


def special_tokens(tokenizer_json: Path) -> dict[int, str]:
    """Return the name of each special token by its id."""
    try:
        return {token["id"]: token["content"] for token in _read(tokenizer_json)["added_tokens"] if token["special"]}
    except (KeyError, TypeError) as error:
        raise EverystepError(f"{tokenizer_json}: not a tokenizer: {error!r}") from error


def special_token(tokenizer_json: Path, content: str) -> int:
    """Return the id of a special token."""
    try:
        for special in _read(tokenizer_json)["added_tokens"]:
            if special["content"] == content:
                return int(special["id"])
    except (KeyError, TypeError, ValueError) as error:
        raise EverystepError(f"{tokenizer_json}: not a tokenizer: {error!r}") from error
    raise EverystepError(f"{tokenizer_json}: has no {content} token")


def _read(tokenizer_json: Path) -> Json:
    try:
        return _parsed(read_small(tokenizer_json), tokenizer_json)
    except OSError as error:
        raise EverystepError(f"{tokenizer_json}: cannot be read: {error.strerror}") from error


@lru_cache(maxsize=1)  # every call reads the file, and 32,768 tokens take 0.1 s to parse
def _parsed(content: bytes, tokenizer_json: Path) -> Json:
    return parse(content, tokenizer_json)
