"""Reading what may stay empty for long, such that a Ctrl-C still counts."""

from __future__ import annotations

import io
import os
import select
from typing import TYPE_CHECKING

from theory.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable

_POLL_MS = 100  # how long an empty pipe delays a Ctrl-C


class Pipe(io.RawIOBase):
    """A pipe, terminal or file whose reader can be cancelled; it leaves the descriptor open.

    Raises:
        Interrupted: By a read, once ``cancelled`` says so.
    """

    def __init__(self, descriptor: int, cancelled: Callable[[], bool]) -> None:
        self._descriptor = descriptor
        self._cancelled = cancelled
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN | select.POLLHUP)

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader hands over
        """Wait for some bytes; 0 at the end."""
        while not self._poll.poll(_POLL_MS):
            if self._cancelled():
                raise Interrupted("cancelled while input was read")
        return os.readv(self._descriptor, [buffer])
