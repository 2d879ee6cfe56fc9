"""Fetch one file by its URL: http and https with the standard library, the rest with fsspec.

http does not use fsspec because resuming needs the status line and the headers, which fsspec hides. `file:` takes
an absolute path (`file:///data/x.zip`) or one relative to the working directory (`file:corpus/x.zip`). `s3:` and
`gs:` are read without credentials if the store allows it, so that a public corpus needs none.
"""

import errno
import http.client
import io
import os
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from pipeline.base.console import ReportTotal
from pipeline.base.errors import Differs, EverystepError, how_to_install
from pipeline.base.files import sha256_file
from pipeline.sources.declaration import Url
from pipeline.sources.retry import ATTEMPTS, with_retries

MAX_BYTES = 256 << 30
CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60  # between two bytes, and for all headers of an answer
MIN_BYTES_PER_SECOND, PATIENCE_SECONDS = 1000, 60  # a connection that is slower for this long counts as broken
FIRST_WAIT_SECONDS = 0.5
MAX_NAME = 200  # characters
RANGE_BYTES = 8 << 20  # one request to an object store
ANONYMOUS: dict[str, dict[str, Any]] = {"s3": {"anon": True}, "gs": {"token": "anon"}}
BROKEN_CONNECTION = (http.client.HTTPException, ConnectionError, TimeoutError, urllib.error.URLError, ssl.SSLError)


def fetch(source: Url, folder: Path, partial: Path, report: ReportTotal) -> None:
    """Move the file at `source.url` into `folder` under its own name once its digest is the declared one.

    Until then its bytes are in `partial`, named by the digest, and a server that supports ranges resumes from there.
    """
    path = partial / f"{source.sha256}.part"
    _download(source, path, report)
    size, digest = path.stat().st_size, sha256_file(path)
    if digest != source.sha256:
        path.unlink()
        advice = "the file is removed; run again, and if it differs again, the address now serves other bytes"
        raise Differs(f"{source.url}: expected sha256 {source.sha256}, got {digest} of {size} bytes; {advice}")
    report(size, size)
    path.replace(folder / _file_name(source.url))


