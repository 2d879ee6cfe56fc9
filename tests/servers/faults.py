"""What goes wrong between a client and a server: a handler that counts its requests and does some of them wrong.

A test writes into `Faults` before the server starts or while it runs. Its tables have parts of `METHOD /path?query`
as keys: `"GET /owner/name/resolve/"` means downloads alone, `"model.safetensors"` whatever is done with that file.
"""

import contextlib
import math
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from tests.servers.loopback import Handler

ALWAYS = math.inf


@dataclass
class Faults:
    """What a server does wrong. A value of a list is used up by one request; a count is one less after each."""

    every: int = 0
    """Each request whose number divides by this is refused with 429."""
    retry_after: str = "0"
    """Seconds, as a refusal with 429 or 5xx says."""
    busy: dict[str, list[int]] = field(default_factory=dict)
    """Statuses that come in place of answers; nothing is done."""
    cut: dict[str, list[int]] = field(default_factory=dict)
    """Bytes of a body after which the connection is closed; the request's body if it has one, else the answer's."""
    wrong: dict[str, float] = field(default_factory=dict)
    """Answers with a body whose first bit is flipped, so many times (or `ALWAYS`)."""
    lost: dict[str, float] = field(default_factory=dict)
    """Requests that are done, and answered with 500, so many times (or `ALWAYS`)."""
    slow: dict[str, list[float]] = field(default_factory=dict)
    """Seconds before an answer."""
    moved: dict[str, str] = field(default_factory=dict)
    """Redirects to the same path below another address."""


@dataclass
class Request:
    """One request. All of it is written before a client can have read the whole answer."""

    method: str
    path: str
    token: bool
    """Whether it carried credentials."""
    kind: str = "other"
    """What it asked for, in the server's words: the hub's are the names of the methods of its handler."""
    status: int = 0
    """0 if the connection was cut before an answer began."""
    received: int = 0
    """Bytes of its body."""
    sent: int = 0
    """Bytes of the answer's body."""


@dataclass
class Counted:
    """All requests to a server so far, in the order of their starts."""

    requests: list[Request] = field(default_factory=list)
    started: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, *kinds: str) -> list[Request]:
        """The requests of some kinds; without a kind all."""
        return [request for request in self.requests if not kinds or request.kind in kinds]

    def by_kind(self) -> dict[str, int]:
        """The number of requests of each kind."""
        kinds = sorted({request.kind for request in self.requests})
        return {kind: len(self.of(kind)) for kind in kinds}

    def sent(self, *kinds: str) -> int:
        """Bytes of bodies that clients were sent."""
        return sum(request.sent for request in self.of(*kinds))

    def received(self, *kinds: str) -> int:
        """Bytes of bodies that clients have sent."""
        return sum(request.received for request in self.of(*kinds))

    def clear(self) -> None:
        self.requests.clear()


class Cut(Exception):  # noqa: N818 - not an error of the server
    """The connection ends here."""


class Watched(Handler):
    """A handler that counts and breaks. A server's handler derives from it and defines `respond`."""

    faults: Faults
    counted: Counted

    def respond(self) -> None:
        """Answer the request, and say in `self.asked.kind` what it was."""
        raise NotImplementedError

    def do_GET(self) -> None:  # noqa: N802 - the library's name
        self.asked = Request(self.command, self.path, "Authorization" in self.headers)
        self.is_read = False
        with self.counted.lock:
            self.counted.requests.append(self.asked)
            self.counted.started += 1
            number = self.counted.started
        try:
            if not self._is_refused(number):
                self.respond()
        except (Cut, ConnectionError):
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - the library's names

    @property
    def target(self) -> str:
        """What the keys of the tables of faults are compared with."""
        return f"{self.command} {unquote(self.path)}"

    def _is_refused(self, number: int) -> bool:
        """Whether the request was answered by a fault."""
        if seconds := self._next(self.faults.slow):
            threading.Event().wait(seconds)  # also where a test has replaced `time.sleep`, so that clients do not wait
        status = 429 if self.faults.every and number % self.faults.every == 0 else self._next(self.faults.busy)
        if status:
            self.answer(int(status), b"busy", retry_after=self.faults.retry_after)
            return True
        address = next((value for key, value in self.faults.moved.items() if key in self.target), "")
        if address:
            self.answer(302, b"", location=address + self.path)
        return bool(address)

    def head(self, status: int, length: int, headers: dict[str, str]) -> None:
        if not self.is_read:
            for _ in self.body():
                pass  # a client may send its whole body before it reads the answer
        self.asked.status = status
        super().head(status, length, headers)

    def answer(self, status: int, body: bytes, /, **headers: str) -> None:
        if self.command != "HEAD" and status < 300 and self._is_due(self.faults.lost):
            status, body, headers = 500, b"lost", {}
        super().answer(status, body, **headers)

    def send(self, body: Iterator[bytes]) -> None:
        is_whole = self.command == "HEAD" or self.asked.status >= 300
        limit = None if is_whole or self.asked.received else self._next(self.faults.cut)
        flipped = 0 if is_whole or not self._is_due(self.faults.wrong) else 1
        super().send(self._broken(body, limit, flipped))

    def _broken(self, body: Iterator[bytes], limit: float | None, flipped: int) -> Iterator[bytes]:
        for piece in body:
            wrong = bytes([piece[0] ^ flipped]) + piece[1:] if piece and flipped else piece
            flipped = 0
            allowed = len(wrong) if limit is None else int(min(len(wrong), limit - self.asked.sent))
            self.asked.sent += allowed
            yield wrong[:allowed]
            if allowed < len(wrong):
                raise Cut

    def body(self) -> Iterator[bytes]:
        self.is_read = True
        has_body = "Transfer-Encoding" in self.headers or self.headers.get("Content-Length", "0") != "0"
        limit = self._next(self.faults.cut) if has_body else None
        for piece in super().body():
            self.asked.received += len(piece)
            if limit is not None and self.asked.received >= limit:
                raise Cut
            yield piece

    def _next(self, table: Mapping[str, list[int]] | Mapping[str, list[float]]) -> float | None:
        """The first value that is left for this request, taken out of its list."""
        with self.counted.lock:
            for key, values in table.items():
                if key in self.target and values:
                    return values.pop(0)
        return None

    def _is_due(self, table: dict[str, float]) -> bool:
        """Whether a count is left for this request; it is one less afterwards."""
        with self.counted.lock:
            for key, count in table.items():
                if key in self.target and count > 0:
                    table[key] = count - 1
                    return True
        return False
