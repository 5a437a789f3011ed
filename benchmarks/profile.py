"""The processor data/profile on a large CSV, against `wc -l` plus one pass of `csv.reader` over it.

It has as many processes as its entry asks for cores: `ratio` is that of time, and `of CPU` that of work.

python benchmarks/profile.py 200     # MB; 1000 if left out
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

import yaml

MB = 1_000_000
ROUNDS = 3
WORDS = ("red", "green", "blue", "bike", "station", "north", "south", "lake", "bridge", "market", "rain")
READ = "import csv, sys\nfor row in csv.reader(open(sys.argv[1], newline='', encoding='utf-8')): pass"
PROGRAM = Path(__file__).resolve().parents[1] / "registry" / "processors" / "data" / "profile" / "1"
START = datetime(2020, 1, 1)  # noqa: DTZ001 - what the cells say, without a time zone


def generate(path: Path, size_bytes: int) -> None:
    """Write a table of ids, times, words, prices, counts, booleans and remarks, the same every time."""
    chance = random.Random(7)  # noqa: S311 - test data
    written = row = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("id,at,place,price,count,member,remark\n")
        while written < size_bytes:
            at = (START + timedelta(seconds=chance.randrange(10**8))).isoformat()
            remark = " ".join(chance.choices(WORDS, k=4))
            written += file.write(
                f"{row},{at},{chance.choice(WORDS)},{chance.uniform(0, 1000):.2f},{chance.randrange(100)},"
                f"{chance.choice(('yes', 'no', ''))},{remark}\n"
            )
            row += 1


def timed(argv: list[str], environment: dict[str, str] | None = None) -> tuple[float, float, float]:
    """Run a command; return its seconds, those of CPU time, and the peak of all its processes in MiB."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    child = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL)
    peak = 0
    while child.poll() is None:
        peak = max(peak, sum(map(resident, family(child.pid))))
        time.sleep(0.02)
    taken = time.perf_counter() - start
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, argv)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak / 1024


def family(parent: int) -> list[int]:
    """Return a process and its children; Linux only."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [parent, *map(int, children.split())]


def resident(process: int) -> int:
    """Return the KiB that a process has in memory, its share of what it has in common with others."""
    try:
        found = re.search(
            r"^Pss:\s+(\d+)", Path(f"/proc/{process}/smaps_rollup").read_text("ascii"), re.MULTILINE
        )
    except OSError:
        return 0  # it has just ended
    return int(found[1]) if found else 0


def main() -> None:
    """Measure in turn and print a line a round."""
    size_mb = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    cores = yaml.safe_load((PROGRAM / "processor.yaml").read_text(encoding="utf-8"))["runtime"]["cpu"]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "artifacts", "table.csv")
        table.parent.mkdir()
        generate(table, size_mb * MB)
        Path(folder, "job", "out").mkdir(parents=True)
        artifact = {"$artifact": "/artifacts/table.csv", "cid": "b3:" + "0" * 64, "mime": "text/csv"}
        Path(folder, "job", "inputs.json").write_text(json.dumps({"table": artifact}), encoding="utf-8")
        environment = {**os.environ, "THEORY_ROOT": folder, "OMP_NUM_THREADS": str(cores)}
        print(f"{'yardstick s':>12} {'profile s':>10} {'MB/s':>6} {'ratio':>6} {'of CPU':>7} {'MiB':>5}")
        for _ in range(ROUNDS):
            lines = timed(["wc", "-l", str(table)])
            rows = timed([sys.executable, "-c", READ, str(table)])
            taken, processor, peak = timed([sys.executable, str(PROGRAM / "main.py")], environment)
            yardstick = lines[0] + rows[0]
            print(
                f"{yardstick:12.2f} {taken:10.2f} {size_mb / taken:6.1f} {taken / yardstick:6.2f}"
                f" {processor / (lines[1] + rows[1]):7.2f} {peak:5.0f}"
            )


if __name__ == "__main__":
    main()
