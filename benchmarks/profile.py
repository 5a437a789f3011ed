"""The processor data/profile on a large CSV, against `wc -l` plus one pass of `csv.reader` over it.

python benchmarks/profile.py 200     # MB; 1000 if left out
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

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


def cpu_seconds(argv: list[str], environment: dict[str, str] | None = None) -> float:
    """Return the processor time of a command; its own, whatever else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, env=environment, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure in turn and print a line a round."""
    size_mb = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "artifacts", "table.csv")
        table.parent.mkdir()
        generate(table, size_mb * MB)
        Path(folder, "job", "out").mkdir(parents=True)
        artifact = {"$artifact": "/artifacts/table.csv", "cid": "b3:" + "0" * 64, "mime": "text/csv"}
        Path(folder, "job", "inputs.json").write_text(json.dumps({"table": artifact}), encoding="utf-8")
        print(f"{'yardstick s':>12} {'profile s':>10} {'MB/s':>6} {'ratio':>6} {'peak MiB':>9}")
        for _ in range(ROUNDS):
            yardstick = cpu_seconds(["wc", "-l", str(table)])
            yardstick += cpu_seconds([sys.executable, "-c", READ, str(table)])
            taken = cpu_seconds(
                [sys.executable, str(PROGRAM / "main.py")], {**os.environ, "THEORY_ROOT": folder}
            )
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # KiB on Linux
            print(
                f"{yardstick:12.2f} {taken:10.2f} {size_mb / taken:6.1f} {taken / yardstick:6.2f} {peak:9.0f}"
            )


if __name__ == "__main__":
    main()
