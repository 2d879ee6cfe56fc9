"""What a reader yields: a document, or one it had to reject with the reason.

A rejected document is counted, not fatal: at the size of the web some bytes are always broken. A broken
archive is fatal, because then everything behind the break would be missing.
"""

import re
from typing import NamedTuple

MAX_TEXT_BYTES = 16 << 20
"""A longer text is taken for a dump or a mistake: the largest novel is about 4 MiB."""


class Document(NamedTuple):
    """One text. `key` is its natural key: unique in the source, and the same whenever the artefact is read."""

    key: str
    text: str
    metadata: dict[str, str]


class Rejected(NamedTuple):
    """A document that is not text. `reason` becomes a counter; `detail` says where and what."""

    key: str
    reason: str
    detail: str


def document(key: str, text: bytes | str, metadata: dict[str, str]) -> Document | Rejected:
    """The document, unless its text is no UTF-8, holds a NUL or is longer than `MAX_TEXT_BYTES`."""
    try:
        raw = text if isinstance(text, bytes) else text.encode()
        if len(raw) > MAX_TEXT_BYTES:
            return Rejected(key, "too_large", f"more than {MAX_TEXT_BYTES} bytes")
        decoded = raw.decode() if isinstance(text, bytes) else text
    except UnicodeError as error:
        return Rejected(key, "invalid_utf8", str(error))
    if "\0" in decoded:
        return Rejected(key, "nul_bytes", f"at character {decoded.index(chr(0))}")
    return Document(key, decoded, metadata)


def is_key(key: str) -> bool:
    """Keys are ids in JSON lines and file listings: UTF-8 without control characters, at most 1,000 characters."""
    return bool(re.fullmatch(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,1000}", key))
