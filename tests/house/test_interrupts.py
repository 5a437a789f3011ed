"""Signals at chosen moments: the answer is still one line, nothing is held, nobody is left behind.

No test sleeps: the command itself shows each moment, by opening a FIFO, by an event, or by a module that
Python says it is importing.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from house.command import EntryMaker, Theory

WAITS = """
import json, os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print(json.dumps({"event": "pids", "pids": [os.getpid(), child.pid]}), flush=True)
signal.pause()
"""
STAYS = """
import json, os, signal
signal.signal(signal.SIGTERM, lambda *_: print(json.dumps({"event": "asked to end"}), flush=True))
print(json.dumps({"event": "pids", "pids": [os.getpid()]}), flush=True)
while True:
    signal.pause()
"""
HELLO = '{"messages":[{"role":"user","content":"Hello!"}]}'
ENDS = {signal.SIGINT: 130, signal.SIGTERM: 143}
SOON = 15  # seconds in which a signal must have been answered: an adapter has 10


def waiting(
    theory: Theory, entry: EntryMaker, *options: str, program: str = WAITS
) -> tuple[subprocess.Popen[bytes], list[int]]:
    """A run whose command is surely running, and the ids of the command's processes."""
    root = entry("test/waits@1", program, cost={"reserve_micro_usd": 20_000})
    process = theory.start(
        *("run", "test/waits@1", "--adapter", "process", "--registry", root),
        *("--plan", "p", "--json", "--stream", *options),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "pids" in (event := json.loads(line)):
            return process, event["pids"]
    pytest.fail(process.communicate()[1].decode())


def ended(process: subprocess.Popen[bytes]) -> tuple[int, list[Any], str]:
    stdout, stderr = process.communicate(timeout=SOON)
    return process.returncode, [json.loads(line) for line in stdout.splitlines()], stderr.decode()


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return not done.stdout.strip() or done.stdout.strip().startswith("Z")


def expect_gone(pids: list[int]) -> None:
    """Wait for the end of processes that nobody else waits for."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            assert select.select([descriptor], [], [], SOON)[0], "the command outlives its caller"
            os.close(descriptor)


def amounts(theory: Theory) -> tuple[int, int]:
    shown = theory("plan", "show", "p").ok().json
    return shown["reserved_micro_usd"], shown["spent_micro_usd"]


@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
def test_a_signal_while_the_command_runs_ends_it_and_settles(
    theory: Theory, entry: EntryMaker, number: signal.Signals
) -> None:
    process, pids = waiting(theory, entry)
    process.send_signal(number)
    status, lines, stderr = ended(process)
    assert status == ENDS[number]
    envelope = lines[-1]
    assert envelope["error"]["code"] == "ERR_INTERRUPTED"
    assert "Traceback" not in stderr
    assert all(map(gone, pids))
    assert amounts(theory)[0] == 0
    assert "ERR_INTERRUPTED" in theory("show", envelope["execution_id"]).ok().stdout


def test_ctrl_c_on_the_whole_group_is_the_same(theory: Theory, entry: EntryMaker) -> None:
    process, pids = waiting(theory, entry)
    os.killpg(process.pid, signal.SIGINT)
    status, lines, stderr = ended(process)
    assert (status, lines[-1]["error"]["code"]) == (130, "ERR_INTERRUPTED")
    assert "Traceback" not in stderr
    assert all(map(gone, pids))
    assert amounts(theory)[0] == 0


@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
def test_a_signal_while_an_attachment_is_read_from_a_pipe_ends_it(
    theory: Theory, number: signal.Signals
) -> None:
    fifo = theory.cwd / "slow.txt"
    os.mkfifo(fifo)
    process = theory.start(
        *(
            "run",
            "text/wordcount@1",
            "--adapter",
            "process",
            "--json",
            "--plan",
            "p",
            "--attach",
            "file=slow.txt",
        ),
        *("--inputs-json", '{"file":{"$attach":"file"}}'),
    )
    with fifo.open("wb", buffering=0) as pipe:  # opens when the command does
        pipe.write(b"some words ")
        process.send_signal(number)
        status, lines, stderr = ended(process)
    assert (status, [line["error"]["code"] for line in lines]) == (ENDS[number], ["ERR_INTERRUPTED"])
    assert "Traceback" not in stderr


def test_ctrl_c_while_the_inputs_are_read_from_stdin_ends_it(theory: Theory) -> None:
    run = ("run", "llm/litellm@1", "--adapter", "mock", "--json", "--inputs-json", "-")
    process = theory.start(*run, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b" " * 1_000_000)  # more than a pipe holds: back here, the command is reading
    process.send_signal(signal.SIGINT)
    status = process.wait(SOON)  # its stdin is still open
    _, lines, stderr = ended(process)
    assert (status, [line["error"]["code"] for line in lines]) == (130, ["ERR_INTERRUPTED"])
    assert "Traceback" not in stderr


def test_ctrl_c_while_the_inputs_are_read_from_a_pipe_ends_it(theory: Theory) -> None:
    fifo = theory.cwd / "inputs"
    os.mkfifo(fifo)
    process = theory.start("run", "llm/litellm@1", "--adapter", "mock", "--json", "--inputs-json", "@inputs")
    with fifo.open("wb", buffering=0) as pipe:  # opens when the command does
        pipe.write(b"{")
        process.send_signal(signal.SIGINT)
        status, lines, stderr = ended(process)
    assert (status, [line["error"]["code"] for line in lines]) == (130, ["ERR_INTERRUPTED"])
    assert "Traceback" not in stderr


MOMENTS = ("click", "theory.errors", "theory.types", "theory.run", "blake3", "sqlite3")


@pytest.mark.parametrize("module", MOMENTS)
@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
def test_a_signal_during_the_start_is_answered_without_a_traceback(
    theory: Theory, module: str, number: signal.Signals
) -> None:
    process = theory.start(
        *("run", "llm/litellm@1", "--adapter", "mock", "--json", "--plan", "p", "--inputs-json", HELLO),
        environ={"PYTHONVERBOSE": "1"},
    )
    assert process.stderr is not None
    marks = (f"import '{module}'".encode(), f"{module.replace('.', '/')}.py".encode())
    for line in process.stderr:
        if any(mark in line for mark in marks):
            break
    else:
        pytest.fail(f"a run imports no {module}")
    process.send_signal(number)
    status, lines, stderr = ended(process)
    assert "Traceback" not in stderr
    if status == 0:  # the signal came after the closing line: the run is true
        assert lines[-1]["status"] == "success"
    else:
        assert (status, [line["error"]["code"] for line in lines]) == (ENDS[number], ["ERR_INTERRUPTED"])
    if "p" in theory("plan", "ls").ok().stdout.split():
        assert amounts(theory)[0] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: pidfd")
def test_the_second_ctrl_c_exits_at_once_and_the_next_start_closes_what_was_held(
    theory: Theory, entry: EntryMaker
) -> None:
    process, pids = waiting(theory, entry, program=STAYS)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert any(json.loads(line)["event"] == "asked to end" for line in process.stdout)
    process.send_signal(signal.SIGINT)
    status, _, stderr = ended(process)
    assert status == 130
    assert "Traceback" not in stderr
    assert amounts(theory) == (0, 20_000)
    expect_gone(pids)


def test_after_kill_9_the_next_start_closes_what_was_held(theory: Theory, entry: EntryMaker) -> None:
    process, _ = waiting(theory, entry)
    assert amounts(theory) == (20_000, 0)
    process.kill()
    process.communicate(timeout=SOON)
    assert amounts(theory) == (0, 20_000)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: /proc")
def test_after_kill_9_the_command_does_not_live_on(theory: Theory, entry: EntryMaker) -> None:
    process, pids = waiting(theory, entry)
    process.kill()
    process.communicate(timeout=SOON)
    expect_gone(pids)


def test_a_killed_execution_can_be_tried_again_under_its_id(theory: Theory, entry: EntryMaker) -> None:
    identifier = "01890000-0000-7000-8000-00000000abcd"
    process, _ = waiting(theory, entry, "--execution-id", identifier)
    root = theory.cwd.parent / "entries"
    run = ("run", "test/waits@1", "--adapter", "process", "--registry", root, "--plan", "p", "--json")
    busy = theory(*run, "--execution-id", identifier)
    assert (busy.line["error"]["code"], busy.code) == ("ERR_BUSY", 5)
    process.kill()
    process.communicate(timeout=SOON)
    again = theory(*run, "--execution-id", identifier, "--timeout", "1")
    assert again.line["execution_id"] == identifier
    assert again.code == 124
