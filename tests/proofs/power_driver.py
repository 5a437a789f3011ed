"""Loses the power of a disk again and again: a line of JSON asks for it, another tells what was found.

Asked is a ``Cut`` as JSON; told is ``Found``. A process of its own for two reasons: its mounts are seen by
nobody else, and it forks who writes and who judges from a Python that has imported all they need.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import random
import select
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from proofs import judge, power_load
from proofs.power import Disk

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_FAULTS = 20  # that are told of one look
_PATIENCE_S = 60  # for a line of a process that works
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h


@dataclass(frozen=True)
class Cut:
    """Who writes, and when the power is lost; where it begins, or else with what the last loss left."""

    how: Literal["step", "acknowledged", "command"]
    after: int = 0  # so many steps, or lines
    at_most_s: float = 0.0  # … and then some time, at random
    begin: Literal["warm", "new", ""] = ""  # a home with a past, or none at all
    mutant: str = ""


@dataclass
class Found:
    """What a look after the power came back found."""

    told: int = 0  # executions that were told before the power was lost, in this cut
    checked: int = 0  # … and in all since the disk was begun
    faults: list[str] = field(default_factory=list)
    is_over: bool = False  # the work was done before so many steps


class Driver:
    """One disk and what was told of it."""

    def __init__(self, folder: Path) -> None:
        self._disk = Disk(folder)
        self._beside = folder
        self._house = self._disk.root / "house"
        self._told: list[Any] = []
        blank = self._disk.snapshot()
        self._images = {kind: self._prepared(blank, warm=kind == "warm") for kind in ("new", "warm")}

    def lose(self, cut: Cut) -> Found:
        """Let somebody write, lose the power, and look."""
        if cut.begin:
            self._disk.restore(self._images[cut.begin])
            self._told.clear()
        self._disk.mount()
        pid, lines = self._start(cut)
        told = [] if cut.how == "step" else [lines.line() for _ in range(cut.after)]
        if cut.at_most_s:
            time.sleep(random.uniform(0, cut.at_most_s))  # noqa: S311 - any moment will do
        is_over = _stop(pid, by_itself=cut.how == "step")
        self._disk.lose_power()
        if not is_over:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        told += lines.rest()
        self._told += map(json.loads, told)
        self._disk.unmount()
        self._disk.mount()
        faults = self._judged()
        self._disk.unmount()
        return Found(len(told), len(self._told), faults, is_over)

    def _prepared(self, blank: int, *, warm: bool) -> int:
        self._disk.restore(blank)
        self._disk.mount()
        self._house.mkdir()

        def prepare(descriptor: int) -> object:
            runner = power_load.prepare(self._house, warm=warm)
            if warm:  # else it were no new home any more
                list(judge.faults(runner))
            power_load.tell(descriptor, json.dumps(list(sys.modules)))
            return runner

        pid, lines = _fork(prepare)
        told = lines.rest()
        if os.waitpid(pid, 0)[1]:
            raise RuntimeError("the home could not be prepared: see stderr")
        for name in json.loads(told[0]):  # so that nobody who is forked from here has to import them
            with suppress(ImportError):
                importlib.import_module(name)
        self._disk.unmount()
        return self._disk.snapshot()

    def _start(self, cut: Cut) -> tuple[int, Lines]:
        def write(descriptor: int) -> None:
            if cut.mutant:
                power_load.MUTANTS[cut.mutant]()
            if cut.how == "command":
                os.dup2(descriptor, 1)
                power_load.command(self._house, self._beside)
            if cut.how == "step":
                power_load.stop_after(cut.after)
            power_load.work(
                self._house,
                self._beside,
                lambda line: power_load.tell(descriptor, line),
                endless=cut.how == "acknowledged",
            )

        return _fork(write)

    def _judged(self) -> list[str]:
        def look(descriptor: int) -> object:
            runner = power_load.runner_in(self._house)
            faults = list(islice(judge.faults(runner, self._told), _MAX_FAULTS))
            power_load.tell(descriptor, json.dumps(faults))
            return runner

        pid, lines = _fork(look)
        answer = lines.rest()
        if os.waitpid(pid, 0)[1]:
            raise RuntimeError("who judges has failed: see stderr")
        return list(json.loads(answer[0]))


class Lines:
    """What a process tells, a line at a time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = b""

    def line(self) -> bytes:
        """The next line."""
        while b"\n" not in self._buffer:
            if not self._read():
                raise RuntimeError("who writes has ended too early: see stderr")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def rest(self) -> list[bytes]:
        """All whole lines, once nobody writes any more."""
        while self._read():
            pass
        os.close(self._descriptor)
        return self._buffer.split(b"\n")[:-1]

    def _read(self) -> bool:
        if not select.select([self._descriptor], [], [], _PATIENCE_S)[0]:
            raise TimeoutError(f"nothing was told in {_PATIENCE_S} s")
        data = os.read(self._descriptor, 1 << 16)
        self._buffer += data
        return bool(data)


def _fork(work: Callable[[int], object]) -> tuple[int, Lines]:
    """Do it in a process that dies with this one; it ends without closing anything."""
    reading, writing = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, Lines(reading)
    status = 1
    try:
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(status)
        os.close(reading)
        os.dup2(2, 1)  # standard output is ours
        kept = work(writing)  # noqa: F841 - else it were closed in good order, which takes the logs away
        status = 0
    except BaseException:  # noqa: BLE001 - whatever it is, this process must end here
        traceback.print_exc()
    finally:
        os._exit(status)


def _stop(pid: int, *, by_itself: bool) -> bool:
    """Wait until no thread of it runs any more; whether it has ended."""
    if not by_itself:
        os.kill(pid, signal.SIGSTOP)
    _, status = os.waitpid(pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        return False
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError("who writes has failed: see stderr")
    return True


def main() -> None:
    """Serve until standard input ends."""
    try:
        driver = Driver(Path(sys.argv[1]))
    except OSError as error:
        print(json.dumps({"refused": str(error)}), flush=True)  # noqa: T201 - whoever asks reads it
        return
    gc.freeze()  # a fork that collects garbage would copy all that we have
    print(json.dumps({}), flush=True)  # noqa: T201 - as above
    for line in sys.stdin:
        found = driver.lose(Cut(**json.loads(line)))
        print(json.dumps(asdict(found)), flush=True)  # noqa: T201 - as above


if __name__ == "__main__":
    main()
