"""What keeps one job from the next in a warm container: a user, files and processes of its own.

A command may write only where it should: as a user id of its own and, where the kernel lets us, with
everything else mounted read-only. Where it does not let us, what everybody may write is looked through.
It is shipped to Modal beside ``theory_shim.py``.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import signal
import stat
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_USER, USERS = (
    20_000,
    40_000,
)  # above those of distributions, below the 65,536 that a namespace has at least
PATIENCE_S = 5.0  # for the killed to vanish
CHUNK = 1 << 20
SCRATCH = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock")  # noqa: S108 - where images let everybody write
CLOSED = ("/proc", "/sys", "/theory")  # never looked into
SHARED = ("/dev/shm", "/dev/mqueue", "/run", "/tmp", "/var/tmp")  # noqa: S108 - often mounts of their own
CAPABILITIES = 1 << 0 | 1 << 5 | 1 << 6 | 1 << 7  # CHOWN, KILL, SETGID, SETUID. Source: <linux/capability.h>
# Source: <sched.h>, <sys/mount.h>, <sys/prctl.h>.
CLONE_NEWNS = 0x20000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
_libc = ctypes.CDLL(None, use_errno=True)
_places: list[OpenPlaces] = []
_can_close: list[bool] = []


# ---------------------------------------------------------------- who runs it, and where it may write


def user_of(number: int) -> int | None:
    """The user id of the job with this number in this container; None where only our own is to be had."""
    if os.geteuid() != 0:
        return None
    with suppress(OSError, StopIteration, ValueError), open("/proc/self/status") as status:
        able = int(next(line for line in status if line.startswith("CapEff:")).split()[1], 16)
        if able & CAPABILITIES != CAPABILITIES:
            return None
    return FIRST_USER + (os.getpid() * 7 + number) % USERS


def becoming(user: int | None, job: str) -> Callable[[], None] | None:
    """What a forked process does to become the command: it closes the files and gives up being root."""
    if user is None:
        return None
    closes = can_close(job)

    def become() -> None:
        if closes:
            close_files(job)
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
        _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)

    return become


def can_close(job: str) -> bool:
    """Whether this kernel lets us mount everything read-only for the command; found out once."""
    if not _can_close:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                close_files(job)
                code = 0
            finally:
                os._exit(code)
        _can_close.append(os.waitpid(child, 0)[1] == 0)
    return _can_close[0]


def close_files(job: str) -> None:
    """Leave this process nothing to write but its part of /job, and scratch folders that vanish with it."""
    own = [f"{job}/out", f"{job}/tmp"]  # noqa: S108 - in a folder of its own
    _check(_libc.unshare(CLONE_NEWNS))
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    for path in own:
        _mount(path, path, None, MS_BIND)
    with open("/proc/self/mounts", "rb") as mounts:
        points = [line.split()[1].decode("unicode_escape") for line in mounts]
    for point in dict.fromkeys(points):
        if point not in own and not f"{point}/".startswith(("/proc/", "/sys/", "/dev/pts/")):
            try:
                _mount(None, point, None, MS_REMOUNT | MS_BIND | MS_RDONLY)
            except OSError:
                if os.path.lexists(point):  # else it lies below another one, where nobody can come
                    raise
    for path in SCRATCH:
        if os.path.isdir(path) and not os.path.islink(path) and not f"{job}/".startswith(f"{path}/"):
            _mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    arguments = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    _check(_libc.mount(*arguments, ctypes.c_ulong(flags), None if data is None else data.encode()))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def enterable(path: str) -> bool:
    """Whether anybody may go into this folder."""
    parts = path.rstrip("/").split("/")
    with suppress(OSError):
        return all(os.stat("/".join(parts[: at + 1]) or "/").st_mode & 0o001 for at in range(len(parts)))
    return False


def image_variables() -> dict[str, str]:
    """The variables of the image: those here, without Modal's own and what brings Modal's program in."""
    loaded = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
    if paths := kept.pop("PYTHONPATH", ""):
        own = [
            path
            for path in paths.split(":")
            if path and not any(file.startswith(f"{path.rstrip('/')}/") for file in loaded)
        ]
        if own:
            kept["PYTHONPATH"] = ":".join(own)
    return kept


# ---------------------------------------------------------------- what it started


def adopt() -> None:
    """Have what the command leaves behind become our own children."""
    with suppress(AttributeError, OSError):
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def processes() -> dict[int, tuple[int, str]]:
    """Parent and state of every process that we see."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
                found[int(name)] = (int(parent), state.decode())
    return found


def descendants() -> list[int]:
    """Those that come from us, the dead too."""
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in processes().items():
        children.setdefault(parent, []).append(pid)
    found = [os.getpid()]
    for pid in found:  # grows while it runs
        found += children.get(pid, ())
    return found[1:]


def kill_all(spared: frozenset[int]) -> bool:
    """Kill all that comes from us but those that were there before; whether none is left."""
    give_up = time.monotonic() + PATIENCE_S
    while left := [pid for pid in descendants() if pid not in spared]:
        if time.monotonic() > give_up:
            return False
        for pid in left:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            with suppress(OSError):  # it is not a child of ours, yet
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.001)
    return True


def others_of(user: int) -> list[int]:
    """The living processes of this user."""
    found = []
    for pid, (_, state) in processes().items():
        with suppress(OSError):
            if state != "Z" and os.stat(f"/proc/{pid}").st_uid == user:
                found.append(pid)
    return found


