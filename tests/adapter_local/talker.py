"""A server that answers each request as a test wants it, honest or hostile."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

PING = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK"


class Request(NamedTuple):
    """What was asked."""

    method: str
    target: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    connection: int  # which one, from 0 on
    socket: socket.socket


def json_answer(text: str, status: int = 200) -> bytes:
    """An answer with a body of JSON."""
    body = text.encode()
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class Talker:
    """Listens on a socket file, or on a port of the loopback, until it is closed.

    Args:
        path: Of the socket file; "": a port.
        answer: Gives the bytes for each request but pings; None: the connection is closed, without any.
        ping: What pings get.
        reads_bodies: Whether a request's body is read before it is answered.
        tls: Each connection begins with its handshake.
    """

    def __init__(
        self,
        path: str,
        answer: Callable[[Request], bytes | None],
        *,
        ping: bytes | None = PING,
        reads_bodies: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self._answer, self._ping, self._reads_bodies, self._tls = answer, ping, reads_bodies, tls
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        if path:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self.host = f"unix://{path}"
        else:
            self._listener = socket.socket()
            self._listener.bind(("127.0.0.1", 0))
            self.host = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._listener.listen(64)
        self._start(self._accept)

    def __enter__(self) -> Talker:  # noqa: PYI034 - Self is younger than Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._listener, *self._open):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join()
        for end in (self._listener, *self._open):
            end.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                accepted = self._listener.accept()[0]
            except OSError:
                return
            self._open.append(accepted)
            self.connections += 1
            self._start(self._serve, accepted, self.connections - 1)

    def _serve(self, end: socket.socket, number: int) -> None:
        try:
            if self._tls:
                end = self._tls.wrap_socket(end, server_side=True)
                self._open.append(end)
            with end.makefile("rb") as stream:
                while line := stream.readline():
                    method, target, _ = line.decode().split(" ")
                    headers = {}
                    while (header := stream.readline()) != b"\r\n":
                        name, _, value = header.decode().rstrip("\r\n").partition(": ")
                        headers[name.lower()] = value
                    body = b""
                    if self._reads_bodies and headers.get("transfer-encoding") == "chunked":
                        while size := int(stream.readline(), 16):
                            body += stream.read(size)
                            assert stream.readline() == b"\r\n"
                        assert stream.readline() == b"\r\n"
                    elif self._reads_bodies:
                        body = stream.read(int(headers.get("content-length", 0)))
                    request = Request(method, target, headers, body, number, end)
                    if target == "/_ping":
                        answer = self._ping
                    else:
                        self.requests.append(request)
                        answer = self._answer(request)
                    if answer is None:
                        break
                    end.sendall(answer)
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
