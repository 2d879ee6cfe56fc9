"""A release that is elsewhere: a folder of this machine that fills itself, file by file, with verified bytes.

A mirror of the release whose root manifest has the SHA-256 *D* is `releases/D` in the cache. A file is there under the
path that it has in the release, from the moment when its content was found to be what the root manifest promises.
Of a large table a reader may ask for some bytes only: these are in a file with holes, below `.windows`, and are worth
nothing until whoever reads them has compared a digest.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from secrets import token_hex
from typing import TypeVar

from pipeline.base.console import progress, total_of
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import MAX_SMALL_BYTES, TEMPORARY_SUFFIX, atomic_writer, safe_join, write_bytes
from pipeline.base.locks import in_turn
from pipeline.base.paths import cache_folder
from pipeline.formats.canonical import parse
from pipeline.formats.release import ROOT, ListedFile, content_digest
from pipeline.stores.address import open_store
from pipeline.stores.download import download, is_broken
from pipeline.stores.retry import ATTEMPTS, with_retries
from pipeline.stores.store import Answer, Missing, Store, StoreFailed
from pipeline.stores.web import BROKEN_CONNECTION

ABOUT, HUB = "everystep.json", "hf://"
Answered = TypeVar("Answered")
MAX_BYTES = 1 << 44
FIRST_WAIT_SECONDS = 0.5
LARGE = (".safetensors", ".zst", ".parquet")
"""Endings of files whose way here is shown."""


def _patiently(address: str, attempt: Callable[[], Answered]) -> Answered:
    """Try again while connections break; after that, an error names the address."""
    try:
        return with_retries(attempt, is_broken, FIRST_WAIT_SECONDS)
    except BROKEN_CONNECTION as error:
        advice = "run the same command again, or correct the address"
        raise StoreFailed(f"{address}: the connection broke {ATTEMPTS} times ({error}); {advice}") from error


def fetch_small(store: Store, path: str) -> bytes:
    """The bytes of a small file of a store; more than `MAX_SMALL_BYTES` are refused."""

    def attempt() -> bytes:
        content = b""
        with store.open(path) as answer:
            for chunk in answer.chunks:
                content += chunk
                if len(content) > MAX_SMALL_BYTES:
                    raise EverystepError(f"{store.address}/{path}: more than {MAX_SMALL_BYTES} bytes")
            if answer.total is not None and len(content) < answer.total:
                raise ConnectionError(f"cut off at byte {len(content)} of {answer.total}")
        return content

    return _patiently(f"{store.address}/{path}", attempt)


def mirror_of(store: Store) -> "Mirror":
    """The mirror of the release in a store, or of the release that a model repository in it says it is from."""
    try:
        return Mirror(store)
    except Missing:
        pass
    try:
        about = parse(fetch_small(store, ABOUT), f"{store.address}/{ABOUT}")
    except Missing as error:
        raise EverystepError(f"{store.address}: has no {ROOT}; correct the address of the release") from error
    address, promised = about.get("release_address"), about.get("root_sha256")
    on_hub = isinstance(address, str) and address.startswith(HUB) and store.address.startswith(HUB)
    if not on_hub:  # nobody else's file may send us elsewhere
        raise EverystepError(f"{store.address}: has no {ROOT}, only a checkpoint; give the address of its release")
    mirror = Mirror(open_store(address))
    if hashlib.sha256(mirror.root).hexdigest() != promised:
        raise Differs(f"{address}/{ROOT}: is not the root manifest that {store.address}/{ABOUT} names")
    return mirror


class Mirror:
    """The local folder of a release in a store."""

    def __init__(self, store: Store) -> None:
        """Fetch the root manifest, which names the folder."""
        self.store = store
        self.brought: set[str] = set()
        """Files that this process fetched and compared."""
        self.root = fetch_small(store, ROOT)
        self.folder = cache_folder() / "releases" / hashlib.sha256(self.root).hexdigest()
        if not (self.folder / ROOT).is_file() or (self.folder / ROOT).read_bytes() != self.root:
            write_bytes(self.folder / ROOT, self.root)

    def fetch(self, path: str, promised: ListedFile, quiet: bool = False) -> Path:
        """The local path of a file, fetched unless it is here."""
        file = safe_join(self.folder, path)
        if not file.is_file():
            self._bring(path, file, promised, quiet or not path.endswith(LARGE))
        return file

    def drop(self, path: str) -> None:
        """Forget a file that was found to be damaged here."""
        safe_join(self.folder, path).unlink(missing_ok=True)

    def window(self, path: str) -> AbstractContextManager["Window"]:
        """Some bytes of a file that is not here as a whole."""
        return window_on(self.store, path, self.folder)

    def _bring(self, path: str, file: Path, promised: ListedFile, quiet: bool) -> None:
        partial = file.with_name(f".{file.name}{TEMPORARY_SUFFIX}")
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = self.folder / ".locks" / hashlib.sha256(path.encode()).hexdigest()[:16]
        with in_turn(lock, f"waiting: another process fetches {path}"):
            if not file.is_file():
                self._fill(path, partial, file, promised, quiet)

    def _fill(self, path: str, partial: Path, file: Path, promised: ListedFile, quiet: bool) -> None:
        """Download into `partial`, which a killed run may have begun, and move it once it is what is promised."""
        address = f"{self.store.address}/{path}"
        for _ in range(2):  # wrong bytes may come once, or be what a killed run left
            if partial.exists() and partial.stat().st_size > self.store.size(path):
                partial.unlink()
            with progress(path, None, "bytes", quiet=quiet) as advance:
                download(address, lambda start: self._opened(path, start), partial, MAX_BYTES, total_of(advance))
            if _is_promised(partial, promised):
                partial.replace(file)
                self.brought.add(path)
                return
            partial.unlink()
        raise Differs(f"{address}: its content is not what {ROOT} promises; nothing of it was kept")

    def _opened(self, path: str, start: int) -> AbstractContextManager[Answer]:
        return self.store.open(path, start)


@contextmanager
def window_on(store: Store, path: str, folder: Path) -> Iterator["Window"]:
    """Some bytes of a file of a store, in a local file below `folder` until the block ends."""
    window = Window(store, path, folder)
    try:
        yield window
    finally:
        shutil.rmtree(window.path.parent, ignore_errors=True)


class Window:
    """A local file of the size of a remote one, with holes in the place of what was not asked for."""

    def __init__(self, store: Store, path: str, folder: Path) -> None:
        self._store, self._name = store, path
        self.size = store.size(path)
        self.path = folder / ".windows" / token_hex(8) / Path(path).name
        with atomic_writer(self.path) as file:
            file.truncate(self.size)

    def need(self, start: int, stop: int) -> None:
        """Bring the bytes from `start` up to `stop`."""

        def attempt() -> None:
            with self._store.open(self._name, start, stop) as answer, self.path.open("r+b") as file:
                file.seek(answer.start)
                for chunk in answer.chunks:
                    file.write(chunk[: max(0, stop - file.tell())])
                    if file.tell() >= stop:
                        break
                if file.tell() < min(stop, self.size):
                    raise ConnectionError(f"cut off at byte {file.tell()} of {stop}")

        _patiently(f"{self._store.address}/{self._name}", attempt)


def _is_promised(file: Path, promised: ListedFile) -> bool:
    try:
        return content_digest(file, promised.kind) == promised.digest
    except EverystepError:  # no container of this kind at all
        return False
