"""One file at an address: http and https by the standard library, the rest by fsspec.

http does without fsspec because a resume needs the status line and the headers that fsspec hides. `file:` takes
an absolute path (`file:///data/x.zip`) or one relative to where the command runs (`file:corpus/x.zip`). `s3:` and
`gs:` are read without credentials where the store lets everybody read, so that a public corpus needs none.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from pipeline.base.errors import Differs, EverystepError, how_to_install
from pipeline.base.files import sha256_file
from pipeline.sources.declaration import Url

MAX_BYTES = 256 << 30
CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60  # without a byte; and for all the headers of an answer
MIN_BYTES_PER_SECOND, PATIENCE_SECONDS = 1000, 60  # over so long; a slower connection counts as broken
ATTEMPTS = 5  # in a row that brought less than a chunk
FIRST_WAIT_SECONDS = 0.5
MAX_NAME = 200  # characters
RANGE_BYTES = 8 << 20  # one request to an object store
ANONYMOUS: dict[str, dict[str, Any]] = {"s3": {"anon": True}, "gs": {"token": "anon"}}
BROKEN_CONNECTION = (http.client.HTTPException, ConnectionError, TimeoutError, urllib.error.URLError, ssl.SSLError)

Report = Callable[[int, int | None], None]


def fetch(source: Url, folder: Path, partial: Path, report: Report) -> None:
    """Put the file at `source.url` into `folder` under its own name, once its digest is the declared one.

    The bytes so far stand in `partial` under the declared digest; a server that supports ranges goes on from there.
    """
    path = partial / f"{source.sha256}.part"
    _download(source, path, report)
    size, digest = path.stat().st_size, sha256_file(path)
    if digest != source.sha256:
        path.unlink()
        advice = "what came is removed; run again, and if it differs again the address now serves other bytes"
        raise Differs(f"{source.url}: expected sha256 {source.sha256}, got {digest} of {size} bytes; {advice}")
    report(size, size)
    path.replace(folder / _file_name(source.url))


def _download(source: Url, path: Path, report: Report) -> None:
    """Fill `path` to its end, across broken connections, as long as each brings something."""
    limit = source.bytes or MAX_BYTES
    failures = 0
    while True:
        before = path.stat().st_size if path.exists() else 0
        try:
            with _opened(source.url, before) as (chunks, start, total):
                _append(chunks, path, start, total, limit, source.url, report)
            return
        except BROKEN_CONNECTION as error:
            after = path.stat().st_size if path.exists() else 0
            failures = 1 if after >= before + CHUNK_BYTES else failures + 1
            if failures >= ATTEMPTS:
                broken = f"the connection broke {ATTEMPTS} times ({error})"
                advice = "the part so far is kept; run the same command again"
                raise EverystepError(f"{source.url}: {broken}; {advice}") from error
            time.sleep(FIRST_WAIT_SECONDS * 2 ** (failures - 1))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise EverystepError(f"{path}: the disk is full; free some room and run again") from error
            raise


def _append(
    chunks: Iterator[bytes], path: Path, start: int, total: int | None, limit: int, url: str, report: Report
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
    """(chunks, the byte they begin at, bytes in all if known). It is byte 0 where a range is not supported."""
    if urlsplit(url).scheme in ("http", "https"):
        with _opened_http(url, start) as (answer, begin, total):
            yield _with_min_rate(answer), begin, total
        return
    filesystem, place, size = _located(url)
    begin = min(start, size)
    yield _ranges(url, filesystem, place, begin, size), begin, size


def _with_min_rate(answer: Any) -> Iterator[bytes]:
    """The bytes of an answer as they come, as long as they come fast enough."""
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
    """(file system, place of the file in it, its bytes)."""
    scheme = urlsplit(url).scheme
    if scheme == "file":
        return _sized(url, str(Path(unquote(urlsplit(url).path)).absolute()))
    try:
        return _sized(url, url, **ANONYMOUS[scheme])
    except _AccessDenied:  # not public
        return _sized(url, url)


def _sized(url: str, place: str, **options: Any) -> tuple[Any, str, int]:
    import fsspec

    # gcsfs would ask another service, by gRPC, for the kind of the bucket, and wait a minute where that is not there.
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
    with _translated_errors(url):
        filesystem = fsspec.filesystem(urlsplit(url).scheme, skip_instance_cache=True, **options)
        about = filesystem.info(place)
        if about["type"] != "file":
            raise IsADirectoryError(place)
    return filesystem, place, int(about["size"])


def _ranges(url: str, filesystem: Any, place: str, start: int, size: int) -> Iterator[bytes]:
    """The bytes from `start` on, a request each; a library asks again by itself where a connection breaks."""
    while start < size:
        with _translated_errors(url):
            chunk = filesystem.cat_file(place, start=start, end=min(start + RANGE_BYTES, size))
        if not chunk:
            return
        yield chunk
        start += len(chunk)


@contextmanager
def _translated_errors(url: str) -> Iterator[None]:
    """Around calls of a store's library: whatever it raises becomes an error that names the address and the fix."""
    try:
        yield
    except ImportError as error:
        raise EverystepError(f"{url}: its scheme needs another library; {how_to_install('cloud')}") from error
    except (FileNotFoundError, IsADirectoryError) as error:
        raise EverystepError(f"{url}: no such file; correct the address") from error
    except Exception as error:  # botocore, aiohttp, requests and google.auth have no kind of error in common
        if _is_access_denied(error):
            advice = "give credentials that may read it (docs/add-a-corpus.md, `url`), or correct the address"
            raise _AccessDenied(f"{url}: not readable with the credentials of this machine ({error}); {advice}") from error
        advice = "the part so far is kept; run the same command again, or correct the address"
        raise EverystepError(f"{url}: the store failed ({error or repr(error)}); {advice}") from error


