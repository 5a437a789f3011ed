"""What the ledger promises several processes, by real ones that start, race, fork and are killed."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import settings

from theory.errors import Busy
from theory.ledger import Closing, Ledger
from theory.ledger.ledger import LASTS_S
from theory.ledger.owner import Owner

IS_LONG = settings().max_examples > 1000  # --hypothesis-profile long
PROCESSES, EACH, AMOUNT, LIMIT = (32, 1000, 7, 70_005) if IS_LONG else (8, 50, 7, 705)  # a part of them fits
FITS = LIMIT // AMOUNT
ROUNDS = 2_000 if IS_LONG else 40

RESERVE = f"""if True:
    import sys
    from pathlib import Path
    from theory.errors import BudgetRefused
    from theory.ledger import Ledger
    path, who = Path(sys.argv[1]), sys.argv[2]
    admitted = 0
    with Ledger(path) as ledger:
        print("ready", flush=True)
        input()
        for number in range({EACH}):
            try:
                ledger.reserve("p", f"{{who}}-{{number}}", {AMOUNT})
            except BudgetRefused:
                continue
            admitted += 1
    print(admitted)
"""

HOLD = """if True:
    import sys
    from pathlib import Path
    from theory.ledger import Ledger
    ledger = Ledger(Path(sys.argv[1]))
    ledger.reserve("p", "held", 600)
    print("ready", flush=True)
    input()
"""

WRITE = """if True:
    import sys, threading
    from pathlib import Path
    from theory.ledger import Closing, Ledger
    ledger, who, money = Ledger(Path(sys.argv[1])), sys.argv[2], 3
    def work(thread):
        for number in range(10**6):
            id_ = f"{who}-{thread}-{number}"
            ledger.reserve("p", id_, money)
            ledger.settle(Closing(id_, "p", "a/b@1", "mock", "execution.success", money, {}, (), "b3:", 0))
            sys.stdout.write(id_ + "\\n")
            sys.stdout.flush()
    print("ready", flush=True)
    input()
    for thread in range(3):
        threading.Thread(target=work, args=(thread,)).start()
"""

START = """if True:
    import sys
    from pathlib import Path
    print("ready", flush=True)
    input()
    from theory.ledger import Ledger
    print(Ledger(Path(sys.argv[1])).ensure_plan("p"))
"""

FORK = """if True:
    import os, sys
    from pathlib import Path
    from theory.errors import Busy
    from theory.ledger import Closing, Ledger
    ledger = Ledger(Path(sys.argv[1]))
    ledger.reserve("p", "parents", 300)
    ledger.reserve("p", "shared", 50)
    pid = os.fork()
    if pid == 0:
        # Closed by the child, and what the parent holds for it is the parent's to close.
        ledger.settle(Closing("shared", "p", "a/b@1", "mock", "execution.success", 7, {}, (), "b3:", 0))
        ledger.release("parents")              # not the child's to give back
        try:
            ledger.reserve("p", "parents", 1)  # its parent is running it
        except Busy:
            ledger.reserve("p", "childs", 200)
            ledger.renew()
            print(ledger.plan("p").reserved_micro_usd, flush=True)
            ledger.release("childs")
            ledger.close()
            os._exit(0)
        os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(ledger.reconcile(), ledger.plan("p").reserved_micro_usd, ledger.check_chain("p"))
    ledger.release("parents")
    ledger.release("shared")
    ledger.close()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger(path) as ledger:
        ledger.create_plan("p", LIMIT)
        yield ledger


