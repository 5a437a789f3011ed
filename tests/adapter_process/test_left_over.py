"""Nothing of a command outlives its run, however the run ends.

Each process of the command inherits a locked file from the first one; as long as one lives, the lock is held.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from theory.testing.bench import nothing_holds
from theory.testing.channel import RecordingChannel
from theory.types import Runtime

if TYPE_CHECKING:
    from theory.testing.bench import Bench

needs_subreaper = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

LOCK = """
import fcntl, os, signal, sys, time
alive = open(os.environ["THEORY_ROOT"] + "/job/out/alive", "w")
fcntl.flock(alive, fcntl.LOCK_EX)
"""
DEAF = """
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
"""
# A proper daemon: a session of its own, an orphan, and nothing of the command's pipes.
DAEMON = """
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.chdir("/")
        for descriptor in (0, 1, 2):
            os.close(descriptor)
        os.write(write, b".")
        time.sleep(300)
    os._exit(0)
os.wait()
os.read(read, 1)
"""
# In the command's group, with its pipes open.
CHILD = """
if os.fork() == 0:
    time.sleep(300)
"""
READY = "print('ready', flush=True)\n"
SLEEP = "time.sleep(300)\n"

kinds = pytest.mark.parametrize(
    "start",
    [
        pytest.param(CHILD, id="a child"),
        pytest.param(DAEMON, id="a daemon", marks=needs_subreaper),
        pytest.param(DEAF + DAEMON + CHILD, id="deaf daemon and child", marks=needs_subreaper),
    ],
)


def command(*parts: str) -> tuple[str, ...]:
    return ("python", "-c", "".join((LOCK, *parts)))


def is_ready(channel: RecordingChannel) -> bool:
    return b"ready\n" in channel.output("stdout")


@kinds
def test_what_a_finished_command_left_is_killed(bench: Bench, start: str) -> None:
    ran = bench.run(bench.job(command=command(start, "sys.exit(3)")))
    assert (ran.outcome.ended, ran.outcome.exit_code) == ("exit", 3), str(ran)
    assert ran.outcome.duration_s < 5
    assert nothing_holds(ran.workspace.out / "alive")


@kinds
def test_a_timeout_kills_the_whole_tree(bench: Bench, start: str) -> None:
    ran = bench.run(bench.job(command=command(start, READY, SLEEP), runtime=Runtime(timeout=0.5)))
    assert ran.outcome.ended == "timeout"
    assert is_ready(ran.channel), str(ran)
    assert nothing_holds(ran.workspace.out / "alive")


@kinds
def test_a_cancellation_kills_the_whole_tree(bench: Bench, start: str) -> None:
    channel = RecordingChannel()
    later = bench.start(bench.job(command=command(start, READY, SLEEP)), channel=channel)
    channel.wait_for(lambda: is_ready(channel), 20)
    channel.cancel()
    ran = later.within(10)
    assert ran.outcome.ended == "cancelled"
    assert nothing_holds(ran.workspace.out / "alive")


def test_a_command_may_clean_up_when_it_is_asked_to_end(bench: Bench) -> None:
    clean = """
def end(*_):
    print("cleaned", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
"""
    channel = RecordingChannel()
    later = bench.start(bench.job(command=command(clean, READY, SLEEP)), channel=channel)
    channel.wait_for(lambda: is_ready(channel), 20)
    channel.cancel()
    ran = later.within(2)
    assert ran.outcome.ended == "cancelled"
    assert channel.output("stdout") == b"ready\ncleaned\n"


@kinds
def test_kill_9_of_the_caller_kills_the_whole_tree(bench: Bench, start: str) -> None:
    with call(bench.folder, command(start, READY, SLEEP)) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == b"ready\n"
        caller.kill()
    (place,) = bench.folder.glob("work-*/out/alive")
    assert nothing_holds(place)


def test_a_fork_of_the_killed_caller_keeps_nothing_alive(bench: Bench) -> None:
    """Such a fork has the lifeline open, as with multiprocessing."""
    read, write = os.pipe()
    with call(bench.folder, command(DEAF, READY, SLEEP), fork_holding=read) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == b"ready\n"
        caller.kill()
    (place,) = bench.folder.glob("work-*/out/alive")
    try:
        assert nothing_holds(place)
    finally:
        os.close(write)
        os.close(read)


@needs_subreaper
def test_a_killed_supervisor_takes_the_command_with_it(bench: Bench) -> None:
    from theory import errors

    job = bench.job(command=command("os.kill(os.getppid(), signal.SIGKILL)\n", SLEEP))
    place = bench.workspace(job)
    with pytest.raises(errors.Retry, match="the supervisor of the command was killed"):
        bench.run(job, workspace=place)
    assert nothing_holds(place.out / "alive")


@needs_subreaper
def test_a_command_does_not_outlive_its_supervisor_where_the_caller_cannot_help(bench: Bench) -> None:
    say_supervisor = "print(os.getppid(), flush=True)\n"
    with call(bench.folder, command(DEAF, say_supervisor, SLEEP)) as caller:
        assert caller.stdout is not None
        supervisor = int(caller.stdout.readline())
        (place,) = bench.folder.glob("work-*/out/alive")
        os.kill(caller.pid, signal.SIGSTOP)
        os.kill(supervisor, signal.SIGKILL)
        is_gone = nothing_holds(place)
        caller.kill()
    assert is_gone


def test_a_terminals_interrupt_reaches_the_caller_alone(bench: Bench) -> None:
    """It goes to the foreground group of one session."""
    say_supervisor = "print(os.getppid(), flush=True)\n"
    with call(bench.folder, command(say_supervisor, SLEEP)) as caller:
        assert caller.stdout is not None
        supervisor = int(caller.stdout.readline())
        assert os.getsid(supervisor) == os.getpgid(supervisor) == supervisor
        assert os.getsid(caller.pid) == os.getsid(0)
        caller.kill()
    (place,) = bench.folder.glob("work-*/out/alive")
    assert nothing_holds(place)


class Buggy(RecordingChannel):
    """Raises once the command is ready, as a second Ctrl-C may."""

    def wait_cancelled(self, seconds: float) -> bool:
        if is_ready(self):
            raise RuntimeError("a bug in the caller")
        return super().wait_cancelled(seconds)


def test_a_bug_in_the_caller_kills_the_whole_tree_at_once(bench: Bench) -> None:
    job = bench.job(command=command(DEAF, CHILD, READY, SLEEP))
    place = bench.workspace(job)
    channel = Buggy()
    later = bench.start(job, channel=channel, workspace=place)
    channel.wait_for(lambda: is_ready(channel), 20)
    with pytest.raises(RuntimeError, match="a bug in the caller"):
        later.within(1.5)  # less than the grace after SIGTERM
    assert nothing_holds(place.out / "alive")


def call(folder: Path, argv: tuple[str, ...], *, fork_holding: int | None = None) -> subprocess.Popen[bytes]:
    """A program of its own that runs this command on the adapter."""
    program = [sys.executable, str(Path(__file__).with_name("caller.py"))]
    return subprocess.Popen(
        [
            *program,
            str(folder),
            json.dumps(argv),
            "{}",
            *([] if fork_holding is None else [str(fork_holding)]),
        ],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        pass_fds=() if fork_holding is None else (fork_holding,),
    )
