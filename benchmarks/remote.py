"""The Modal adapter against the same work by Modal's own client, on the emulator of tests/modal_emulator.

    python benchmarks/remote.py

Needs a Docker engine and the image python:3.11-slim for the first part; the second one takes plain processes.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import modal
import theory_registry
from rounds import compare, ratio

from theory import Runner, Success

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theory.types import JsonObject

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from modal_emulator.handle import running  # the path to it is the line above

INPUTS = {"text": "to be or not to be"}
PARTS = ("one-by-one", "at-once")
AT_ONCE = 200
LONG = "sleep/long@1"
SECONDS = 10
ENTRY = f"""\
ref: {LONG}
description: Takes its time
image: {{oci: "python:3.11-slim"}}
command: [sh, -c, "sleep {SECONDS}; echo done > /job/out/done.txt"]
"""
BARE, RUN = "modal.Sandbox, the same steps", "Runner.run"
MOST_RATIO, MOST_MS = 1.15, 30


def main(*parts: str) -> None:
    """Measure; each part in a process of its own, since Modal's client stays with one server."""
    if not parts:
        for part in PARTS:
            subprocess.run([sys.executable, __file__, part], check=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        entry = Path(folder, "entries", *LONG.replace("@", "/").split("/"))
        entry.mkdir(parents=True)
        (entry / "processor.yaml").write_text(ENTRY)
        environ = {"THEORY_HOME": f"{folder}/home", "THEORY_REGISTRY": f"{folder}/entries"}
        if PARTS[0] in parts:
            with emulated("docker"), Runner(environ=environ) as runner:
                one_by_one(runner)
        else:
            with emulated("process"), Runner(environ=environ) as runner:
                at_once(runner)
    print(f"\nthreads left: {threading.active_count()}")


@contextlib.contextmanager
def emulated(runner: str) -> Iterator[None]:
    """Have an emulator whose containers are those, in the environment of this process."""
    with running("--runner", runner) as emulator:
        os.environ |= emulator.environ
        yield


def one_by_one(runner: Runner) -> None:
    """One after the other in one process."""
    folder = Path(theory_registry.__file__).parent / "text" / "wordcount" / "1"
    image = modal.Image.from_dockerfile(folder / "Dockerfile", context_dir=folder).entrypoint([])
    measured = {
        BARE: lambda: asyncio.run(sandboxed(image, "python", "main.py")),
        RUN: lambda: executed(runner, "text/wordcount@1", INPUTS),
    }
    seconds = compare(BARE, measured)
    more = 1000 * (statistics.median(seconds[RUN]) - statistics.median(seconds[BARE]))
    print(f"\n{ratio(seconds[RUN], seconds[BARE]):6.2f}  at most {MOST_RATIO}")
    print(f"{more:+6.0f}  or at most +{MOST_MS} ms")


def at_once(runner: Runner) -> None:
    """Two hundred in flight; each command waits, as one on a machine of Modal's would."""
    image = modal.Image.from_registry("python:3.11-slim").entrypoint([])
    words = ("sh", "-c", f"sleep {SECONDS}; echo done > /job/out/counts.json")

    async def all_of_them() -> None:
        await asyncio.gather(*(sandboxed(image, *words) for _ in range(AT_ONCE)))

    began = time.perf_counter()
    asyncio.run(all_of_them())
    bare = time.perf_counter() - began
    print(f"\n{BARE}: {AT_ONCE} at once in {bare:.1f} s")
    before, most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = [pool.submit(executed, runner, LONG, {}) for _ in range(AT_ONCE)]
        while not all(job.done() for job in jobs):
            most = max(most, threading.active_count())
            time.sleep(0.05)
        for job in jobs:
            job.result()
    taken = time.perf_counter() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{RUN}: {AT_ONCE} at once in {taken:.1f} s, at most {most} threads, {grown:.0f} MiB more")
    print(f"{taken / bare:6.2f}  at most  1.1 of the time")


def executed(runner: Runner, ref: str, inputs: JsonObject) -> None:
    """One execution, durable."""
    envelope = runner.run(ref, inputs, adapter="modal", options={"mode": "sandbox"}, memo="off")
    assert isinstance(envelope, Success), envelope


async def sandboxed(image: modal.Image, *command: str) -> None:
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
        assert await sandbox.filesystem.read_bytes.aio("/job/out/counts.json")
    finally:
        await sandbox.terminate.aio()


if __name__ == "__main__":
    main(*sys.argv[1:])
