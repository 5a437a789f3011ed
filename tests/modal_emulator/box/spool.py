"""What a process prints, kept so that it can be read from any byte on, again and again, while it grows."""

from __future__ import annotations

import asyncio
import os
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

PORTION = 1 << 20  # bytes in one message of a stream
IN_MEMORY = 1 << 20  # bytes of a stream that are held in memory; more goes to a file without a name


class Spool:
    """A stream of bytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._buffer = bytearray()
        self._fd: int | None = None
        self._size = 0
        self._ended = self._closed = False
        self._changed = asyncio.Event()

    def append(self, data: bytes) -> None:
        """Add to its end, unless it is closed."""
        if self._closed:
            return
        if self._fd is None and self._size + len(data) > IN_MEMORY:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                self._fd = os.dup(file.fileno())
            _write(self._fd, bytes(self._buffer))
            self._buffer.clear()
        if self._fd is None:
            self._buffer += data
        else:
            _write(self._fd, data)
        self._size += len(data)
        self._wake()

    def take(self, fd: int) -> None:
        """Be the content of an open file from now on; it is closed with this."""
        if self._closed:
            os.close(fd)
        else:
            self._fd, self._size = fd, os.fstat(fd).st_size

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self, offset: int) -> AsyncGenerator[tuple[int, bytes], None]:
        """Each piece from this byte on with its place, until the end."""
        while True:
            if piece := self._read(offset):
                yield offset, piece
                offset += len(piece)
            elif self._ended:
                return
            else:
                await self._changed.wait()

    def _read(self, offset: int) -> bytes:
        if self._fd is not None:
            return os.pread(self._fd, PORTION, offset)
        return bytes(self._buffer[offset : offset + PORTION])

    def close(self) -> None:
        """Forget all of it."""
        self._closed = True
        self.end()
        if self._fd is not None:
            os.close(self._fd)
            self._fd, self._buffer = None, bytearray()

    async def fill(self, stream: AsyncIterator[bytes]) -> None:
        """Append what another stream has, until its end."""
        try:
            async for data in stream:
                self.append(data)
        finally:
            self.end()


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