def memory_of(pids: list[int], enough: int) -> int:
    """The MiB that these hold together; what they share is counted once, if it is to be over ``enough``."""
    page = os.sysconf("SC_PAGE_SIZE")
    rough = sum(_number(f"/proc/{pid}/statm", page) for pid in pids)
    if rough >> 20 <= enough:
        return rough >> 20
    return sum(_proportional(pid) for pid in pids) >> 20


def _number(path: str, unit: int) -> int:
    with suppress(OSError, ValueError, IndexError), open(path) as file:
        return int(file.read().split()[1]) * unit
    return 0


def _proportional(pid: int) -> int:
    with suppress(OSError, ValueError), open(f"/proc/{pid}/smaps_rollup") as file:
        wanted = [line for line in file if line.startswith(("Pss_Anon:", "Pss_Shmem:", "Pss:"))]
        parts = [line for line in wanted if not line.startswith("Pss:")] or wanted
        return sum(int(line.split()[1]) << 10 for line in parts)
    return _number(f"/proc/{pid}/statm", os.sysconf("SC_PAGE_SIZE"))


def oom_kills() -> int:
    """How often the kernel has killed something in this container for want of memory, as far as it says."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        with suppress(OSError, ValueError), open(path) as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
    return 0


# ---------------------------------------------------------------- what it left


def clean(user: int | None, job: str, artifacts: str, since: int) -> bool:
    """Remove what the job of this user left; whether the next one will see nothing of it.

    Args:
        user: Whom the command ran as.
        job: Its /job.
        artifacts: Its /artifacts.
        since: When it began, in nanoseconds since the epoch.
    """
    for folder in (job, artifacts):
        shutil.rmtree(folder, ignore_errors=True)
    if user is None or not (_is_empty(job) and _is_empty(artifacts)):
        return False
    if others_of(user) or _shared_memory():
        return False
    if False not in _can_close:  # nothing was open to it, or it never came to a command
        return True
    if not _places:
        _places.append(OpenPlaces())
    return _places[0].clean(user, since)


def _is_empty(folder: str) -> bool:
    """Whether there is nothing left; the folder itself may be a mount."""
    try:
        return not os.listdir(folder)
    except FileNotFoundError:
        return True


def _shared_memory() -> bool:
    """Whether there are segments, semaphores or queues of System V, which outlive their processes."""
    for kind in ("shm", "sem", "msg"):
        with suppress(OSError), open(f"/proc/sysvipc/{kind}") as file:
            if len(file.readlines()) > 1:
                return True
    return False


class OpenPlaces:
    """What everybody may write in this image, found while the first job runs."""

    def __init__(self) -> None:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._folders: list[str] = []  # with the sticky bit: only the owner of a file removes it
        self._changeable: list[str] = []
        self._thread.start()

    def clean(self, user: int, since: int) -> bool:
        """Remove what this user has; whether nothing else that it may have changed was changed."""
        self._thread.join()
        for folder in self._folders:
            with suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    with suppress(OSError):
                        if entry.stat(follow_symlinks=False).st_uid != user:
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            shutil.rmtree(entry.path, ignore_errors=True)
                        else:
                            os.unlink(entry.path)
                        if os.path.lexists(entry.path):
                            return False
        return not any(_changed_since(path, since) for path in self._changeable)

    def _look(self) -> None:
        todo = ["/", *SHARED]
        seen: set[str] = set()
        while todo:
            folder = todo.pop()
            try:
                real = os.path.realpath(folder)
                here = os.stat(real)
                if real in seen or real.startswith(CLOSED):
                    continue
                seen.add(real)
                self._sort(real, here.st_mode)
                with os.scandir(real) as entries:
                    for entry in entries:
                        found = entry.stat(follow_symlinks=False)
                        if stat.S_ISDIR(found.st_mode):
                            if found.st_dev == here.st_dev:
                                todo.append(entry.path)
                        elif stat.S_ISREG(found.st_mode) and found.st_mode & 0o002:
                            self._changeable.append(entry.path)
            except OSError:
                continue

    def _sort(self, folder: str, mode: int) -> None:
        if mode & 0o002:
            (self._folders if mode & stat.S_ISVTX else self._changeable).append(folder)


def _changed_since(path: str, since: int) -> bool:
    try:
        return os.stat(path, follow_symlinks=False).st_ctime_ns >= since
    except OSError:
        return True


# ---------------------------------------------------------------- files


def copy(source: str, target: str) -> tuple[int, str]:
    """Copy a regular file without following a link; its size in bytes, and the BLAKE2b of what was copied."""
    digest, size = hashlib.blake2b(digest_size=32), 0
    with open(source, "rb", opener=without_links) as file, open(target, "wb") as copied:
        while data := file.read(CHUNK):
            copied.write(data)
            digest.update(data)
            size += len(data)
    return size, digest.hexdigest()


def without_links(path: str, flags: int) -> int:
    """Open a regular file, and nothing else that may have its name by now."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is no regular file")
    return descriptor


def kind_of(mode: int) -> str:
    """What something is: file, folder, link, pipe, socket or device."""
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link", stat.S_IFIFO: "pipe"}
    return kinds.get(stat.S_IFMT(mode), "socket" if stat.S_ISSOCK(mode) else "device")