def start(code: str, *arguments: object) -> "subprocess.Popen[str]":
    """A Python process that has said that it is ready, and waits for a line."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def go_on(child: "subprocess.Popen[str]") -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def test_processes_that_race_for_a_limit_get_all_of_it_and_no_more(ledger: Ledger, path: Path) -> None:
    children = [start(RESERVE, path, number) for number in range(PROCESSES)]
    for child in children:
        go_on(child)
    admitted = [int(child.communicate(timeout=1200)[0]) for child in children]
    assert [child.returncode for child in children] == [0] * PROCESSES
    assert sum(admitted) == FITS < PROCESSES * EACH
    assert (ledger.plan("p").reserved_micro_usd, ledger.check_chain("p")) == (FITS * AMOUNT, ())
    # All of them are gone without a word: what they held is charged, each once.
    assert len(ledger.reconcile()) == FITS
    assert ledger.reconcile() == ()
    state = ledger.plan("p")
    assert (state.reserved_micro_usd, state.spent_micro_usd) == (0, FITS * AMOUNT)
    assert state.events == 1 + 2 * FITS
    assert ledger.check_chain("p") == ()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize("now", [9e9, 1.0], ids=["set forward", "set back"])
def test_what_a_killed_process_held_is_charged_at_once_and_not_before_whatever_the_clock_says(
    ledger: Ledger, path: Path, now: float
) -> None:
    child = start(HOLD, path)
    with Ledger(path, clock=lambda: now) as other:
        assert other.reconcile() == ()
        child.kill()
        child.communicate()
        assert other.reconcile() == ("held",)
    assert (ledger.plan("p").reserved_micro_usd, ledger.plan("p").spent_micro_usd) == (0, 600)


def test_of_a_settlement_a_release_and_an_expiry_that_race_one_closes_the_reservation(
    ledger: Ledger, path: Path
) -> None:
    ledger.set_limit("p", None)
    late = time.time() + LASTS_S + 1
    with (
        Ledger(path, clock=lambda: late, owner=Owner("another boot", 1, 1, 1)) as elsewhere,
        ThreadPoolExecutor(3) as pool,
    ):
        for number in range(ROUNDS):
            id_ = f"e{number}"
            ledger.reserve("p", id_, 10)
            closing = Closing(id_, "p", "a/b@1", "mock", "execution.success", 4, {}, (), "b3:", 0)
            racers: list[Callable[[], object]] = [
                partial(ledger.settle, closing),
                partial(ledger.release, id_),
                elsewhere.reconcile,
            ]
            # A machine may let the same one win each time, so in three rounds of four one has a start.
            if (first := number % 4) < len(racers):
                racers.pop(first)()
            together = threading.Barrier(len(racers))

            def run(racer: Callable[[], object], together: threading.Barrier = together) -> None:
                together.wait(60)
                racer()

            list(pool.map(run, racers))
    ended: dict[str | None, list[str]] = {}
    for event in ledger.events("p"):
        held = json.loads(event.payload).get("reserved_micro_usd", 10)  # a settlement of nothing ends nothing
        if event.kind in {"budget.settle", "budget.release", "budget.expire"} and held:
            ended.setdefault(event.execution_id, []).append(event.kind)
    assert [len(kinds) for kinds in ended.values()] == [1] * ROUNDS
    assert set(chain.from_iterable(ended.values())) == {"budget.settle", "budget.release", "budget.expire"}
    # Whoever came first, it is closed once, holds nothing, and has cost what the events say.
    assert len(ledger.executions(limit=ROUNDS + 1)) == ROUNDS
    assert (ledger.plan("p").reserved_micro_usd, ledger.check_chain("p")) == (0, ())


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_a_retry_takes_over_from_a_killed_process_and_not_from_a_live_one(ledger: Ledger, path: Path) -> None:
    child = start(HOLD, path)
    with pytest.raises(Busy, match="execution held is running in another process"):
        ledger.reserve("p", "held", 100)
    child.kill()
    child.communicate()
    ledger.reserve("p", "held", 100)
    state = ledger.plan("p")
    assert (state.reserved_micro_usd, state.spent_micro_usd, ledger.reconcile()) == (100, 600, ())


def test_processes_that_start_together_make_one_ledger(path: Path) -> None:
    home = path.parent / "home" / "ledger.db"
    children = [start(START, home) for _ in range(4)]
    for child in children:
        go_on(child)
    assert sorted(child.communicate(timeout=120)[0] for child in children) == ["False\n"] * 3 + ["True\n"]
    with Ledger(home) as ledger:
        assert (ledger.plan("p").events, ledger.check_chain("p")) == (1, ())


def test_what_was_acknowledged_is_there_when_all_who_wrote_were_killed(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.ensure_plan("p")
    children = [start(WRITE, path, number) for number in range(3)]
    for child in children:
        go_on(child)
    told: list[str] = []
    for child in children:  # each has closed 20, and is somewhere in the next
        assert child.stdout is not None
        told += [child.stdout.readline() for _ in range(20)]
    for child in children:
        child.kill()
    for child in children:
        assert child.stdout is not None
        told += [line for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        child.communicate()
    with Ledger(path) as ledger:
        assert {line.strip() for line in told} <= {r.execution_id for r in ledger.executions(limit=10**6)}
        assert ledger.check_chain("p") == ()
        ledger.reconcile()
        assert (ledger.plan("p").reserved_micro_usd, ledger.check_chain("p")) == (0, ())


def test_a_forked_child_shares_the_file_and_none_of_its_parents_reservations(
    ledger: Ledger, path: Path
) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert said.splitlines() == ["550", "0", "() 350 ()"]
    state = ledger.plan("p")
    assert (state.reserved_micro_usd, state.spent_micro_usd, ledger.check_chain("p")) == (0, 7, ())
