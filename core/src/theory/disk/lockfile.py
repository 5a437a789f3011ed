"""A file that one holder at a time has locked, over threads, processes and forks."""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from time import monotonic, sleep

_POLL_S = 0.0005  # between two looks at a lock that another holds; a commit takes about as long
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

# A child that kept the descriptor of a lock would keep the lock of a parent that died.
_OPEN: set[int] = set()


class LockFile:
    """An empty file beside what it guards; it is made when it is first held, and stays.

    Of two objects for one path only one holds it, within a process too.
    One object serves one thread at a time.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = -1

    def held(self, patience_s: float) -> _Held:
        """Keep all others out of the ``with`` block.

        Raises:
            TimeoutError: Another has held it for so long.
            OSError: The file cannot be made.
        """
        return _Held(self, patience_s)

    def take(self, patience_s: float) -> None:
        """Keep all others out; ``held`` does it for a ``with`` block, and lets them in again."""
        deadline = 0.0
        while not self._is_taken():
            deadline = deadline or monotonic() + patience_s
            if monotonic() > deadline:
                raise TimeoutError
            sleep(_POLL_S)

    def let_go(self) -> None:
        """Let others in."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        except OSError:  # a file system of a network may refuse even that; closing lets go as well
            self.close()

    def close(self) -> None:
        """Close the file; holding it opens it again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor in _OPEN:
            _OPEN.discard(descriptor)
            with suppress(OSError):  # there is nothing in it to lose
                os.close(descriptor)

    def _is_taken(self) -> bool:
        if self._descriptor < 0:
            self._descriptor = os.open(self.path, _FLAGS, 0o600)
            _OPEN.add(self._descriptor)
            mode = stat.S_IMODE(os.fstat(self._descriptor).st_mode)
            if not mode & 0o200:  # made just now, under a umask that takes its owner's rights
                os.fchmod(self._descriptor, mode | 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if os.fstat(self._descriptor).st_nlink:
            return True
        self.close()  # somebody removed it, and others lock the one that they made since
        return False


class _Held:
    """A ``with`` block; a generator would cost as much as all system calls of it together."""

    __slots__ = ("_lock", "_patience_s")

    def __init__(self, lock: LockFile, patience_s: float) -> None:
        self._lock, self._patience_s = lock, patience_s

    def __enter__(self) -> None:
        self._lock.take(self._patience_s)

    def __exit__(self, *_: object) -> None:
        self._lock.let_go()


def _close_in_child() -> None:
    for descriptor in _OPEN:
        os.close(descriptor)
    _OPEN.clear()


os.register_at_fork(after_in_child=_close_in_child)
