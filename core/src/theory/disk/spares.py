"""Folders of executions that ended, emptied and still locked: the next execution gets one by another name.

To rename one costs 10 µs, to make and remove one 600 to 900, most of it the journal of the file system, in
which threads wait for each other. Measured 2026-11-23 on ext4.

A spare is known by its lock like any lease, so who dies leaves what ``sweep`` removes.
"""

from __future__ import annotations

import os
import stat
import weakref
from typing import TYPE_CHECKING

from theory.disk import durable
from theory.disk.removal import discard, empty

if TYPE_CHECKING:
    from pathlib import Path

_MOST = 16  # threads that run at once are hardly more
_PARTS = {"lock", "work", "adapter"}


class Spares:
    """The spare folders of one runner; for all of its threads.

    Args:
        states: Where the folders of executions are.
    """

    def __init__(self, states: Path) -> None:
        self._states = states
        self._begin()

    def take(self, folder: Path) -> int | None:
        """Give this name to a spare folder; its lock, or None where there is none to be had."""
        if self._pid != os.getpid():  # those are the parent's
            _close(self._kept)
            self._closing.detach()
            self._begin()
        try:
            spare, lock = self._kept.pop()
        except IndexError:
            return None
        try:
            os.rename(spare, folder)
        except OSError:  # somebody removed it, or has something of this name
            discard(spare)
            durable.close(lock)
            return None
        return lock

    def keep(self, folder: Path, lock: int) -> bool:
        """Take a folder that its owner is done with, if it can be made as new; whether it was taken."""
        if len(self._kept) >= _MOST:
            return False
        try:
            if not _as_new(str(folder)):
                return False
            spare = self._states / f"{os.urandom(8).hex()}.spare"
            os.rename(folder, spare)
        except OSError:
            return False
        self._kept.append((spare, lock))
        return True

    def close(self) -> None:
        """Remove all of them."""
        self._closing()
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._kept: list[tuple[Path, int]] = []
        self._closing = weakref.finalize(self, _remove, self._kept, self._pid)


def _as_new(folder: str) -> bool:
    """Empty what an execution has filled, through no link; False where it has done more than fill it."""
    work = os.path.join(folder, "work")
    out = os.path.join(work, "out")
    if set(os.listdir(folder)) != _PARTS or os.listdir(f"{folder}/adapter"):
        return False
    if not (_is_private(work) and _is_private(out)):
        return False
    empty(out)
    os.unlink(f"{work}/inputs.json")
    return os.listdir(work) == ["out"] and not os.listdir(out)


def _is_private(folder: str) -> bool:
    """Whether this is a folder, and no link to one, that is still its owner's to fill."""
    mode = os.lstat(folder).st_mode
    return stat.S_ISDIR(mode) and mode & stat.S_IRWXU == stat.S_IRWXU


def _remove(kept: list[tuple[Path, int]], pid: int) -> None:
    if pid == os.getpid():
        for spare, _ in kept:
            discard(spare)
    _close(kept)


def _close(kept: list[tuple[Path, int]]) -> None:
    while kept:
        durable.close(kept.pop()[1])
