"""What an emulator leaves when it is killed: nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from modal_emulator import handle

if TYPE_CHECKING:
    from collections.abc import Callable

IN_A_SANDBOX = """
import modal
app = modal.App.lookup("left", create_if_missing=True)
image = modal.Image.from_registry("python:3.11-slim").entrypoint([])
one = modal.Sandbox.create("sh", "-c", "setsid sleep 4242.25 & echo begun; wait", app=app, image=image)
print(next(iter(one.stdout)), end="", flush=True)
"""


def processes() -> list[str]:
    """The commands that a sandbox of this test started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if b"4242.25\0" in command and b"sleep\0" in command:
            found.append(str(path))
    return found


def left_by(folder: Path, runner: str) -> Callable[[], list[str]]:
    """Containers, processes and folders."""

    def found() -> list[str]:
        left = processes()
        if runner == "docker":
            ask = ["docker", "ps", "-a", "--format", "{{.Mounts}} {{.Names}}", "--no-trunc"]
            told = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.splitlines()
            left += [line for line in told if str(folder) in line]
        return left + [str(path) for path in folder.glob("modal-emulator-*")]

    return found


@pytest.mark.parametrize("runner", ["process", "docker"])
def test_an_emulator_that_is_killed_leaves_nothing(
    runner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if runner == "docker":
        request.getfixturevalue("base_image")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    found = left_by(tmp_path, runner)
    with pytest.raises(RuntimeError, match="-9"), handle.running("--runner", runner) as emulator:  # noqa: PT012 - its end is the point
        environ = {**os.environ, **emulator.environ}
        begun = subprocess.run(
            [sys.executable, "-c", IN_A_SANDBOX], env=environ, check=True, capture_output=True, text=True
        )
        assert begun.stdout == "begun\n"
        assert processes()
        os.kill(emulator.pid, signal.SIGKILL)
    end = time.monotonic() + 60
    while found() and time.monotonic() < end:
        time.sleep(0.05)  # between two looks at what others do
    assert not found()
