"""A command's log, put together again from the answer and Modal's, which may lose, repeat and mix lines.

Every piece has its number (``theory_shim.Log``), so each is passed on once and in order, however it came.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from theory import Channel

NOTE = b"theory: the container was lost, and Modal runs the command again\n"
MOST_WAITING = 4096  # pieces that wait for their turn: 32 MiB; those beyond come with the answer
_MOST_DIGITS = 15  # of a piece's number
_STREAMS: dict[str, Literal["stdout", "stderr"]] = {"o": "stdout", "e": "stderr"}


class Told:
    """Takes the pieces of one command's log from any thread, and passes them on in that of its run.

    A call may be delivered again after a crash; each delivery has an attempt of its own, whose pieces are
    numbered anew.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._attempt = ""
        self._former: set[str] = set()
        self._next = 0
        self._waiting: dict[int, tuple[str, str]] = {}

    @property
    def lacks(self) -> bool:
        """Whether something came too early: what was before it is missing."""
        with self._lock:
            return bool(self._waiting) and self._next not in self._waiting

    def take(self, attempt: str, line: str) -> None:
        """Take a piece, from any thread: its number, its stream, its text as JSON."""
        number, _, piece = line.partition(" ")
        stream, _, text = piece.partition(" ")
        with self._lock:
            if attempt in self._former or not number.isdecimal() or len(number) > _MOST_DIGITS:
                return
            self._turn_to(attempt)
            if int(number) >= self._next and (len(self._waiting) < MOST_WAITING or int(number) == self._next):
                self._waiting[int(number)] = (stream, text)

    def pass_on(self) -> bool:
        """Pass on what is next, as far as it is here; whether there was anything."""
        passed = False
        while True:
            with self._lock:
                found = self._waiting.pop(self._next, None)
                if found is None:
                    return passed
                self._next += 1
            self._write(*found)
            passed = True

    def complete(self, attempt: str, lines: Iterable[str]) -> None:
        """Pass on all that is still missing of the attempt that delivered."""
        for line in lines:
            self.take(attempt, line)
            self.pass_on()

    def _turn_to(self, attempt: str) -> None:
        if attempt == self._attempt:
            return
        if self._attempt:
            self._former.add(self._attempt)
        # The note is a piece of the new attempt, before its first one.
        self._waiting = {-1: ("note", "")} if self._attempt else {}
        self._attempt, self._next = attempt, -1 if self._attempt else 0

    def _write(self, stream: str, text: str) -> None:
        if stream == "note":
            self._channel.write("stderr", NOTE)
        elif stream == "b":
            self._channel.started()
        elif name := _STREAMS.get(stream):
            try:
                data = str(json.loads(text)).encode("utf-8", "surrogateescape")
            except (ValueError, RecursionError):
                return
            self._channel.write(name, data)
