"""A connection to an engine: bytes out, bytes and lines in, and one error for all that may break."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_AHEAD = 256 << 10  # bytes asked of the kernel at once; a frame of an engine has 32 KiB at most


class Lost(Exception):
    """The connection ended or broke in the middle, or nothing came in time; the engine may be gone."""


class TooSlow(Lost):
    """Nothing came in time."""


class Malformed(Lost):
    """What came is not HTTP/1.1."""


class Connection:
    """A connected socket, with what was read ahead of it. It raises ``Lost``, whatever breaks.

    Args:
        sock: Connected; closed by ``close``.
        fault: What else may be known of why the connection ended.
        closed: Called once when it is closed, for what belongs to the connection.
    """

    def __init__(
        self,
        sock: socket.socket,
        fault: Callable[[], str] = str,
        closed: Callable[[], None] = lambda: None,
    ) -> None:
        self.sock = sock
        self.subject = ""  # of a Lost: the latest request
        self.sent = False  # whether any byte of the latest request went out
        self.deadline: float | None = None  # on time.monotonic; None: what the socket allows each time
        self._pid = os.getpid()
        self._buffer = memoryview(bytearray(_AHEAD))
        self._from = self._to = 0  # where in it is what was read ahead
        self._fault = fault
        self._closed = closed

    def end(self) -> None:
        """End it, from any thread: who waits for bytes gets the end at once."""
        try:
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # TLS' own would pull its state from a reader
        except OSError:
            return

    def close(self) -> None:
        """End it and give all back; only from the thread that reads, which could else read from another's."""
        closed, self._closed, self._fault = self._closed, lambda: None, str
        if self.is_own():
            self.end()
            self.sock.close()
            closed()
        else:
            self.sock.close()

    def is_own(self) -> bool:
        """Whether it was made by this process: a fork shares the socket, and must neither use nor end it."""
        return self._pid == os.getpid()

    def is_idle(self) -> bool:
        """Whether it is as an idle connection should be: neither ended, nor with bytes nobody asked for."""
        if self._from != self._to or not self.is_own():
            return False
        try:
            self.sock.settimeout(0)
            socket.socket.recv(self.sock, 1, socket.MSG_PEEK)  # below TLS, which cannot peek
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def send(self, data: bytes) -> None:
        """Send all of this.

        Raises:
            Lost: The connection broke, or took nothing in time.
        """
        view = memoryview(data)
        try:
            while view:
                self._set_time()
                count = self.sock.send(view)
                self.sent = True
                view = view[count:]
        except OSError as error:
            self._fail(error)

    def readinto(self, target: memoryview) -> int:
        """What there is, at least a byte; 0 where the connection ended.

        Raises:
            Lost: It broke, or nothing came in time.
        """
        if self._from == self._to:
            if len(target) >= _AHEAD:
                return self._receive(target)
            self._fill()
        count = min(len(target), self._to - self._from)
        target[:count] = self._buffer[self._from : self._from + count]
        self._from += count
        return count

    def line(self, room: int) -> tuple[str, int]:
        """A line without its end, of at most ``room`` bytes, and how much room it leaves.

        Raises:
            Malformed: It has none, or another end than CR LF.
            Lost: The connection ended.
        """
        line = b""
        while not line.endswith(b"\n"):
            if len(line) >= room + 2:
                raise Malformed(f"it sends a line without an end: {_text(line)!r}")
            if self._from == self._to and not self._fill():
                raise Lost(
                    self.reason("the connection ended" if line else "the connection ended without an answer")
                )
            ahead = bytes(self._buffer[self._from : min(self._to, self._from + room + 2 - len(line))])
            ahead = ahead[: ahead.find(b"\n") + 1] or ahead
            self._from += len(ahead)
            line += ahead
        if not line.endswith(b"\r\n"):
            raise Malformed(f"it answers {_text(line)!r}")
        return line[:-2].decode("latin-1"), room + 2 - len(line)

    def _fill(self) -> int:
        self._from = self._to = 0
        self._to = self._receive(self._buffer)
        return self._to

    def _receive(self, target: memoryview) -> int:
        try:
            self._set_time()
            return self.sock.recv_into(target)
        except OSError as error:
            self._fail(error)

    def _set_time(self) -> None:
        if self.deadline is not None:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.sock.settimeout(left)

    def _fail(self, error: OSError) -> NoReturn:
        if isinstance(error, TimeoutError):
            raise TooSlow(f"{self.subject}: nothing came in time") from error
        raise Lost(self.reason(error.strerror or str(error) or type(error).__name__)) from error

    def reason(self, reason: str) -> str:
        """Words for a ``Lost``."""
        return ": ".join(filter(None, (self.subject, reason, self._fault())))


def _text(line: bytes) -> str:
    return line[:80].decode("latin-1")
