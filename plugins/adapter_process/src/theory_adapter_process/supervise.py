"""Runs a command under a supervisor of its own, and reports how it ended.

The supervisor (``supervisor.py``) is a process in its own session, which a terminal's Ctrl-C does not reach.
The end of a pipe tells it of the caller's death, so that even ``kill -9`` of the caller leaves nothing
running; on Linux it is the subreaper of the command, so that daemons cannot slip away either.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from theory import errors
from theory_adapter_process.drain import Drain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from theory import Channel

# Imported rather than run as a script, because only imports are compiled once for all (3 ms of each run). Its
# folder comes last on the path, so that nothing in it hides a module of the standard library.
_FOLDER = str(Path(__file__).absolute().parent)
_PROGRAM = f"import sys; sys.path.append({_FOLDER!r}); import supervisor; supervisor.main()"
_POLL_MS = 50  # between two looks at the deadline and at the cancellation
_STUCK_S = 8.0  # a supervisor answers within 7: 2 of grace, 5 for the killed to vanish
_SLOW_READER_S = 1.0  # what a reader of the output gets after a cancellation or a timeout
NO_ROOM = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)  # for a process, a thread or a file
_FIRST_FREE = 10  # above the descriptors that the supervisor expects

Ending = Literal["exit", "oom", "timeout", "cancelled"]


class Limits(NamedTuple):
    """What a command may use; 0 is without limit."""

    memory: int = 0  # MiB; of each process, and of all together
    cpu: int = 0  # seconds of processor time; of each process
    open_files: int = 0  # of each process
    file_size: int = 0  # MiB of one file


class Task(NamedTuple):
    """A command and its surroundings."""

    command: Sequence[str]  # the argv; its first word is looked up in the environment's PATH
    folder: Path  # the working directory
    environment: Mapping[str, str]  # all its variables
    limits: Limits = Limits()


class Ended(NamedTuple):
    """How a command ended."""

    ended: Ending
    status: int  # its exit status; -n for signal n
    started_at: float  # seconds since the epoch
    duration_s: float
    survivors: int  # processes that could not be killed
    last_words: bytes = b""  # the last line of stderr that is not empty; nothing of one over 1 KiB


def supervise(task: Task, channel: Channel, lock: int) -> Ended:
    """Run a command to its end, its deadline or its cancellation; nothing of it is left when this returns.

    Args:
        task: What to run.
        channel: Gets the output, is told the start, and knows deadline and cancellation.
        lock: Descriptor of a lock that the supervisor holds too, so until the last process is dead.

    Raises:
        PluginFailed: The supervisor could not be started.
        Retry: The supervisor was killed.
        OSError: One of ``NO_ROOM``.
    """
    run = _Run(task, channel, lock)
    try:
        return run.watch()
    finally:
        run.close()


class _Run:
    """One supervisor, from its start to its end."""

    def __init__(self, task: Task, channel: Channel, lock: int) -> None:
        self._channel = channel
        self._heard = b""  # what the supervisor has reported
        self._group = 0  # the command's process group, once it has started
        self._started_at = self._started = 0.0  # on the wall clock, and on the monotonic one
        opened: list[int] = []
        try:
            lifeline, self._lifeline = _pipe(opened)
            self._report, report = _pipe(opened)
            stdout_read, stdout = _pipe(opened)
            stderr_read, stderr = _pipe(opened)
            opened.append(fcntl.fcntl(lock, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE))
            self._drain = Drain(stdout_read, stderr_read, channel)
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        given = {lifeline: 0, stdout: 1, stderr: 2, report: 3, opened[-1]: 4}
        numbers = map(str, (os.getpid(), *task.limits))
        argv = [*_python(), "-c", _PROGRAM, *numbers, str(task.folder), *task.command]
        self._pid = 0
        try:
            # Not subprocess: that costs 15 ms of imports; and this neither copies the caller nor runs any
            # Python in a forked child, which is not safe beside other threads.
            self._pid = os.posix_spawn(
                argv[0],
                argv,
                task.environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, mine, theirs) for mine, theirs in given.items()],
                setsid=True,
                setsigmask=(),
                setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
            )
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            raise errors.PluginFailed(
                f"the supervisor of the command cannot be started: {error.strerror}",
                hint="theory doctor says what is missing",
            ) from error
        finally:
            for descriptor in given:
                os.close(descriptor)
            if not self._pid:
                self.close()

        os.pwrite(lock, str(self._pid).encode(), 0)

    def watch(self) -> Ended:
        """Wait for the command's end, and bring it about at its deadline or on a cancellation."""
        poll = select.poll()
        poll.register(self._report, select.POLLIN)
        verdict: Literal["timeout", "cancelled", "failed"] | None = None
        stopped = 0.0
        while not (poll.poll(_POLL_MS) and self._listen()):
            if verdict is None:
                verdict = self._stop_now()
                if verdict is not None:
                    stopped = time.monotonic()
                    with suppress(BrokenPipeError):  # it is gone, and the report says so in the next round
                        os.write(self._lifeline, b".")
            elif time.monotonic() > stopped + _STUCK_S:
                os.kill(self._pid, signal.SIGKILL)
        duration = time.monotonic() - self._started
        self._finish_output(hurried=verdict is not None)
        if self._drain.failure is not None:
            raise self._drain.failure
        how, status, survivors = self._heard.split(b"\n")[1].split()[1:]
        ended: Ending = "exit"
        if how == b"oom":
            ended = "oom"
        elif verdict is not None and verdict != "failed":
            ended = verdict
        return Ended(ended, int(status), self._started_at, duration, int(survivors), self._drain.last_line)

    def _listen(self) -> bool:
        """Take the next words of the supervisor; whether they were its last."""
        if not (words := os.read(self._report, 4096)):
            raise self._vanished()
        self._heard += words
        if not self._started and b"\n" in self._heard:
            self._group = int(self._heard.split()[1])
            self._started_at, self._started = time.time(), time.monotonic()
            self._channel.started()
            self._start_drain()  # not before: the start is told before any output
        return b"\nended " in self._heard and self._heard.endswith(b"\n")

    def close(self) -> None:
        """Leave nothing behind: the end of the lifeline makes the supervisor kill what is left, at once."""
        os.close(self._lifeline)
        if self._pid:
            try:
                os.waitpid(self._pid, 0)
            except ChildProcessError:  # the program around us waits for every child, or ignores SIGCHLD
                while os.read(self._report, 4096):
                    pass
        os.close(self._report)
        self._finish_output(hurried=True)

    def _stop_now(self) -> Literal["timeout", "cancelled", "failed"] | None:
        deadline = self._channel.deadline
        if deadline is not None and time.monotonic() >= deadline:
            return "timeout"
        if self._channel.wait_cancelled(0):
            return "cancelled"
        return None if self._drain.failure is None else "failed"

    def _finish_output(self, *, hurried: bool) -> None:
        drain = self._drain
        if drain.finished:
            return
        if drain.ident is None:
            try:
                self._start_drain()  # the command did not start; why, it may have written
            except OSError:  # it is raised already
                drain.abandon()
                return
        drain.finish()
        patience = _SLOW_READER_S
        while drain.is_alive() and patience > 0:
            drain.join(_POLL_MS / 1000)
            if hurried or self._channel.wait_cancelled(0):
                patience -= _POLL_MS / 1000

    def _start_drain(self) -> None:
        try:
            self._drain.start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, "no room for another thread") from error

    def _vanished(self) -> errors.TheoryError:
        if not self._started:
            return errors.PluginFailed(
                "the supervisor of the command did not start", hint="theory doctor says what is missing"
            )
        with suppress(OSError):
            os.killpg(self._group, signal.SIGKILL)
        return errors.Retry(
            "the supervisor of the command was killed, and the command with it", hint="try again"
        )


def interpreter() -> str:
    """The Python that runs us, without its virtual environment: it starts faster and outlives that."""
    base: str = getattr(sys, "_base_executable", "") or sys.executable  # what the venv module takes, too
    return os.path.realpath(base)


def _python() -> list[str]:
    """Python as bare as it gets; where compiled files may go is as the caller wants it."""
    flags = ["-B"] if sys.dont_write_bytecode else []
    if sys.pycache_prefix is not None:
        flags += ["-X", f"pycache_prefix={sys.pycache_prefix}"]
    return [interpreter(), "-I", "-S", *flags]


def _pipe(opened: list[int]) -> tuple[int, int]:
    """A pipe whose descriptors lie above those that the supervisor expects; they are added to the list."""
    low = os.pipe()
    try:
        for descriptor in low:
            opened.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE))  # noqa: PERF401 - the first is known when the second fails
    finally:
        for descriptor in low:
            os.close(descriptor)
    return opened[-2], opened[-1]
