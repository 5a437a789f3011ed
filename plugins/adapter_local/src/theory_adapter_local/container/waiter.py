"""Waits for the end of a container beside those who do something else meanwhile."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from theory import errors
from theory_adapter_local.engine.client import Lost, Refused
from theory_adapter_local.engine.faults import DockerUnavailable

if TYPE_CHECKING:
    from theory_adapter_local.engine.client import Engine


class Waiter(threading.Thread):
    """Waits for the end of a container, or of the connection to its engine: which, ``inspect`` tells."""

    def __init__(self, engine: Engine, container: str) -> None:
        super().__init__(daemon=True, name="theory-local-wait")
        self.done = threading.Event()
        self.was_lost = False  # whether it does not know, because the engine went away
        self._engine = engine
        self._container = container

    def run(self) -> None:
        """Wait. Not for the next exit: that one may be over, or never come."""
        try:
            self._engine.call("POST", f"/containers/{self._container}/wait", timeout_s=None)
        except Refused:
            pass  # it is gone
        except (Lost, DockerUnavailable):
            self.was_lost = True
        finally:
            self.done.set()


def begin(thread: threading.Thread) -> None:
    """Start a thread.

    Raises:
        Retry: There is no room for it.
    """
    try:
        thread.start()
    except RuntimeError as error:
        raise errors.Retry(
            "this machine has no room for another thread",
            hint="end something else, or allow more processes: ulimit -u",
        ) from error
