"""Runs of ``theory`` by the thousand, most of them killed, and what must come of it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from core.bed import write_entry
from proofs.forks import Ended, Forks, Try
from proofs.judge import enrolled, faults, left_over
from theory import Runner, config

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

COLD = 0.08  # the share of runs that begin with Python itself
SPARED = 0.1  # the share that nobody kills
AT_STEPS = 0.5  # the share of all others that is killed at a step; the rest at a time
AGAIN, WITH_ID = 0.4, 0.6
_STEPS_OF_A_RUN = 70  # about, as long as none has come to its end
_STEPS_OF_A_PLAN = 14  # and some: until there is one

RESERVED, COST = 50, 20  # micro-USD
PLAN = "kills"
REFUSED = "ERR_BUDGET"
PROGRAM = """
cd "$THEORY_ROOT/job/out" && mkdir -p deep/er
printf '{"cost_micro_usd": 20}' > meta.json
cat ../inputs.json > deep/er/inputs.json
head -c 90000 /dev/zero | cat ../inputs.json - > large.bin
echo done > last.txt
"""
_TEXTS = {"text.txt": "to be\n", "large.txt": "x" * 80_000, "c/d": "e"}
ENTRIES: dict[str, Any] = {
    "kills/program@1": {"command": ["sh", "main.sh"]},
    "kills/simulated@1": {"adapter": {"mock": {"outputs": _TEXTS}}},
    # Their envelope does not fit into the ledger.
    "kills/many@1": {"adapter": {"mock": {"outputs": {f"{n:0240}.txt": f"{n}" for n in range(180)}}}},
}
ATTACHED = ("10", "10000")  # files of so many times their name
KINDS = (*["program"] * 4, *["simulated"] * 7, "many")


def write_entries(folder: Path) -> None:
    """The entries that run, and what is attached."""
    for ref, fields in ENTRIES.items():
        made = write_entry(folder / "entries", ref, cost={"reserve_micro_usd": RESERVED}, **fields)
        (made / "main.sh").write_text(PROGRAM)
    for name in ATTACHED:
        (folder / name).write_bytes(name.encode() * int(name))


def environ_of(folder: Path) -> dict[str, str]:
    """The variables of all runs: a home below the folder, and the Python of the tests."""
    names = ("PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return {**kept, "PYTHONHASHSEED": "0", "HOME": str(folder), "THEORY_HOME": str(folder / "home")}


def runner_of(folder: Path) -> Runner:
    """A new look at the home of these runs."""
    environ = {"HOME": str(folder), "THEORY_HOME": str(folder / "home")}
    return Runner(config.load(environ, folder), environ=environ)


def arguments(
    folder: Path, kind: str, inputs: dict[str, Any], *more: str, execution_id: str = ""
) -> tuple[str, ...]:
    """One run of ``theory``."""
    given = ["run", f"kills/{kind}@1", "--json", "--quiet", "--plan", PLAN]
    given += (
        ["--adapter", "process"]
        if kind == "program"
        else ["--adapter", "mock", "-o", f"cost_micro_usd={COST}"]
    )
    given += ["--registry", f"{folder / 'entries'}", "--write-prefix", "/artifacts/{execution_id}/"]
    given += ["--reserve-usd", f"{RESERVED / 1e6:.6f}", "--inputs-json", json.dumps(inputs), *more]
    return (*given, "--execution-id", execution_id) if execution_id else (*given,)


def wait_for_supervisors(home: Path) -> None:
    """Wait until the commands of the killed are dead too: each one's supervisor has a lock until then."""
    for lock in home.glob("state/*/adapter/running.lock"):
        with suppress(FileNotFoundError), open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_EX)


class Wanted(NamedTuple):
    """One run, until it is acknowledged."""

    kind: str
    arguments: tuple[str, ...]
    execution_id: str  # "" where theory mints one


