"""Start-up of a job: libraries load and processes meet, deep inside code that answers no signal.

Meanwhile a thread watches. If somebody interrupts, or a peer ends before it has joined, the thread says so in one line
and ends the peers and this process, whatever it is doing. The job has not begun yet, so nothing is lost.
"""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType
from typing import Any, Self

from pipeline.base.console import INTERRUPTED, note
from pipeline.base.errors import EverystepError


class Startup:
    """A watch over a start. Use as a context manager; outside the main thread, where no signal arrives, it is idle."""

    def __init__(self) -> None:
        self.peers: list[tuple[BaseProcess, Connection]] = []
        self._watches = threading.current_thread() is threading.main_thread()
        self._lock = threading.Lock()
        self._over = self._interrupted = False

    def __enter__(self) -> Self:
        if self._watches:
            self._wake, self._waker = os.pipe()
            os.set_blocking(self._waker, False)
            self._before: Any = signal.getsignal(signal.SIGINT)
            if self._before != signal.SIG_IGN:
                signal.signal(signal.SIGINT, self._note)
                signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def add_peer(self, peer: BaseProcess, said: Connection) -> None:
        """Start a process that will join this one. Only this one answers an interrupt from the terminal."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            peer.start()
            self.peers.append((peer, said))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        if self._watches:
            os.write(self._waker, b"\0")  # watch this one too

    def end(self) -> None:
        """End the watch: from now on an interrupt is an exception as usual, and the network reports a lost peer."""
        with self._lock:
            if self._over or not self._watches:
                return
            self._over = True
        if self._before != signal.SIG_IGN:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, self._before)
        os.write(self._waker, b"\0")
        self._thread.join()
        os.close(self._wake)
        os.close(self._waker)
        if self._interrupted:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True

    def _watch(self) -> None:
        while True:
            wait([self._wake, *(peer.sentinel for peer, _ in self.peers)])
            with self._lock:
                if self._over:
                    return
                woken_by = os.read(self._wake, 64) if wait([self._wake], timeout=0) else b""
                if woken_by.strip(b"\0"):
                    self.leave("interrupted; run the same command again", INTERRUPTED)
                if fault := fault_of(self.peers):
                    self.leave(f"error: {fault}", fault.exit_code)

    def leave(self, message: str, code: int = EverystepError.exit_code) -> None:
        """End the peers and this process, whatever it is doing."""
        note(message)
        for peer, _ in self.peers:
            peer.kill()
        sys.stdout.flush()
        os._exit(code)


def fault_of(
    peers: Sequence[tuple[BaseProcess, Connection]], within: float = 0.0, at: str = ""
) -> EverystepError | None:
    """Return the error that a peer sent, or how it ended; None if none fails within this many seconds.

    `at` says what they were doing, such as ` at step 3`.
    """
    for rank, (peer, said) in enumerate(peers, 1):
        peer.join(timeout=within)
        try:
            if said.poll():
                error: EverystepError = said.recv()
                return error
        except EOFError:
            pass
        code = peer.exitcode  # once: it may end between two looks
        if code and code < 0:
            return EverystepError(
                f"process {rank} of {len(peers) + 1} was killed by signal {-code}{at}, perhaps because memory "
                "ran out; run the same command again"
            )
        if code:
            return EverystepError(
                f"process {rank} of {len(peers) + 1} failed with exit code {code}{at}; its message is above"
            )
    return None
