"""HTTP/1.1 as far as an engine speaks it: one connection, one answer after the other.

``http.client`` would do, but it imports the email parser and TLS: 19 ms of processor time on the way of every
run, where this costs 0.6 (2026-11, Python 3.11, 20 starts of each in turn). This is strict where that is
lenient: what is not HTTP/1.1 is ``Malformed``, and no head, line or chunk makes it keep more than 64 KiB.
"""

from __future__ import annotations

import io
import os
import stat
from typing import IO, TYPE_CHECKING, cast

from theory_adapter_local.engine.connection import Connection, Lost, Malformed, TooSlow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from _typeshed import WriteableBuffer

MOST_HEAD = 64 << 10  # bytes of status line and headers; an engine sends some hundred
_PORTION = 1 << 20  # bytes of a file sent at once
_MOST_DIGITS = 18  # of a length: below 2^63 in either base
_DIGITS = frozenset("0123456789")
_HEX = frozenset("0123456789abcdefABCDEF")
_SWITCHED, _NO_CONTENT, _NOT_MODIFIED = 101, 204, 304


def send_request(
    connection: Connection, head: bytes, body: bytes | IO[bytes] | Iterable[bytes], length: int | None
) -> None:
    """Send a request, whose head says either ``length`` or that its body is chunked.

    Where the other side closes the connection in the middle, it may have answered: read on.

    Raises:
        Lost: Nothing could be sent, or not in time.
        ValueError: The body is shorter than its length.
    """
    connection.sent = False
    try:
        for portion in _request(head, body, length):
            connection.send(portion)
    except TooSlow:
        raise
    except Lost:
        if not connection.sent:
            raise


def read_head(connection: Connection) -> tuple[int, dict[str, str]]:
    """The status and the headers of the next answer, their names in lower case.

    Raises:
        Malformed: It is not HTTP/1.1, or it is too long.
        Lost: The connection ended.
    """
    room = MOST_HEAD
    while True:
        line, room = connection.line(room)
        status = _status_of(line)
        headers: dict[str, str] = {}
        while True:
            line, room = connection.line(room)
            if not line:
                break
            name, value = _header_of(line)
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        if status == _SWITCHED or status >= 200:  # noqa: PLR2004 - what is below only says to wait
            return status, headers