class Load:
    """Makes up runs, and follows what becomes of each.

    Args:
        folder: With the entries and what is attached; the home is made below it.
        choice: Makes up all of it.
        limit: Of the plan, in micro-USD; None: none.
        mutant: What is wrong with these runs.
    """

    def __init__(
        self,
        folder: Path,
        forks: Forks,
        choice: random.Random,
        *,
        limit: int | None = None,
        mutant: str = "",
    ) -> None:
        self.folder = folder
        self.home = folder / "home"
        self._forks = forks
        self._choice = choice
        self._limit = limit
        self._mutant = mutant
        self._usual: dict[tuple[str, bool], Ended] = {}  # of a kind: the last that nobody killed
        self.counts: Counter[str] = Counter()

    def begin(self) -> None:
        """A new home, whose plan is made however often that is killed."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.told: dict[str, dict[str, Any]] = {}
        self._tried: Counter[str] = Counter()  # how often, by execution id
        self._again: list[Wanted] = []
        self.dead: Counter[str] = Counter()  # how often what a dead one held was charged, by execution id
        limit = () if self._limit is None else ("--limit", f"{self._limit / 1e6:.6f}")
        create = ("plan", "create", PLAN, *limit)
        is_made = False
        while not is_made:
            ended = self.command(*create, at_step=self._choice.randint(1, _STEPS_OF_A_PLAN))
            self.counts["kills"] += ended.is_killed
            is_made = ended.status == 0 or "is there already" in ended.err
            assert is_made or ended.is_killed, ended

    def command(self, *arguments: str, at_step: int | None = None) -> Ended:
        """A command, alone."""
        return self._forks.run([Try(arguments, at_step=at_step)])[0]

    def round(self, count: int) -> None:
        """So many runs, several at once, most of them killed."""
        wanted = [self._made_up() for _ in range(count)]
        tries = [self._killed(each) for each in wanted]
        for each, tried, ended in zip(wanted, tries, self._forks.run(tries), strict=True):
            self._follow(each, ended, is_cold=tried.is_cold)
        wait_for_supervisors(self.home)

    def finish(self) -> None:
        """Try again all that has an id and was not acknowledged: without a limit nothing is in its way."""
        assert self.command("plan", "limit", PLAN, "none").status == 0
        again, self._again = self._again, []
        tries = [Try(each.arguments, mutant=self._mutant) for each in again]
        for each, ended in zip(again, self._forks.run(tries), strict=True):
            assert ended.status == 0, (each, ended)
            self._follow(each, ended)

    def wrong(self) -> list[str]:
        """All that is wrong with the home."""
        with runner_of(self.folder) as runner:
            found = [*faults(runner, self.told.values())]
            return found or [*self._charged(runner)]

    def left(self) -> list[str]:
        """What gc leaves of the dead."""
        with runner_of(self.folder) as runner:
            return [*left_over(runner)] if enrolled(runner) else []

    def _charged(self, runner: Runner) -> Iterator[str]:
        """What is wrong with the plan: each try costs once, no more than it may, and nothing costs twice."""
        kinds: dict[str, Counter[str]] = {}
        for event in runner.ledger.events(PLAN):
            kinds.setdefault(event.execution_id or "", Counter())[event.kind] += 1
        spent = 0
        for id_, seen in kinds.items():
            ends = seen["budget.settle"] + seen["budget.expire"] + seen["budget.release"]
            closings = seen["execution.success"] + seen["execution.memo_hit"]
            spent += COST * seen["budget.settle"] + RESERVED * seen["budget.expire"]
            if not (closings <= 1 and seen["budget.settle"] <= 1 and seen["budget.reserve"] == ends):
                yield f"execution {id_} has {seen}"
            if id_ in self._tried and seen["budget.reserve"] > self._tried[id_]:
                yield f"execution {id_} was tried {self._tried[id_]} times and has {seen}"
            self.dead[id_] = seen["budget.expire"]
        plan = runner.ledger.plan(PLAN)
        if plan.spent_micro_usd != spent:
            yield f"{plan} has spent something else than {spent}"
        if plan.limit_micro_usd is not None and spent > plan.limit_micro_usd:
            yield f"{plan} has spent more than its limit"

    def _made_up(self) -> Wanted:
        choice = self._choice
        if self._again and choice.random() < AGAIN:
            return self._again.pop(choice.randrange(len(self._again)))
        kind = choice.choice(KINDS)
        id_ = str(uuid.UUID(int=choice.getrandbits(128), version=4)) if choice.random() < WITH_ID else ""
        inputs: dict[str, Any] = {"n": choice.randrange(4 if choice.random() < 0.4 else 10**6)}
        more: list[str] = []
        if choice.random() < 0.5:
            inputs["file"] = {"$attach": "file"}
            more += ["--attach", f"file={self.folder / choice.choice(ATTACHED)}"]
        if self.told and choice.random() < 0.2:
            envelope = self.told[choice.choice([*self.told])]
            inputs["former"] = {"$artifact": envelope["outputs"][0]["path"]}
        more += [option for option in ("--refresh", "--exclusive") if choice.random() < 0.2]
        return Wanted(kind, arguments(self.folder, kind, inputs, *more, execution_id=id_), id_)

    def _killed(self, wanted: Wanted) -> Try:
        """When it is killed: after some time, or at some step; or not at all."""
        choice = self._choice
        is_cold = not self._mutant and choice.random() < COLD
        tried = Try(wanted.arguments, is_cold=is_cold, mutant=self._mutant)
        usual = self._usual.get((wanted.kind, is_cold))
        if choice.random() < SPARED:
            return tried
        if usual is None or (not is_cold and choice.random() < AT_STEPS):
            return replace(tried, at_step=choice.randint(1, usual.steps if usual else _STEPS_OF_A_RUN))
        return replace(tried, after_s=choice.uniform(0, usual.duration_s * 1.1))

    def _follow(self, wanted: Wanted, ended: Ended, *, is_cold: bool = False) -> None:
        envelope, id_ = ended.envelope, wanted.execution_id
        self._tried[id_] += 1
        self.counts["runs"] += 1
        self.counts["kills"] += ended.is_killed
        self.counts["cold kills"] += ended.is_killed and is_cold
        if envelope is not None and envelope["status"] == "success":
            assert ended.is_killed or ended.status == 0, ended
            self.told[envelope["execution_id"]] = envelope
            self.counts["acknowledged"] += 1
            self.counts["memo hits"] += envelope["meta"]["memo"] == "hit"
            self.counts["tried again"] += bool(id_) and self._tried[id_] > 1
            if not ended.is_killed:
                self._usual[wanted.kind, is_cold] = ended
            return
        assert ended.is_killed or (envelope and envelope["error"]["code"] == REFUSED), ended
        self.counts["refused"] += envelope is not None
        if id_:
            self._again.append(wanted)
