"""What one input costs its parser: processor time and memory, measured in a process of its own."""

from __future__ import annotations

import base64
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

if TYPE_CHECKING:
    from collections.abc import Callable

    from proofs.fuzz_table import Parser

MOST_S = 1.0  # of processor time for one input
MOST_BYTES = 300 << 20  # of memory beyond what the process had before
GIVE_UP_S = 4  # of processor time, after which nobody asks how long it would take
_ADDRESSES = 3 << 30  # bytes, with all that Python maps: a bomb gets MemoryError, not the machine

# A piece of an input: what, how often, and where in it the number of its copy stands (-1: nowhere).
Piece = tuple[bytes, int, int]


def spread(pieces: list[Piece]) -> bytes:
    """The input that these pieces are."""
    whole = []
    for text, times, at in pieces:
        if at < 0:
            whole.append(text * times)
        else:
            whole.extend(text[:at] + b"%d" % number + text[at:] for number in range(times))
    return b"".join(whole)


def spelled(pieces: list[Piece]) -> list[list[Any]]:
    """The same as JSON."""
    return [[base64.b64encode(text).decode(), times, at] for text, times, at in pieces]


def read(document: list[list[Any]]) -> list[Piece]:
    """The other direction of ``spelled``."""
    return [(base64.b64decode(text), times, at) for text, times, at in document]


# -------------------------------------------------------------------- one input, measured


def memory(name: str) -> int:
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(name.encode() + b":"):
                return int(line.split()[1]) << 10
    return 0


def measured(
    parse: Callable[[bytes], object], refusals: tuple[type[Exception], ...], data: bytes
) -> dict[str, Any]:
    """What one input costs: seconds of processor time, bytes of memory at its highest, and what it raised.

    The high-water mark of the process's memory is set back before (proc(5), clear_refs).
    """
    fault = ""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    before, began = memory("VmRSS"), time.process_time()
    try:
        parse(data)
    except refusals:
        pass
    except Slow:
        fault = "slow"
    except Exception:  # noqa: BLE001 - that is what is looked for
        fault = traceback.format_exc()
    seconds = time.process_time() - began
    return {"seconds": seconds, "bytes": max(0, memory("VmHWM") - before), "fault": fault}


def verdict(found: dict[str, Any], patience: float = 1.0) -> str:
    """Why this is a find; or an empty string."""
    if found["fault"]:
        return str(found["fault"])
    if found["seconds"] > MOST_S * patience:
        return f"{found['seconds']:.1f} s of processor time"
    return f"{found['bytes'] >> 20} MiB of memory" if found["bytes"] > MOST_BYTES else ""


class Slow(BaseException):
    """Raised where an input keeps us too long."""


def too_slow(*_: object) -> None:
    raise Slow


def ready(name: str, folder: Path) -> tuple[Parser, Callable[[bytes], object]]:
    """A parser that has imported and compiled what it needs."""
    from proofs.fuzz_table import parser_of

    parser = parser_of(name)
    folder.mkdir(parents=True, exist_ok=True)
    parse = parser.make(folder)
    for seed in (*parser.seeds, b""):
        with suppress(Exception):  # it is fuzzed afterwards
            parse(seed)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + _ADDRESSES, hard))
    return parser, parse


def main(folder: Path) -> None:
    """Measure inputs, each with its parser a line of JSON on standard input, and answer with one."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.signal(signal.SIGPROF, too_slow)
    known: dict[str, tuple[Parser, Callable[[bytes], object]]] = {}
    for line in sys.stdin:
        name, pieces = json.loads(line)
        if name not in known:
            known[name] = ready(name, folder / name)
        (parser, parse), data = known[name], spread(read(pieces))
        signal.setitimer(signal.ITIMER_PROF, GIVE_UP_S)
        found = measured(parse, parser.refusals, data)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(found) + "\n")
        answers.flush()


def judged(inputs: list[tuple[str, list[Piece]]], folder: Path) -> list[dict[str, Any]]:
    """What each input costs its parser, in a process of their own that has imported all before."""
    lines = "".join(json.dumps([name, spelled(pieces)]) + "\n" for name, pieces in inputs)
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        input=lines, capture_output=True, text=True, timeout=60 + 2 * GIVE_UP_S * len(inputs), check=False,
    )  # fmt: skip
    answers: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    if len(answers) < len(inputs):  # it took the process with it
        answers.append({"seconds": 0, "bytes": 0, "fault": f"ended with {done.returncode}\n{done.stderr}"})
        answers += judged(inputs[len(answers) :], folder) if len(answers) < len(inputs) else []
    return answers


if __name__ == "__main__":
    main(Path(sys.argv[1]))
