"""Runs of the command ``theory`` by the thousand, ended by ``kill -9`` at any moment.

A cold start is nearly all imports, so a server that has imported them forks a child for each run, and the
child calls the command's own ``main``. A share of the runs is cold: there the child execs Python anew.
"""

from __future__ import annotations

import gc
import importlib
import json
import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_COUNTER_BYTES = 8
_DESCRIPTORS = 256  # the server has fewer
# Audit events of Python; and "open" to write.
_STEPS = frozenset(
    {"fcntl.flock", "os.chmod", "os.link", "os.mkdir", "os.posix_spawn", "os.remove", "os.rename", "os.rmdir"}
    | {"os.symlink", "os.truncate", "os.utime", "sqlite3.connect", "sqlite3.connect/handle"}
)
_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT
# What a run imports.
_PRELOADED = (
    "theory.__main__",
    "theory.cli.run",
    "theory.disk.claims",
    "theory.ledger.heartbeat",
    "theory_adapter_mock.adapter",
    "theory_adapter_process.adapter",
    "jsonschema_rs",
    "email.utils",
    "encodings.ascii",
)


@dataclass(frozen=True)
class Try:
    """One run of the command, and when it is killed; as it stands here it goes on to its end."""

    arguments: tuple[str, ...]  # of ``theory``
    after_s: float | None = None  # kill it so long after its start
    at_step: int | None = (
        None  # kill it at this step: an audit event of Python, such as the opening of a file
    )
    is_cold: bool = False
    mutant: str = ""  # a function of ``mutants`` that the child calls first


class Ended(NamedTuple):
    """What became of one run."""

    status: int  # -9: killed
    out: str
    err: str
    steps: int  # none are counted in a cold one
    duration_s: float

    @property
    def is_killed(self) -> bool:
        """Whether it was killed before it came to its end."""
        return self.status == -signal.SIGKILL

    @property
    def envelope(self) -> dict[str, Any] | None:
        """What it acknowledged: a line that is whole."""
        return json.loads(self.out) if self.out.endswith("\n") else None


class Forks:
    """The server, seen from a test; use it as a context manager.

    Args:
        environ: The variables of all runs.
        cwd: Their working directory.
        at_once: How many run at the same time.
    """

    def __init__(self, environ: Mapping[str, str], cwd: Path, at_once: int) -> None:
        command = [sys.executable, __file__, str(at_once)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, cwd=cwd, text=True
        )

    def __enter__(self) -> Forks:  # noqa: PYI034 - typing.Self is newer than our oldest Python
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # the end of its input ends it
        assert self._process.returncode == 0

    def run(self, tries: Iterable[Try]) -> list[Ended]:
        """Run these, several at once; how each ended, in their order."""
        wanted = [asdict(each) for each in tries]
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(wanted) + "\n")
        stdin.flush()
        return [Ended(*ended) for ended in json.loads(stdout.readline())]


class _Child:
    """One run."""

    def __init__(self, number: int, wanted: Try) -> None:
        self.number = number
        self.out = b""
        self._err = tempfile.TemporaryFile()  # noqa: SIM115 - until it has ended
        self._steps = mmap.mmap(-1, _COUNTER_BYTES)
        self._reading, writing = os.pipe()
        self._began = time.monotonic()
        self.pid = os.fork()
        if not self.pid:
            try:
                _become(wanted, writing, self._err, self._steps)
            finally:
                os._exit(99)
        os.close(writing)
        self.due = None if wanted.after_s is None else self._began + wanted.after_s

    def fileno(self) -> int:
        """For ``select``."""
        return self._reading

    def read(self) -> bool:
        """Take what it says; False at the end."""
        data = os.read(self._reading, 1 << 16)
        self.out += data
        return bool(data)

    def kill(self) -> None:
        """End it now; what it said before is read after this."""
        os.kill(self.pid, signal.SIGKILL)
        self.due = None

    def ended(self) -> Ended:
        """Wait for its end."""
        _, status = os.waitpid(self.pid, 0)
        took = time.monotonic() - self._began
        os.close(self._reading)
        with self._err as err:
            err.seek(0)
            said = err.read().decode(errors="surrogateescape")
        with self._steps as steps:
            count = int.from_bytes(steps[:], sys.byteorder)
        return Ended(
            os.waitstatus_to_exitcode(status), self.out.decode(errors="surrogateescape"), said, count, took
        )


def _become(wanted: Try, writing: int, err: IO[bytes], steps: mmap.mmap) -> None:
    """Be a run."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(writing, 1)
    os.dup2(err.fileno(), 2)
    if wanted.is_cold:
        os.execv(sys.executable, [sys.executable, "-m", "theory", *wanted.arguments])  # noqa: S606 - it is ours
    os.closerange(3, _DESCRIPTORS)  # of the runs beside it
    sys.argv = ["theory", *wanted.arguments]
    from theory.__main__ import main

    if wanted.mutant:
        from proofs import mutants

        getattr(mutants, wanted.mutant)()
    last, count = wanted.at_step, 0

    def count_steps(event: str, about: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in _STEPS and not (event == "open" and about[2] & _TO_WRITE):
            return
        count += 1
        steps[:] = count.to_bytes(_COUNTER_BYTES, sys.byteorder)
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count_steps)
    main()


def _run(tries: list[Try], at_once: int) -> list[Ended]:
    waiting, running = deque(enumerate(tries)), list[_Child]()
    results: dict[int, Ended] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            running.append(_Child(*waiting.popleft()))
        dues = [child.due for child in running if child.due is not None]
        patience = max(0.0, min(dues) - time.monotonic()) if dues else None
        ready, _, _ = select.select(running, (), (), patience)
        now = time.monotonic()
        for child in running:
            if child.due is not None and child.due <= now:
                child.kill()
        for child in ready:
            if not child.read():
                running.remove(child)
                results[child.number] = child.ended()
    return [results[number] for number in range(len(tries))]


def _serve(at_once: int) -> None:
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # a collection in a child would copy every page
    for line in sys.stdin:
        wanted = [Try(**{**each, "arguments": tuple(each["arguments"])}) for each in json.loads(line)]
        sys.stdout.write(json.dumps(_run(wanted, at_once)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])
    _serve(int(sys.argv[1]))
