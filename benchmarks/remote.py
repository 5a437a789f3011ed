"""The Modal adapter against the same work by Modal's own client, on the emulator of tests/modal_emulator.

    python benchmarks/remote.py

Needs a Docker engine and the image python:3.11-slim for the first part; the others take plain processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import modal
import theory_registry
from rounds import compare, ratio

from theory import Runner, Success
from theory_adapter_modal.function.documents import LIMITS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from theory.types import JsonObject

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from modal_emulator.handle import running  # the path to it is the line above

INPUTS = {"text": "to be or not to be"}
PARTS = ("sandboxes", "sandboxes-at-once", "functions", "functions-at-once")
AT_ONCE = 200
CONTAINERS = 20  # of one function
SHORT, LONG, PART = "sleep/short@1", "sleep/long@1", "sleep/part@1"
SECONDS = {SHORT: 0, LONG: 10, PART: 1}
ENTRY = """\
ref: {ref}
description: Takes its time
image: {{oci: "python:3.11-slim"}}
command: [sh, -c, "{command}"]
"""
BARE, RUN = "modal.Sandbox, the same steps", "Runner.run"
SPAWN = "modal.Function.spawn().get(), by hand"  # what somebody writes who has Modal's client alone
SERVE = "the same function by Modal's client"
MOST_RATIO, MOST_MS = 1.15, 30


def main(*parts: str) -> None:
    """Measure; each part in a process of its own, since Modal's client stays with one server."""
    if not parts:
        for part in PARTS:
            subprocess.run([sys.executable, __file__, part], check=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        for ref in SECONDS:
            entry = Path(folder, "entries", *ref.replace("@", "/").split("/"))
            entry.mkdir(parents=True)
            (entry / "processor.yaml").write_text(ENTRY.format(ref=ref, command=command_of(ref)))
        os.environ |= {"THEORY_HOME": f"{folder}/home", "THEORY_REGISTRY": f"{folder}/entries"}
        (part,) = parts
        measure = dict(zip(PARTS, (sandboxes, sandboxes_at_once, functions, functions_at_once), strict=True))
        with emulated("docker" if part == PARTS[0] else "process"), Runner() as runner:
            measure[part](runner)
    print(f"\nthreads left: {threading.active_count()}")


def command_of(ref: str) -> str:
    """What its shell runs."""
    return f"sleep {SECONDS[ref]}; echo done > /job/out/done.txt"


@contextlib.contextmanager
def emulated(runner: str) -> Iterator[None]:
    """Have an emulator whose containers are those, in the environment of this process."""
    with running("--runner", runner) as emulator:
        os.environ |= emulator.environ
        emulator.settings(most_containers=CONTAINERS)
        yield


def sandboxes(runner: Runner) -> None:
    """One after the other in one process."""
    folder = Path(theory_registry.__file__).parent / "text" / "wordcount" / "1"
    image = modal.Image.from_dockerfile(folder / "Dockerfile", context_dir=folder).entrypoint([])
    measured = {
        BARE: lambda: asyncio.run(sandboxed(image, "python", "main.py")),
        RUN: lambda: executed(runner, "text/wordcount@1", INPUTS),
    }
    report(compare(BARE, measured), BARE)


def functions(runner: Runner) -> None:
    """One after the other in one process, in containers that are warm."""
    bare, same, request = by_hand(), *deployed(runner, SHORT)
    measured = {
        SPAWN: lambda: bare.spawn(INPUTS, command_of(SHORT)).get(),
        SERVE: lambda: same.spawn(request()).get(),
        RUN: lambda: executed(runner, SHORT, INPUTS, mode="function"),
    }
    report(compare(SPAWN, measured), SPAWN)


def report(seconds: dict[str, list[float]], bare: str) -> None:
    """Say what a run takes more."""
    more = 1000 * (statistics.median(seconds[RUN]) - statistics.median(seconds[bare]))
    print(f"\n{ratio(seconds[RUN], seconds[bare]):6.2f}  at most {MOST_RATIO}")
    print(f"{more:+6.0f}  or at most +{MOST_MS} ms")


def sandboxes_at_once(runner: Runner) -> None:
    """Two hundred in flight; each command waits, as one on a machine of Modal's would."""
    image = modal.Image.from_registry("python:3.11-slim").entrypoint([])
    words = ("sh", "-c", command_of(LONG))

    async def all_of_them() -> None:
        await asyncio.gather(*(sandboxed(image, *words, left="done.txt") for _ in range(AT_ONCE)))

    at_once(BARE, all_of_them, lambda: executed(runner, LONG, {}))


def functions_at_once(runner: Runner) -> None:
    """Two hundred in flight, in twenty containers that are warm."""
    same, request = deployed(runner, PART)

    async def one() -> None:
        call = await same.spawn.aio(request())
        await call.get.aio()

    async def all_of_them(number: int = AT_ONCE) -> None:
        await asyncio.gather(*(one() for _ in range(number)))

    asyncio.run(all_of_them(CONTAINERS))  # they are warm from here on
    at_once(SERVE, all_of_them, lambda: executed(runner, PART, {}, mode="function"))


def at_once(
    name: str, bare_ones: Callable[[], Coroutine[object, object, None]], run: Callable[[], None]
) -> None:
    """Time two hundred of both, and look at threads and memory of ours."""
    began = time.perf_counter()
    asyncio.run(bare_ones())
    bare = time.perf_counter() - began
    print(f"\n{name}: {AT_ONCE} at once in {bare:.1f} s")
    before, most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = [pool.submit(run) for _ in range(AT_ONCE)]
        while not all(job.done() for job in jobs):
            most = max(most, threading.active_count())
            time.sleep(0.05)
        for job in jobs:
            job.result()
    taken = time.perf_counter() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{RUN}: {AT_ONCE} at once in {taken:.1f} s, at most {most} threads, {grown:.0f} MiB more")
    print(f"{taken / bare:6.2f}  at most  1.1 of the time")


def executed(runner: Runner, ref: str, inputs: JsonObject, mode: str = "sandbox") -> None:
    """One execution, durable."""
    envelope = runner.run(ref, inputs, adapter="modal", options={"mode": mode}, memo="off")
    assert isinstance(envelope, Success), envelope


def deployed(runner: Runner, ref: str) -> tuple[modal.Function[..., Any, Any], Callable[[], bytes]]:
    """Deploy the entry's function; also what gives it a job each time."""
    command, processor = Path(sys.executable).with_name("theory"), runner.entry(ref)
    told = subprocess.run([command, "modal", "deploy", ref], check=True, stdout=subprocess.PIPE)
    app = json.loads(told.stdout)["app"]
    same = modal.Function.from_name(app, "serve")
    job = {
        "command": list(processor.command or ()),
        "environment": {},
        "secrets": [],
        "files": [],
        "timeout": processor.runtime.timeout,
        "memory": processor.runtime.memory,
        "inputs": json.dumps(INPUTS),
        "volume": app,
        "environment_name": None,
        "limits": LIMITS,
    }
    return same, lambda: json.dumps({**job, "execution": uuid.uuid4().hex}).encode()


def by_hand() -> modal.Function[..., Any, Any]:
    """Deploy what somebody would write."""
    app = modal.App("bench")
    app.function(serialized=True, image=modal.Image.from_registry("python:3.11-slim"), name="work")(work)
    app.deploy()
    return modal.Function.from_name("bench", "work")


def work(inputs: JsonObject, command: str) -> dict[str, bytes]:
    """Run a command in a folder with inputs, and give back what it left."""
    import json  # noqa: PLC0415 - in a container there is nothing of this module
    import subprocess  # noqa: PLC0415 - as above
    import tempfile  # noqa: PLC0415 - as above
    from pathlib import Path  # noqa: PLC0415 - as above

    with tempfile.TemporaryDirectory() as job:
        Path(job, "inputs.json").write_text(json.dumps(inputs))
        out = Path(job, "out")
        out.mkdir()
        subprocess.run(["sh", "-c", command.replace("/job", job)], check=True, capture_output=True)
        return {file.name: file.read_bytes() for file in out.iterdir()}


async def sandboxed(image: modal.Image, *command: str, left: str = "counts.json") -> None:
    """The same by Modal's client: a sandbox, the inputs into it, the command, what it left, the end."""
    app = await modal.App.lookup.aio("bench", create_if_missing=True)
    sandbox = await modal.Sandbox.create.aio(
        *("sleep", "600"),
        app=app,
        image=image,
        timeout=700,
        cpu=(1, 1),
        memory=(512, 512),
        block_network=True,
    )
    try:
        await asyncio.gather(
            sandbox.filesystem.write_text.aio(json.dumps(INPUTS), "/job/inputs.json"),
            sandbox.filesystem.make_directory.aio("/job/out"),
        )
        process = await sandbox.exec.aio(*command, timeout=600)
        await asyncio.gather(process.stdout.read.aio(), process.stderr.read.aio())
        assert await process.wait.aio() == 0
        assert await sandbox.filesystem.read_bytes.aio(f"/job/out/{left}")
    finally:
        await sandbox.terminate.aio()


if __name__ == "__main__":
    main(*sys.argv[1:])
