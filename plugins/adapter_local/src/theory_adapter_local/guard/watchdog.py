"""Sees to it that no container outlives its caller: a watchdog process, and labels for what it cannot do.

A container is the engine's child, not ours: it runs on when its caller is killed. So each caller has one
watchdog for each engine, which is told the names of the containers that run for the caller and, when the
caller is gone, however it went, has them removed (``orphans.py``). It waits in a session of its own, deaf to
the terminal. If it is killed as well, or the machine goes down, a later start finds what was left, by labels.
"""

from __future__ import annotations

import atexit
import errno
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from theory import errors

if TYPE_CHECKING:
    from theory import Job
    from theory_adapter_local.engine.client import Engine

OWNER, DEADLINE, KEEP = "theory.owner", "theory.deadline", "theory.keep"
EXECUTION, REF = "theory.execution", "theory.ref"
# Seconds beyond its timeout in which a container is staged, killed, collected and removed; clocks of two
# machines that share an engine differ by less.
SLACK_S = 3600.0

# The watchdog. Its input are lines from the caller, +NAME and -NAME; their end is the caller's, and if a name
# is left then, it runs the command of its arguments, with the names as input, a line each. It waits in sh,
# which starts in 1 ms; Python would take 15 from the engine, which starts a container meanwhile (2026-11,
# dash and CPython 3.11).
_WATCHDOG = """
nl='
'
names=$nl
while IFS= read -r line; do
    name=${line#?}
    case $names in *"$nl$name$nl"*) names=${names%%"$nl$name$nl"*}$nl${names#*"$nl$name$nl"} ;; esac
    case $line in +*) names=$names$name$nl ;; esac
done
[ "$names" = "$nl" ] || printf '%s' "${names#?}" | "$@"
"""
_CLEAN_UP = """
import os, sys
sys.path += os.environ["PYTHONPATH"].split(os.pathsep)
from theory_adapter_local.guard import orphans
orphans.remove_watched(sys.argv[1], os.fsdecode(sys.stdin.buffer.read()).splitlines())
"""
# What an engine is found by, and what Docker's ssh needs; other variables of the caller may be secrets.
_PREFIXES = ("DOCKER_", "CONTAINER_", "SSH_", "XDG_", "LC_")
_VARIABLES = frozenset({"HOME", "PATH", "USER", "LOGNAME", "TMPDIR", "LANG"})
# No key of a terminal and no polite kill ends it before its caller; after that it ends by itself.
_DEAF_TO = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)
_QUIETLY = getattr(socket, "MSG_NOSIGNAL", 0)  # a program with SIGPIPE at its default does not end here
_PATIENCE_S = 5.0  # for a watchdog that is there, but does not read
_FOLDER = str(Path(__file__).absolute().parent.parent)  # of the package
_guards: dict[tuple[str, frozenset[tuple[str, str]]], Guard] = {}
_starting = threading.Lock()


