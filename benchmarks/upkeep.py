"""``theory verify`` and ``theory gc`` on a home of 100,000 blobs, 1 % of them garbage.

The home is filled as in ``growth``, without running anything, and each command has a process of its own.
``verify --full`` is compared with reading and hashing the same bytes and nothing else: here, where it mostly
looks at records, and on a home of large files.
"""

from __future__ import annotations

import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from growth import fill

from theory import Runner, config
from theory.formats.canon import cid_of
from theory.ledger.upkeep import Pin
from theory.store import blobs
from theory.store.filestore import FileStore

COUNT, LARGE, LARGE_BYTES = 100_000, 500, 1_000_000
HUGE, HUGE_BYTES = 32, 64 * 1024 * 1024
ROUNDS = 3
COMMAND = """
import resource, sys
from theory.cancel import Cancellation
from theory.cli import run_command_line
status = run_command_line(sys.argv[1:], Cancellation())
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)
sys.exit(status)
"""


def garbage(runner: Runner, count: int) -> None:
    """Put blobs that nothing names."""
    with blobs.Batch(runner.store) as batch:
        for _ in range(count):
            batch.add(blobs.stage(runner.store, os.urandom(4096)))
        batch.put()


def put_large(runner: Runner, count: int, size_bytes: int) -> None:
    """Put files that are pinned."""
    for number in range(count):
        blob = blobs.stage(runner.store, number.to_bytes(4, "big") * (size_bytes // 4))
        runner.store.put([blob])
        runner.upkeep.pin(Pin(blob.cid, blob.cid))


def hashed(runner: Runner) -> float:
    """Seconds for reading and hashing every blob, and nothing else."""
    store = runner.store
    assert isinstance(store, FileStore)
    began = time.perf_counter()
    for _, data in store.small.all():
        assert isinstance(data, bytes)
        cid_of(data)
    for name, _ in store.files():
        with open(store.path(f"b3:{name.hex()}"), "rb") as file:
            cid_of(file.read())
    return time.perf_counter() - began


def timed(home: str, *arguments: str) -> tuple[float, float, int]:
    """Seconds of one command, of which the processor worked for it, and its largest memory in MiB."""
    began, busy = time.perf_counter(), cpu()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        env={**os.environ, "THEORY_HOME": home},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return time.perf_counter() - began, cpu() - busy, int(re.findall(r"peak (\d+)", done.stderr)[-1])


def cpu() -> float:
    """Seconds of processor time that commands have taken so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Fill, measure, print; the number of blobs is the argument, 100,000 unless told."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    with tempfile.TemporaryDirectory() as home, Runner(config.load({"THEORY_HOME": home})) as runner:
        fill(runner, 100)
        few = len(list(runner.store.list()))
        fill(runner, 1000)  # other executions, and some blobs that those have too
        each = (len(list(runner.store.list())) - few) / 1000
        fill(runner, int((count - LARGE) / each))
        made = len(list(runner.store.list()))
        put_large(runner, LARGE, LARGE_BYTES)
        print(f"{made + LARGE:,} blobs, {LARGE} of them files of {LARGE_BYTES:,} bytes")
        for command in (["verify", "--quick"], ["verify", "--full"], ["gc"], ["gc", "--grace", "0"]):
            measure(runner, command, count // 100)
    with tempfile.TemporaryDirectory() as home, Runner(config.load({"THEORY_HOME": home})) as runner:
        runner.ledger.ensure_plan("default")
        put_large(runner, HUGE, HUGE_BYTES)
        print(f"{HUGE} files of {HUGE_BYTES:,} bytes")
        measure(runner, ["verify", "--full"], 0)


def measure(runner: Runner, command: list[str], more: int) -> None:
    """Time one command a few times, after so many more blobs that nobody needs."""
    seconds, busy, peaks, yardstick = [], [], [], []
    for _ in range(ROUNDS):
        garbage(runner, more)
        if "--full" in command:
            yardstick.append(hashed(runner))
        second, worked, peak = timed(str(runner.settings.home), *command)
        seconds.append(second)
        busy.append(worked)
        peaks.append(peak)
    times = f"{statistics.median(seconds):6.2f} s, {statistics.median(busy):5.2f} s of CPU"
    line = f"{' '.join(command):15} {times}, {max(peaks):3} MiB"
    if yardstick:
        ratio = statistics.median(s / y for s, y in zip(seconds, yardstick, strict=True))
        line += f", {ratio:.2f} times reading and hashing alone"
    print(line, flush=True)


if __name__ == "__main__":
    main()
