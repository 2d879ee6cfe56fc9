"""Documents as readers yield them, and rejected ones with the reason.

A rejected document is counted, not fatal: in a corpus of web size some bytes are always damaged, and no reader handles
all of them. A damaged archive is fatal, because everything after the damage would be missing.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import orjson

from pipeline.base.errors import ALWAYS_FATAL, EverystepError, error_site

MAX_TEXT_BYTES = 15 << 20
"""Size limit of a text; the largest novel is about 4 MiB, so longer ones are dumps or mistakes.

The limit also holds for the text in a JSON line, where a control character takes six bytes. With `MAX_METADATA_BYTES`
it keeps 64 lines, however hostile, below the size limit of a frame (docs/formats.md).
"""
MAX_METADATA_BYTES = 64 << 10
MAX_KEY, MAX_DETAIL = 1000, 500  # characters
MAX_GROWTH = 20
"""Limit on expansion: the pages made from one description may total 20 times its size, as they repeat parts of it."""

Made = TypeVar("Made")


class RawDocument(NamedTuple):
    """Document as a reader yields it. `key` is its natural key: unique in the source, and stable between reads."""

    key: str
    text: str
    metadata: dict[str, str]
    license: str | None = None
    """SPDX expression of this document alone. None: that of its source."""


class Rejected(NamedTuple):
    """Record that is not a document. Removals are counted by `reason`; `detail` says where and what."""

    key: str
    reason: str
    detail: str


def document(
    key: str, text: bytes | str, metadata: dict[str, str], license: str | None = None
) -> RawDocument | Rejected:
    """Make a document, or reject it if it cannot be a line of UTF-8 without NUL, with an id, of a size that can be read
    back."""
    if not is_key(key):
        return rejected(key, "broken_record", "cannot be a key")
    try:
        raw = text if isinstance(text, bytes) else text.encode()
        decoded = raw.decode() if isinstance(text, bytes) else text
        about = orjson.dumps(metadata)
    except (UnicodeError, orjson.JSONEncodeError) as error:
        return rejected(key, "invalid_utf8", str(error))
    if len(raw) > MAX_TEXT_BYTES or (6 * len(raw) > MAX_TEXT_BYTES and len(orjson.dumps(decoded)) - 2 > MAX_TEXT_BYTES):
        return rejected(key, "too_large", f"more than {MAX_TEXT_BYTES} bytes")
    if len(about) > MAX_METADATA_BYTES:
        return rejected(key, "too_large", f"metadata of more than {MAX_METADATA_BYTES} bytes")
    if "\0" in decoded or any("\0" in value for value in metadata.values()):
        return rejected(key, "nul_bytes", f"at character {decoded.find(chr(0))}")
    return RawDocument(key, decoded, metadata, license)


def rejected(key: str, reason: str, detail: str) -> Rejected:
    """Make a rejection that can be stored in a table and printed: an invalid key is escaped to ASCII, followed by its
    digest."""
    if not is_key(key):
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        key = f"{ascii(key[:MAX_KEY])[1 : MAX_KEY - 40]}#{digest[:32]}"
    return Rejected(key, reason, escaped(detail[:MAX_DETAIL]))


def escaped(text: str) -> str:
    """Escape characters that are not printable to ASCII, for the record of a removal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def attempted(key: str, make: Callable[[], Made]) -> Made | Rejected:
    """Call `make`; if it fails, return a rejection with the kind of error and the line of code."""
    try:
        return make()
    except ALWAYS_FATAL:
        raise
    except Exception as error:
        return rejected(key, "failed", error_site(error))


def is_key(key: str) -> bool:
    """Tell whether `key` may be an id in JSON lines and listings: UTF-8 without controls, at most 1,000 characters."""
    return bool(re.fullmatch(rf"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{{1,{MAX_KEY}}}", key))


def joined(lines: Iterable[str]) -> str:
    """Join lines with LF; stop where `document` would reject the text as too large."""
    found: list[str] = []
    size = 0
    for line in lines:
        found.append(line)
        size += len(line) + 1
        if size > MAX_TEXT_BYTES + 1:
            break
    return "\n".join(found)


def pages(
    described: Iterable[tuple[str, str, Callable[[], str]]], prefix: str, title: str, member: str, described_bytes: int
) -> Iterator[RawDocument | Rejected]:
    """Make documents from the pages (place, heading, text) of a description, as long as they respect `MAX_GROWTH`.

    A page without text is skipped; one whose text cannot be made is rejected, and counts with the description's size.
    """
    size = 0
    for place, heading, make in described:
        key = f"{prefix}/{place}"
        text = attempted(key, make)
        size += len(place) + len(heading) + (described_bytes if isinstance(text, Rejected) else len(text))
        if size > MAX_GROWTH * described_bytes:
            wrong = f"its pages total more than {MAX_GROWTH} times its size, or cannot be made"
            raise EverystepError(f"{member}: {wrong}; refused")
        if isinstance(text, Rejected):
            yield text
        elif text:
            yield document(key, text, {"page": f"{title}: {heading}", "member": member})
