"""A run's way to be stopped from outside: another thread or a signal handler."""

from __future__ import annotations

import threading
from contextlib import suppress


class Cancellation:
    """Set once, seen by everybody who waits.

    A signal handler may call ``set`` at any moment. ``threading.Event`` must not be used there: a handler
    that runs while its own thread is inside ``wait`` would wait for a lock which that thread holds.
    """

    def __init__(self) -> None:
        self.signal: int | None = None  # the number of the signal that ended it
        self._gate = threading.Lock()
        self._gate.acquire()

    def set(self, signal: int = 2) -> None:
        """Cancel; the first call counts. SIGINT unless told."""
        if self.signal is None:
            self.signal = signal
            with suppress(RuntimeError):  # two threads at once: the gate is open already
                self._gate.release()

    def is_set(self) -> bool:
        """Whether it was cancelled."""
        return self.signal is not None

    def wait(self, seconds: float) -> bool:
        """Wait at most so long; True as soon as it is cancelled."""
        if self._gate.acquire(timeout=max(0.0, min(seconds, threading.TIMEOUT_MAX))):
            with suppress(RuntimeError):  # as above: a second release may come in between
                self._gate.release()
        return self.is_set()