class _AccessDenied(EverystepError):  # noqa: N818  # reads as the sentence that it is
    """The store answers, but not to these credentials."""


def _is_access_denied(error: Exception) -> bool:
    """s3fs raises `PermissionError`, botocore without any credentials its own kind, gcsfs a code or a sentence."""
    by_kind = isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError"
    return by_kind or getattr(error, "code", None) in (401, 403) or str(error).startswith("Forbidden")


@contextmanager
def _opened_http(url: str, start: int) -> Iterator[tuple[IO[bytes], int, int | None]]:
    headers = {"User-Agent": "everystep", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - http and https only
    try:
        answer = urllib.request.build_opener(_HttpRedirectHandler(), _HttpHandler(), _HttpsHandler()).open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # nothing behind what we have
                yield io.BytesIO(), start, start
                return
            if error.code in (408, 429) or error.code >= 500:
                raise ConnectionError(f"HTTP {error.code} {error.reason}") from error
        raise EverystepError(f"{url}: HTTP {error.code} {error.reason!r}; correct the address") from error
    except ValueError as error:  # a redirect to what is no address
        raise EverystepError(f"{url}: answers what is not HTTP ({error}); correct the address") from error
    with answer:
        place = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18}|\*)", answer.headers.get("Content-Range", ""))
        if answer.status == 206 and place and int(place[1]) <= start:
            yield answer, int(place[1]), None if place[2] == "*" else int(place[2])
        elif answer.status == 206:
            raise EverystepError(f"{url}: sends another range than the one from byte {start} on; correct the address")
        else:
            length = re.fullmatch("[0-9]{1,18}", answer.headers.get("Content-Length", ""))
            yield answer, 0, int(length[0]) if length else None


class _DeadlineHTTPConnection(http.client.HTTPConnection):
    """A connection whose answer must begin, with all its headers, within `TIMEOUT_SECONDS`."""

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
            raise TimeoutError(f"no end of headers in {TIMEOUT_SECONDS} seconds")
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
    """The library refuses redirects to all but http, https and ftp; this refuses ftp as well."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise urllib.error.HTTPError(req.full_url, code, f"{msg} to {newurl!r} is not allowed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _file_name(url: str) -> str:
    """The last part of the address, its end if it is long, with what a file name must not hold replaced by `_`."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[-MAX_NAME:].lstrip(".") or "download"
