"""What a `tokenizer.json` says of itself, read without the tokenizer library.

Only byte-level BPE is accepted: there every character of a token stands for one byte (Radford et al.
2019, the byte-to-unicode table), so the bytes of a token are counted by counting its characters.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.canonical import Json, parse
from pipeline.formats.errors import EverystepError

END_OF_TEXT = "<|endoftext|>"


def token_bytes(tokenizer_json: Path) -> NDArray[np.int64]:
    """Bytes of text behind each token id, shape (vocabulary,). Special tokens stand for none.

    An added token that isn't special stands for its own UTF-8 bytes.
    """
    tree = _read(tokenizer_json)
    try:
        if tree["model"]["type"] != "BPE" or tree["decoder"]["type"] != "ByteLevel":
            raise EverystepError(f"{tokenizer_json}: not a byte-level BPE; bits per byte cannot be counted from it")
        numbers = {number: len(token) for token, number in tree["model"]["vocab"].items()}
        for added in tree["added_tokens"]:
            numbers[added["id"]] = 0 if added["special"] else len(added["content"].encode())
        if sorted(numbers) != list(range(len(numbers))):
            raise EverystepError(f"{tokenizer_json}: its token ids are not 0..{len(numbers) - 1}")
    except (KeyError, TypeError, AttributeError) as error:
        raise EverystepError(f"{tokenizer_json}: not a tokenizer: {error!r}") from error
    return np.array([numbers[number] for number in range(len(numbers))], dtype=np.int64)


def end_token(tokenizer_json: Path) -> int:
    """The id of the end-of-text token."""
    try:
        for special in _read(tokenizer_json)["added_tokens"]:
            if special["content"] == END_OF_TEXT:
                return int(special["id"])
    except (KeyError, TypeError, ValueError) as error:
        raise EverystepError(f"{tokenizer_json}: not a tokenizer: {error!r}") from error
    raise EverystepError(f"{tokenizer_json}: has no {END_OF_TEXT} token")


def _read(tokenizer_json: Path) -> Json:
    try:
        return parse(tokenizer_json.read_bytes(), tokenizer_json)
    except OSError as error:
        raise EverystepError(f"{tokenizer_json}: cannot be read: {error.strerror}") from error