class Guard:
    """Watches what this process has running on one engine; every method may be called from any thread."""

    def __init__(self, engine: Engine) -> None:
        """Start nothing yet."""
        self._engine = engine
        self._lock = threading.Lock()
        self._watched: dict[str, str] = {}  # by name, what the watchdog knows it by: name or id
        self._link: socket.socket | None = None  # its other end is the watchdog's; none has a third
        self._pid = 0

    def watch(self, name: str) -> None:
        """Have this removed when this process dies: a container by its name, or a folder by its path.

        Call it before anything of that name is there. A container is removed only if it has the labels of
        this process, a folder only if it is ours and its name begins with ``theory-``.

        Raises:
            Retry: No watchdog can be had, so nothing may run.
        """
        with self._lock:
            self._watched[name] = name
            try:
                if not self._tell(f"+{name}\n"):
                    self._start()
            except OSError as error:
                del self._watched[name]
                raise errors.Retry(
                    f"the watchdog of the containers cannot be had: {error.strerror or error}",
                    hint="allow more processes or open files: ulimit -u, ulimit -n; and it needs /bin/sh",
                ) from error

    def created(self, name: str, container: str) -> None:
        """Say that the engine has created the container of this name, and its id.

        From now on, that it is not there means that it is gone, and the watchdog need not wait for it.
        """
        with self._lock:
            self._watched[name] = container
            with suppress(OSError):  # it then waits for it in vain, and no more
                self._tell(f"+{container}\n-{name}\n")

    def forget(self, name: str) -> None:
        """Stop watching what is gone, or shall stay; nothing happens if it is not watched."""
        with self._lock:
            told = self._watched.pop(name, name)
            with suppress(OSError):  # as above
                self._tell(f"-{told}\n")

    def disown(self) -> None:
        """Let the parent of this forked process alone have the watchdog."""
        if self._link is not None:
            self._link.close()

    def let_go(self) -> None:
        """Leave the link to the kernel, which ends it with this process and not a moment before."""
        if self._link is not None:
            self._link.detach()

    def _tell(self, line: str) -> bool:
        """Whether there is a watchdog that this was told.

        Raises:
            TimeoutError: It is there, but has not listened for a long time.
        """
        if self._link is None:
            return False
        try:
            self._link.sendall(os.fsencode(line), _QUIETLY)
        except (BrokenPipeError, ConnectionResetError):
            self._link.close()
            self._link = None
            with suppress(ChildProcessError):  # the program around us waits for every child
                os.waitpid(self._pid, 0)
            return False
        return True

    def _start(self) -> None:
        argv = ["/bin/sh", "-c", _WATCHDOG, "theory-watchdog", *_python(), "-c", _CLEAN_UP, owner_text()]
        with _starting:
            mine, theirs = socket.socketpair()
            try:
                # Not subprocess: that costs 15 ms of imports; and this neither copies the caller nor runs any
                # Python in a forked child, which is not safe beside other threads.
                self._pid = os.posix_spawn(
                    argv[0],
                    argv,
                    _environment(self._engine),
                    file_actions=[
                        *((os.POSIX_SPAWN_CLOSE, descriptor) for descriptor in _inheritable()),
                        (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                    ],
                    setsid=True,
                    setsigmask=_DEAF_TO,
                    setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
                )
            except BaseException:
                mine.close()
                raise
            finally:
                theirs.close()
            self._link = mine
        mine.settimeout(_PATIENCE_S)
        if not self._tell("".join(f"+{name}\n" for name in self._watched.values())):
            raise OSError(errno.EPIPE, "it ends at once")


def guard_of(engine: Engine) -> Guard:
    """The guard of this process for this engine; after a fork, the child has its own."""
    key = engine.host, frozenset(engine.environment.items())  # a watchdog reaches it by both
    guard = _guards.get(key)
    if guard is None:
        guard = _guards.setdefault(key, Guard(engine))
    return guard


def labels_of(job: Job, timeout_s: float) -> dict[str, str]:
    """The labels of a job's container, which may run for this long."""
    ref = job.processor.ref
    return {EXECUTION: job.execution_id, REF: str(ref), **own_labels(timeout_s + SLACK_S)}


def own_labels(life_s: float) -> dict[str, str]:
    """The labels of any container of ours: whose it is, and when it must be dead whatever happens."""
    # The last one, too, or an image could have its own.
    return {OWNER: owner_text(), DEADLINE: str(int(time.time() + life_s)), KEEP: "false"}


def owner_text() -> str:
    """This process as a label: boot id, inode of the pid namespace, pid, start time; unknown parts empty."""
    from theory import Owner  # noqa: PLC0415 - not in the watchdog

    owner = Owner.here()
    parts = (owner.boot, owner.namespace, owner.pid, owner.started)
    return ":".join("" if part is None else str(part) for part in parts)


def owner_name() -> str:
    """The same as part of a file's name."""
    return owner_text().replace(":", ".")


def _environment(engine: Engine) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if name in _VARIABLES or name.startswith(_PREFIXES)
    }
    # Not for the start of Python, which -I keeps from it, but for what it then imports.
    folders = dict.fromkeys([_FOLDER, *(folder for folder in sys.path if folder)])
    return {**kept, **engine.environment, "PYTHONPATH": os.pathsep.join(folders)}


def _python() -> list[str]:
    """Python as bare as it gets, without its virtual environment; compiled files go where the caller's go."""
    flags = ["-B"] if sys.dont_write_bytecode else []
    if sys.pycache_prefix is not None:
        flags += ["-X", f"pycache_prefix={sys.pycache_prefix}"]
    base: str = getattr(sys, "_base_executable", "") or sys.executable  # what the venv module takes, too
    return [os.path.realpath(base), "-I", "-S", *flags]


def _inheritable() -> list[int]:
    """What a child would get of ours beyond the standard streams."""
    found = []
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # the one that listed the folder, or closed since by another thread
            if int(name) > 2 and os.get_inheritable(int(name)):  # noqa: PLR2004 - the standard streams are three
                found.append(int(name))
    return found


@atexit.register
def _let_go() -> None:
    for guard in tuple(_guards.values()):
        guard.let_go()


def _begin_anew() -> None:
    """In a forked child, whose parent's containers are none of its business."""
    _starting.release()
    while _guards:
        _guards.popitem()[1].disown()


# While a watchdog is started, nobody else knows its socket, which a fork would then keep open for ever.
os.register_at_fork(before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_begin_anew)
