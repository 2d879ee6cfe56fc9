"""Rungs: the ladder of verification, and the one on which an answer stands.

    1  files        every file has the digest that the root manifest promises
    2  consistent   and what a release says twice, it says alike
    3  recomputed   and what follows from the rest was computed again: without training, and without the sources
    4  replayed     and training gives the released digests, evaluation the released numbers
    5  rebuilt      and the pinned sources give the same bytes

Whoever changes a file can make every digest fit again, up to the root manifest. So rung 1 proves nothing by itself: the
digest of the root manifest must come from where it is trusted. It may be part of the address (`ADDRESS#sha256=HEX`), a
signature may vouch for it, or the project that built the release, in whose Git it is.
"""

import hashlib
import re
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from pipeline.base.errors import Differs, EverystepError
from pipeline.formats.manifests import Released, path_of, read_manifest
from pipeline.formats.release import ROOT

FRAGMENT = "#sha256="
NOBODY = "nobody: compare this digest with one from a place that you trust, or name that with --root or --key"
UNVOUCHED = f"nobody vouches for {ROOT}: add {FRAGMENT}HEX to the address, from a place that you trust"


class Rung(IntEnum):
    """A rung of the ladder."""

    FILES = 1
    CONSISTENT = 2
    RECOMPUTED = 3
    REPLAYED = 4
    REBUILT = 5

    @property
    def word(self) -> str:
        """Its name, such as `files`."""
        return self.name.lower()

    @property
    def title(self) -> str:
        """Its number and name, such as `rung 1 of 5 (files)`."""
        return f"rung {self.value} of {len(Rung)} ({self.word})"


class Pinned(NamedTuple):
    """An address, and the SHA-256 of the root manifest there, if the reader named one."""

    address: str
    sha256: str | None


def pinned_root(address: str | Path) -> Pinned:
    """Take the digest of the root manifest from the end of an address."""
    place, fragment, sha256 = str(address).partition(FRAGMENT)
    if place.startswith(("http://", "https://")) and "#" in place:  # a server never sees what follows it
        raise EverystepError(f"{address}: only {FRAGMENT}HEX may end an address, with 64 digits in lower case")
    if not fragment:
        return Pinned(place, None)
    return Pinned(place, checked_sha256(sha256, str(address)))


def checked_sha256(sha256: str, where: str) -> str:
    """Refuse what is no SHA-256 in lower-case hexadecimal digits."""
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise EverystepError(f"{where}: {sha256!r} is not a SHA-256: write its 64 hexadecimal digits in lower case")
    return sha256


def require_root(content: bytes, sha256: str | None, where: str) -> None:
    """Refuse a root manifest of other bytes than the ones that the reader named."""
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise Differs(f"{where}: {ROOT} has the SHA-256 {found}, not {sha256}: it is another release, or a changed one")


class Recorded(NamedTuple):
    """What the project in which a release lies recorded when it built it."""

    path: Path
    root_sha256: str
    sums_sha256: str


def recorded_beside(folder: Path) -> Recorded | None:
    """Read what the project around the folder of a release recorded of it, if there is one."""
    path = folder.absolute().parent / path_of(Released)
    try:
        released = read_manifest(Released, path)
    except (EverystepError, OSError):  # of another version, or nothing of ours
        return None
    return Recorded(path, released.root_sha256, released.sums_sha256)


def voucher(folder: Path, root: bytes, pinned: bool, is_here: bool) -> str | None:
    """Name who vouches for the root manifest, whose bytes are `root`; null if nobody does. Signatures are for
    `verify`."""
    if pinned:
        return "the SHA-256 that you named"
    recorded = recorded_beside(folder) if is_here else None
    is_recorded = recorded is not None and hashlib.sha256(root).hexdigest() == recorded.root_sha256
    return f"{path_of(Released)} of the project around it" if is_recorded else None
