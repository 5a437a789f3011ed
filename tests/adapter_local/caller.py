"""A program that has a container under the watchdog of the adapter ``local``, and does one step at a time.

    python caller.py NAME

Each line of its input is an expression; it writes what that gives, on a line.
"""

from __future__ import annotations

import io
import os
import re
import resource
import signal
import subprocess
import sys
import tarfile
from contextlib import ExitStack
from typing import TYPE_CHECKING

from theory import errors
from theory_adapter_local.engine.client import engine_of
from theory_adapter_local.guard.watchdog import guard_of, own_labels

if TYPE_CHECKING:
    from collections.abc import Callable

    from theory import JsonObject
    from theory_adapter_local.engine.client import Engine

NAME = sys.argv[1]
IMAGE = "python:3.11-slim"
STAYS = "import time; open('/big', 'wb').truncate(1 << 34); print('up', flush=True); time.sleep(600)"

engine = engine_of()
guard = guard_of(engine)
kept_open = ExitStack()


def watch(name: str = NAME) -> int:
    """Have it watched; the watchdog's process id."""
    guard.watch(name)
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        (watchdog,) = file.read().split()
    return int(watchdog)


def create(name: str = NAME, engine: Engine = engine, **labels: str) -> str:
    """The container's id."""
    body: JsonObject = {
        "Image": IMAGE,
        "Cmd": ["python3", "-c", STAYS],
        "Labels": {**own_labels(3600), **labels},
        "HostConfig": {"NetworkMode": "none"},
    }
    container = str(engine.call("POST", "/containers/create", query={"name": name}, body=body)["Id"])
    guard_of(engine).created(name, container)
    return container


def start() -> tuple[str, bytes]:
    """What the container says when it is up."""
    attached = engine.attach(NAME)
    engine.call("POST", f"/containers/{NAME}/start")
    return next(attached.frames())


def collect() -> int:
    """Begin to read a file of 16 GiB, and stay in the middle of it."""
    archive = engine.stream("GET", f"/containers/{NAME}/archive", query={"path": "/big"})
    return len(kept_open.enter_context(archive).read(1))


def build() -> str:
    """Begin to build an image; the id of the container that its step runs in."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        text = f"FROM {IMAGE}\nRUN echo up && sleep 600\n".encode()
        member = tarfile.TarInfo("Dockerfile")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    asked = {"rm": "1", "forcerm": "1", "nocache": "1", "networkmode": "none"}
    headers = {"Content-Type": "application/x-tar"}
    answer = kept_open.enter_context(
        engine.stream("POST", "/build", query=asked, body=context.getvalue(), headers=headers)
    )
    said = b""
    while not (found := re.search(rb"Running in (\w+)", said)):
        more = answer.read(1 << 16)
        assert more, said
        said += more
    return found[1].decode()


def remove() -> None:
    """What a good run ends with."""
    engine.call("DELETE", f"/containers/{NAME}", query={"force": "1", "v": "1"})
    guard.forget(NAME)


def spawn() -> int:
    """A child that inherits all that it may, and outlives us until its input ends."""
    return subprocess.Popen(["cat"], close_fds=False, stdout=subprocess.DEVNULL).pid


def fork() -> int:
    """A fork, which has all that we have, and outlives us until its input ends."""
    if pid := os.fork():
        return pid
    os.close(1)
    while os.read(0, 1):
        pass
    os._exit(0)


def fork_runs_one() -> int:
    """The status of a fork that ends with a container of its own still there."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    name = f"{NAME}-fork"
    engine = engine_of()
    guard_of(engine).watch(name)
    create(name, engine)
    os._exit(0)


def refusal(step: Callable[[], object]) -> str:
    """Why it cannot be done."""
    try:
        step()
    except errors.Retry as error:
        return str(error)
    return "it can"


if __name__ == "__main__":
    for line in sys.stdin:
        done = eval(line, {**globals(), "resource": resource, "signal": signal})  # noqa: S307 - a test wrote it
        sys.stdout.write(f"{done}\n")
        sys.stdout.flush()
