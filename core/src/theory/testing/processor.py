"""The processor that ``AdapterContract`` runs: it does the steps that its inputs list, one after the other.

It is copied into an entry's folder as ``main.py`` and runs wherever the adapter runs things, so it knows
nothing of ``theory``: files and environment only, the standard library alone, on any Python from 3.8.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

ROOT = os.environ.get("THEORY_ROOT", "")
OUT = Path(ROOT + "/job/out")


def put(path: str, text: str) -> None:
    """Write an output as UTF-8, nothing added."""
    put_hex(path, text.encode().hex())


def put_hex(path: str, digits: str) -> None:
    """Write an output of any bytes, given as hex digits."""
    target = OUT / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(bytes.fromhex(digits))


def say_hex(stream: str, digits: str) -> None:
    """Write any bytes to "stdout" or "stderr"."""
    target = getattr(sys, stream).buffer
    target.write(bytes.fromhex(digits))
    target.flush()


def show_environment(path: str) -> None:
    """Write down every variable, and whether the home is a folder that can be written to."""
    home = os.environ.get("HOME", "")
    writable = Path(home).is_dir() and os.access(home, os.W_OK)
    seen = {"variables": dict(os.environ), "home_is_writable": writable}
    put(path, json.dumps(seen, sort_keys=True))


def copy_input(world_path: str, path: str) -> None:
    """Read the input file of this world path and write its bytes as an output."""
    put_hex(path, Path(ROOT + world_path).read_bytes().hex())


def try_to_write(world_path: str, path: str) -> None:
    """Open the input file of this world path for writing and write down what came of it."""
    target = ROOT + world_path
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_APPEND))
    except OSError:
        refused = True
    else:
        refused = False
    mode = stat.S_IMODE(Path(target).stat().st_mode)
    put(path, json.dumps({"refused": refused, "mode": mode, "is_root": os.geteuid() == 0}))


def find_secret(name: str, path: str) -> None:
    """Look for a secret where a processor may, and write down where it was and the SHA-256 of its value."""
    if name in os.environ:
        where, value = "env", os.environ[name]
    elif name + "_FILE" in os.environ:
        where, value = "file", Path(os.environ[name + "_FILE"]).read_text(encoding="utf-8")
    else:
        where, value = "nowhere", ""
    put(path, json.dumps({"where": where, "sha256": hashlib.sha256(value.encode()).hexdigest()}))


def leave_a_child(path: str) -> None:
    """Start a child that outlives us; this output's file is locked for as long as one of us lives."""
    OUT.mkdir(parents=True, exist_ok=True)
    lock = os.open(OUT / path, os.O_WRONLY | os.O_CREAT, 0o644)
    fcntl.flock(lock, fcntl.LOCK_EX)  # of the open file, which the child shares
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], pass_fds=[lock])


def ignore_signals() -> None:
    """Be deaf to all that can be ignored, children included."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def allocate(mebibytes: int) -> None:
    """Take this much memory, and touch it."""
    block = bytearray(b"x") * (mebibytes * 1024 * 1024)
    block.clear()


def sleep(seconds: float) -> None:
    """Do nothing for a while."""
    time.sleep(seconds)


def leave(status: int) -> None:
    """End with this exit status."""
    sys.exit(status)


STEPS = {
    step.__name__: step
    for step in (
        put,
        put_hex,
        say_hex,
        show_environment,
        copy_input,
        try_to_write,
        find_secret,
        leave_a_child,
        ignore_signals,
        allocate,
        sleep,
        leave,
    )
}


def main() -> None:
    """Do the steps in the inputs: ``{"steps": [["put", "a.txt", "hello"], ["leave", 3]]}``."""
    for name, *arguments in json.loads(Path(ROOT + "/job/inputs.json").read_bytes())["steps"]:
        STEPS[name](*arguments)


if __name__ == "__main__":
    main()
