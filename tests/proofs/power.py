"""A disk that loses its power: ext4 on a loop device over memory, mounted where nobody else sees it.

A power loss is ``FS_IOC_SHUTDOWN`` without flushing the log: from then on nothing reaches the device, so what
was not synced is gone with the memory it was in. Whoever writes is stopped first: the ioctl is no power loss
to a sync that is under way, which may say that it kept what it dropped (docs/decisions/0006).

Nothing can be left behind: the image is a file without a name, the mounts are those of a namespace that ends
with its process, and the loop device is let go of with its last mount.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import stat
import struct
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NAME = "theory-power-{}"  # of the image: what the loop device has, as long as it has it
IMAGE_BYTES = 96 * 1024 * 1024
SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN of linux/fs.h, before 6.12 EXT4_IOC_SHUTDOWN
NO_LOG_FLUSH = 2
# Nothing is written that nobody asked for: no commit every 5 s, no flush of a file that takes another's name.
OPTIONS = b"commit=300,noauto_da_alloc"

# linux/loop.h
_LOOP_CONFIGURE, _LOOP_CTL_GET_FREE = 0x4C0A, 0x4C82
_CONFIG = struct.Struct("=II 52xI 176x 64x")  # file, block size; flags; names and reserve
_AUTOCLEAR = 4
_LOOP_MAJOR = 7
_CONTROL = os.makedev(10, 237)
_ATTEMPTS = 100  # at a free loop device, which others look for too

# linux/mount.h, linux/sched.h
_SLAVE, _RECURSIVE = 1 << 19, 1 << 14
_NEW_NAMESPACE = 0x20000

_libc = ctypes.CDLL(None, use_errno=True)


class Disk:
    """The disk of this process, which must have one thread and becomes alone with its mounts.

    Args:
        folder: An empty one; here it is hidden under a file system in memory.

    Raises:
        OSError: This machine does not let us.
    """

    def __init__(self, folder: Path) -> None:
        _call(_libc.unshare, _NEW_NAMESPACE, doing="unshare mounts")
        _mount(b"none", "/", None, _SLAVE | _RECURSIVE)  # nobody sees ours, and we let go of theirs
        _mount(b"none", str(folder), b"tmpfs", 0, b"mode=0700")
        self.root = folder / "disk"
        self.root.mkdir()
        self._nodes = folder
        self._image = _formatted(os.memfd_create(NAME.format(os.getpid())))

    def mount(self) -> None:
        """Mount it; ext4 replays its journal."""
        for _ in range(_ATTEMPTS):
            try:
                node, loop = self._loop()
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                continue
            try:
                _mount(os.fsencode(node), str(self.root), b"ext4", 0, OPTIONS)
            finally:
                os.close(loop)  # it is let go of with the mount, and what it had in memory is dropped
            return
        raise OSError(errno.EBUSY, "others take every free loop device")

    def unmount(self) -> None:
        """Unmount it."""
        _call(_libc.umount2, os.fsencode(self.root), 0, doing=f"unmount {self.root}")

    def lose_power(self) -> None:
        """Lose all that is not on the device; who writes was stopped before. Then unmount it."""
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def snapshot(self) -> int:
        """What ``restore`` takes: the disk as it is, while it is not mounted."""
        return _copied(self._image)

    def restore(self, snapshot: int) -> None:
        """Make the disk what it was, while it is not mounted."""
        os.close(self._image)
        self._image = _copied(snapshot)

    def _loop(self) -> tuple[str, int]:
        control = os.open(self._node("loop-control", stat.S_IFCHR, _CONTROL), os.O_RDWR | os.O_CLOEXEC)
        try:
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
        finally:
            os.close(control)
        node = self._node(f"loop{number}", stat.S_IFBLK, os.makedev(_LOOP_MAJOR, number))
        loop = os.open(node, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(loop, _LOOP_CONFIGURE, _CONFIG.pack(self._image, 0, _AUTOCLEAR))
        except BaseException:
            os.close(loop)
            raise
        return node, loop

    def _node(self, name: str, kind: int, device: int) -> str:
        """A device's node; our own where there is none, as a container's /dev holds those of its start."""
        if os.path.exists(f"/dev/{name}"):
            return f"/dev/{name}"
        own = f"{self._nodes}/{name}"
        if not os.path.exists(own):
            os.mknod(own, kind | 0o600, device)
        return own


def _formatted(image: int) -> int:
    os.ftruncate(image, IMAGE_BYTES)
    command = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if command is None:
        raise OSError(errno.ENOENT, "mkfs.ext4 is not installed")
    how = ["-q", "-F", "-J", "size=8", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"]
    done = subprocess.run([command, *how, f"/proc/self/fd/{image}"], check=False, pass_fds=[image])
    if done.returncode:
        raise OSError(errno.EIO, f"mkfs.ext4 ended with {done.returncode}")
    return image


def _copied(image: int) -> int:
    copy = os.memfd_create(NAME.format(os.getpid()))
    os.ftruncate(copy, IMAGE_BYTES)
    end = 0
    while True:
        try:
            start = os.lseek(image, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only holes are left
                return copy
            raise
        end = os.lseek(image, start, os.SEEK_HOLE)
        os.lseek(copy, start, os.SEEK_SET)
        while start < end:
            start += os.sendfile(copy, image, start, end - start)


def _mount(source: bytes, target: str, kind: bytes | None, flags: int, data: bytes | None = None) -> None:
    arguments = (source, os.fsencode(target), kind, ctypes.c_ulong(flags), data)
    _call(_libc.mount, *arguments, doing=f"mount {(kind or b'').decode()}")


def _call(function: ctypes._NamedFuncPointer, *arguments: object, doing: str) -> None:
    if function(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{doing}: {os.strerror(number)}")
