"""kill -9 at each system call of one cold ``theory run``: whatever was the last, the home is whole.

strace kills the run as it enters the call, so that one is not done any more. The long form takes every call
from the first look at the home on, those that change something first, and some of those before it, of a first
run and of one that follows another; the short form takes some of those that change something.

``tox -e proofs -- tests/proofs/test_syscalls.py -s --hypothesis-profile long -o faulthandler_timeout=0``
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import settings

from proofs.forks import Ended, Forks, Try
from proofs.judge import enrolled, faults, left_over
from proofs.load import COST, PLAN, RESERVED, arguments, environ_of, runner_of, write_entries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux"),
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]

IS_LONG = settings().max_examples > 1000  # --hypothesis-profile long
SOME = 4  # calls of a run in the short form
EARLY = 100  # in the long form: one of so many of the calls before the home is looked at
MISSED = 0.02  # the share of calls that may not come up again: the memory of a process is not laid out alike
LIMIT = 120.0  # seconds
FRESH = 3.0  # seconds for which a file of an entry is read more often (theory.entries.tree)
ID = "3b241101-e2bb-4255-8caf-4136c566a962"
BEFORE = "9c5b94b1-35ad-49bb-b118-8e8fc24abf80"
# What is not of these leaves all files as they are, so a kill at it ends as one at the next that is.
CHANGES = re.compile(
    r"(write|pwrite64|ftruncate|fallocate|rename|link|unlink|mkdir|rmdir|f?chmod|fchown|f(data)?sync|flock)\("
    r"|openat\(.*O_CREAT"
)
_NAME = re.compile(r"(\w+)\(")
MUTANT = """
import sys
sys.path.append(sys.argv.pop(1))
from proofs import mutants
getattr(mutants, sys.argv.pop(1))()
from theory.__main__ import main
main()
"""


class Call(NamedTuple):
    """One system call of a run."""

    name: str
    nth: int  # of this name
    line: str  # as strace shows it


class Bench:
    """Runs of ``theory`` under strace in a home that is as it was before each."""

    def __init__(self, folder: Path, forks: Forks) -> None:
        self._folder = folder
        self._forks = forks
        self._home, self._template = folder / "home", folder / "template"
        self.program: Sequence[str] = ("-m", "theory")

    def prepare(self, *, first: bool) -> None:
        """What the home is before each run: nothing, or that of one execution, whose plan has a limit."""
        if not first:
            assert self.theory("plan", "create", PLAN, "--limit", "1").status == 0
            assert self.theory(*self._run(0, execution_id=BEFORE)).status == 0
            self._home.rename(self._template)

    def wait_until_settled(self) -> None:
        """Until every run makes the same calls: the stamps of the files of the entries are old enough."""
        entries = [*(self._folder / "entries").rglob("*")]
        while max(path.stat().st_ctime for path in entries) > time.time() - FRESH:
            time.sleep(0.1)

    def theory(self, *arguments: str) -> Ended:
        """A command that nobody kills."""
        return self._forks.run([Try(arguments)])[0]

    def calls(self) -> tuple[list[Call], int]:
        """The calls of a run, and where the home is looked at first."""
        trace = self._folder / "trace"
        assert self._strace("-o", str(trace)).returncode == 0
        lines = trace.read_text(errors="replace").splitlines()
        seen: Counter[str] = Counter()
        calls, start = list[Call](), -1
        for line in lines:
            if (found := _NAME.match(line)) is None:
                continue  # a signal, or the exit
            seen[found[1]] += 1
            if start < 0 and f'"{self._home}' in line:
                start = len(calls)
            calls.append(Call(found[1], seen[found[1]], line))
        assert start > 0
        return calls, start

    def kill_at(self, call: Call) -> tuple[bool, str]:
        """Kill a run at a call: whether it came up, and what it had said by then."""
        inject = f"inject={call.name}:signal=KILL:when={call.nth}"
        ended = self._strace("-o", "/dev/null", "-e", f"trace={call.name}", "-e", inject)
        assert ended.returncode in {0, -signal.SIGKILL}, ended
        return ended.returncode != 0, ended.stdout

    def wrong(self, said: str) -> list[str]:
        """What is wrong after a kill, and after a second try of the same execution."""
        told = [json.loads(said)] if said.endswith("\n") else []
        found = self._look(told)
        again = self.theory(*self._run(1, execution_id=ID))
        if again.status or again.envelope is None:
            return [*found, f"the second try: {again}"]
        return [*found, *self._look([*told, again.envelope]), *self._charged()]

    def _look(self, told: list[dict[str, object]]) -> list[str]:
        if not self._home.exists():
            return [f"{envelope} is gone with its home" for envelope in told]
        with runner_of(self._folder) as runner:
            found = [*faults(runner, told)]
            if enrolled(runner):
                found += left_over(runner)
        return found

    def _charged(self) -> list[str]:
        """The killed try costs what it held, if it held something; the one that ended costs what it did."""
        with runner_of(self._folder) as runner:
            kinds = Counter(event.kind for event in runner.ledger.events(PLAN) if event.execution_id == ID)
            spent = COST * kinds["budget.settle"] + RESERVED * kinds["budget.expire"]
            before = COST * self._template.exists()
            is_new = kinds["execution.success"] == kinds["budget.settle"] == 1
            # The killed one may have come as far as the memo record; then the second try is served from it.
            is_served = (kinds["execution.memo_hit"], kinds["budget.expire"], kinds["budget.settle"]) == (
                1,
                1,
                0,
            )
            good = is_new != is_served and kinds["budget.expire"] <= 1
            plan = runner.ledger.plan(PLAN)
            return [] if good and plan.spent_micro_usd == before + spent else [f"{plan} after {kinds}"]

    def _run(self, n: int, execution_id: str) -> tuple[str, ...]:
        inputs = {"n": n, "file": {"$attach": "file"}}
        attach = ("--attach", f"file={self._folder / '10000'}", "--exclusive")
        return arguments(self._folder, "simulated", inputs, *attach, execution_id=execution_id)

    def _strace(self, *options: str) -> subprocess.CompletedProcess[str]:
        shutil.rmtree(self._home, ignore_errors=True)
        if self._template.exists():
            shutil.copytree(self._template, self._home)
        command = ["strace", "-qq", *options, sys.executable, *self.program, *self._run(1, execution_id=ID)]
        environ = environ_of(self._folder)
        return subprocess.run(
            command, check=False, capture_output=True, text=True, env=environ, cwd=self._folder, timeout=LIMIT
        )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    write_entries(tmp_path)
    with Forks(environ_of(tmp_path), tmp_path, 1) as forks:
        yield Bench(tmp_path, forks)


@pytest.mark.parametrize("first", [True, False], ids=["the first run of a home", "one that follows another"])
def test_a_run_may_be_killed_at_any_system_call(bench: Bench, *, first: bool) -> None:
    began = time.monotonic()
    if IS_LONG:
        bench.wait_until_settled()
    bench.prepare(first=first)
    calls, start = bench.calls()
    chosen = [call for call in calls[start:] if CHANGES.match(call.line)]
    if IS_LONG:
        chosen += [call for call in [*calls[:start:EARLY], *calls[start:]] if not CHANGES.match(call.line)]
    else:
        chosen = chosen[first :: len(chosen) // SOME]
    killed, told = 0, 0
    for call in chosen:
        is_killed, said = bench.kill_at(call)
        killed += is_killed
        told += bool(said)
        assert bench.wrong(said) == [], call
        if killed % 100 == 0 or call is chosen[-1]:
            minutes = (time.monotonic() - began) / 60
            print(f"killed at {killed} of {len(calls)} calls, {told} told, {minutes:.1f} minutes", flush=True)  # noqa: T201 - with -s
    assert killed >= len(chosen) * (1 - MISSED)


@pytest.mark.parametrize(
    ("mutant", "found"),
    [("records_first", "it is not in the store"), ("names_of_its_own", r"store/tmp/\.part-\w+ is left")],
)
def test_a_kill_at_a_system_call_finds_a_store_that_breaks_its_promises(
    bench: Bench, mutant: str, found: str
) -> None:
    """The control, where a large output is given its name."""
    tests = next(path for path in sys.path if path.endswith("tests"))
    bench.program = ("-c", MUTANT, tests, mutant)
    bench.prepare(first=False)
    calls, _ = bench.calls()
    naming = [call for call in calls if call.name == "rename" and "/blobs/b3/" in call.line]
    is_killed, said = bench.kill_at(naming[-1])
    assert (is_killed, said) == (True, "")
    assert any(re.search(found, fault) for fault in bench.wrong(said))
