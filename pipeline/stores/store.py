"""A store: a tree of files that can be listed, read from any byte on, and added to. It is never trusted.

Who reads compares digests afterwards (`pipeline.release`), so a store only has to say what it has, not to prove it.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from pipeline.base.errors import EverystepError


class Answer(NamedTuple):
    """Bytes of a file as they come."""

    chunks: Iterator[bytes]
    start: int
    """The byte that they begin at: 0, whatever was asked for, if the store cannot do better."""
    total: int | None
    """Bytes of the whole file, if the store says so."""


class Listed(NamedTuple):
    """A file as a store describes it."""

    bytes: int
    sha256: str | None
    """SHA-256 of its bytes as the store itself computed it; null if it keeps none."""
    tag: str | None = None
    """Another name that the store gives to its bytes: `git:` or `md5:` and a digest, or `etag:` and what S3 says, which
    is equal for equal uploads, and no digest of the content in general."""


class Store(Protocol):
    """One address with files below it. A path is relative, with `/` between its parts."""

    address: str
    """What a person wrote."""

    def list(self) -> dict[str, Listed] | None:
        """Every file below the address; null if the store cannot list, as a static web server cannot."""

    def size(self, path: str) -> int:
        """Bytes of a file; `Missing` if there is none."""

    def open(self, path: str, start: int = 0, stop: int | None = None) -> AbstractContextManager[Answer]:
        """The bytes of a file from `start` up to `stop`; `Missing` if there is none.

        A connection that breaks raises one of `BROKEN_CONNECTION` (`pipeline.stores.web`).
        """

    def put(self, path: str, file: Path) -> None:
        """Store a file whole or not at all. `Taken` if there is one already, whatever it holds."""


class Missing(EverystepError):  # noqa: N818  # reads as the sentence that it is
    """A file that a store does not have."""


class Taken(EverystepError):  # noqa: N818  # reads as the sentence that it is
    """A path of a store that holds a file already."""


class StoreFailed(EverystepError):  # noqa: N818  # reads as the sentence that it is
    """A store that did not answer, or answered with an error; it may be worth to ask again."""


class AccessDenied(EverystepError):  # noqa: N818  # reads as the sentence that it is
    """The answer of a store that refuses these credentials."""
