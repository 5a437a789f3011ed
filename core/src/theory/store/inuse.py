"""Who relies on what a store has, so that ``theory gc`` knows when nobody can any more.

Whoever looks for blobs, and later writes down that it needs them, holds the file ``in-use`` shared meanwhile.
``gc`` gives that file another name and thereby begins a new age: whoever comes later holds a new file, and
once the old one can be locked by ``gc`` alone, all who came before are done, or dead: the kernel lets go for
them. ``theory verify --repair`` begins a new age as well, after it took away what is damaged.
"""

from __future__ import annotations

import fcntl
import os
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING

from theory.disk import durable
from theory.errors import StoreFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_PRIVATE = 0o600
_MOST_FOUND = 10_000  # cids, 1 MB


class InUse:
    """The file of the present age; for all threads of a process, and after a fork for the parent alone."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._guard = threading.Lock()
        self._age: _Age | None = None
        self._ages: weakref.WeakSet[_Age] = weakref.WeakSet()  # those too that are over, and held
        _ALL.add(self)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the present age; what is found in the store from now on stays until this is left.

        Raises:
            StoreFailed: The file cannot be made or locked.
        """
        try:
            age = self._enter()
        except OSError as error:
            raise durable.refusal(StoreFailed, f"cannot lock {self.path}", error) from error
        try:
            yield
        finally:
            self._leave(age)

    def found(self, cids: frozenset[str], look: Callable[[frozenset[str]], frozenset[str]]) -> frozenset[str]:
        """Which of these are in the store; in an age that is held here each is found but once.

        It need not be looked for again: what ``gc`` takes away meanwhile it gives back, or keeps in the trash
        until nobody holds this age any more.
        """
        age = self._age
        if age is None or not age.holders:
            return look(cids)
        unknown = cids - age.found
        if not unknown:
            return cids
        here = look(unknown)
        if len(age.found) > _MOST_FOUND:
            age.found.clear()
        age.found |= here
        return (cids - unknown) | here

    def lose(self, cids: Iterable[str]) -> None:
        """These are deleted now: whoever needs them looks again."""
        if self._age is not None:
            self._age.found.difference_update(cids)

    def close(self) -> None:
        """Close the file, unless it is held."""
        with self._guard:
            if self._age is not None and not self._age.holders:
                self._age.close()
                self._age = None

    def forget(self) -> None:
        """Begin anew in a process that was just forked: what the parent holds is the parent's."""
        for age in tuple(self._ages):
            age.close()
        self._guard = threading.Lock()  # another thread of the parent may have held the old one
        self._age = None

    def _enter(self) -> _Age:
        with self._guard:
            while True:
                age = self._age
                if age is None:
                    age = self._age = _Age(self.path)
                    self._ages.add(age)
                if not age.holders:
                    fcntl.flock(age.descriptor, fcntl.LOCK_SH)  # gc holds it for no longer than a look
                if age.is_of(self.path):
                    age.holders += 1
                    return age
                if not age.holders:
                    age.close()
                self._age = None

    def _leave(self, age: _Age) -> None:
        with self._guard:
            age.holders -= 1
            if age.holders or age.descriptor < 0:
                return
            if age is self._age:
                try:
                    fcntl.flock(age.descriptor, fcntl.LOCK_UN)
                except OSError:  # closing lets go as well, and what was done meanwhile stays done
                    self._age = None
            if age is not self._age:
                age.close()


class _Age:
    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, _FLAGS, _PRIVATE)
        self.holders = 0
        self.found: set[str] = set()
        found = os.fstat(self.descriptor)
        self._file = found.st_dev, found.st_ino
        if found.st_mode & _PRIVATE != _PRIVATE:  # made just now, under a umask that takes its owner's rights
            os.fchmod(self.descriptor, _PRIVATE)

    def is_of(self, path: str) -> bool:
        """Whether the file still has this name."""
        try:
            found = os.stat(path)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == self._file

    def close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            durable.close(descriptor)


def is_free(path: str) -> bool:
    """Whether surely nobody holds an age that is over."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        durable.close(descriptor)
    return True


_ALL: weakref.WeakSet[InUse] = weakref.WeakSet()


def _after_fork() -> None:
    for in_use in tuple(_ALL):
        in_use.forget()


os.register_at_fork(after_in_child=_after_fork)
