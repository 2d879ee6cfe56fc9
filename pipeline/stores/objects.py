"""Files in whatever fsspec reads: object stores, the Hugging Face Hub, the data of a DVC repository.

`s3:` and `gs:` are read without credentials if the store allows it, so that what is public needs none.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pipeline.base.errors import EverystepError, how_to_install
from pipeline.stores.store import AccessDenied, Answer, Listed, Missing, StoreFailed, Taken

RANGE_BYTES = 8 << 20  # one request
ANONYMOUS: dict[str, dict[str, Any]] = {"s3": {"anon": True}, "gs": {"token": "anon"}}
CONDITIONAL = ("s3", "s3a")
"""Schemes whose library can store a file on the condition that there is none."""


Reply = TypeVar("Reply")


class Objects:
    """What is below one path of a file system of fsspec."""

    def __init__(self, address: str, filesystem: Any, root: str, is_anonymous: bool = False) -> None:
        self.address = address
        self._filesystem, self._root = filesystem, root.rstrip("/")
        self._is_anonymous = is_anonymous

    @classmethod
    def at(cls, address: str) -> "Objects":
        """The store at `SCHEME://...`, read without credentials for as long as it allows that."""
        anonymous = ANONYMOUS.get(urlsplit(address).scheme)
        return cls(address, opened_filesystem(address, **(anonymous or {})), address, anonymous is not None)

    def list(self) -> dict[str, Listed] | None:
        def find(filesystem: Any) -> dict[str, Any]:
            filesystem.invalidate_cache()
            found: dict[str, Any] = filesystem.find(self._root, detail=True)
            return found

        try:
            found = self._asked(self.address, find)
        except Missing:
            return {}
        root = self._filesystem._strip_protocol(self._root)
        return {
            name.removeprefix(root).lstrip("/"): Listed(self._bytes(name, about), _told_sha256(about), _told_tag(about))
            for name, about in found.items()
        }

    def size(self, path: str) -> int:
        def ask(filesystem: Any) -> int:
            filesystem.invalidate_cache()  # what a listing said is no permission to read
            about = filesystem.info(f"{self._root}/{path}")
            if about["type"] != "file":
                raise IsADirectoryError(path)
            return self._bytes(f"{self._root}/{path}", about)

        return self._asked(f"{self.address}/{path}", ask)

    def _bytes(self, place: str, about: dict[str, Any]) -> int:
        """Bytes of a file. DVC keeps those of a folder as a whole, so a file of one is opened to learn its own."""
        if about["size"] is not None:
            return int(about["size"])
        with self._filesystem.open(place, "rb") as file:
            return int(file.seek(0, os.SEEK_END))

    def _asked(self, address: str, question: Callable[[Any], Reply]) -> Reply:
        """Ask the store; if it refuses those without credentials, with those of this machine, and so from now on.

        If it refuses these too, go on without: what else is there may be public.
        """
        filesystem, was_anonymous = (
            self._filesystem,
            self._is_anonymous,
        )  # another thread may introduce itself meanwhile
        try:
            with translated_errors(address):
                return question(filesystem)
        except AccessDenied:
            if not was_anonymous:
                raise
        known = opened_filesystem(self.address)
        with translated_errors(address):
            reply = question(known)
        self._filesystem, self._is_anonymous = known, False
        return reply

    def _know(self) -> None:
        """Use the credentials of this machine from now on."""
        if self._is_anonymous:
            self._filesystem, self._is_anonymous = opened_filesystem(self.address), False

    @contextmanager
    def open(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[Answer]:
        size = self.size(path)
        begin, end = min(start, size), size if stop is None else min(stop, size)
        chunks = ranges(f"{self.address}/{path}", self._filesystem, f"{self._root}/{path}", begin, end)
        yield Answer(chunks, begin, size)

    def put(self, path: str, file: Path) -> None:
        place, address = f"{self._root}/{path}", f"{self.address}/{path}"
        self._know()
        is_conditional = urlsplit(self.address).scheme in CONDITIONAL
        options = {"mode": "create"} if is_conditional else {}
        with translated_errors(address):
            if not is_conditional and self._filesystem.exists(place):
                raise Taken(f"{address}: holds a file already")
            try:
                self._filesystem.put_file(str(file), place, **options)
            except FileExistsError as error:
                raise Taken(f"{address}: holds a file already") from error
            except Exception as error:
                if _is_taken(error):
                    raise Taken(f"{address}: holds a file already") from error
                raise


def opened_filesystem(address: str, **options: Any) -> Any:
    """The file system of fsspec for the scheme of `address`."""
    import fsspec

    # gcsfs would ask another service, by gRPC, for the kind of the bucket, and wait a minute if that does not answer.
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
    with translated_errors(address):
        return fsspec.filesystem(urlsplit(address).scheme, skip_instance_cache=True, **options)


def ranges(address: str, filesystem: Any, place: str, start: int, stop: int) -> Iterator[bytes]:
    """Yield the bytes from `start` up to `stop`, a request each; the library retries when a connection breaks."""
    while start < stop:
        with translated_errors(address):
            chunk = filesystem.cat_file(place, start=start, end=min(start + RANGE_BYTES, stop))
        if not chunk:
            return
        yield chunk
        start += len(chunk)


@contextmanager
def translated_errors(address: str) -> Iterator[None]:
    """Turn every error of a store's library into one that names the address and the fix."""
    try:
        yield
    except EverystepError:
        raise
    except ImportError as error:
        raise EverystepError(f"{address}: its scheme needs another library; {how_to_install('cloud')}") from error
    except (FileNotFoundError, IsADirectoryError) as error:
        raise Missing(f"{address}: no such file; correct the address") from error
    except Exception as error:  # botocore, aiohttp, requests and google.auth have no kind of error in common
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        if _is_access_denied(error):
            advice = "give credentials that may read it (docs/add-a-corpus.md, `url`), or correct the address"
            raise AccessDenied(
                f"{address}: not readable with the credentials of this machine ({error}); {advice}"
            ) from error
        advice = "the part so far is kept; run the same command again, or correct the address"
        raise StoreFailed(f"{address}: the store failed ({error or repr(error)}); {advice}") from error


def _is_access_denied(error: Exception) -> bool:
    """Recognize refusals: s3fs raises `PermissionError`, botocore `NoCredentialsError`, gcsfs a code or a sentence."""
    by_kind = isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError"
    return by_kind or getattr(error, "code", None) in (401, 403) or str(error).startswith("Forbidden")


def _is_taken(error: BaseException | None) -> bool:
    """Recognize S3's answer to a condition that does not hold."""
    while error is not None:
        if "PreconditionFailed" in str(error) or "ConditionalRequestConflict" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _told_sha256(about: dict[str, Any]) -> str | None:
    """The SHA-256 that a hub keeps of a large file."""
    lfs = about.get("lfs")
    return getattr(lfs, "sha256", None) or (lfs.get("sha256") if isinstance(lfs, dict) else None)


def _told_tag(about: dict[str, Any]) -> str | None:
    """What else a store says of the bytes: the Hub their name in Git, Google their MD5, S3 a tag."""
    if about.get("blob_id"):
        return f"git:{about['blob_id']}"
    if about.get("md5Hash"):
        return f"md5:{about['md5Hash']}"
    tag = about.get("ETag") or about.get("etag")
    return f"etag:{str(tag).strip(chr(34))}" if tag else None
