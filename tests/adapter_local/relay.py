"""A relay in front of an engine's socket, which can be cut: an engine that goes away, and is still there."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Relay:
    """Passes bytes on both ways, until it is cut; then nobody listens until it is opened again."""

    def __init__(self, path: Path, target: str) -> None:
        self.host = f"unix://{path}"
        self._path = path
        self._target = target
        self._listener: socket.socket | None = None
        self._connected: list[socket.socket] = []
        self.asked = b""  # all that was sent to the engine
        self.containers: list[str] = []  # what a test had made, which may be left when it cuts the relay
        self._news = threading.Condition()
        self.open()

    def open(self) -> None:
        """Listen."""
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self, *, connections: bool = True) -> None:
        """Listen no more, and end what is connected, or leave that as a daemon does that is asked to end."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self._path.unlink()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        if connections:
            connected, self._connected = self._connected, []
            for end in connected:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def wait_for(self, words: bytes, seconds: float = 30) -> None:
        """Wait until the engine was asked this."""
        with self._news:
            if not self._news.wait_for(lambda: words in self.asked, seconds):
                raise TimeoutError(f"the engine was not asked {words!r} in {seconds} s")

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                ours, _ = listener.accept()
                theirs = socket.socket(socket.AF_UNIX)
                theirs.connect(self._target)
                self._connected += [ours, theirs]
                left = [2]
                for ends in ((ours, theirs), (theirs, ours)):
                    arguments = (*ends, left, ends[0] is ours)
                    threading.Thread(target=self._copy, args=arguments, daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, left: list[int], is_asking: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
                if is_asking:
                    with self._news:
                        self.asked += data
                        self._news.notify_all()
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        left[0] -= 1
        if not left[0]:
            source.close()
            target.close()
