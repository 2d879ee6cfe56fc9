"""Serve: a release over HTTP to this machine alone, for its page.

Only the loopback interface, only GET and HEAD, one range at most, and only files that the root manifest lists, each
after its content was found to be what the root manifest promises. Nothing is written. Another web site that a browser
has open can neither read the answers (`Cross-Origin-Resource-Policy`) nor be taken for this server (`Host`), and of the
scripts in a release only that of this installation runs (`Content-Security-Policy`).

One answer is no file of the release: `served.json` has the address of the release, and what the receipts beside it say,
whose signatures a page cannot check.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from threading import Lock
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from pipeline.audit.receipts import check_receipts, receipts_beside
from pipeline.base.console import note
from pipeline.base.errors import Differs, EverystepError
from pipeline.formats.canonical import Json, canonical
from pipeline.release.release import Release
from pipeline.release.report.explorer import script, script_digest

LOOPBACK = "127.0.0.1"
PAGE, SERVED = "report/index.html", "served.json"
NAMES = (LOOPBACK, "localhost", "[::1]")
"""How a browser on this machine names the server."""
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".jsonl": "text/plain; charset=utf-8",
    ".csv": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".yaml": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
}
OTHERS = "application/octet-stream"
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
PIECE = 1 << 18
SECONDS = 60
HEADERS = {
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'none'",
            f"script-src '{script_digest()}'",
            "style-src 'unsafe-inline'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Served:
    """A release that is served: its files, compared when they are first asked for."""

    def __init__(self, release: Release, address: str) -> None:
        """Compare the page, which must be there, and read the receipts."""
        if PAGE not in release.files:
            raise EverystepError(f"{address}: has no page ({PAGE}); it was built before there was one")
        self.release = release
        self.about = canonical({"address": address, "receipts": _receipts(release)})
        self._lock = Lock()
        self._states: dict[str, tuple[int, ...]] = {}
        with self.open(PAGE) as page:
            if script().encode() not in page.read():
                note(f"{address}: its page has another script than this installation, so no browser will run it")

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file of the release, whose content is what the root manifest promises and has not changed since."""
        with self._lock:
            if name not in self._states:
                place = self.release.place(name)
                state = _state(place.stat())
                self.release.file(name)
                self._states[name] = state
        with self.release.place(name).open("rb") as file:
            if _state(os.fstat(file.fileno())) != self._states[name]:
                raise Differs(f"{name}: changed while it was served; start `everystep serve` again")
            yield file


def running(served: Served, port: int) -> ThreadingHTTPServer:
    """A server for a release on a port of this machine; 0 is any free one. `serve_forever` answers."""
    try:
        return ThreadingHTTPServer((LOOPBACK, port), partial(_Handler, served))
    except OSError as error:
        raise EverystepError(f"--port {port}: {error.strerror}; name another port, or 0 for any free one") from error


def page_of(server: ThreadingHTTPServer) -> str:
    """The address of the page."""
    return f"http://{LOOPBACK}:{server.server_address[1]}/{PAGE}"


class _Handler(BaseHTTPRequestHandler):
    """An answer to one request; quiet but for files that differ."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "everystep", ""
    timeout = SECONDS

    def __init__(self, served: Served, *arguments: Any) -> None:
        self.served = served
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Answer with a file, or a range of it."""
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # its body is not read
        name = unquote(urlsplit(self.path).path).removeprefix("/")
        if not self._names_us():
            self._say(HTTPStatus.MISDIRECTED_REQUEST, "This server answers only to its own name.")
        elif not name:
            self._head(HTTPStatus.FOUND, {"Location": f"/{PAGE}", "Content-Length": "0"})
        elif name == SERVED:
            self._answer(HTTPStatus.OK, TYPES[".json"], self.served.about)
        elif name not in self.served.release.files:
            self._say(HTTPStatus.NOT_FOUND, "The release lists no such file.")
        else:
            self._send(name)

    do_HEAD = do_GET  # noqa: N815  # the name that http.server looks for

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing of a request."""

    def end_headers(self) -> None:
        """Add what every answer has."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def _names_us(self) -> bool:
        port = self.connection.getsockname()[1]
        return self.headers.get_all("Host", []) in [[f"{name}:{port}"] for name in NAMES] or (
            port == 80 and self.headers.get_all("Host", []) in [[name] for name in NAMES]
        )

    def _send(self, name: str) -> None:
        try:
            with self.served.open(name) as file:
                self._send_file(name, file)
        except EverystepError as error:
            note(f"not served: {error}")
            self._say(HTTPStatus.INTERNAL_SERVER_ERROR, "This file is not what the release promises; it is not served.")

    def _send_file(self, name: str, file: IO[bytes]) -> None:
        size = os.fstat(file.fileno()).st_size
        found = _range(self.headers.get_all("Range", []), size)
        headers = {"Content-Type": TYPES.get(PurePosixPath(name).suffix, OTHERS), "Accept-Ranges": "bytes"}
        if found is None:
            start, stop, status = 0, size, HTTPStatus.OK
        elif found[0] >= found[1]:
            headers |= {"Content-Range": f"bytes */{size}", "Content-Length": "0"}
            self._head(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers)
            return
        else:
            (start, stop), status = found, HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self._head(status, headers | {"Content-Length": str(stop - start)})
        if self.command == "HEAD":
            return
        file.seek(start)
        while start < stop and (piece := file.read(min(PIECE, stop - start))):
            self.wfile.write(piece)
            start += len(piece)

    def _say(self, status: HTTPStatus, text: str) -> None:
        self._answer(status, "text/plain; charset=utf-8", f"{text}\n".encode())

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self._head(status, {"Content-Type": content_type, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _range(asked: list[str], size: int) -> tuple[int, int] | None:
    """The bytes `start..stop` that a request asks for (RFC 9110, 14.1.2); None for all of them, as for several ranges.
    Bytes that are not there are an empty range."""
    match = RANGE.fullmatch(asked[0]) if len(asked) == 1 else None
    if match is None or match[1] == match[2] == "":
        return None
    if not match[1]:
        return max(0, size - int(match[2])), size
    last = int(match[2]) if match[2] else size - 1
    if match[2] and last < int(match[1]):
        return None
    return int(match[1]), min(last + 1, size)


def _receipts(release: Release) -> Json:
    """What the receipts beside a release say of each stretch that they are about; None where nobody can list them."""
    try:
        with receipts_beside(release) as folder:
            found = check_receipts(release, folder, {})
    except EverystepError as error:
        note(f"receipts are not shown: {error}")
        return None
    said = [covered for covered in found.covered if covered.same or covered.differs]
    return {"stretches": [vars(covered) for covered in said], "faults": found.faults}


def _state(status: os.stat_result) -> tuple[int, ...]:
    """The size, and what changes with every write."""
    return (status.st_size, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
