"""A note on this machine of each sandbox that may be there, so that none is left by a caller that died.

The note is written before Modal is asked for the sandbox, has its name, and goes when Modal has ended it. Who
wrote it holds a lock on it, which the system takes away with the process. So a note that nobody holds is a
dead caller's: the next run ends its sandbox, and a retry of the same execution does so first. What dies with
its machine ends by the sandbox's own limits.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from theory import errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FOLDER = "sandboxes"
_HELD_S, _PAUSE_S = 40.0, 0.1  # more than orphans.py takes for one


class Mark:
    """The note of one sandbox, held.

    Args:
        path: Where it is.
        file: Its open descriptor, locked.
        was_there: Whether its sandbox may be there, left by a former caller or try.
    """

    def __init__(self, path: Path, file: int, *, was_there: bool) -> None:
        self._path, self._file, self.was_there = path, file, was_there

    def write(self, environment: str | None, account: str) -> None:
        """Note where the sandbox will be.

        Args:
            environment: Of Modal; None for the account's own choice.
            account: Whose it will be (``orphans.account_of``).

        Raises:
            StoreFailed: It cannot be written.
        """
        with _said(self._path):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps({"environment": environment, "account": account}).encode(), 0)
        self.was_there = True

    def environment(self) -> str | None:
        """What is noted; None where nothing is."""
        return self._noted("environment")

    def account(self) -> str | None:
        """Whose it is; None where that is not noted."""
        return self._noted("account")

    def clear(self) -> None:
        """Its sandbox is gone, and so is what was noted; who holds it may write it anew.

        Where the system refuses, the next caller looks for a sandbox that is not there.
        """
        with suppress(OSError):
            os.ftruncate(self._file, 0)
        self.was_there = False

    def close(self) -> None:
        """Let go of it; what is noted stays for the next caller."""
        if self._file >= 0:
            with suppress(OSError):  # an empty note is none
                if os.fstat(self._file).st_size == 0:
                    self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1

    def _noted(self, key: str) -> str | None:
        with suppress(OSError, ValueError, AttributeError):
            value = json.loads(os.pread(self._file, 4096, 0)).get(key)
            return value if isinstance(value, str) else None
        return None


class Left(NamedTuple):
    """What a dead caller left."""

    name: str
    mark: Mark


def hold(cache: Path, name: str) -> Mark | None:
    """Take the note of a sandbox, new or left by a dead caller; None if somebody alive has it.

    Args:
        cache: The adapter's own folder.
        name: The sandbox's.

    Raises:
        StoreFailed: It cannot be kept there.
    """
    folder = cache / _FOLDER
    with _said(folder / name):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _held(folder / name, os.O_CREAT)


async def held(cache: Path, name: str) -> Mark:
    """Take the note of a sandbox; another run may hold it while it ends what a dead caller left.

    Raises:
        Busy: Somebody alive keeps it.
        StoreFailed: It cannot be kept there.
    """
    until = time.monotonic() + _HELD_S
    while (mark := hold(cache, name)) is None:
        if time.monotonic() > until:
            raise errors.Busy(
                "a former try of this execution is still running", hint="wait for its end, or end it"
            )
        await asyncio.sleep(_PAUSE_S)
    return mark


def left(cache: Path) -> Iterator[Left]:
    """The notes of dead callers, held one after the other; who gets one clears or closes it.

    What cannot be read is passed over: it is another run's business.
    """
    names = list[str]()
    with suppress(OSError):
        names = sorted(os.listdir(cache / _FOLDER))
    for name in names:
        mark = None
        with suppress(OSError):
            mark = _held(cache / _FOLDER / name)
        if mark is not None:
            yield Left(name, mark)


@contextmanager
def _said(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.StoreFailed(
            f"the note of a sandbox cannot be kept at {path}: {error.strerror or error}",
            hint="it must be a file on a disk with room that can be locked; see theory doctor",
        ) from error


def _held(path: Path, flags: int = 0) -> Mark | None:
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(path).st_ino == os.fstat(file).st_ino:
                return Mark(path, file, was_there=os.fstat(file).st_size > 0)
        except BlockingIOError:
            os.close(file)
            return None
        except FileNotFoundError:
            pass
        except OSError:
            os.close(file)
            raise
        os.close(file)  # it was cleared meanwhile
