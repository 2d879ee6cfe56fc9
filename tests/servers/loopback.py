"""A real HTTP server on this machine, for tests of what goes over a network."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def serve(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on a free port until the block ends; gives `http://127.0.0.1:PORT`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    """Quiet, HTTP/1.1, with one helper to answer."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, body: bytes, /, **headers: str) -> None:
        """Send a whole answer; `content_type="a/b"` becomes the header `Content-Type`. HEAD sends no body."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-").title(), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_file(self, content: bytes, **headers: str) -> None:
        """Send `content`, or the one range of it that was asked for."""
        wanted = self.headers.get("Range", "")
        if not wanted.startswith("bytes="):
            self.answer(200, content, **headers)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last) if last else len(content) - 1, len(content) - 1)
        if start > end:
            self.answer(416, b"", content_range=f"bytes */{len(content)}", **headers)
            return
        place = f"bytes {start}-{end}/{len(content)}"
        self.answer(206, content[start : end + 1], content_range=place, **headers)
