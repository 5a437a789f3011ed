"""An attachment on its way into the store, durable, against copying and hashing the same file.

Two yardsticks: ``cp`` and then ``b3sum``, nothing synced; and ``cp && sync -f``, nothing hashed. B3SUM may
hold the path of ``b3sum``; where there is none, one thread of the blake3 package hashes instead.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rounds import ratio

from theory.entries.registry import FolderRegistry
from theory.rooms.artifacts import materialize
from theory.rooms.inputs import check_inputs
from theory.store import blobs
from theory.store.filestore import FileStore
from theory.types import Ref

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1024 * 1024
ROUNDS = 7
INPUTS = '{"file": {"$attach": "file"}}'
HASH = "import sys, blake3; blake3.blake3(max_threads=1).update_mmap(sys.argv[1])"


def main() -> None:
    """Measure; the size in MiB is the argument, 256 unless told."""
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_FOLDER")) as name:
        folder = Path(name)
        source, copy = folder / "source.bin", folder / "copy.bin"
        with source.open("wb") as file:
            for _ in range(size):
                file.write(os.urandom(MIB))
        store = FileStore(folder / "store")
        entry = FolderRegistry(_registry()).resolve_ref(Ref.parse("text/wordcount@1"))
        assert entry is not None
        inputs = check_inputs(entry, INPUTS, {"file": str(source)})
        b3sum = os.environ.get("B3SUM") or shutil.which("b3sum")
        hashing = [b3sum] if b3sum else [sys.executable, "-c", HASH]

        def copy_and_hash() -> None:
            subprocess.run(["cp", source, copy], check=True)
            subprocess.run([*hashing, source], check=True, stdout=subprocess.DEVNULL)

        def copy_durably() -> None:
            subprocess.run(["cp", source, copy], check=True)
            subprocess.run(["sync", "-f", copy], check=True)

        def attach() -> None:
            materialize(inputs, store, fetch=lambda *_: None, lookup=lambda _: None, cancelled=lambda: False)

        def run() -> None:
            command = [Path(sys.executable).parent / "theory", "run", "text/wordcount@1", "--adapter", "mock"]
            subprocess.run(
                [*command, "--no-memo", "--inputs-json", INPUTS, "--attach", f"file={source}"],
                env={**os.environ, "THEORY_HOME": str(folder / "home")},
                stdout=subprocess.DEVNULL,
                check=True,
            )

        def take_out() -> None:
            blobs.clone(store, cid, copy)

        def clear() -> None:
            """Make room: a file that is replaced has to be freed, which takes a third of the time."""
            copy.unlink(missing_ok=True)
            shutil.rmtree(folder / "home", ignore_errors=True)
            store.delete([cid])

        attach()
        ((cid, _),) = store.list()
        unsynced, synced = f"cp and {'b3sum' if b3sum else 'blake3, 1 thread'}", "cp && sync -f"
        measured: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            unsynced: (clear, copy_and_hash),
            synced: (clear, copy_durably),
            "theory run --adapter mock --attach": (clear, run),
            "materialize, durable": (clear, attach),
            "out of the store, verified": (lambda: copy.unlink(missing_ok=True), take_out),
        }
        seconds = _rounds(measured)
    print(f"{f'{size} MiB':36} {'median ms':>10} {'min ms':>8} {unsynced:>20} {synced:>15}")
    for what, times in seconds.items():
        ratios = [ratio(times, seconds[yardstick]) for yardstick in (unsynced, synced)]
        middle, least = statistics.median(times) * 1000, min(times) * 1000
        print(f"{what:36} {middle:10.1f} {least:8.1f} {ratios[0]:20.2f} {ratios[1]:15.2f}")
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"largest resident size of this process: {largest} MiB")


def _rounds(
    measured: dict[str, tuple[Callable[[], object], Callable[[], object]]],
) -> dict[str, list[float]]:
    """Time each once a round, in turn, after its preparation and with nothing left to write."""
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    for number in range(ROUNDS + 1):
        for name, (prepare, call) in measured.items():
            prepare()
            os.sync()
            began = time.perf_counter()
            call()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    return seconds


def _registry() -> Path:
    """The entries that are installed."""
    spec = find_spec("theory_registry")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


if __name__ == "__main__":
    main()
