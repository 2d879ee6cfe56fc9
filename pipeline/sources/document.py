"""What a reader yields: a document, or one it had to reject with the reason.

A rejected document is counted, not fatal: at the size of the web some bytes are always broken, and no reader is
ready for all of them. A broken archive is fatal, because then everything behind the break would be missing.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import orjson

from pipeline.base.errors import ALWAYS_FATAL, EverystepError, error_site

MAX_TEXT_BYTES = 15 << 20
"""A longer text is taken for a dump or a mistake: the largest novel is about 4 MiB.

It holds for the text as it stands in a JSON line, where a control character takes six bytes. With `MAX_METADATA_BYTES`
it keeps 64 lines below the size of a frame (docs/formats.md), however hostile they are.
"""
MAX_METADATA_BYTES = 64 << 10
MAX_KEY, MAX_DETAIL = 1000, 500  # characters
MAX_GROWTH = 20
"""Times its own size that a description may become as pages: what it says once, many of them may repeat."""

Made = TypeVar("Made")


class Document(NamedTuple):
    """One text. `key` is its natural key: unique in the source, and the same whenever the artefact is read."""

    key: str
    text: str
    metadata: dict[str, str]
    license: str | None = None
    """SPDX expression for this document alone. None: that of its source."""


class Rejected(NamedTuple):
    """A document that is not text. `reason` becomes a counter; `detail` says where and what."""

    key: str
    reason: str
    detail: str


def document(key: str, text: bytes | str, metadata: dict[str, str], license: str | None = None) -> Document | Rejected:
    """The document, unless it cannot be one line of UTF-8 without a NUL, with an id, of a size that is read back."""
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
    return Document(key, decoded, metadata, license)


def rejected(key: str, reason: str, detail: str) -> Rejected:
    """A rejection that can stand in a table and be printed: what cannot be a key is spelled in ASCII, with its digest
    behind."""
    if not is_key(key):
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        key = f"{ascii(key[:MAX_KEY])[1 : MAX_KEY - 40]}#{digest[:32]}"
    return Rejected(key, reason, printable(detail[:MAX_DETAIL]))


def printable(text: str) -> str:
    """A text from outside that can be printed: what a terminal might obey is spelled in ASCII."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def attempted(key: str, make: Callable[[], Made]) -> Made | Rejected:
    """What `make` gives; where it fails, a rejection with the kind of error and the line of code."""
    try:
        return make()
    except ALWAYS_FATAL:
        raise
    except Exception as error:
        return rejected(key, "failed", error_site(error))


def is_key(key: str) -> bool:
    """Keys are ids in JSON lines and listings with a line each: UTF-8 without controls, at most 1,000 characters."""
    return bool(re.fullmatch(rf"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{{1,{MAX_KEY}}}", key))


def joined(lines: Iterable[str]) -> str:
    """The lines with LF between them; no further than to where `document` rejects the text as too large."""
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
) -> Iterator[Document | Rejected]:
    """The (place, heading, text) pages of a description of so many bytes, as long as they do not grow out of it.

    A page without text is none; one whose text cannot be made is rejected, and counts as one of the description's size.
    """
    size = 0
    for place, heading, make in described:
        key = f"{prefix}/{place}"
        text = attempted(key, make)
        size += len(place) + len(heading) + (described_bytes if isinstance(text, Rejected) else len(text))
        if size > MAX_GROWTH * described_bytes:
            wrong = f"its pages hold {MAX_GROWTH} times its bytes, or cannot be made"
            raise EverystepError(f"{member}: {wrong}; nothing of it is read")
        if isinstance(text, Rejected):
            yield text
        elif text:
            yield document(key, text, {"page": f"{title}: {heading}", "member": member})
