"""Run a processor as the process adapter does: its own folder, THEORY_ROOT, and little else around it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from processors.runs import CID, ENTRIES, Done, Run, entry

WATCH = """
import os, re, runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, "")
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
    open(os.environ["THEORY_ROOT"] + "/peak", "w").write(str(int(peak) * 1024))
"""
"""Runs a program, then writes down its peak of resident memory; `wait4` would count the parent's too."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A function that runs a processor on bytes, text or a path, and returns what it did."""
    count = 0

    def once(
        ref: str,
        content: bytes | str | Path | None = None,
        *,
        key: str = "table",
        name: str = "data.csv",
        python: str = sys.executable,
        seed: str = "0",
        watch: bool = False,
        processes: int = 1,
        program: Path | None = None,
        **inputs: Any,
    ) -> Done:
        nonlocal count
        count += 1
        root = tmp_path / f"run{count}"
        out = root / "job" / "out"
        out.mkdir(parents=True)
        if content is not None:
            world = f"/artifacts/inputs/{CID}/{name}"
            file = root / world.lstrip("/")
            file.parent.mkdir(parents=True)
            if isinstance(content, Path):
                shutil.copyfile(content, file)
            else:
                file.write_bytes(content.encode() if isinstance(content, str) else content)
            inputs[key] = {"$artifact": world, "cid": CID, "mime": "text/csv"}
        (root / "job" / "inputs.json").write_text(json.dumps(inputs), encoding="utf-8")
        environment = {
            "PATH": os.defpath, "HOME": str(root), "TMPDIR": str(root), "THEORY_ROOT": str(root),
            "THEORY_REF": ref,
            "PYTHONHASHSEED": seed, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1",
            "TZ": "UTC", "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": str(processes),
        }  # fmt: skip
        command = entry(ref)["command"][1:]
        argv = [python, *(["-c", WATCH, *command] if watch else command)]
        folder = program or ENTRIES / ref.replace("@", "/")
        done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        peak = int((root / "peak").read_text(encoding="ascii")) if watch else 0
        return Done(done.returncode, done.stdout, done.stderr, out, peak)

    return once
