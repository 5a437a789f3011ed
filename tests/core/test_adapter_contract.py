"""``AdapterContract`` passes an honest adapter and finds each way in which one may break its word."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from theory import AdapterInfo, Image, Outcome, hookimpl
from theory.testing import AdapterContract
from theory.testing.bench import Bench

if TYPE_CHECKING:
    from pathlib import Path

    from theory import Channel, Job, Secrets, Workspace


# Takes a limit in bytes and a program, and becomes this program under this limit.
_LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Plain:
    """A small adapter that runs a command on this machine, and does one thing wrong if told to."""

    def __init__(self, wrong: str = "") -> None:
        self.wrong = wrong
        self.asked = 0
        self.children: list[subprocess.Popen[bytes]] = []
        self.readers: list[threading.Thread] = []

    @hookimpl
    def describe_adapter(self) -> AdapterInfo:
        return AdapterInfo(
            "runs it here", frozenset({"process", "memory_limit", "secrets_env", "secrets_file"})
        )

    @hookimpl
    def identify(self) -> Image:
        self.asked += 1
        return Image("plain:1" if self.wrong != "another id" else f"plain:{self.asked}", None, "")

    def clean_up(self) -> None:
        """Leave nothing behind, whatever was wrong."""
        for child in self.children:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        for reader in self.readers:
            reader.join()

    @hookimpl
    def execute(self, job: Job, workspace: Workspace, secrets: Secrets, channel: Channel) -> Outcome:
        assert job.processor.command is not None
        (workspace.root / "job").symlink_to(workspace.root)
        if self.wrong == "writable input":
            for artifact in job.artifacts:
                (workspace.root / artifact.path[1:]).chmod(0o666)
        started_at, began = time.time(), time.monotonic()
        if self.wrong == "late start":
            channel.write("stdout", b"building\n")
        channel.started()
        child = subprocess.Popen(
            [sys.executable, "-c", _LIMITED, str(self._limit(job)), *job.processor.command[1:]],
            cwd=job.processor.folder,
            env=self._environment(job, workspace, secrets),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        readers = [
            threading.Thread(target=self._read, args=(stream, pipe, channel), daemon=True)
            for stream, pipe in (("stdout", child.stdout), ("stderr", child.stderr))
        ]
        self.children.append(child)
        self.readers.extend(readers)
        for reader in readers:
            reader.start()
        ended = self._wait(child, channel)
        if self.wrong == "children live" or (self.wrong == "waits for the stream" and ended == "exit"):
            child.kill()
        else:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for reader in readers:
            reader.join(timeout=0.1 if self.wrong == "children live" else None)
        self._spoil(workspace, secrets)
        if self.wrong == "raises" and child.returncode:
            raise RuntimeError(f"exit status {child.returncode}")
        return Outcome(
            "exit" if self.wrong == "no timeout" else ended,
            child.returncode if ended == "exit" else None,
            0 if self.wrong == "no clock" else started_at,
            time.monotonic() - began,
        )

    def _limit(self, job: Job) -> int:
        return 2**40 if self.wrong == "no limit" else job.processor.runtime.memory * 2**20

    def _environment(self, job: Job, workspace: Workspace, secrets: Secrets) -> dict[str, str]:
        home = workspace.root / "tmp"
        home.mkdir()
        own = {"THEORY_ROOT": str(workspace.root), "PATH": os.defpath, "HOME": str(home), "TMPDIR": str(home)}
        given = dict(os.environ) if self.wrong == "open environment" else {}
        told = dict(secrets)
        if self.wrong == "secret unasked" or job.processor.secrets.deliver == "file":
            told = {}
            for name, value in secrets.items():
                (workspace.root / name).write_text(value)
                told[name + "_FILE"] = str(workspace.root / name)
        return {**given, **job.environment, **own, **told}

    def _read(self, stream: Any, pipe: Any, channel: Channel) -> None:
        held = b""
        with pipe:
            while data := pipe.read1():
                if self.wrong == "output at the end":
                    held += data
                else:
                    channel.write(stream, data.replace(b"\n", b"\r\n") if self.wrong == "text mode" else data)
        if held:
            channel.write(stream, held)

    def _wait(self, child: subprocess.Popen[bytes], channel: Channel) -> Any:
        while child.poll() is None:
            if channel.wait_cancelled(0.005) and self.wrong != "deaf":
                return "cancelled"
            late = 30 if self.wrong == "lenient" else -0.9 if self.wrong == "hasty" else 0
            if channel.deadline is not None and time.monotonic() > channel.deadline + late:
                return "timeout"
        return "exit"

    def _spoil(self, workspace: Workspace, secrets: Secrets) -> None:
        for name in secrets:
            if self.wrong != "secret stays":
                (workspace.root / name).unlink(missing_ok=True)
        if self.wrong == "changes inputs":
            workspace.inputs.write_bytes(b"{}")
        if self.wrong == "changes outputs":
            for path in workspace.out.rglob("*.txt"):
                path.write_bytes(path.read_bytes() + b"\n")
        if self.wrong == "adds an output":
            (workspace.out / "log.txt").write_bytes(b"")
        if self.wrong == "random":
            (workspace.out / "empty.txt").write_bytes(os.urandom(8))


class TestPlain(AdapterContract):
    @pytest.fixture
    def adapter(self) -> object:
        return Plain()


# What a test says after it has waited in vain: the wait is kept short.
NEVER = {"execute did not return within", "did not get so far"}
WRONG = [
    ("another id", "identifying_an_image_is_stable_and_builds_nothing", "two answers for one entry"),
    ("late start", "the_start_is_told_once_and_before_any_output", "first it called"),
    ("no clock", "times_are_those_of_this_execution", "began_at"),
    ("changes inputs", "outputs_land_in_out_byte_for_byte", "execute changed inputs.json"),
    ("changes outputs", "outputs_land_in_out_byte_for_byte", "greeting.txt"),
    ("adds an output", "outputs_land_in_out_byte_for_byte", "log.txt"),
    ("random", "the_same_job_twice_gives_the_same_bytes", "empty.txt"),
    ("raises", "a_failing_command_is_an_outcome", "exit status 3"),
    ("no timeout", "a_command_is_ended_at_its_deadline", "exit"),
    ("hasty", "a_command_is_ended_at_its_deadline", "did not get its time"),
    ("lenient", "a_command_is_ended_at_its_deadline", "execute did not return within"),
    ("children live", "a_command_is_ended_at_its_deadline", "a child of the command still runs"),
    ("children live", "a_cancelled_command_is_stopped_in_time", "a child of the command still runs"),
    ("deaf", "a_cancelled_command_is_stopped_in_time", "execute did not return within"),
    (
        "waits for the stream",
        "a_child_that_is_left_behind_neither_delays_nor_outlives_the_command",
        "did not return",
    ),
    ("no limit", "a_command_beyond_its_memory_does_not_succeed", "exit"),
    ("text mode", "output_is_passed_on_byte_for_byte", "stdout is not what the program wrote"),
    ("output at the end", "output_is_passed_on_while_the_command_runs", "did not get so far"),
    ("writable input", "an_input_file_is_at_its_world_path_and_read_only", "it can be written"),
    (
        "open environment",
        "the_environment_is_the_documented_one_and_nothing_of_the_callers",
        "should not be there",
    ),
    ("secret stays", "a_secret_reaches_the_program_and_stays_nowhere", "the secret is still in"),
    ("secret unasked", "a_secret_reaches_the_program_and_stays_nowhere", "asked for env"),
]


@pytest.mark.parametrize(
    ("wrong", "promise", "complaint"), WRONG, ids=[f"{row[0]} - {row[1]}" for row in WRONG]
)
def test_an_adapter_that_breaks_a_promise_is_found(
    wrong: str, promise: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "theory.testing.adapters.STOP_S", 1.5
    )  # what takes ten seconds to find is found sooner
    contract = TestPlain()
    folder = tmp_path / "bench"
    folder.mkdir()
    adapter = Plain(wrong)
    bench = Bench(
        adapter,
        folder,
        tmp_path / "cache",
        contract.image,
        contract.material,
        contract.options,
        patience_s=2 if complaint in NEVER else 30,
    )
    given = {"bench": bench, "real": bench, "tmp_path": tmp_path, "monkeypatch": monkeypatch, "steps": []}
    test = getattr(contract, f"test_it_{promise}", None) or getattr(contract, f"test_{promise}")
    try:
        with pytest.raises((AssertionError, RuntimeError, TimeoutError), match=complaint):
            test(**{name: given[name] for name in inspect.signature(test).parameters})
    finally:
        adapter.clean_up()
