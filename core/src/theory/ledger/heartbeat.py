"""The one thread that keeps a process's reservations from expiring."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from theory.errors import Retry, TheoryError

if TYPE_CHECKING:
    from collections.abc import Callable


class Heartbeat:
    """Calls ``beat`` again and again, on a daemon thread, from the first ``beat_every`` to ``stop``.

    A beat that fails with one of our errors (a full disk, a locked file) is left to the next one: whoever
    works meets the same error and tells it.
    """

    def __init__(self, beat: Callable[[], None]) -> None:
        """Start nothing yet."""
        self._beat = beat
        self._changed = threading.Condition()
        self._every_s = float("inf")
        self._stopped = False
        self._thread: threading.Thread | None = None

    def beat_every(self, seconds: float) -> None:
        """Beat at least so often from now on.

        Raises:
            Retry: No thread is to be had.
        """
        with self._changed:
            if seconds < self._every_s:
                self._every_s = seconds
                self._changed.notify()
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="theory-ledger-heartbeat", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    raise Retry(
                        "this machine has no room for another thread",
                        hint="end something else, or allow more: ulimit -u",
                    ) from error
                self._thread = thread

    def stop(self) -> None:
        """End the thread; a beat that is under way is waited for."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                # An interval that has just become shorter is waited for anew, from now.
                while not self._stopped and self._changed.wait(self._every_s):
                    pass
                if self._stopped:
                    return
            try:
                self._beat()
            except TheoryError:
                continue
