"""A door on loopback at which code in containers knocks and waits: they share no file with a test."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

LONG = 60.0  # seconds: for what takes less than one where nothing is wrong


class Visitor:
    """Code that knocked and waits for an answer."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.word = connection.makefile().readline().strip()

    def gone(self) -> bool:
        """Wait until it hangs up, as the end of its process does; whether it did."""
        with self._connection:
            return self._connection.recv(1) == b""

    def let_in(self, answer: str = "") -> None:
        """Let it go on, with an answer."""
        with self._connection:
            self._connection.sendall(answer.encode())


class Gate:
    """`with Gate() as gate: f.spawn(gate.port); gate.visitor().let_in()`."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(LONG)
        self._inside: list[socket.socket] = []
        self.port: int = self._socket.getsockname()[1]

    def visitor(self) -> Visitor:
        """The next one that knocks."""
        connection, _ = self._socket.accept()
        connection.settimeout(LONG)
        self._inside.append(connection)
        return Visitor(connection)

    def __enter__(self) -> Gate:  # noqa: PYI034 - Self is of Python 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for open_one in (self._socket, *self._inside):
            open_one.close()


def knock(port: int, word: str) -> str:
    """What the code calls: say a word, wait, get the answer."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"{word}\n".encode())
        return connection.makefile().read()
