"""Files in a folder of this machine, to publish to: what others mount, serve or copy."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.base.files import atomic_writer, list_files, safe_join
from pipeline.stores.store import Answer, Listed, Missing, Taken

CHUNK_BYTES = 1 << 20


class Folder:
    """A folder. It keeps no digests."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._root = Path(address.removeprefix("file://"))

    def list(self) -> dict[str, Listed] | None:
        return {path: Listed((self._root / path).stat().st_size, None) for path in list_files(self._root)}

    def size(self, path: str) -> int:
        return self._existing(path).stat().st_size

    @contextmanager
    def open(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[Answer]:
        file = self._existing(path)
        size = file.stat().st_size
        yield Answer(_chunks(file, min(start, size), size if stop is None else min(stop, size)), min(start, size), size)

    def put(self, path: str, file: Path) -> None:
        """By a hard link that fails if the name exists: no reader sees half a file, and nothing is replaced."""
        target = safe_join(self._root, path)
        scratch = target.with_name(f".{target.name}.{os.getpid()}.put")
        try:
            with atomic_writer(scratch) as written, file.open("rb") as source:
                while chunk := source.read(CHUNK_BYTES):
                    written.write(chunk)
            os.link(scratch, target)
        except FileExistsError as error:
            raise Taken(f"{target}: holds a file already") from error
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise
            if target.exists():  # a file system without hard links
                raise Taken(f"{target}: holds a file already") from error
            scratch.rename(target)
        finally:
            scratch.unlink(missing_ok=True)

    def _existing(self, path: str) -> Path:
        file = safe_join(self._root, path)
        if not file.is_file():
            raise Missing(f"{file}: no such file")
        return file


def _chunks(file: Path, start: int, stop: int) -> Iterator[bytes]:
    with file.open("rb") as opened:
        opened.seek(start)
        while start < stop and (chunk := opened.read(min(CHUNK_BYTES, stop - start))):
            yield chunk
            start += len(chunk)
