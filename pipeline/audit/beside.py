"""Files that others put beside a release, signatures and receipts: found and read without trust."""

from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Protocol, TypeVar

from pipeline.base.errors import Differs, EverystepError, Linked
from pipeline.base.files import list_folder, safe_join
from pipeline.formats.canonical import Json
from pipeline.signing.keys import PublicKey, key_id, parse_public

P = TypeVar("P")


class Found(Protocol):
    """What was found so far."""

    @property
    def faults(self) -> list[str]:
        """Sentences about what is wrong."""

    @property
    def links(self) -> list[str]:
        """Paths of links that were not followed."""


def files_beside(
    root: Path, folder: str, place_of: Callable[[str], P | None], found: Found, follow_links: bool
) -> Iterator[tuple[str, P]]:
    """Each file below `root / folder` that has a place there, with it. What is neither a file nor a link that may be
    followed is noted."""
    try:
        inside = safe_join(root, folder, follow_links)
    except Linked:
        found.links.append(folder)
        return
    if not inside.is_dir():
        return
    for kind, paths in list_folder(inside)._asdict().items():
        for path in (f"{folder}/{path}" for path in paths):
            place = place_of(path)
            if place is None:
                continue  # named among the other files
            if kind == "links" and not follow_links:
                found.links.append(path)
            elif kind in ("files", "links") and (root / path).is_file():
                yield path, place
            else:
                found.faults.append(f"{path}: not a file")


def read_at_most(path: Path, most: int, what: str) -> bytes:
    """The bytes of a file; more than `most` are refused."""
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise EverystepError(f"more than {most} bytes; no {what} is that large")
    return content


def key_of(key: str, public: bytes | None, pinned: PublicKey | None, where: str) -> PublicKey:
    """The public key with the id `key`: the one in the file `where`, if it is there, or the pinned one."""
    if public is None and pinned is not None:
        return pinned
    if public is None:
        raise EverystepError("missing; name the signer's key with --key")
    found = parse_public(public, Path(where))
    if key_id(found) != key:
        raise Differs(f"is the key {key_id(found)}, not the one that its folder is named after")
    return found


def difference(said: Json, given: Json, where: str = "") -> str:
    """The first place where a statement differs from the one that the release gives."""
    if isinstance(said, dict) and isinstance(given, dict):
        for key in sorted({*said, *given}):
            if said.get(key) != given.get(key):
                return difference(said.get(key), given.get(key), f"{where}.{key}".lstrip("."))
    if isinstance(said, list) and isinstance(given, list):
        for number, (mine, yours) in enumerate(zip_longest(said, given)):
            if mine != yours:
                return difference(mine, yours, f"{where}.{number}")
    if said == given:
        return f"{where or 'the whole'}: not in canonical JSON"
    return f"{where or 'the whole'}: says {said!r:.100}, the release gives {given!r:.100}"


def as_fault(path: str, error: Exception) -> str:
    """A fault in one line, with the path once."""
    told = f"cannot be read: {error.strerror or error}" if isinstance(error, OSError) else str(error)
    return f"{path}: {told.partition(chr(10))[0].removeprefix(f'{path}: ')}"
