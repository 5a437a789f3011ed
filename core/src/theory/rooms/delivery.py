"""A run's events on their way to a listener: in order, and never in the way of the run.

A listener may be a terminal that was stopped, or a pipe that nobody reads. So it has a thread of its own, and
whoever tells an event waits at most for room in a bounded queue, never for the listener itself.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from theory.cancel import Cancellation
    from theory.types import JsonObject

MAX_WAITING_BYTES = 1024 * 1024  # of lines that a listener has not taken yet
PATIENCE_S = 30.0  # without any progress of a listener, once all else is done
_HURRY_S = 1.0  # the same, once the run was cancelled or its time is over
_EVENT_BYTES = 512  # an event beside its line: a dict with three members (sys.getsizeof, CPython 3.11)
_POLL_S = 0.05  # a Cancellation wakes nobody who waits for something else too


class Delivery:
    """Tells a listener every event, one at a time; the thread for that starts with the first event.

    After a fault of the listener, or when it was given up, it is told nothing more, and the run goes on: what
    it was told is a gapless beginning.

        with Delivery(print, Cancellation()) as tell:
            tell({"event": "log", "text": "hello"})

    Args:
        listen: The listener; None: nobody listens, and this costs nothing.
        cancellation: Cuts the waiting for a listener short.
        patience: Seconds without any progress after which, at the end, a listener is given up.
    """

    def __init__(
        self,
        listen: Callable[[JsonObject], object] | None,
        cancellation: Cancellation,
        *,
        patience: float = PATIENCE_S,
    ) -> None:
        self._listen = listen
        self._cancellation = cancellation
        self._patience = patience
        self._queue: deque[tuple[JsonObject, int]] = deque()
        self._waiting = 0  # bytes, with those of the event that is being told
        self._progress = 0.0  # when the listener last took one, on the monotonic clock
        self._over = listen is None
        self._closing = False
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()

    def __enter__(self) -> Delivery:  # noqa: PYI034 - typing.Self is newer than our oldest Python
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def deaf(self) -> bool:
        """Whether nobody is told anything (any more)."""
        return self._over

    def __call__(self, event: JsonObject, size_bytes: int = 0) -> None:
        """Tell one event, without waiting.

        Args:
            event: The event.
            size_bytes: How long its text is.
        """
        if self._listen is None:
            return
        with self._changed:
            if self._over:
                return
            if not self._waiting:
                self._progress = time.monotonic()
            self._queue.append((event, size_bytes + _EVENT_BYTES))
            self._waiting += size_bytes + _EVENT_BYTES
            if self._thread is None:
                self._start()
            self._changed.notify_all()

    def wait_for_room(self, deadline: float | None = None) -> None:
        """Wait as long as 1 MiB waits for the listener; past the deadline or a cancellation give it up soon.

        Args:
            deadline: On ``time.monotonic``.
        """
        if self._waiting <= MAX_WAITING_BYTES:
            return
        with self._changed:
            while self._waiting > MAX_WAITING_BYTES:
                now = time.monotonic()
                hurried = self._cancellation.is_set() or (deadline is not None and now >= deadline)
                if hurried and now - self._progress >= _HURRY_S:
                    self._give_up()
                else:
                    self._changed.wait(_POLL_S)

    def close(self) -> None:
        """Wait until all is told or the listener is given up; from now on it is told nothing."""
        hurried_at = None
        with self._changed:
            if self._over:
                return
            self._closing = True
            self._changed.notify_all()
            while self._waiting:
                now = time.monotonic()
                if self._cancellation.is_set():
                    hurried_at = hurried_at or now
                if now - self._progress >= self._patience or (
                    hurried_at is not None and now - hurried_at >= _HURRY_S
                ):
                    self._give_up()
                    return
                self._changed.wait(_POLL_S)
            if self.deaf:  # given up meanwhile by a writer: its thread may be stuck for ever
                return
            self._over = True
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._deliver, name="theory-events", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # no thread to be had; the run needs none
            self._thread = None
            self._fail(error)

    def _deliver(self) -> None:
        listen, weight = self._listen, 0
        while listen is not None:
            with self._changed:
                if weight and not self._over:
                    self._waiting -= weight
                    self._progress = time.monotonic()
                    self._changed.notify_all()
                while not (self._queue or self._closing or self._over):
                    self._changed.wait()
                if self._over or not self._queue:
                    return
                event, weight = self._queue.popleft()
            try:
                listen(event)
            except BaseException as error:  # noqa: BLE001 - whatever the caller's code raises is its own
                self._fail(error)
                return

    def _fail(self, error: BaseException) -> None:
        # Who read our output has gone, and that is all; or it could not be written, and stderr says so.
        if not isinstance(error, (BrokenPipeError, SystemExit)):
            import traceback  # noqa: PLC0415 - never in a good run

            with suppress(OSError):  # standard error is full, and perhaps that was the fault
                traceback.print_exception(error)
        with self._changed:
            self._give_up()

    def _give_up(self) -> None:
        self._over = True
        self._queue.clear()
        self._waiting = 0
        self._changed.notify_all()
