"""Every benchmark, one after another, each in a process of its own: ``python benchmarks``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NAMES = {  # and their arguments: about twenty minutes in all
    "cold_start": [],
    "in_process": [],
    "growth": [],
    "process": [],
    "ingest": ["1024"],
    "small_files": [],
    "ledger": [],
    "profile": ["200"],
    "containers": [],
    "remote": [],
    "upkeep": [],
}


def main() -> None:
    """Run those that are named on the command line, or all."""
    for name in sys.argv[1:] or NAMES:
        print(f"\n{name}\n{'-' * len(name)}", flush=True)
        file = Path(__file__).with_name(f"{name}.py")
        subprocess.run([sys.executable, file, *NAMES[name]], check=True)


if __name__ == "__main__":
    main()
