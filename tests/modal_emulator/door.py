"""A listening port whose connections can be cut, refused or left without an answer."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "127.0.0.1"


class Door:
    """One port on loopback, in front of any asyncio protocol."""

    def __init__(self, name: str, factory: Callable[[], Any]) -> None:
        self.name = name
        self.port = 0
        self._factory = factory
        self._held: socket.socket | None = None
        self._server: asyncio.AbstractServer | None = None
        self.connections: set[_Connection] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._pending: asyncio.Task[None] | None = None

    async def open(self, port: int = 0) -> None:
        """Listen. The port stays ours while nobody listens: a second, silent socket is bound to it."""
        self._held = _bound(port)
        self.port = self._held.getsockname()[1]
        await self._listen()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connect, sock=_bound(self.port), backlog=512)

    def _connect(self) -> _Connection:
        return _Connection(self, self._factory())

    @property
    def stalled(self) -> bool:
        """Whether nothing comes through now."""
        return not self._flowing.is_set()

    def drop(self) -> None:
        """Break every connection there is, with no farewell."""
        for connection in tuple(self.connections):
            connection.abort()

    async def cut(self, seconds: float) -> None:
        """Break every connection, and refuse new ones for so many seconds."""
        self._stop_listening()
        self.drop()
        self._after(seconds, self._listen_again)

    async def stall(self, seconds: float) -> None:
        """A black hole: connections stay, and nothing comes through either way for so many seconds."""
        self._flowing.clear()
        for connection in tuple(self.connections):
            connection.hold()
        self._after(seconds, self._flow_again)

    async def flowing(self) -> None:
        """Return once the door lets something through."""
        await self._flowing.wait()

    async def mend(self) -> None:
        """End a cut or a stall now."""
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        await self._flow_again()
        await self._listen_again()

    async def close(self) -> None:
        """Stop listening, break all connections."""
        if self._pending is not None:
            self._pending.cancel()
        self._stop_listening()
        self.drop()
        if self._held is not None:
            self._held.close()

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _listen_again(self) -> None:
        if self._server is None:
            await self._listen()

    async def _flow_again(self) -> None:
        self._flowing.set()
        for connection in tuple(self.connections):
            connection.let_go()

    def _after(self, seconds: float, then: Callable[[], Any]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            await then()

        if self._pending is not None:
            self._pending.cancel()
        self._pending = asyncio.ensure_future(wait())


def _bound(port: int) -> socket.socket:
    # With the protocol named asyncio sets TCP_NODELAY on what it accepts: else each answer takes 40 ms more.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((HOST, port))
    return bound


class _Connection(asyncio.Protocol):
    """Passes everything on to the protocol behind the door, or keeps it while the door is stalled."""

    def __init__(self, door: Door, behind: Any) -> None:
        self._door = door
        self._behind = behind
        self._transport: asyncio.Transport | None = None
        self._kept: list[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._door.connections.add(self)
        self._behind.connection_made(transport)
        if self._door.stalled:
            self.hold()

    def data_received(self, data: bytes) -> None:
        if self._kept is None:
            self._behind.data_received(data)
        else:
            self._kept.append(data)

    def eof_received(self) -> bool | None:
        return self._behind.eof_received()  # type: ignore[no-any-return]

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.connections.discard(self)
        self._behind.connection_lost(exc)

    def pause_writing(self) -> None:
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        self._behind.resume_writing()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def hold(self) -> None:
        if self._kept is None:
            self._kept = []

    def let_go(self) -> None:
        kept, self._kept = self._kept, None
        for data in kept or ():
            self._behind.data_received(data)
