"""The folders of one execution, and the lock that says that somebody is at it.

``state/<id>/`` holds ``lock``, ``work/`` (``Workspace.root``), ``adapter/`` (``Workspace.state``) and, where
a prefix is claimed, ``exclusive`` (``claims``). The kernel lets go of the lock when its owner dies, whatever
killed it, so a dead execution is known at once.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from theory.disk import durable
from theory.disk.removal import GONE, discard, remove
from theory.errors import Busy, StoreFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CLAIM = "exclusive"  # the file that names the prefix which an execution has claimed
_ROUNDS = 1000  # in each of which somebody removed the folder; or a link in its path leads nowhere
_TRIES, _PAUSE_S = 10, 0.02  # a sweep of one folder takes a millisecond or two


@contextmanager
def lease(states: Path, execution_id: str) -> Iterator[Path]:
    """Hold an execution's folder; it is removed at the end, unless the process dies first.

    After an error what the adapter stored stays: if it is not closed, its retry finds it again.

    Args:
        states: Where the folders are.
        execution_id: Whose it is.

    Raises:
        Busy: Another run holds it.
        StoreFailed: The folder cannot be made.
    """
    folder = states / execution_id
    lock = _made(folder, execution_id)
    failed = False
    try:
        yield folder
    except Exception:
        failed = True
        raise
    finally:
        (_tidy if failed else discard)(folder)
        durable.close(lock)


def _made(folder: Path, execution_id: str) -> int:
    """Make the folder as an execution finds it; its lock."""
    try:
        lock = _held(folder, execution_id)
        try:
            remove(folder / "work")
            (folder / CLAIM).unlink(missing_ok=True)  # of a dead owner; who wants it claims it anew
            (folder / "work" / "out").mkdir(parents=True, mode=0o700)
            (folder / "adapter").mkdir(exist_ok=True, mode=0o700)
        except BaseException:
            durable.close(lock)
            raise
    except OSError as error:
        raise durable.refusal(StoreFailed, f"cannot make the folder {folder}", error) from error
    return lock


def sweep(states: Path) -> None:
    """Remove the workspaces of the dead; what their adapters stored stays for a retry."""
    try:
        names = os.listdir(states)
    except OSError:
        return
    for name in names:
        folder = states / name
        if name.endswith(GONE):
            remove(folder)
            continue
        with suppress(OSError):
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_the_lock_of(folder, lock):
                    _tidy(folder)
            finally:
                durable.close(lock)


def is_held(folder: Path) -> bool:
    """Whether somebody is at the execution of this folder."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _taken(lock) and _is_the_lock_of(folder, lock)
    finally:
        durable.close(lock)


def bury(states: Path, is_over: Callable[[str, float], bool]) -> int:
    """Remove the folders of the dead with all that their adapters stored; how many.

    Args:
        states: Where the folders are.
        is_over: Whether nobody will try this execution again, told its id and for how many seconds nothing
            was changed in its folder.
    """
    buried = 0
    try:
        names = os.listdir(states)
    except OSError:
        return 0
    for name in names:
        folder = states / name
        for part in folder.glob("lock.*"):  # of one who died before he had the lock
            _unlink_if_dead(part)
        with suppress(OSError):
            os.rmdir(folder)  # … or before anything else
            buried += 1
            continue
        with suppress(OSError):
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_the_lock_of(folder, lock) and is_over(name, time.time() - _changed(folder)):
                    discard(folder)
                    buried += 1
            finally:
                durable.close(lock)
    return buried


def _changed(folder: Path) -> float:
    return max(os.stat(path).st_mtime for path in (folder, *folder.glob("adapter")))


def _unlink_if_dead(part: Path) -> None:
    """Remove a file that nobody has locked; who has made it and not locked it yet makes another."""
    with suppress(OSError):
        lock = os.open(part, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()
        finally:
            durable.close(lock)


def _tidy(folder: Path) -> None:
    """Remove the workspace, and the folder too if the adapter stored nothing in it."""
    remove(folder / "work")
    try:
        os.rmdir(folder / "adapter")
    except FileNotFoundError:
        pass  # its owner died before it was made
    except OSError:
        return  # not empty
    discard(folder)


def _is_the_lock_of(folder: Path, lock: int) -> bool:
    """Whether the lock is still that of the folder of this name; its owner may have removed it meanwhile."""
    try:
        return os.path.samestat(os.stat(folder / "lock"), os.fstat(lock))
    except FileNotFoundError:
        return False


def _held(folder: Path, execution_id: str) -> int:
    """The locked ``lock`` of a folder; it is named once it is locked, so ``sweep`` never takes it."""
    for _ in range(_ROUNDS):
        part = folder / f"lock.{os.getpid()}.{os.urandom(4).hex()}"
        lock = -1
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.link(part, folder / "lock")
            owned, lock = lock, -1
        except FileNotFoundError:  # removed in between by whoever held it
            continue
        except FileExistsError:
            with suppress(FileNotFoundError):
                if not stat.S_ISDIR(os.stat(folder).st_mode):
                    raise
        else:
            return owned
        finally:
            part.unlink(missing_ok=True)
            if lock >= 0:
                durable.close(lock)
        try:
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        if not _taken(lock):
            durable.close(lock)
            raise Busy(
                f"the execution {execution_id} is running elsewhere",
                hint="wait for it, then ask with the same id",
            )
        if _is_the_lock_of(folder, lock):
            return lock
        durable.close(lock)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _taken(lock: int) -> bool:
    """Whether the lock is ours; somebody who only sweeps holds it for a moment, and is waited for."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(_PAUSE_S)
        else:
            return True
    return False
