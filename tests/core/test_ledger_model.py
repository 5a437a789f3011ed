"""The ledger against a model of it: whatever happens in whatever order, the accounts are the model's."""

import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from theory.errors import BudgetRefused, Busy, LedgerFailed, TheoryError, Usage
from theory.ledger import Closing, Ledger
from theory.ledger.owner import Owner

LASTS_S = 300
MEMORY = Path("/dev/shm")  # noqa: S108 - accounts need no disk, and a sync costs nothing there
amounts = st.integers(0, 60)
sides = st.sampled_from(["here", "there"])


@dataclass
class Held:
    side: str
    amount: int
    expires: float


def ending(id_: str, cost: int | None) -> Closing:
    return Closing(id_, "p", "a/b@1", "mock", "execution.success", cost, {}, (), "b3:", 0)


class Accounts(RuleBasedStateMachine):
    """Two machines at one file; neither can look at the other, so that only deadlines decide between them."""

    executions = Bundle("executions")

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_800_000_000.0
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        owners = {"here": Owner.here(), "there": Owner("another boot", 1, 1, 1)}
        self.ledgers = {
            side: Ledger(self.folder / "ledger.db", clock=lambda: self.now, owner=owner)
            for side, owner in owners.items()
        }
        self.limit: int | None = 200
        self.ledgers["here"].create_plan("p", self.limit)
        self.held: dict[str, Held] = {}
        self.remembered: dict[tuple[str, str], int] = {}  # who has reserved what, and not closed it
        self.charges: dict[str, int] = {}
        self.corrected: set[str] = set()
        self.estimated: set[str] = set()
        self.closed: set[str] = set()
        self.count = 0

    def teardown(self) -> None:
        assert self.ledgers["here"].check_chain("p") == ()
        for ledger in self.ledgers.values():
            ledger.close()
        shutil.rmtree(self.folder)

    def outcome(self, call: object, *arguments: object) -> type[TheoryError] | None:
        try:
            call(*arguments)  # type: ignore[operator]
        except TheoryError as error:
            return type(error)
        return None

    def alive(self, held: Held, seen_from: str) -> bool:
        return held.side == seen_from or held.expires > self.now

    @rule(target=executions)
    def think_of_an_execution(self) -> str:
        self.count += 1
        return f"e{self.count}"

    @rule(limit=st.none() | st.integers(0, 300))
    def set_the_limit(self, limit: int | None) -> None:
        self.ledgers["there"].set_limit("p", limit)
        self.limit = limit

    @rule(seconds=st.sampled_from([1, 200, 400, -500, 86_400, -86_400]))
    def let_time_pass_or_set_the_clock_back(self, seconds: int) -> None:
        self.now += seconds

    @rule(side=sides, id_=executions, amount=amounts)
    def reserve(self, side: str, id_: str, amount: int) -> None:
        ledger, held = self.ledgers[side], self.held.get(id_)
        got = self.outcome(lambda: ledger.reserve("p", id_, amount, lasts_s=LASTS_S))
        total = sum(self.charges.values()) + sum(h.amount for h in self.held.values())
        if id_ in self.closed or (held and self.alive(held, side)):
            assert got is Busy
        elif amount and self.limit is not None and total + amount > self.limit:
            assert got is BudgetRefused
        else:
            assert got is None
            if held:
                self.expire(id_)
            if amount:
                self.held[id_] = Held(side, amount, self.now + LASTS_S)
                self.remembered[side, id_] = amount

    @rule(side=sides, id_=executions)
    def release(self, side: str, id_: str) -> None:
        self.ledgers[side].release(id_)
        self.remembered.pop((side, id_), None)
        held = self.held.get(id_)
        if held and held.side == side:
            del self.held[id_]

    @rule(side=sides)
    def renew(self, side: str) -> None:
        self.ledgers[side].renew()
        for id_, held in self.held.items():
            if held.side == side and (side, id_) in self.remembered:
                self.held[id_] = replace(held, expires=self.now + LASTS_S)

    @rule(keep=st.none() | executions)
    def reconcile(self, keep: str | None) -> None:
        dead = [id_ for id_, held in self.held.items() if id_ != keep and not self.alive(held, "here")]
        assert self.ledgers["here"].reconcile(keep=keep) == tuple(sorted(dead))
        for id_ in dead:
            self.expire(id_)

    @rule(side=sides, id_=executions, cost=st.none() | amounts)
    def close(self, side: str, id_: str, cost: int | None) -> None:
        self.closes(side, id_, cost, self.outcome(self.ledgers[side].settle, ending(id_, cost)))

    @rule(side=sides, ids=st.sets(executions, min_size=2, max_size=4), cost=st.none() | amounts)
    def close_from_threads_at_once(self, side: str, ids: set[str], cost: int | None) -> None:
        together = threading.Barrier(len(ids))

        def work(id_: str) -> type[TheoryError] | None:
            together.wait(60)
            return self.outcome(self.ledgers[side].settle, ending(id_, cost))

        with ThreadPoolExecutor(len(ids)) as pool:
            for id_, got in zip(ids, pool.map(work, ids), strict=True):
                self.closes(side, id_, cost, got)

    @rule(id_=executions, cost=amounts)
    def correct(self, id_: str, cost: int) -> None:
        got = self.outcome(self.ledgers["here"].correct, id_, cost)
        if id_ in self.estimated:
            assert got is None
            if self.charges.get(id_, 0) != cost:
                self.corrected.add(id_)
            self.charges[id_] = cost
        else:
            assert got is not None
            assert (got is Usage) == (id_ in self.closed)

    def expire(self, id_: str) -> None:
        self.charge(id_, self.held.pop(id_).amount)
        self.estimated.add(id_)

    def charge(self, id_: str, amount: int) -> None:
        self.charges[id_] = self.charges.get(id_, 0) + amount

    def closes(self, side: str, id_: str, cost: int | None, got: type[TheoryError] | None) -> None:
        """What a closing changes that has ended so."""
        assert got is (LedgerFailed if id_ in self.closed else None)
        held, reserved = self.held.get(id_), self.remembered.pop((side, id_), None)
        if held and held.side == side:
            self.charge(id_, held.amount if cost is None else cost)
            del self.held[id_]
            if cost is None:
                self.estimated.add(id_)
        elif id_ in self.closed:
            pass
        elif cost is None:
            self.estimated.add(id_)
        elif reserved is None:
            self.charge(id_, cost)
        elif id_ in self.corrected:
            self.charges[id_] = max(self.charges[id_], cost)
        else:
            self.charge(id_, cost - reserved)
        self.closed.add(id_)

    @invariant()
    def the_accounts_are_the_models(self) -> None:
        state = self.ledgers["there"].plan("p")
        assert (state.limit_micro_usd, state.reserved_micro_usd, state.spent_micro_usd) == (
            self.limit,
            sum(held.amount for held in self.held.values()),
            sum(self.charges.values()),
        )


IS_LONG = settings().max_examples > 1000  # --hypothesis-profile long: 10^5 steps
Accounts.TestCase.settings = settings(
    max_examples=2_000 if IS_LONG else 30,
    stateful_step_count=50 if IS_LONG else 30,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestAccounts = Accounts.TestCase
