"""gc takes nothing away from eight processes that run, die and share what they make.

The long form, some minutes, which prints its figures:
``tox -e py -- tests/laws/test_gc_beside_writers.py -s --hypothesis-profile long -o faulthandler_timeout=0``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from core.bed import Fake, good, house
from theory.upkeep import gc
from theory.upkeep.verify import verify

if TYPE_CHECKING:
    import pytest

WRITERS = 8
ROUNDS = {"house": 12, "long": 3_000}
DIE_AS_IT_RUNS, DIE_AS_IT_CLOSES = (0, 1), (2, 3)  # these writers, by kill -9, in their last round

WRITER = """
import os, random, signal, sys
from pathlib import Path
from core.bed import Fake, done, good, house

folder, number, rounds, running, closing = Path(sys.argv[1]), *map(int, sys.argv[2:])
choice = random.Random(number)
last = 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def act(call):
    call.channel.started()
    if last and running:
        die()
    content = choice.randrange(12)
    size = choice.choice([100, 70_000])
    call.write({"a.bin": b"%d" % content * size, "own.txt": f"{number} {choice.random()}"})
    return done()

with house(folder, Fake(act=act)) as runner:
    runner.ledger.ensure_plan("default")
    settle = runner.ledger.settle
    def settled(closing_of):
        if last and closing:
            die()
        settle(closing_of)
    runner.ledger.settle = settled
    for number_of_round in range(rounds):
        last = number_of_round == rounds - 1
        if choice.random() < 0.3:
            inputs, attachments = {"file": {"$artifact": "/artifacts/outputs/a.bin"}}, {}
        else:
            file = folder / "files" / str(choice.randrange(8))
            inputs, attachments = {"file": {"$attach": "file"}}, {"file": file}
        memo = "refresh" if last else choice.choice(["auto", "auto", "off"])
        good(runner.run("test/thing@1", inputs, attachments=attachments, seed=choice.randrange(2), memo=memo))
"""

COLLECTOR = """
import sys
import time
from pathlib import Path
from core.bed import house
from theory.store import trash
from theory.upkeep import gc

folder, careless = Path(sys.argv[1]), sys.argv[2:] == ["careless"]
if careless:
    trash.is_free = lambda _: True  # the control: it asks nobody
done = 0
with house(folder) as runner:
    while not (folder / "stop").exists():
        freed = gc.collect(runner, policy=gc.Policy(keep_last=40), grace_s=0)
        done += freed.freed_blobs
(folder / "deleted").write_text(str(done))
"""


def start(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    tests = str(Path(__file__).parent.parent)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, env=environ)


def stress(folder: Path, rounds: int, *how: str) -> tuple[list[int], int]:
    """Exit statuses of the writers, and how many blobs were deleted beside them."""
    (folder / "files").mkdir()
    for number in range(8):
        (folder / "files" / str(number)).write_bytes(b"%d" % number * (500 if number % 2 else 90_000))
    with house(folder, Fake({"a.bin": "the first"})) as runner:
        good(runner.run("test/thing@1"))
    collector = start(COLLECTOR, folder, *how)
    writers = [
        start(WRITER, folder, number, rounds, int(number in DIE_AS_IT_RUNS), int(number in DIE_AS_IT_CLOSES))
        for number in range(WRITERS)
    ]
    statuses = [writer.wait(3600) for writer in writers]
    (folder / "stop").touch()
    assert collector.wait(120) == 0
    return statuses, int((folder / "deleted").read_text())


def test_nothing_that_is_needed_is_ever_deleted(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    began = time.monotonic()
    statuses, deleted = stress(tmp_path, ROUNDS[request.config.getoption("--hypothesis-profile") or "house"])
    took = time.monotonic() - began
    assert statuses == [-signal.SIGKILL] * 4 + [0] * 4
    assert deleted > 0
    with house(tmp_path) as runner:
        report = verify(runner.store, runner.ledger, runner.upkeep, full=True)
        assert report.faults == ()
        assert report.executions > WRITERS
        print(f"{report.executions} executions in {took:.0f} s, and {deleted} blobs deleted beside them")  # noqa: T201 - figures
        gc.collect(runner, grace_s=0)
        # What the dead left is gone, and a second look finds nothing more.
        again = gc.collect(runner, grace_s=0)
        assert again == gc.Freed(unused_bytes=again.unused_bytes)
        assert verify(runner.store, runner.ledger, runner.upkeep, full=True).faults == ()
        assert list(runner.store.staging.iterdir()) == []
    assert list((tmp_path / "home" / "state").iterdir()) == []


def test_the_control_that_waits_for_nobody_deletes_what_is_needed(tmp_path: Path) -> None:
    assert any(
        is_spoiled(tmp_path / str(number)) for number in range(8)
    )  # the first one shows it, nearly always


def is_spoiled(folder: Path) -> bool:
    folder.mkdir()
    statuses, _ = stress(folder, ROUNDS["house"], "careless")
    with house(folder) as runner:
        report = verify(runner.store, runner.ledger, runner.upkeep, full=True)
    return "missing" in {fault.fault for fault in report.faults} or 1 in statuses