class Answer(io.RawIOBase):
    """The answer to one request, a raw stream of its body: ``read(n)`` gives up to n bytes, none at the end.

    Once the end was read, the connection can serve the next request; closed before that, it is given up.

    Args:
        connection: A request was sent on it.
        method: The request's.
        spare: Takes the connection when it can be used again; None: it is closed.
    """

    def __init__(
        self, connection: Connection, method: str, spare: Callable[[Connection], None] | None
    ) -> None:
        self.status, self.headers = read_head(connection)
        self._connection: Connection | None = connection
        ends = "close" in self.headers.get("connection", "").lower()
        self._spare = None if ends else spare
        self._chunked = self._has_begun = False
        self._left: int | None = (
            0  # bytes to come of the body, or of this chunk; None: until the connection ends
        )
        coding = self.headers.get("transfer-encoding", "").lower()
        length = self.headers.get("content-length", "")
        if self.status == _SWITCHED:
            self._left = None
        elif method == "HEAD" or self.status in {_NO_CONTENT, _NOT_MODIFIED}:
            self._finish()
        elif coding == "chunked" and not length:
            self._chunked = True
        elif coding or len(length) > _MOST_DIGITS or not _DIGITS.issuperset(length):
            raise Malformed(f"it sends a body of the length {length[:40]!r} in the coding {coding[:40]!r}")
        elif length:
            self._left = int(length)
            if not self._left:
                self._finish()
        else:
            self._left = None

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, target: WriteableBuffer) -> int:
        """Fill a buffer with what there is; 0 at the end.

        Raises:
            Lost: The connection ended before the body did, or what it sends is not HTTP/1.1.
        """
        connection = self._connection
        view = memoryview(target).cast("B")
        if connection is None or not view:
            return 0
        if self._chunked and not self._left:
            self._next_chunk(connection)  # not earlier: it may be long in coming
            if not self._left:
                return 0
        left = self._left
        count = connection.readinto(view if left is None else view[:left])
        if left is None:
            if not count:
                self._spare = None
                self._finish()
            return count
        if not count:
            raise Lost(connection.reason("the connection ended in the middle of an answer"))
        self._left = left - count
        if not self._left and not self._chunked:
            self._finish()
        return count

    def read_exactly(self, count: int) -> bytes:
        """So many bytes, or fewer at the end.

        Raises:
            Lost: As ``readinto``.
        """
        data = memoryview(bytearray(count))
        got = 0
        while got < count and (more := self.readinto(data[got:])):
            got += more
        return bytes(data[:got])

    def allow(self, seconds: float | None) -> None:
        """Let nothing come for so long from now on; None: for ever."""
        if self._connection is not None:
            self._connection.sock.settimeout(seconds)

    def end(self) -> None:
        """End it, from any thread: who reads gets the end, or ``Lost``, at once.

        Only for one whose connection is not used again, which might be another's by now.
        """
        connection = self._connection
        if connection is not None:
            connection.end()

    def close(self) -> None:
        """Give up what is not read."""
        super().close()
        connection = getattr(self, "_connection", None)  # absent where there was no answer
        self._connection = None
        if connection is not None:
            connection.close()

    def _next_chunk(self, connection: Connection) -> None:
        if self._has_begun:
            connection.line(0)
        self._has_begun = True
        digits = connection.line(MOST_HEAD)[0].partition(";")[0].rstrip(" \t")
        if not 0 < len(digits) <= _MOST_DIGITS or not _HEX.issuperset(digits):
            raise Malformed(f"it sends the chunk size {digits[:40]!r}")
        self._left = int(digits, 16)
        if not self._left:
            line, room = connection.line(MOST_HEAD)
            while line:  # trailers, of which nothing is needed
                line, room = connection.line(room)
            self._finish()

    def _finish(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            (self._spare or Connection.close)(connection)


def head_of(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """The head of a request.

    Raises:
        ValueError: Something in it would break the line that it stands on.
    """
    lines = (f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()))
    if not all(line.isprintable() for line in lines):
        raise ValueError("a request's head may only have printable characters")
    return "\r\n".join([*lines, "", ""]).encode()


def length_of(body: object) -> int | None:
    """The bytes that are left in a regular file; None for anything else."""
    file = cast("IO[bytes]", body)
    try:
        status = os.fstat(file.fileno())
        return max(0, status.st_size - file.tell()) if stat.S_ISREG(status.st_mode) else None
    except (AttributeError, OSError):
        return None


def _request(head: bytes, body: bytes | IO[bytes] | Iterable[bytes], length: int | None) -> Iterator[bytes]:
    if isinstance(body, bytes):
        yield head + body
        return
    yield head
    read = getattr(body, "read", None)
    portions = body if read is None else iter(lambda: read(_PORTION), b"")
    left = length
    for portion in portions:
        if left is not None:
            yield portion[:left]  # a file that has grown meanwhile is sent as it was
            left -= len(portion)
            if left <= 0:
                return
        elif portion:  # an empty chunk would be the last
            yield b"%x\r\n" % len(portion)
            yield portion
            yield b"\r\n"
    if left:
        raise ValueError(f"a file became shorter while it was sent: by {left} of {length} bytes")
    if left is None:
        yield b"0\r\n\r\n"


def _status_of(line: str) -> int:
    version, code, after = line[:9], line[9:12], line[12:13]
    whole = len(code) == 3 and _DIGITS.issuperset(code) and code >= "100"  # noqa: PLR2004 - RFC 9112, 4
    if version != "HTTP/1.1 " or not whole or after not in {"", " "}:
        raise Malformed(f"it answers {line[:80]!r}")
    return int(code)


def _header_of(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
        raise Malformed(f"it sends the header {line[:80]!r}")
    return name.lower(), value.strip(" \t")
