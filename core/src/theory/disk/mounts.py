"""Which file system a folder is on."""

from __future__ import annotations

import os
import re

# Of one kernel, which keeps the mapped memory and the locks of all its processes coherent.
LOCAL = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs", "overlay", "zfs", "bcachefs", "jfs"}
)
_OCTAL = re.compile(rb"\\([0-7]{3})")  # proc(5): a space in a path is \040


def is_local(folder: str) -> bool:
    """Whether a folder is surely on a disk or in memory of this machine: not where nobody tells."""
    return file_system(folder) in LOCAL


def file_system(folder: str) -> str:
    """The type of a folder's file system, as Linux calls it; empty where nobody tells."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            mounts = file.read().splitlines()
    except OSError:
        return ""
    place = os.path.realpath(os.fsencode(folder)).rstrip(b"/") + b"/"
    longest, found = 0, b""
    for mount in mounts:
        fields = mount.split(b" ")
        point = _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), fields[4]).rstrip(b"/") + b"/"
        if len(point) >= longest and place.startswith(point):  # the later of two hides the earlier
            longest, found = len(point), fields[fields.index(b"-", 6) + 1]
    return found.decode(errors="replace")
