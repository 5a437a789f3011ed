"""Passes on what a command writes, as it comes, in bounded memory."""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from theory import Channel

_READ_BYTES = 64 * 1024  # what a pipe holds on Linux
_LAST_WORDS_BYTES = 1024
_LAST_BYTES = 1024 * 1024  # the most that a pipe can hold on Linux for an ordinary user (fs.pipe-max-size)


class Drain(threading.Thread):
    """Reads both streams until their end, or until ``finish`` is called and the pipes are empty.

    A thread, because ``Channel.write`` may block on a slow reader while deadline and cancellation go on.
    It owns its descriptors and closes them.
    """

    def __init__(self, stdout: int, stderr: int, channel: Channel) -> None:
        """Take over the reading ends of the two pipes."""
        super().__init__(daemon=True, name="theory-process-output")
        self.failure: BaseException | None = None  # what the channel raised; the rest is read and dropped
        self._streams: dict[int, Literal["stdout", "stderr"]] = {stdout: "stdout", stderr: "stderr"}
        self._channel = channel
        self._stop_read, self._stop_write = os.pipe()
        self.finished = False
        self._last_words = b""  # the end of stderr

    @property
    def last_line(self) -> bytes:
        """The last line of stderr that is not empty; none, if it is longer than 1 KiB.

        What is left of a line that was cut may be half of a secret, which no mask knows.
        """
        _, end, line = self._last_words.rstrip().rpartition(b"\n")
        return line if end or len(self._last_words) < _LAST_WORDS_BYTES else b""

    def run(self) -> None:
        """Read."""
        poll = select.poll()
        for descriptor in (*self._streams, self._stop_read):
            poll.register(descriptor, select.POLLIN)
        left = _LAST_BYTES  # for those who write on after the end, where such cannot be killed
        while self._streams and left > 0:
            ready = {descriptor for descriptor, _ in poll.poll()}
            for descriptor in ready & self._streams.keys():
                data = os.read(descriptor, _READ_BYTES)
                if not data:
                    poll.unregister(descriptor)
                    del self._streams[descriptor]
                    os.close(descriptor)
                else:
                    self._take(self._streams[descriptor], data)
                left -= len(data) if self._stop_read in ready else 0
            if ready == {self._stop_read}:
                break
        for descriptor in (*self._streams, self._stop_read):
            os.close(descriptor)

    def finish(self) -> None:
        """Say that no more will come but what is in the pipes."""
        if not self.finished:
            self.finished = True
            os.close(self._stop_write)

    def abandon(self) -> None:
        """Close the descriptors of one that never started."""
        self.finish()
        for descriptor in (*self._streams, self._stop_read):
            os.close(descriptor)

    def _take(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        if stream == "stderr":
            self._last_words = (self._last_words + data)[-_LAST_WORDS_BYTES:]
        if self.failure is not None:
            return
        try:
            self._channel.write(stream, data)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that supervises
            self.failure = error
