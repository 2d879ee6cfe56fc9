"""A way to a server that breaks: connections to it are passed on, and closed after some bytes of answers."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass
class Cutter:
    """`sent`: bytes of answers so far. Once they reach `cut_after`, the next `cuts` pieces of an answer are lost."""

    address: str
    cut_after: int
    cuts: int
    sent: int = 0


@contextmanager
def cutting(target: str, *, cut_after: int = 0, cuts: int = 0) -> Iterator[Cutter]:
    """Listen on a free port until the block ends and pass everything on to `target`."""
    listener = socket.create_server(("127.0.0.1", 0))
    way = Cutter(f"http://127.0.0.1:{listener.getsockname()[1]}", cut_after, cuts)
    parts = urlsplit(target)

    def accept() -> None:
        with contextlib.suppress(OSError):  # closed: the test is over
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((parts.hostname, parts.port))
                threading.Thread(target=_pass_on, args=(client, server, None), daemon=True).start()
                threading.Thread(target=_pass_on, args=(server, client, way), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield way
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _pass_on(source: socket.socket, target: socket.socket, way: Cutter | None) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(16384):
            if way and way.cuts and way.sent >= way.cut_after:
                way.cuts -= 1
                break
            if way:
                way.sent += len(piece)
            target.sendall(piece)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
            end.close()
