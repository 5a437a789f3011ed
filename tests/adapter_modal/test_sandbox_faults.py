"""Connections that break, throttling, sandboxes that are taken away: retried or told as it should be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from adapter_modal.sandboxes import Sandboxes
from theory import errors
from theory.testing.channel import RecordingChannel
from theory.types import Runtime

if TYPE_CHECKING:
    from modal_emulator.handle import Handle

PATIENCE_S = 60.0  # for what takes less than five where nothing is wrong
LINES = 300
TALKS = f"""
import sys, time
for n in range({LINES}):
    print(n, flush=True)
    print(-n, file=sys.stderr, flush=True)
    time.sleep(0.01)
open("/job/out/a.txt", "w").write("done")
"""
WAITS = "import time; print('up', flush=True); time.sleep(300)"


@pytest.fixture
def sandboxes(emulator: Handle, tmp_path: Path) -> Sandboxes:
    assert emulator.environ
    return Sandboxes(tmp_path)


def living(emulator: Handle) -> list[str]:
    """The names of the sandboxes that nobody has ended."""
    return [one["name"] for one in emulator.shown("sandboxes") if one["alive"]]


@pytest.mark.parametrize("method", ["SandboxWaitV2", "WorkspaceBillingRates", "WorkspaceNameLookup"])
def test_what_a_job_can_do_without_may_be_missing_at_modal(
    emulator: Handle, sandboxes: Sandboxes, method: str
) -> None:
    emulator.fault(method, "status", status="UNIMPLEMENTED", times=1000)
    ran = sandboxes.run("print('hi'); open('/job/out/a.txt', 'w').write('done')")
    assert (ran.outcome.exit_code, ran.outputs()) == (0, {"a.txt": b"done"}), str(ran)
    emulator.calm()


@pytest.mark.parametrize("doors", [(), ("router",)], ids=["everything", "router alone"])
def test_no_line_is_lost_or_doubled_when_the_connection_is_away(
    emulator: Handle, sandboxes: Sandboxes, doors: tuple[str, ...]
) -> None:
    channel = RecordingChannel()
    later = sandboxes.start(sandboxes.job(TALKS), channel)
    channel.wait_for(lambda: b"\n20\n" in channel.output("stdout"), PATIENCE_S)
    emulator.cut(2.0, *doors)
    ran = later.within(PATIENCE_S)
    assert ran.outcome.exit_code == 0, str(ran)
    assert channel.output("stdout").split() == [str(n).encode() for n in range(LINES)]
    assert channel.output("stderr").split() == [str(-n).encode() for n in range(LINES)]
    assert ran.outputs() == {"a.txt": b"done"}


@pytest.mark.parametrize(
    "method",
    [
        "ImageGetOrCreate",
        "AppGetOrCreate",
        "SandboxCreateV2",
        "TaskExecStdinWrite",
        "SandboxTerminateV2",
    ],
)
def test_a_call_whose_answer_is_lost_six_times_does_its_work_once(
    emulator: Handle, sandboxes: Sandboxes, method: str
) -> None:
    emulator.fault(method, "after", times=6)
    ran = sandboxes.run("open('/job/out/a.txt', 'a').write('once')")
    assert ran.outputs() == {"a.txt": b"once"}, str(ran)
    assert len(emulator.shown("sandboxes")) == 1
    assert living(emulator) == []


def test_throttling_is_waited_for(emulator: Handle, sandboxes: Sandboxes) -> None:
    emulator.fault("SandboxCreateV2", "throttle", times=2)
    assert sandboxes.run("pass").outcome.exit_code == 0


@pytest.mark.parametrize("determinism", ["pure", "seeded"])
def test_what_may_be_repeated_is_run_again_when_its_sandbox_is_taken_away(
    emulator: Handle, sandboxes: Sandboxes, determinism: str
) -> None:
    channel = RecordingChannel()
    code = "import os, time; print('up', flush=True); time.sleep(2); open('/job/out/a.txt', 'w').write('a')"
    later = sandboxes.start(sandboxes.job(code, determinism=determinism), channel)
    channel.wait_for(lambda: b"up" in channel.output("stdout"), PATIENCE_S)
    emulator.kill("preempt", sandbox=emulator.shown("sandboxes")[0]["id"])
    ran = later.within(PATIENCE_S)
    assert ran.outputs() == {"a.txt": b"a"}, str(ran)
    assert b"theory: Modal took the sandbox away; another one begins" in channel.output("stderr")
    assert channel.heard.count("started") <= 2


def test_what_may_not_be_repeated_is_told_when_its_sandbox_is_taken_away(
    emulator: Handle, sandboxes: Sandboxes
) -> None:
    channel = RecordingChannel()
    later = sandboxes.start(sandboxes.job(WAITS, determinism="nondeterministic"), channel)
    channel.wait_for(lambda: b"up" in channel.output("stdout"), PATIENCE_S)
    emulator.kill("preempt", sandbox=emulator.shown("sandboxes")[0]["id"])
    with pytest.raises(errors.Retry, match="ended with status 137 while its command ran"):
        later.within(PATIENCE_S)
    assert len(emulator.requests("SandboxCreateV2")) == 1


def test_a_cancelled_run_leaves_no_sandbox(emulator: Handle, sandboxes: Sandboxes) -> None:
    channel = RecordingChannel()
    later = sandboxes.start(sandboxes.job(WAITS), channel)
    channel.wait_for(lambda: b"up" in channel.output("stdout"), PATIENCE_S)
    channel.cancel()
    ran = later.within(PATIENCE_S)
    assert (ran.outcome.ended, ran.outcome.exit_code) == ("cancelled", None), str(ran)
    assert (ran.outcome.cost_micro_usd or 0) > 0
    assert living(emulator) == []


def test_a_run_that_is_cancelled_while_its_sandbox_is_made_leaves_none(
    emulator: Handle, sandboxes: Sandboxes
) -> None:
    emulator.fault("SandboxCreateV2", "stall", seconds=1.0)
    channel = RecordingChannel()
    later = sandboxes.start(sandboxes.job(WAITS), channel)
    while not emulator.requests("SandboxCreateV2"):
        channel.wait_cancelled(0.02)
    channel.cancel()
    assert later.within(PATIENCE_S).outcome.ended == "cancelled"
    assert len(emulator.shown("sandboxes")) == 1
    assert living(emulator) == []


def test_a_command_hears_that_its_time_is_over(sandboxes: Sandboxes) -> None:
    code = """
