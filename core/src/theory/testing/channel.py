"""A channel that remembers what an adapter told it, and calls that run beside the test."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Stream = Literal["stdout", "stderr"]
Answer = TypeVar("Answer")


class RecordingChannel:
    """A ``theory.types.Channel`` that keeps all it hears, and that a test can cancel from another thread.

    Args:
        timeout: Seconds from ``started`` to the deadline.
    """

    def __init__(self, timeout: float = 300) -> None:
        self.timeout = timeout
        self._heard: list[tuple[Literal["started"] | Stream, bytes]] = []
        self._news = threading.Condition()
        self._cancelled = threading.Event()
        self._deadline: float | None = None

    def write(self, stream: Stream, data: bytes) -> None:
        """Keep a portion of output."""
        if stream not in {"stdout", "stderr"} or not isinstance(data, bytes):
            raise TypeError(f"write({stream!r}, {type(data).__name__}): takes stdout or stderr, and bytes")
        with self._news:
            self._heard.append((stream, data))
            self._news.notify_all()

    def started(self) -> None:
        """Set the deadline."""
        with self._news:
            self._heard.append(("started", b""))
            if self._deadline is None:
                self._deadline = time.monotonic() + self.timeout
            self._news.notify_all()

    @property
    def deadline(self) -> float | None:
        """On ``time.monotonic``; None before ``started``."""
        return self._deadline

    def wait_cancelled(self, seconds: float) -> bool:
        """Wait for ``cancel``, at most so long."""
        return self._cancelled.wait(max(0, seconds))

    def cancel(self) -> None:
        """Ask the adapter to stop."""
        self._cancelled.set()

    @property
    def heard(self) -> tuple[str, ...]:
        """What was called, in order: "started", "stdout", "stderr"."""
        with self._news:
            return tuple(kind for kind, _ in self._heard)

    def output(self, stream: Stream) -> bytes:
        """All bytes of one stream so far."""
        with self._news:
            return b"".join(data for kind, data in self._heard if kind == stream)

    def wait_for(self, ready: Callable[[], bool], seconds: float) -> None:
        """Return as soon as ``ready()``, which is asked again at each call of the adapter.

        Raises:
            TimeoutError: It did not become so in time.
        """
        with self._news:
            if not self._news.wait_for(ready, seconds):
                raise TimeoutError(f"the adapter did not get so far in {seconds} s; it called {self.heard}")


class ChannelInStep(RecordingChannel):
    """Holds its job at the start until all have started, or for a second where not all run at once."""

    def __init__(self, barrier: threading.Barrier) -> None:
        super().__init__()
        self._barrier = barrier

    def started(self) -> None:
        """Set the deadline, once the others are here."""
        with suppress(threading.BrokenBarrierError):
            self._barrier.wait(timeout=1)
        super().started()


class Later(Generic[Answer]):
    """A call in a thread of its own: one that hangs fails its test instead of stopping them all."""

    def __init__(self, call: Callable[[], Answer]) -> None:
        self._call = call
        self._answers: list[Answer] = []
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._answers.append(self._call())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that asks
            self._errors.append(error)

    def within(self, seconds: float) -> Answer:
        """The answer; what the call raised is raised here.

        Raises:
            TimeoutError: It is not there in time.
        """
        self._thread.join(max(0, seconds))
        if self._thread.is_alive():
            raise TimeoutError(f"execute did not return within {seconds} s")
        if self._errors:
            raise self._errors[0]
        return self._answers[0]
