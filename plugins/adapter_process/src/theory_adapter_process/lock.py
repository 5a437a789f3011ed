"""Locks between processes and threads that a supervisor can go on holding for a caller that died.

The file of a lock that a supervisor holds has its process id as content.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager, suppress
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from theory import Channel

_POLL_S = 0.05  # flock cannot wait for a cancellation too
_IMPATIENT_S = 0.2  # a supervisor whose caller has just died needs less to follow


class Cancelled(Exception):
    """The run was cancelled before its command started."""


class Held(Exception):
    """Somebody else has held the lock for too long."""


@contextmanager
def locked(
    path: Path,
    channel: Channel,
    *,
    patience: float = inf,
    impatient: Callable[[], object] | None = None,
) -> Iterator[int]:
    """Hold the lock of this file; the descriptor may be handed to a process, which then holds it as well.

    Args:
        path: The file; it is made where it is missing, and stays.
        channel: Asked for cancellation while waiting.
        patience: Seconds to wait at most.
        impatient: Called once, when somebody else has held the lock for a fifth of a second.

    Raises:
        Cancelled: The run was cancelled.
        Held: The patience is over.
        OSError: The file cannot be made or locked; it says which.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        began = time.monotonic()
        while not _take(descriptor, path):
            waited = time.monotonic() - began
            if waited >= patience:
                raise Held(path)
            if impatient is not None and waited >= _IMPATIENT_S:
                impatient()
                impatient = None
            if channel.wait_cancelled(_POLL_S):
                raise Cancelled
        try:
            yield descriptor
        finally:
            # A copy of the descriptor may live in a process that the caller forked, so closing is not enough.
            with suppress(OSError):  # what was done meanwhile is done, and mostly closing does it as well
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        with suppress(OSError):  # there is nothing in it to lose
            os.close(descriptor)


def _take(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
    except BlockingIOError:
        return False
    except OSError as error:
        error.filename = str(path)  # neither call knows it
        raise
    return True
