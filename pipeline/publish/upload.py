"""A release to a folder or an object store: whole or not at all, resumed, never over another.

`SHA256SUMS` goes first and is the claim to the address: it is stored only if there is none, and it has the digest of
every file, so of two releases that are published there at once one is refused at its first file. The root manifest goes
last, after the store itself was asked for every other byte; a reader without it finds no release.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.console import progress
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import list_files, sha256_file
from pipeline.formats.release import ROOT, SIGNATURES, SUMS
from pipeline.release.release import Release
from pipeline.stores.download import FIRST_WAIT_SECONDS, is_broken
from pipeline.stores.retry import with_retries
from pipeline.stores.store import Listed, Missing, Store, StoreFailed, Taken


@dataclass(frozen=True)
class Published:
    """What a publication did."""

    address: str
    files: int
    bytes: int
    uploaded: int
    """Files that were not there yet."""
    told: int
    """Files whose SHA-256 the store itself said."""
    read_back: int
    """Files that were read again, because the store keeps no SHA-256."""
    root_sha256: str


def publish(release: Release, store: Store) -> Published:
    """Upload a release that passed the gate, and compare what the store then has. Run again, it goes on."""
    files = {path: release.folder / path for path in _in_order(release)}
    sha256 = {path: sha256_file(file) for path, file in files.items()}
    there = store.list() or {}
    if ROOT in there and _sha256(store, ROOT) != sha256[ROOT]:
        raise _of_another(store, ROOT)
    uploaded = 0
    total = sum(file.stat().st_size for file in files.values())
    with progress("publish", total, "bytes") as advance:
        for path, file in files.items():
            if path != ROOT and path not in there:
                uploaded += _put(store, path, file, sha256[path])
            if path != ROOT:
                advance(file.stat().st_size, path)
    told, read_back = _compare(store, {path: digest for path, digest in sha256.items() if path != ROOT}, files)
    if ROOT not in there:
        uploaded += _put(store, ROOT, files[ROOT], sha256[ROOT])
    if _sha256(store, ROOT) != sha256[ROOT]:
        raise Differs(f"{store.address}/{ROOT}: is not what was stored; remove it there and run the command again")
    return Published(store.address, len(files), total, uploaded, told, read_back + 1, sha256[ROOT])


def _in_order(release: Release) -> Iterator[str]:
    yield SUMS
    signatures = release.folder / SIGNATURES
    yield from (f"{SIGNATURES}/{path}" for path in list_files(signatures))
    yield from sorted(release.files)
    yield ROOT


def _put(store: Store, path: str, file: Path, sha256: str) -> bool:
    """Store a file; return whether it was not there. Equal bytes that came from elsewhere are as good as ours."""
    try:
        with_retries(lambda: store.put(path, file), _is_transient, FIRST_WAIT_SECONDS)
    except Taken as taken:  # by another publication, or by our own request, whose answer was lost
        if _sha256(store, path) != sha256:
            raise _of_another(store, path) from taken
        return False
    return True


def _compare(store: Store, sha256: dict[str, str], files: dict[str, Path]) -> tuple[int, int]:
    """Ask the store for every file: its own SHA-256 where it keeps one, else the bytes."""
    listed = store.list()
    told = read_back = 0
    with progress("compare", sum(files[path].stat().st_size for path in sha256), "bytes") as advance:
        for path, digest in sha256.items():
            about = (listed or {}).get(path, Listed(-1, None))
            found = about.sha256 if about.sha256 else _sha256(store, path)
            told, read_back = told + bool(about.sha256), read_back + (not about.sha256)
            if found != digest or (listed is not None and about.bytes != files[path].stat().st_size):
                raise Differs(
                    f"{store.address}/{path}: the store has other bytes than were sent, or the file of another "
                    "publication; remove it there and run the command again"
                )
            advance(files[path].stat().st_size, path)
    return told, read_back


def _sha256(store: Store, path: str) -> str:
    """Digest the bytes that a store gives. Empty if it has no such file."""

    def attempt() -> str:
        digest, taken = hashlib.sha256(), 0
        with store.open(path) as answer:
            for chunk in answer.chunks:
                digest.update(chunk)
                taken += len(chunk)
            if answer.total is not None and taken != answer.total:
                raise ConnectionError(f"cut off at byte {taken} of {answer.total}")
        return digest.hexdigest()

    try:
        return with_retries(attempt, _is_transient, FIRST_WAIT_SECONDS)
    except Missing:
        return ""


def _is_transient(error: Exception) -> bool:
    return isinstance(error, StoreFailed) or is_broken(error)


def _of_another(store: Store, path: str) -> EverystepError:
    return EverystepError(
        f"{store.address}/{path}: holds the file of another release, or of another publication that is under way; "
        "nothing there was changed: publish to another address"
    )