import signal, sys, time
def bye(*_):
    print("bye", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, bye)
print("up", flush=True)
time.sleep(300)
"""
    ran = sandboxes.run(code, runtime=Runtime(timeout=2))
    assert (ran.outcome.ended, ran.outcome.exit_code) == ("timeout", None), str(ran)
    assert ran.channel.output("stdout") == b"up\nbye\n"


def test_a_sandbox_of_a_killed_caller_is_ended_by_the_next_run(
    emulator: Handle, tmp_path: Path, sandboxes: Sandboxes
) -> None:
    program = f"""
import sys
from pathlib import Path
from adapter_modal.sandboxes import Sandboxes
from theory.testing.channel import RecordingChannel
channel, sandboxes = RecordingChannel(), Sandboxes(Path({str(tmp_path)!r}))
sandboxes.start(sandboxes.job({WAITS!r}), channel)
channel.wait_for(lambda: b"up" in channel.output("stdout"), {PATIENCE_S})
print("up", flush=True)
sys.stdin.read()
"""
    path = os.pathsep.join(filter(None, (*sys.path, str(Path(__file__).parent.parent))))
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == b"up\n"
        caller.send_signal(signal.SIGKILL)
    (left,) = living(emulator)
    assert sandboxes.run("import time; time.sleep(1)").outcome.exit_code == 0
    assert living(emulator) == [], left
    assert list((tmp_path / "cache" / "sandboxes").iterdir()) == []
