"""A clock that jumps expires nothing that is alive: real processes, each with a clock of its own.

Whose process cannot be looked at, on another machine or in another pid namespace, is judged by the deadline
alone (design 9); what that costs is given back when it closes: tests/core/test_ledger.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core.bed import Fake, done, good, house, write_entry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.bed import Call
    from theory import Runner

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

DAY = 86_400
JUMPS = pytest.mark.parametrize("jump", [DAY, -DAY], ids=["a day ahead", "a day behind"])
LIMIT, HELD, COST = 1000, 600, 7

# Told how many seconds its clock is ahead, before anything of ours is there to look at a clock.
CLOCK = """
import sys, time
ahead, right = float(sys.argv[1]), time.time
time.time = lambda: right() + ahead
from pathlib import Path
from core.bed import Fake, done, good, house
folder = Path(sys.argv[2])
"""

# Runs until it gets a line: its reservation is open meanwhile.
HOLD = f"""{CLOCK}
def act(call):
    call.channel.started()
    print("holds", flush=True)
    input()
    call.write({{"a.txt": "done"}})
    return done(cost_micro_usd={COST})

with house(folder, Fake(act=act)) as runner:
    good(runner.run("test/thing@1", plan="p", memo="off", reserve_micro_usd={HELD}))
print("closed", flush=True)
"""

# What every start does, and what `theory plan reconcile` does.
LOOK = f"""{CLOCK}
with house(folder, Fake(act=lambda call: (call.channel.started(), done())[1])) as runner:
    assert abs(time.time() - right() - ahead) < 60
    good(runner.run("test/thing@1", plan="p", memo="off"))
    runner.ledger.renew()
    print(*runner.ledger.reconcile(), flush=True)
"""


def start(code: str, ahead: float, folder: Path) -> subprocess.Popen[str]:
    tests = str(Path(__file__).parent.parent)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-W", "error", "-c", code, str(ahead), str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def closed_by(ahead: float, folder: Path) -> str:
    """What a process with such a clock closes at its start and after it."""
    process = start(LOOK, ahead, folder)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return said.strip()


def money(runner: Runner) -> tuple[int, int]:
    plan = runner.ledger.plan("p")
    return plan.reserved_micro_usd, plan.spent_micro_usd


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_entry(tmp_path / "entries")
    return tmp_path


@pytest.fixture
def runner(folder: Path) -> Iterator[Runner]:
    def act(call: Call) -> object:
        call.channel.started()
        return done()

    with house(folder, Fake(act=act)) as runner:
        runner.ledger.create_plan("p", LIMIT)
        yield runner


@JUMPS
def test_who_comes_with_another_clock_leaves_a_live_reservation_alone(
    runner: Runner, folder: Path, jump: int
) -> None:
    with start(HOLD, 0, folder) as holder:
        assert line(holder) == "holds\n"
        assert closed_by(jump, folder) == ""
        assert money(runner) == (HELD, 0)
        assert holder.communicate("\n", timeout=120)[0] == "closed\n"
        assert (money(runner), runner.ledger.check_chain("p")) == ((0, COST), ())


@JUMPS
def test_whose_own_clock_is_wrong_keeps_its_reservation_and_closes_it_once(
    runner: Runner, folder: Path, jump: int
) -> None:
    with start(HOLD, jump, folder) as holder:
        assert line(holder) == "holds\n"
        assert closed_by(0, folder) == ""
        good(runner.run("test/thing@1", plan="p", memo="off"))
        assert (runner.ledger.reconcile(), money(runner)) == ((), (HELD, 0))
        assert holder.communicate("\n", timeout=120)[0] == "closed\n"
        assert (money(runner), runner.ledger.check_chain("p")) == ((0, COST), ())


@JUMPS
def test_what_the_dead_held_is_charged_at_once_whatever_the_clock_says(
    runner: Runner, folder: Path, jump: int
) -> None:
    """The control: they do look for the dead."""
    with start(HOLD, 0, folder) as holder:
        assert line(holder) == "holds\n"
        holder.kill()
        holder.communicate()
        closed_by(jump, folder)
        assert (money(runner), runner.ledger.check_chain("p")) == ((0, HELD), ())
