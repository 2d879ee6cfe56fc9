"""A release to a folder or an object store: whole or not at all, resumed, never over another.

`SHA256SUMS` goes first and is the claim to the address: it is stored only if there is none, and it has the digest of
every file, so of two releases that are published there at once one is refused at its first file. The root manifest goes
last, after the store itself was asked for every other byte; a reader without it finds no release.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipeline.base.console import progress
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import list_files, sha256_file
from pipeline.formats.release import ROOT, SIGNATURES, SUMS
from pipeline.release.notices import PLACE as NOTICE
from pipeline.release.release import Release
from pipeline.stores.download import FIRST_WAIT_SECONDS, is_broken
from pipeline.stores.retry import with_retries
from pipeline.stores.store import Listed, Missing, Store, StoreFailed, Taken

AT_ONCE = 8
"""Files that are on their way at a time."""
Result = TypeVar("Result")


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

    def put(path: str) -> bool:
        return path not in there and _put(store, path, files[path], sha256[path])

    total = sum(file.stat().st_size for file in files.values())
    with progress("publish", total, "bytes") as advance:
        uploaded = int(put(SUMS))
        rest = [path for path in files if path not in (SUMS, ROOT)]
        for path, is_new in zip(rest, _at_once(put, rest), strict=True):
            uploaded += is_new
            advance(files[path].stat().st_size, path)
    told, read_back = _compare(store, {path: digest for path, digest in sha256.items() if path != ROOT}, files)
    uploaded += put(ROOT)
    if _sha256(store, ROOT) != sha256[ROOT]:
        raise Differs(f"{store.address}/{ROOT}: is not what was stored; remove it there and run the command again")
    return Published(store.address, len(files), total, uploaded, told, read_back + 1, sha256[ROOT])


def _in_order(release: Release) -> Iterator[str]:
    yield SUMS
    signatures = release.folder / SIGNATURES
    yield from (f"{SIGNATURES}/{path}" for path in list_files(signatures))
    yield from sorted(release.files)
    yield from [NOTICE] * (release.folder / NOTICE).is_file()
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
    listed = store.list() or {}
    told = {path: about.sha256 for path, about in listed.items() if about.sha256 and path in sha256}

    def find(path: str) -> str:
        return told.get(path) or _sha256(store, path)

    with progress("compare", sum(files[path].stat().st_size for path in sha256), "bytes") as advance:
        for path, found in zip(sha256, _at_once(find, sha256), strict=True):
            size = files[path].stat().st_size
            if found != sha256[path] or listed.get(path, Listed(size, None)).bytes != size:
                raise Differs(
                    f"{store.address}/{path}: the store has other bytes than were sent, or the file of another "
                    "publication; remove it there and run the command again"
                )
            advance(size, path)
    return len(told), len(sha256) - len(told)


def _at_once(question: Callable[[str], Result], paths: Iterable[str]) -> Iterator[Result]:
    """Ask a store about several files at a time; the answers come in order. After an error nothing new begins."""
    threads = ThreadPoolExecutor(AT_ONCE)
    try:
        yield from threads.map(question, paths)
    finally:
        threads.shutdown(cancel_futures=True)


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
