"""What the ledger promises several processes, by real ones that start, race, fork and are killed."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from theory.ledger import Ledger

PROCESSES, EACH, AMOUNT, LIMIT = 8, 50, 7, 705  # 100 of the 400 fit

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

FORK = """if True:
    import os, sys
    from pathlib import Path
    from theory.errors import Busy
    from theory.ledger import Ledger
    ledger = Ledger(Path(sys.argv[1]))
    ledger.reserve("p", "parents", 300)
    pid = os.fork()
    if pid == 0:
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


def test_processes_that_race_for_a_limit_get_all_of_it_and_no_more(ledger: Ledger, path: Path) -> None:
    children = [start(RESERVE, path, number) for number in range(PROCESSES)]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    admitted = [int(child.communicate(timeout=120)[0]) for child in children]
    assert [child.returncode for child in children] == [0] * PROCESSES
    assert sum(admitted) == LIMIT // AMOUNT
    assert (ledger.plan("p").reserved_micro_usd, ledger.check_chain("p")) == (700, ())
    # All of them are gone without a word: what they held is charged, each once.
    assert len(ledger.reconcile()) == LIMIT // AMOUNT
    assert ledger.reconcile() == ()
    state = ledger.plan("p")
    assert (state.reserved_micro_usd, state.spent_micro_usd, state.events) == (0, 700, 201)
    assert ledger.check_chain("p") == ()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_what_a_killed_process_held_is_charged_at_once_and_not_before(ledger: Ledger, path: Path) -> None:
    child = start(HOLD, path)
    far = Ledger(path, clock=lambda: 9e9)
    assert far.reconcile() == ()
    child.kill()
    child.communicate()
    assert far.reconcile() == ("held",)
    far.close()
    assert (ledger.plan("p").reserved_micro_usd, ledger.plan("p").spent_micro_usd) == (0, 600)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_a_retry_takes_over_from_a_killed_process_and_not_from_a_live_one(ledger: Ledger, path: Path) -> None:
    child = start(HOLD, path)
    child.kill()
    child.communicate()
    ledger.reserve("p", "held", 600)
    assert (ledger.plan("p").reserved_micro_usd, ledger.reconcile()) == (600, ())


def test_a_forked_child_shares_the_file_and_none_of_its_parents_reservations(
    ledger: Ledger, path: Path
) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert said.splitlines() == ["500", "0", "() 300 ()"]
    assert (ledger.plan("p").reserved_micro_usd, ledger.check_chain("p")) == (0, ())
