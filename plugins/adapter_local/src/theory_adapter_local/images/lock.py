"""A lock between threads and processes that can be waited for and cancelled."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from theory_adapter_local.cancelled import Cancelled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from theory import Channel

_POLL_S = 0.05  # flock cannot wait for a cancellation too


@contextmanager
def locked(path: Path, channel: Channel) -> Iterator[None]:
    """Hold the lock of this file, which is made where it is missing, and stays.

    Raises:
        Cancelled: The run was cancelled while somebody else had it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _take(descriptor):
            if channel.wait_cancelled(_POLL_S):
                raise Cancelled
        try:
            yield
        finally:
            # A copy of the descriptor may live in a process that the caller forked, so closing is not enough.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
