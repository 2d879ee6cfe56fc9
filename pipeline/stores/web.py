"""Files on web servers, by http and https with the standard library: any server, with ranges or without.

Resuming needs the status line and the headers, which the libraries for object stores hide.
"""

import http.client
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from pipeline.base.errors import EverystepError
from pipeline.stores.store import Answer, Listed, Missing

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60  # between two bytes, and for all headers of an answer
MIN_BYTES_PER_SECOND, PATIENCE_SECONDS = 1000, 60  # a connection that is slower for this long counts as broken
BROKEN_CONNECTION = (http.client.HTTPException, ConnectionError, TimeoutError, urllib.error.URLError, ssl.SSLError)
NOT_THERE = (404, 410)


class Web:
    """A folder of a web server. It is read only, and cannot be listed."""

    def __init__(self, address: str) -> None:
        self.address = address

    def list(self) -> dict[str, Listed] | None:
        return None

    def size(self, path: str) -> int:
        """One request, for one byte: not every server answers HEAD."""
        with self.open(path, 0, 1) as answer:
            if answer.total is None:
                raise EverystepError(f"{self._url(path)}: the server does not say how long it is")
            return answer.total

    @contextmanager
    def open(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[Answer]:
        with opened(self._url(path), start, stop) as answer:
            yield answer

    def put(self, path: str, file: Path) -> None:
        raise EverystepError(f"{self.address}: a web server takes no files; publish to a store behind it")

    def _url(self, path: str) -> str:
        parts = urlsplit(self.address)
        return parts._replace(path=f"{parts.path.rstrip('/')}/{quote(path)}").geturl()


@contextmanager
def opened(url: str, start: int = 0, stop: int | None = None) -> Iterator[Answer]:
    """Ask for a file from byte `start` up to `stop`. The answer begins at 0 if the server has no ranges."""
    headers = {"User-Agent": "everystep", "Accept-Encoding": "identity"}
    if start or stop is not None:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - http and https only
    try:
        answer = urllib.request.build_opener(_HttpRedirectHandler(), _HttpHandler(), _HttpsHandler()).open(
            request, timeout=TIMEOUT_SECONDS
        )
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # no byte is left to send
                yield Answer(iter(()), start, start)
                return
            if error.code in (408, 429) or error.code >= 500:
                raise ConnectionError(f"HTTP {error.code} {error.reason}") from error
            kind = Missing if error.code in NOT_THERE else EverystepError
        raise kind(f"{url}: HTTP {error.code} {error.reason!r}; correct the address") from error
    except ValueError as error:  # a redirect to an invalid address
        raise EverystepError(f"{url}: the answer is not HTTP ({error}); correct the address") from error
    with answer:
        place = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18}|\*)", answer.headers.get("Content-Range", ""))
        if answer.status == 206 and place and int(place[1]) <= start:
            yield Answer(_with_min_rate(answer), int(place[1]), None if place[2] == "*" else int(place[2]))
        elif answer.status == 206:
            raise EverystepError(f"{url}: sends another range than the one from byte {start}; correct the address")
        else:
            length = re.fullmatch("[0-9]{1,18}", answer.headers.get("Content-Length", ""))
            yield Answer(_with_min_rate(answer), 0, int(length[0]) if length else None)


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
