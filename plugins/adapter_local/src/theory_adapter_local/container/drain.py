"""Passes on what a container writes, as it comes, in bounded memory."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Literal

from theory_adapter_local.engine.client import Lost, Refused
from theory_adapter_local.engine.faults import DockerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from theory import Channel
    from theory_adapter_local.engine.client import Attached, Engine

_LAST_WORDS_BYTES = 1024
_SILENCE_S = 5.0  # after which an end of the stream will not come: the engine sends it before the status
_HURRY_S = 1.0  # for a slow reader after a cancellation or a timeout
_POLL_S = 0.02


class Continued:
    """What a container has written since, and will write.

    It is asked for by who reads it: the engine begins its answer with the first line, and that may take long.
    """

    def __init__(self, engine: Engine, container: str, since: float) -> None:
        self._engine = engine
        self._container = container
        self._since = since
        self._opened: Attached | None = None
        self._is_closed = False

    def frames(self) -> Iterator[tuple[Literal["stdout", "stderr"], bytes]]:
        """As those of ``Attached``."""
        self._opened = self._engine.logs(self._container, self._since)
        if self._is_closed:
            self._opened.close()
        yield from self._opened.frames()

    def close(self) -> None:
        """End it from any thread; one that waits for a first line ends with its container."""
        self._is_closed = True
        if self._opened is not None:
            self._opened.close()


class Drain(threading.Thread):
    """Reads a container's output until its end, always: one that nobody reads makes the container wait.

    A thread, because ``Channel.write`` may block on a slow reader while deadline and cancellation go on.
    """

    def __init__(self, output: Attached | Continued, channel: Channel, former: Drain | None = None) -> None:
        """Go on where another one, if there was one, had to stop."""
        super().__init__(daemon=True, name="theory-local-output")
        # What the channel raised; the rest is read and dropped.
        self.failure: BaseException | None = former.failure if former else None
        self.last_words: bytes = former.last_words if former else b""  # the end of stderr
        self.read_at = time.time()  # when the last was read, in seconds since the epoch
        self._output = output
        self._channel = channel
        self._is_writing = False

    def run(self) -> None:
        """Read."""
        try:
            for stream, data in self._output.frames():
                self.read_at = time.time()
                self._take(stream, data)
        except (Refused, Lost, DockerUnavailable):
            pass  # the engine or the container is gone, which its waiter notices too

    def finish(self, is_hurried: Callable[[], bool]) -> None:
        """Wait until all is passed on: for a slow reader, unless hurried, but not for a silent engine."""
        waited = hurried = read_at = 0.0
        while self.is_alive() and waited < _SILENCE_S and hurried < _HURRY_S:
            self.join(_POLL_S)
            if is_hurried():
                hurried += _POLL_S
            elif self._is_writing or self.read_at != read_at:
                waited, read_at = 0.0, self.read_at
            else:
                waited += _POLL_S
        self.close()

    def give_up(self) -> None:
        """Read no more where the reader is too slow now: the engine tells no end before all is read."""
        if self._is_writing:
            self.close()

    def close(self) -> None:
        """End it from any thread."""
        self._output.close()

    def _take(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        if stream == "stderr":
            self.last_words = (self.last_words + data)[-_LAST_WORDS_BYTES:]
        if self.failure is not None:
            return
        self._is_writing = True
        try:
            self._channel.write(stream, data)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that runs the container
            self.failure = error
        finally:
            self._is_writing = False
