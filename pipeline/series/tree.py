"""A series in a tree of files: a folder of this machine, a prefix of an object store, one revision of the Hub.

A checkpoint is what is below a folder whose name has a step, or one file of weights whose own name has one. Where the
place keeps no digests, small files are read. On this machine large files of equal size are compared block by block, so
that only equal ones are read to their end.
"""

import hashlib
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from pipeline.series.names import parse_name
from pipeline.series.series import IDENTITY, Checkpoint, Collection, File, into_series, is_weights
from pipeline.stores.download import is_broken
from pipeline.stores.folder import Folder
from pipeline.stores.retry import with_retries
from pipeline.stores.store import Listed, Store, StoreFailed
from pipeline.stores.web import BROKEN_CONNECTION

SMALL_BYTES = 64 << 10
BLOCK_BYTES = 1 << 20
FIRST_WAIT_SECONDS = 0.5
NO_DIGESTS = "the store keeps no digests: files of one ETag count as equal, but equal files may have several"


def read_tree(address: str, store: Store, listed: Mapping[str, Listed]) -> Collection:
    """The checkpoints of a tree that was listed."""
    files: dict[str, dict[str, File]] = defaultdict(dict)
    for path in sorted(listed):
        folder, rest = _split(path)
        if folder is not None:
            files[folder][rest] = _file(listed[path])
    if isinstance(store, Folder):
        _compare_locally(Path(address.removeprefix("file://")), files)
    series: dict[str, list[Checkpoint]] = {}
    for folder, found in files.items():
        named = parse_name(folder)
        if named:
            series.setdefault(named.template, []).append(Checkpoint(folder, named.step, found, named.tokens))
    digests = [file.digest or "" for found in files.values() for file in found.values()]
    is_known = isinstance(store, Folder) or all(digest.startswith(IDENTITY) for digest in digests)
    limits = () if is_known else (NO_DIGESTS,)
    return Collection(address, Tree(address, store), into_series(series), limits=limits)


class Tree:
    """A store, as the place of a series: the name of a checkpoint is its path."""

    def __init__(self, address: str, store: Store) -> None:
        self._address, self._store = address.rstrip("/"), store

    def read(self, name: str, path: str, start: int, stop: int | None) -> bytes:
        return read_range(self._store, _joined(name, path), start, stop)

    def command(self, name: str, path: str) -> str:
        where = f"{self._address}/{_joined(name, path)}"
        if where.startswith("s3://"):
            bucket, _, key = where.removeprefix("s3://").partition("/")
            return f"aws s3api head-object --bucket {shlex.quote(bucket)} --key {shlex.quote(key)}"
        if where.startswith(("http://", "https://")):
            return f"curl --head --location {shlex.quote(where)}"
        return f"sha256sum {shlex.quote(where.removeprefix('file://'))}"


def read_range(store: Store, path: str, start: int, stop: int | None) -> bytes:
    """Bytes of a file, across broken connections; of a server without ranges no more is taken than is needed."""

    def attempt() -> bytes:
        with store.open(path, start, stop) as answer:
            content, skipped = b"", start - answer.start
            for chunk in answer.chunks:
                content += chunk
                if stop is not None and len(content) >= skipped + stop - start:
                    break
        return content[skipped:][: None if stop is None else stop - start]

    try:
        return with_retries(attempt, is_broken, FIRST_WAIT_SECONDS)
    except BROKEN_CONNECTION as error:
        raise StoreFailed(f"{store.address}/{path}: the connection broke ({error}); run the command again") from error


def _split(path: str) -> tuple[str | None, str]:
    """The folder of a checkpoint and the rest of a path; a single file of weights is its own folder, its rest empty."""
    parts = PurePosixPath(path).parts
    for depth, part in enumerate(parts, 1):
        if parse_name(part) and (depth < len(parts) or is_weights(part)):
            rest = "/".join(parts[depth:])
            return "/".join(parts[:depth]), rest or f"weights{PurePosixPath(part).suffix}"
    return None, path


def _joined(name: str, path: str) -> str:
    return name if is_weights(name) else f"{name}/{path}"


def _file(about: Listed) -> File:
    return File(about.bytes, f"sha256:{about.sha256}" if about.sha256 else about.tag)


def _compare_locally(root: Path, files: dict[str, dict[str, File]]) -> None:
    """Give a digest to small files, and to large ones that another file equals; the rest equal none."""
    by_size: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for folder, found in files.items():
        for path, file in found.items():
            if file.bytes is not None:
                by_size[file.bytes].append((folder, path))
    for size, places in by_size.items():
        if size > SMALL_BYTES and len(places) == 1:
            continue
        groups = [places] if size > SMALL_BYTES else [[place] for place in places]
        for group in groups:
            for (folder, path), digest in _digests(root, group, size):
                files[folder][path] = File(size, f"sha256:{digest}")


def _digests(root: Path, places: list[tuple[str, str]], size: int) -> Iterator[tuple[tuple[str, str], str]]:
    """SHA-256 of files of one size, each read for as long as another one has been equal so far."""
    alone = len(places) == 1
    hashes = {place: hashlib.sha256() for place in places}
    running = [places]
    for start in range(0, size, BLOCK_BYTES):
        split: list[list[tuple[str, str]]] = []
        for group in running:
            equal: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
            for place in group:
                with (root / _joined(*place)).open("rb") as file:
                    file.seek(start)
                    hashes[place].update(file.read(BLOCK_BYTES))
                equal[hashes[place].digest()].append(place)
            split += [group for group in equal.values() if alone or len(group) > 1]
        running = split
    yield from ((place, hashes[place].hexdigest()) for group in running for place in group)
