"""Which process holds something, told so that another process can find out whether it still lives.

A pid alone comes round again, so an owner is the boot, the pid namespace, the pid and the process's start.
Source: proc(5): ``/proc/sys/kernel/random/boot_id``, ``/proc/<pid>/ns/pid``, ``/proc/<pid>/stat`` 3 and 22.
"""

from __future__ import annotations

import os
from typing import Literal, TypeAlias

from theory.record import Record

Fate: TypeAlias = Literal["alive", "dead", "unknown"]

_DEAD_STATES = frozenset({"Z", "X", "x"})  # a zombie runs nothing any more; it only waits for its parent


class Owner(Record):
    """One process, of all that ever ran on any machine.

    Without Linux's ``/proc`` the first two are None, and nobody can tell whether the owner lives.
    """

    boot: str | None  # the kernel's boot id
    namespace: int | None  # inode of the pid namespace
    pid: int
    started: int | None  # clock ticks after boot

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        pid = os.getpid()
        return cls(_boot(), _namespace(), pid, _stat(pid)[1])

    def fate(self, here: Owner) -> Fate:
        """What has become of this owner, as seen from the process ``here``.

        Unknown where its boot or pid namespace is not ours: its pid means nothing here.
        """
        if None in (self.boot, self.namespace) or (self.boot, self.namespace) != (here.boot, here.namespace):
            return "unknown"
        if self == here:
            return "alive"
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return "dead"
        except PermissionError:
            pass  # it is there, and somebody else's
        state, started = _stat(self.pid)
        if state in _DEAD_STATES:
            return "dead"
        # Not readable (hidepid): a process with this pid is there, and to call it dead could cost money.
        return "dead" if None not in (started, self.started) and started != self.started else "alive"


def _boot() -> str | None:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def _namespace() -> int | None:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None


def _stat(pid: int) -> tuple[str, int | None]:
    """State and start time of a process, or an empty text and None."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The second field is the command in parentheses and may hold spaces and parentheses itself.
            fields = file.read().rpartition(b")")[2].split()
        return fields[0].decode(), int(fields[19])
    except (OSError, IndexError, ValueError):
        return "", None
