"""Programs that have containers under a watchdog, and what a test looks for when they are gone."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_local.command import SOON, wait_gone
from theory_adapter_local.engine.client import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from theory_adapter_local.engine.client import Engine


class Caller:
    """A program of its own, which does one step after the other (caller.py)."""

    def __init__(self, engine: Engine, **how: Any) -> None:
        self.engine = engine
        self.name = f"theory-test-{uuid.uuid4().hex}"
        program = str(Path(__file__).with_name("caller.py"))
        self.process = subprocess.Popen(
            [sys.executable, program, self.name],
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, **how},
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPENAI_API_KEY": "sk-of-the-caller"},
        )

    def __call__(self, expression: str) -> str:
        """Have it do this; what that gives."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{expression}\n".encode())
        self.process.stdin.flush()
        answer: str = self.process.stdout.readline().decode()
        assert answer, f"the caller died in {expression}"
        return answer.strip()

    def run(self) -> str:
        """Have the container run under the watchdog; the container's id."""
        self("watch()")
        container = self("create()")
        self("start()")
        return container

    def die(self) -> None:
        self.process.kill()
        self.process.wait(SOON)

    def close(self) -> None:
        with self.process:
            self.process.kill()
        remove(self.engine, self.name)


def create(engine: Engine, name: str, image: str, labels: dict[str, str]) -> None:
    body: dict[str, Any] = {"Image": image, "Labels": labels, "HostConfig": {"NetworkMode": "none"}}
    engine.call("POST", "/containers/create", query={"name": name}, body=body)


def remove(engine: Engine, name: str) -> None:
    try:
        engine.call("DELETE", f"/containers/{name}", query={"force": "1", "v": "1"})
    except Refused as refused:
        if refused.status == 409:  # somebody else removes it
            expect_gone(engine, name)


def is_there(engine: Engine, name: str) -> bool:
    try:
        engine.call("GET", f"/containers/{name}/json")
    except Refused as refused:
        if refused.status == 404:
            return False
        raise
    return True


def expect_gone(engine: Engine, name: str) -> None:
    wait_gone(engine, name)
    assert not is_there(engine, name)


def expect_end(pid: int, within: float = SOON) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], within)[0], f"{pid} still lives"
    finally:
        os.close(descriptor)


def eventually(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < give_up, "it did not come to that"
        time.sleep(0.01)