def _download(source: Url, path: Path, report: ReportTotal) -> None:
    """Fill `path` to its end, across broken connections, as long as these bring at least a chunk now and then."""

    def size() -> int:
        return path.stat().st_size if path.exists() else 0

    def attempt() -> None:
        with _opened(source.url, size()) as (chunks, start, total):
            _append(chunks, path, start, total, source.bytes or MAX_BYTES, source.url, report)

    def is_broken(error: Exception) -> bool:
        return isinstance(error, BROKEN_CONNECTION)

    try:
        with_retries(attempt, is_broken, FIRST_WAIT_SECONDS, size, CHUNK_BYTES)
    except BROKEN_CONNECTION as error:
        broken = f"the connection broke {ATTEMPTS} times ({error})"
        advice = "the part so far is kept; run the same command again"
        raise EverystepError(f"{source.url}: {broken}; {advice}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EverystepError(f"{path}: the disk is full; free some room and run again") from error
        raise


def _append(
    chunks: Iterator[bytes], path: Path, start: int, total: int | None, limit: int, url: str, report: ReportTotal
) -> None:
    with path.open("r+b" if path.exists() else "wb") as file:
        file.seek(start)
        file.truncate()
        for chunk in chunks:
            if file.tell() + len(chunk) > limit:
                file.truncate(0)
                raise EverystepError(f"{url}: sends more than {limit} bytes; correct `bytes` or the address")
            file.write(chunk)
            report(file.tell(), total)
        file.flush()
        os.fsync(file.fileno())
        if total is not None and file.tell() < total:
            raise ConnectionError(f"cut off at byte {file.tell()} of {total}")


@contextmanager
def _opened(url: str, start: int) -> Iterator[tuple[Iterator[bytes], int, int | None]]:
    """Yield (chunks, the byte they begin at, bytes in all if known). They begin at 0 if ranges are not supported."""
    if urlsplit(url).scheme in ("http", "https"):
        with _opened_http(url, start) as (answer, begin, total):
            yield _with_min_rate(answer), begin, total
        return
    filesystem, place, size = _located(url)
    begin = min(start, size)
    yield _ranges(url, filesystem, place, begin, size), begin, size


def _with_min_rate(answer: Any) -> Iterator[bytes]:
    """Yield the bytes of an answer as they come; below `MIN_BYTES_PER_SECOND` the connection counts as broken."""
    began, taken = time.monotonic(), 0
    while chunk := answer.read1(CHUNK_BYTES):
        yield chunk
        taken += len(chunk)
        seconds = time.monotonic() - began
        if seconds >= PATIENCE_SECONDS:
            if taken < MIN_BYTES_PER_SECOND * seconds:
                raise ConnectionError(f"{taken} bytes in {seconds:.0f} seconds")
            began, taken = time.monotonic(), 0


def _located(url: str) -> tuple[Any, str, int]:
    """Find (file system, path of the file in it, its size)."""
    scheme = urlsplit(url).scheme
    if scheme == "file":
        return _sized(url, str(Path(unquote(urlsplit(url).path)).absolute()))
    try:
        return _sized(url, url, **ANONYMOUS[scheme])
    except _AccessDenied:  # not public
        return _sized(url, url)


def _sized(url: str, place: str, **options: Any) -> tuple[Any, str, int]:
    import fsspec

    # gcsfs would ask another service, by gRPC, for the kind of the bucket, and wait a minute if that does not answer.
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
    with _translated_errors(url):
        filesystem = fsspec.filesystem(urlsplit(url).scheme, skip_instance_cache=True, **options)
        about = filesystem.info(place)
        if about["type"] != "file":
            raise IsADirectoryError(place)
    return filesystem, place, int(about["size"])


def _ranges(url: str, filesystem: Any, place: str, start: int, size: int) -> Iterator[bytes]:
    """Yield the bytes from `start` on, a request each; the library itself retries when a connection breaks."""
    while start < size:
        with _translated_errors(url):
            chunk = filesystem.cat_file(place, start=start, end=min(start + RANGE_BYTES, size))
        if not chunk:
            return
        yield chunk
        start += len(chunk)


@contextmanager
def _translated_errors(url: str) -> Iterator[None]:
    """Turn every error of a store's library into one that names the address and the fix."""
    try:
        yield
    except ImportError as error:
        raise EverystepError(f"{url}: its scheme needs another library; {how_to_install('cloud')}") from error
    except (FileNotFoundError, IsADirectoryError) as error:
        raise EverystepError(f"{url}: no such file; correct the address") from error
    except Exception as error:  # botocore, aiohttp, requests and google.auth have no kind of error in common
        if _is_access_denied(error):
            advice = "give credentials that may read it (docs/add-a-corpus.md, `url`), or correct the address"
            raise _AccessDenied(
                f"{url}: not readable with the credentials of this machine ({error}); {advice}"
            ) from error
        advice = "the part so far is kept; run the same command again, or correct the address"
        raise EverystepError(f"{url}: the store failed ({error or repr(error)}); {advice}") from error


class _AccessDenied(EverystepError):  # noqa: N818  # reads as the sentence that it is
    """Answer of a store that refuses these credentials."""


def _is_access_denied(error: Exception) -> bool:
    """Recognize refusals: s3fs raises `PermissionError`, botocore `NoCredentialsError`, gcsfs a code or a sentence."""
    by_kind = isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError"
    return by_kind or getattr(error, "code", None) in (401, 403) or str(error).startswith("Forbidden")


@contextmanager
def _opened_http(url: str, start: int) -> Iterator[tuple[IO[bytes], int, int | None]]:
    headers = {"User-Agent": "everystep", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - http and https only
    try:
        answer = urllib.request.build_opener(_HttpRedirectHandler(), _HttpHandler(), _HttpsHandler()).open(
            request, timeout=TIMEOUT_SECONDS
        )
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # no byte is left to send
                yield io.BytesIO(), start, start
                return
            if error.code in (408, 429) or error.code >= 500:
                raise ConnectionError(f"HTTP {error.code} {error.reason}") from error
        raise EverystepError(f"{url}: HTTP {error.code} {error.reason!r}; correct the address") from error
    except ValueError as error:  # a redirect to an invalid address
        raise EverystepError(f"{url}: the answer is not HTTP ({error}); correct the address") from error
    with answer:
        place = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18}|\*)", answer.headers.get("Content-Range", ""))
        if answer.status == 206 and place and int(place[1]) <= start:
            yield answer, int(place[1]), None if place[2] == "*" else int(place[2])
        elif answer.status == 206:
            raise EverystepError(f"{url}: sends another range than the one from byte {start}; correct the address")
        else:
            length = re.fullmatch("[0-9]{1,18}", answer.headers.get("Content-Length", ""))
            yield answer, 0, int(length[0]) if length else None


class _DeadlineHTTPConnection(http.client.HTTPConnection):
    """Connection that must answer with all headers within `TIMEOUT_SECONDS`."""

    def getresponse(self) -> http.client.HTTPResponse:
        late = threading.Event()
        watch = threading.Timer(TIMEOUT_SECONDS, _shut_down, [self.sock, late])
        watch.daemon = True
        watch.start()
        try:
            answer = super().getresponse()
        finally:
            watch.cancel()
        if late.is_set():  # the library takes the end of the connection for the end of the headers
            raise TimeoutError(f"the headers did not end within {TIMEOUT_SECONDS} seconds")
        return answer


class _DeadlineHTTPSConnection(_DeadlineHTTPConnection, http.client.HTTPSConnection):
    pass


class _HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_DeadlineHTTPConnection, req)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_DeadlineHTTPSConnection, req, context=ssl.create_default_context())


def _shut_down(connected: socket.socket, late: threading.Event) -> None:
    late.set()
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


class _HttpRedirectHandler(urllib.request.HTTPRedirectHandler):
    """Redirects to http and https only; the library allows ftp as well."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise urllib.error.HTTPError(req.full_url, code, f"{msg} to {newurl!r} is not allowed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _file_name(url: str) -> str:
    """Name the file by the end of the address, with `_` for characters that a file name must not hold."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[-MAX_NAME:].lstrip(".") or "download"
