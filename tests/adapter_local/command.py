"""The command `theory` with the adapter ``local``, as a process that can be interrupted and killed."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from theory_adapter_local.engine.client import Refused

if TYPE_CHECKING:
    from pathlib import Path

    from theory_adapter_local.engine.client import Engine

WAITS = ("sh", "-c", "echo up; exec sleep 600")
SOON = 15.0  # seconds in which all must be gone

# A session of its own, whose keys are those of the terminal on standard input.
_ON_A_TERMINAL = (
    "import fcntl, os, sys, termios\n"
    "os.setsid()\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)


@dataclass
class Command:
    """The command in a home of its own; ``close`` ends what still runs."""

    folder: Path
    host: str  # of the engine
    runs: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the adapter known, where it is not installed."""
        if not any(point.name == "local" for point in entry_points(group="theory.adapters")):
            known = self.folder / "known" / "theory_adapter_local-0.dist-info"
            known.mkdir(parents=True)
            (known / "METADATA").write_text("Metadata-Version: 2.1\nName: theory-adapter-local\nVersion: 0\n")
            (known / "entry_points.txt").write_text(
                "[theory.adapters]\nlocal = theory_adapter_local.adapter\n"
            )

    @property
    def environ(self) -> dict[str, str]:
        """The variables of the command."""
        return {
            **os.environ,
            "THEORY_HOME": str(self.folder / "home"),
            "DOCKER_HOST": self.host,
            "PYTHONPATH": os.pathsep.join([str(self.folder / "known"), *sys.path]),
        }

    def entry(self, image: str, *command: str) -> None:
        """Publish test/waits@1."""
        folder = self.folder / "entries" / "test" / "waits" / "1"
        folder.mkdir(parents=True)
        document = {
            "ref": "test/waits@1",
            "description": "Waits",
            "image": {"oci": image},
            "command": command,
            "cost": {"reserve_micro_usd": 20_000},
        }
        (folder / "processor.yaml").write_text(json.dumps(document))

    def start(self, *more: str) -> Run:
        """Begin to run it, on a terminal."""
        arguments = ["run", "test/waits@1", "--adapter", "local", "--registry", str(self.folder / "entries")]
        self.runs.append(Run(self, [*arguments, "--plan", "p", "--json", "--stream", *more]))
        return self.runs[-1]

    def plan(self) -> Any:
        """What the plan says after the next start."""
        done = subprocess.run(
            [sys.executable, "-m", "theory", "plan", "show", "p"],
            env=self.environ,
            capture_output=True,
            check=True,
        )
        return json.loads(done.stdout)

    def close(self) -> None:
        """End all."""
        for run in self.runs:
            run.close()


class Run:
    """One `theory run` on a terminal of its own."""

    def __init__(self, command: Command, arguments: list[str]) -> None:
        self.keys, terminal = pty.openpty()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _ON_A_TERMINAL, sys.executable, "-m", "theory", *arguments],
                env=command.environ,
                stdin=terminal,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        finally:
            os.close(terminal)

    def says(self, text: str) -> None:
        """Wait for a line of the log."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if json.loads(line).get("text", "").strip() == text:
                return
        raise AssertionError(self.process.communicate()[1].decode())

    def press_ctrl_c(self) -> None:
        """As a user does."""
        os.write(self.keys, b"\x03")

    def end(self, seconds: float) -> tuple[int, Any]:
        """The exit status, and the last line, if any."""
        stdout, _ = self.process.communicate(timeout=seconds)
        lines = stdout.splitlines()
        return self.process.returncode, json.loads(lines[-1]) if lines else None

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()
        os.close(self.keys)


def wait_gone(engine: Engine, container: str) -> None:
    """Wait for the removal of a container, if it is there."""
    try:
        engine.call("POST", f"/containers/{container}/wait", query={"condition": "removed"}, timeout_s=SOON)
    except Refused as refused:
        if refused.status != 404:
            raise


def expect_gone(engine: Engine, execution_id: str) -> None:
    """Wait until no container of this execution is left."""
    wait_gone(engine, f"theory-{execution_id}")
    filters = f'{{"label": ["theory.execution={execution_id}"]}}'
    assert engine.call("GET", "/containers/json", query={"all": "1", "filters": filters}) == []


def expect_settled(plan: Any) -> None:
    """The plan has paid for one run that ended nobody knows how, and holds nothing."""
    assert (plan["reserved_micro_usd"], plan["spent_micro_usd"]) == (0, 20_000)


def new_id() -> str:
    """A UUIDv7."""
    digits = uuid.uuid4().hex
    return str(uuid.UUID(f"01990000{digits[:4]}7{digits[4:7]}8{digits[7:22]}"))
