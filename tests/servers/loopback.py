"""A real HTTP server on this machine, for tests of what goes over a network."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PIECE = 1 << 18


class Server(ThreadingHTTPServer):
    """Many connections at once; a client that leaves in the middle of one is no error."""

    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serve(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on a free port until the block ends; gives `http://127.0.0.1:PORT`."""
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    """Quiet, HTTP/1.1, with helpers to read a body and to answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    """A small answer leaves at once, and not after the 40 ms that its receiver may wait before it acknowledges."""

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, body: bytes, /, **headers: str) -> None:
        """Send a whole answer; `content_type="a/b"` becomes the header `Content-Type`. HEAD sends no body."""
        self.head(status, len(body), headers)
        self.send(iter([body]))

    def answer_file(self, content: bytes | Path, **headers: str) -> None:
        """Send `content`, or the one range of it that was asked for (RFC 9110, 14.1.2)."""
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        wanted = self.headers.get("Range", "")
        if not wanted.startswith("bytes="):
            self.head(200, size, headers)
            self.send(_pieces(content, 0, size))
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, size - int(last))
        end = min(int(last) if first and last else size - 1, size - 1)
        if start > end:
            self.answer(416, b"", content_range=f"bytes */{size}", **headers)
            return
        self.head(206, end - start + 1, headers | {"content_range": f"bytes {start}-{end}/{size}"})
        self.send(_pieces(content, start, end + 1))

    def head(self, status: int, length: int, headers: dict[str, str]) -> None:
        """Send the status and the headers of an answer whose body has `length` bytes."""
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-").title(), value)
        self.end_headers()

    def send(self, body: Iterator[bytes]) -> None:
        """Send the body of an answer."""
        if self.command != "HEAD":
            for piece in body:
                self.wfile.write(piece)

    def body(self) -> Iterator[bytes]:
        """The pieces of the body of a request, which is sent with its length or in chunks (RFC 9112, 7.1)."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            yield from self._read(int(self.headers.get("Content-Length", "0")))
            return
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield from self._read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _read(self, size: int) -> Iterator[bytes]:
        while size and (piece := self.rfile.read(min(size, PIECE))):
            size -= len(piece)
            yield piece


def _pieces(content: bytes | Path, start: int, end: int) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content[start:end]
        return
    with content.open("rb") as file:
        file.seek(start, os.SEEK_SET)
        while start < end and (piece := file.read(min(end - start, PIECE))):
            start += len(piece)
            yield piece
