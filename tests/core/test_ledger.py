"""What the ledger promises one process: reservations closed once, executions true at once or not at all."""

import json
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from theory.errors import ArtifactNotFound, BudgetRefused, Busy, Internal, LedgerFailed, TheoryError, Usage
from theory.formats.canon import MAX_INTEGER, ZERO_CID
from theory.ledger import Closing, Ledger
from theory.ledger.owner import Owner
from theory.types import Artifact

DAY = 86_400.0
MEMORY = Path("/dev/shm")  # noqa: S108 - these need no disk, and a sync costs nothing there
ELSEWHERE = Owner("another boot", 1, 1, 1)


class Clock:
    """Seconds since the epoch, as the test has it."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Path(folder, "ledger.db")


@pytest.fixture
def ledger(path: Path, clock: Clock) -> Iterator[Ledger]:
    with Ledger(path, clock=clock) as ledger:
        ledger.create_plan("p", 1000)
        yield ledger


@pytest.fixture
def elsewhere(ledger: Ledger, path: Path, clock: Clock) -> Iterator[Ledger]:
    """The same file as another machine has it."""
    assert ledger.plan("p").limit_micro_usd == 1000
    with Ledger(path, clock=clock, owner=ELSEWHERE) as other:
        yield other


def artifact(path: str, cid: str = ZERO_CID) -> Artifact:
    return Artifact(path, cid, 1, "text/plain")


def ending(execution_id: str, cost: int | None = 0, **changes: Any) -> Closing:
    closing = Closing(
        execution_id=execution_id,
        plan="p",
        ref="text/wordcount@1",
        adapter="mock",
        kind="execution.success",
        actual_micro_usd=cost,
        envelope={"status": "success", "execution_id": execution_id, "meta": {"memo": "miss", "share": 0.5}},
        names=(artifact(f"/artifacts/outputs/{execution_id}.txt"),),
        memo_key="b3:" + "1" * 64,
        started_at=1_799_999_999.25,
        blobs={"entry": "b3:" + "2" * 64},
    )
    return replace(closing, **changes)


def kinds(ledger: Ledger, plan: str = "p") -> list[str]:
    return [event.kind for event in ledger.events(plan)]


def money(ledger: Ledger, plan: str = "p") -> tuple[int, int]:
    state = ledger.plan(plan)
    return state.reserved_micro_usd, state.spent_micro_usd


def payloads(ledger: Ledger, kind: str) -> list[str]:
    return [event.payload for event in ledger.events("p") if event.kind == kind]


class TestPlans:
    def test_a_plan_is_made_once_when_it_is_first_needed(self, ledger: Ledger) -> None:
        assert [ledger.ensure_plan("default"), ledger.ensure_plan("default")] == [True, False]
        assert ledger.plan("default").limit_micro_usd is None
        assert kinds(ledger, "default") == ["plan.create"]

    def test_a_plan_that_was_seen_once_is_not_looked_for_again(self, ledger: Ledger) -> None:
        asked: list[str] = []
        ledger.ensure_plan("p")
        ledger._database._files.connections[False].set_trace_callback(asked.append)  # noqa: SLF001
        ledger.ensure_plan("p")
        assert asked == []

    def test_a_plan_is_made_anew_where_the_file_was_replaced_after_a_failure(
        self, ledger: Ledger, path: Path
    ) -> None:
        ledger.ensure_plan("p")
        ledger._database.close()  # noqa: SLF001 - as it does after a failure
        for file in path.parent.iterdir():
            file.unlink()
        with pytest.raises(ArtifactNotFound, match="there is no plan 'p'"):
            ledger.settle(ending("a"))
        assert ledger.ensure_plan("p")
        ledger.settle(ending("a"))
        assert kinds(ledger) == ["plan.create", "execution.success"]

    def test_a_plan_that_is_there_cannot_be_made_again(self, ledger: Ledger) -> None:
        with pytest.raises(Usage, match="plan 'p' is there already"):
            ledger.create_plan("p", None)

    def test_all_plans_are_listed_by_key(self, ledger: Ledger) -> None:
        ledger.create_plan("a", None)
        assert [plan.key for plan in ledger.plans()] == ["a", "p"]

    def test_an_unknown_plan_is_answered_with_its_neighbours(self, ledger: Ledger) -> None:
        ledger.create_plan("research", None)
        with pytest.raises(ArtifactNotFound, match="there is no plan 'reserch'") as caught:
            ledger.set_limit("reserch", 5)
        assert caught.value.hint == "did you mean research?"

    @pytest.mark.parametrize("key", ["team-a", "Ünïcode plan", "x" * 128, "a/b:c"])
    def test_a_key_that_a_person_types_is_taken(self, ledger: Ledger, key: str) -> None:
        ledger.create_plan(key, 5)
        assert ledger.plan(key).limit_micro_usd == 5

    @pytest.mark.parametrize(
        ("key", "fault"),
        [
            ("", "has 0 characters"),
            ("x" * 129, "has 129 characters"),
            ("a\x1b[31m", "control"),
            ("a\u202eb", "direction-changing"),
            ("\udcff", "not UTF-8"),
            (" a", "begins or ends with a space"),
            ("e\u0301", "normal form C"),
        ],
        ids=ascii,
    )
    def test_a_key_that_harms_a_reader_is_refused(self, ledger: Ledger, key: str, fault: str) -> None:
        with pytest.raises(Usage, match=f"^the plan key .*{fault}"):
            ledger.ensure_plan(key)

    @pytest.mark.parametrize("amount", [-1, MAX_INTEGER + 1])
    def test_an_amount_out_of_range_is_refused_before_anything_is_written(
        self, ledger: Ledger, amount: int
    ) -> None:
        before = ledger.plan("p")
        calls: list[Callable[[], None]] = [
            lambda: ledger.create_plan("q", amount),
            lambda: ledger.set_limit("p", amount),
            lambda: ledger.reserve("p", "e", amount),
            lambda: ledger.correct("e", amount),
        ]
        for call in calls:
            with pytest.raises(Usage, match=r"micro-USD is out of range"):
                call()
        assert ledger.plans() == (before,)


class TestReservations:
    def test_the_limit_is_reached_exactly_and_never_passed(self, ledger: Ledger) -> None:
        ledger.reserve("p", "a", 600)
        ledger.reserve("p", "b", 400)
        with pytest.raises(
            BudgetRefused, match=r"limit of 0\.001 USD, of which 0\.00 is spent and 0\.001 res"
        ) as no:
            ledger.reserve("p", "c", 1)
        assert (no.value.hint, no.value.meta["asked_micro_usd"]) == (
            "raise the limit: theory plan limit KEY USD",
            1,
        )
        assert money(ledger) == (1000, 0)

    def test_what_is_spent_counts_against_the_limit(self, ledger: Ledger) -> None:
        ledger.settle(ending("a", 1000))
        with pytest.raises(BudgetRefused, match=r"0\.001 is spent"):
            ledger.reserve("p", "b", 1)

    def test_a_limit_is_a_condition_of_reserving_alone(self, ledger: Ledger) -> None:
        ledger.reserve("p", "a", 600)
        ledger.set_limit("p", 5)
        ledger.settle(ending("a", 700))
        ledger.reserve("p", "b", 0)
        ledger.settle(ending("b", 0))
        assert money(ledger) == (0, 700)

    def test_a_limit_that_is_lifted_refuses_nothing(self, ledger: Ledger) -> None:
        ledger.set_limit("p", None)
        ledger.reserve("p", "a", MAX_INTEGER)
        assert money(ledger) == (MAX_INTEGER, 0)

    def test_reserving_nothing_writes_nothing(self, ledger: Ledger, path: Path) -> None:
        before = path.read_bytes()
        ledger.reserve("p", "a", 0)
        ledger.release("a")
        assert (path.read_bytes(), kinds(ledger)) == (before, ["plan.create"])

    def test_a_reservation_on_a_plan_that_is_not_there_is_refused(self, ledger: Ledger) -> None:
        with pytest.raises(ArtifactNotFound, match="there is no plan 'q'"):
            ledger.reserve("q", "a", 1)

    def test_a_release_gives_everything_back_once(self, ledger: Ledger) -> None:
        ledger.reserve("p", "a", 600)
        ledger.release("a")
        ledger.release("a")
        assert (money(ledger), kinds(ledger)) == ((0, 0), ["plan.create", "budget.reserve", "budget.release"])

    @pytest.mark.parametrize("amount", [0, 5])
    def test_an_execution_that_is_running_cannot_be_started_again(self, ledger: Ledger, amount: int) -> None:
        ledger.reserve("p", "a", 600)
        with pytest.raises(Busy, match="execution a is running in another process"):
            ledger.reserve("p", "a", amount)
        assert money(ledger) == (600, 0)

    @pytest.mark.parametrize("amount", [0, 5])
    def test_an_execution_that_is_closed_cannot_be_started_again(self, ledger: Ledger, amount: int) -> None:
        ledger.settle(ending("a"))
        with pytest.raises(Busy, match="execution a was closed meanwhile"):
            ledger.reserve("p", "a", amount)

    @pytest.mark.parametrize("amount", [0, 300, 400])
    def test_a_retry_holds_anew_and_charges_what_the_dead_attempt_may_have_spent(
        self, ledger: Ledger, elsewhere: Ledger, clock: Clock, amount: int
    ) -> None:
        elsewhere.reserve("p", "a", 600, lasts_s=300)
        clock.now += 301
        assert ledger.reconcile(keep="a") == ()
        ledger.reserve("p", "a", amount)
        clock.now += DAY
        assert (money(ledger), ledger.reconcile()) == ((amount, 600), ())
        assert payloads(ledger, "budget.expire") == ['{"amount_micro_usd":600,"estimated":true}']
        ledger.settle(ending("a", 1))
        assert (money(ledger), ledger.check_chain("p")) == ((0, 601), ())
        ledger.correct("a", 41)
        assert (money(ledger), ledger.check_chain("p")) == ((0, 41), ())

    def test_a_retry_is_refused_where_both_attempts_together_pass_the_limit(
        self, ledger: Ledger, elsewhere: Ledger, clock: Clock
    ) -> None:
        elsewhere.reserve("p", "a", 600)
        clock.now += DAY
        with pytest.raises(BudgetRefused, match=r"0\.0006 is spent and 0\.00 reserved; 0\.000401 more"):
            ledger.reserve("p", "a", 401)
        assert (money(ledger), ledger.reconcile(), money(ledger)) == ((600, 0), ("a",), (0, 600))

    def test_a_retry_names_the_plan_that_the_first_attempt_was_on(
        self, ledger: Ledger, elsewhere: Ledger, clock: Clock
    ) -> None:
        elsewhere.reserve("p", "a", 600)
        clock.now += DAY
        ledger.ensure_plan("q")
        with pytest.raises(Usage, match="execution a holds a reservation on plan 'p'"):
            ledger.reserve("q", "a", 1)

    def test_nobody_releases_what_another_process_holds(self, ledger: Ledger, elsewhere: Ledger) -> None:
        elsewhere.reserve("p", "a", 600)
        ledger.release("a")
        assert money(ledger) == (600, 0)


class TestExpiry:
    def test_no_jump_of_the_clock_expires_what_a_live_process_of_this_machine_holds(
        self, ledger: Ledger, clock: Clock
    ) -> None:
        ledger.reserve("p", "a", 600, lasts_s=1000)
        for jump in (DAY, -2 * DAY, 400 * DAY):
            clock.now += jump
            assert ledger.reconcile() == ()
        assert money(ledger) == (600, 0)

    def test_only_the_deadline_decides_about_another_machine(
        self, ledger: Ledger, elsewhere: Ledger, clock: Clock
    ) -> None:
        elsewhere.reserve("p", "a", 600, lasts_s=300)
        clock.now += 299.9
        assert ledger.reconcile() == ()
        clock.now += 0.1
        assert ledger.reconcile() == ("a",)
        assert (money(ledger), payloads(ledger, "budget.expire")) == (
            (0, 600),
            ['{"amount_micro_usd":600,"estimated":true}'],
        )

    def test_a_renewal_puts_the_deadline_off(self, ledger: Ledger, elsewhere: Ledger, clock: Clock) -> None:
        elsewhere.reserve("p", "a", 600, lasts_s=300)
        clock.now += 200
        elsewhere.renew()
        clock.now += 200
        assert ledger.reconcile() == ()

    def test_the_heartbeat_renews_by_itself(self, ledger: Ledger, path: Path, clock: Clock) -> None:
        beaten = threading.Event()

        def told() -> float:
            if threading.current_thread().name == "theory-ledger-heartbeat":
                beaten.set()
            return clock.now

        with Ledger(path, clock=told, owner=ELSEWHERE) as other:
            other.reserve("p", "a", 600, lasts_s=0.003)
            clock.now += DAY
            beaten.clear()
            assert beaten.wait(30)
        # A beat that was under way when the ledger closed has ended: its renewal is from the later day.
        with closing(sqlite3.connect(path)) as raw:
            assert raw.execute("SELECT expires FROM reservations").fetchone()[0] > round(clock.now * 1e6)
        assert ledger.reconcile() == ()

    def test_what_expired_under_a_process_that_lives_is_corrected_when_it_closes(
        self, ledger: Ledger, elsewhere: Ledger, clock: Clock
    ) -> None:
        elsewhere.reserve("p", "a", 600)
        clock.now += DAY
        assert ledger.reconcile() == ("a",)
        elsewhere.settle(ending("a", 40))
        assert (money(ledger), payloads(ledger, "budget.correct")) == (
            (0, 40),
            ['{"actual_micro_usd":40,"delta_micro_usd":-560}'],
        )
        assert ledger.check_chain("p") == ()

    @pytest.mark.parametrize(("cost", "spent"), [(4, 5), (None, 1)])
    def test_what_another_thread_gave_back_just_now_is_charged_as_if_nothing_was_held(
        self, ledger: Ledger, path: Path, cost: int | None, spent: int
    ) -> None:
        ledger.settle(ending("before", 1))
        ledger.reserve("p", "a", 600)
        with Ledger(path) as same_process:
            same_process.release("a")
        ledger.settle(ending("a", cost))
        assert (money(ledger), ledger.check_chain("p")) == ((0, spent), ())

    def test_what_expired_and_closes_with_an_unknown_cost_is_charged_once(
        self, ledger: Ledger, elsewhere: Ledger, clock: Clock
    ) -> None:
        elsewhere.reserve("p", "a", 600)
        clock.now += DAY
        ledger.reconcile()
        elsewhere.settle(ending("a", None))
        record = ledger.execution("a")
        assert record is not None
        assert (money(ledger), record.actual_micro_usd, record.estimated) == ((0, 600), 600, True)

    def test_a_retry_after_an_expiry_costs_on_top_of_it(
        self, ledger: Ledger, elsewhere: Ledger, clock: Clock
    ) -> None:
        elsewhere.reserve("p", "a", 100)
        clock.now += DAY
        ledger.reconcile()
        ledger.reserve("p", "a", 100)
        ledger.settle(ending("a", 30))
        assert money(ledger) == (0, 130)

    @pytest.mark.parametrize("cost", [30, None])
    def test_an_attempt_that_was_given_up_and_still_closes_leaves_the_retry_its_own_reservation(
        self, ledger: Ledger, elsewhere: Ledger, clock: Clock, cost: int | None
    ) -> None:
        elsewhere.reserve("p", "a", 100)
        clock.now += DAY
        ledger.reserve("p", "a", 200)
        elsewhere.settle(ending("a", cost))
        first = 100 if cost is None else cost
        assert money(ledger) == (200, first)
        with pytest.raises(LedgerFailed, match="execution a was closed before"):
            ledger.settle(ending("a", 7, names=(artifact("/artifacts/second"),)))
        assert (money(ledger), ledger.name("/artifacts/second")) == ((0, first + 7), None)
        assert ledger.check_chain("p") == ()

    @pytest.mark.parametrize(("known", "total"), [(20, 40), (500, 500)])
    def test_a_late_closing_never_counts_less_than_was_corrected_by_hand(
        self, ledger: Ledger, elsewhere: Ledger, clock: Clock, known: int, total: int
    ) -> None:
        elsewhere.reserve("p", "a", 600)
        clock.now += DAY
        ledger.reconcile()
        ledger.correct("a", known)
        elsewhere.settle(ending("a", 40))
        assert (money(ledger), ledger.check_chain("p")) == ((0, total), ())

    def test_a_clock_that_is_set_back_breaks_no_chain(self, ledger: Ledger, clock: Clock) -> None:
        ledger.reserve("p", "a", 600)
        clock.now -= 10 * DAY
        ledger.settle(ending("a", 5))
        clock.now = 0
        ledger.settle(ending("b", 5))
        assert (money(ledger), ledger.check_chain("p")) == ((0, 10), ())
        assert [record.execution_id for record in ledger.executions(limit=9)] == ["b", "a"]


class TestClosing:
    def test_a_cost_below_the_reservation_gives_the_rest_back(self, ledger: Ledger) -> None:
        ledger.reserve("p", "a", 600)
        ledger.settle(ending("a", 40))
        assert (money(ledger), kinds(ledger)[1:]) == (
            (0, 40),
            ["budget.reserve", "budget.settle", "execution.success"],
        )

    def test_a_cost_above_the_reservation_is_recorded_in_full_as_an_overrun(self, ledger: Ledger) -> None:
        ledger.reserve("p", "a", 600)
        ledger.settle(ending("a", 1500))
        assert (money(ledger), payloads(ledger, "budget.settle")) == (
            (0, 1500),
            ['{"actual_micro_usd":1500,"estimated":false,"overrun":true,"reserved_micro_usd":600}'],
        )

    def test_an_unknown_cost_is_the_whole_reservation_and_marked_so(self, ledger: Ledger) -> None:
        ledger.reserve("p", "a", 600)
        ledger.settle(ending("a", None, kind="execution.failure"))
        assert (money(ledger), payloads(ledger, "budget.settle")) == (
            (0, 600),
            ['{"actual_micro_usd":600,"estimated":true,"overrun":false,"reserved_micro_usd":600}'],
        )

    @pytest.mark.parametrize("cost", [0, None])
    def test_what_reserved_nothing_and_cost_nothing_writes_no_settlement(
        self, ledger: Ledger, cost: int | None
    ) -> None:
        ledger.settle(ending("a", cost))
        assert kinds(ledger) == ["plan.create", "execution.success"]

    def test_an_execution_is_closed_once(self, ledger: Ledger) -> None:
        ledger.settle(ending("a", 5))
        before, named = ledger.plan("p"), ledger.name("/artifacts/outputs/a.txt")
        other = ending(
            "a", 7, kind="execution.failure", names=(artifact("/artifacts/outputs/a.txt", "b3:ff"),)
        )
        with pytest.raises(LedgerFailed, match=r"execution a was closed before, as execution\.success"):
            ledger.settle(other)
        assert (ledger.plan("p"), ledger.name("/artifacts/outputs/a.txt")) == (before, named)

    @pytest.mark.parametrize(
        ("changes", "fault"),
        [
            (
                {
                    "names": (
                        artifact("/artifacts/a"),
                        Artifact("/artifacts/b", ZERO_CID, 1, None),  # type: ignore[arg-type]  # on purpose
                    )
                },
                LedgerFailed,
            ),
            ({"envelope": {"text": "x" * 65_536}}, Internal),
            ({"plan": "q"}, ArtifactNotFound),
            ({"actual_micro_usd": -1}, Internal),
        ],
        ids=["a name that cannot be stored", "envelope", "plan", "cost"],
    )
    def test_a_closing_that_fails_leaves_nothing(
        self, ledger: Ledger, changes: dict[str, Any], fault: type[Exception]
    ) -> None:
        ledger.settle(ending("before", 1))
        ledger.reserve("p", "a", 600)
        before = ledger.plan("p")
        with pytest.raises(
            fault, match=r"too large|no plan|cost of -1|NOT NULL constraint failed: names.mime"
        ):
            ledger.settle(replace(ending("a", 5), **changes))
        assert (ledger.plan("p"), ledger.execution("a"), ledger.name("/artifacts/a")) == (before, None, None)
        ledger.settle(ending("a", 5))
        assert (money(ledger), ledger.check_chain("p")) == ((0, 6), ())

    def test_what_is_due_is_closed_also_where_a_plan_can_count_no_further(self, ledger: Ledger) -> None:
        ledger.settle(ending("a", MAX_INTEGER))
        ledger.settle(ending("b", MAX_INTEGER))
        assert (money(ledger), ledger.check_chain("p")) == ((0, MAX_INTEGER), ())
        with pytest.raises(BudgetRefused, match=r"cannot count beyond 9007199254\.740991 USD"):
            ledger.reserve("p", "c", 1)
        ledger.ensure_plan("q")
        ledger.reserve("q", "d", 5)
        assert money(ledger, "q") == (5, 0)

    def test_what_a_plan_could_not_count_is_not_taken_away_by_a_correction(self, ledger: Ledger) -> None:
        for cost in (MAX_INTEGER, 0):
            for id_ in ("a", "b"):
                if cost:
                    ledger.settle(ending(id_, None))
                ledger.correct(id_, cost)
        assert (money(ledger), ledger.check_chain("p")) == ((0, 0), ())

    def test_reservations_that_a_plan_could_never_settle_are_refused(self, ledger: Ledger) -> None:
        ledger.ensure_plan("q")
        ledger.reserve("q", "a", MAX_INTEGER - 1)
        with pytest.raises(BudgetRefused, match="cannot count beyond"):
            ledger.reserve("q", "b", 2)

    def test_a_closing_on_another_plan_than_the_reservation_is_our_bug(self, ledger: Ledger) -> None:
        ledger.ensure_plan("q")
        ledger.reserve("p", "a", 600)
        with pytest.raises(Internal, match="execution a holds a reservation on plan 'p', not on 'q'"):
            ledger.settle(ending("a", plan="q"))

    def test_a_record_tells_what_was_closed(self, ledger: Ledger, clock: Clock) -> None:
        done = ending("a", 5, kind="execution.memo_hit", source_execution_id="z")
        ledger.settle(done)
        record = ledger.execution("a")
        assert record is not None
        assert (record.plan, record.seq, record.kind, record.ref, record.adapter, record.memo_key) == (
            "p",
            3,
            "execution.memo_hit",
            "text/wordcount@1",
            "mock",
            done.memo_key,
        )
        assert (record.started_at, record.closed_at) == (done.started_at, clock.now)
        assert (record.envelope, record.envelope_cid, record.blobs) == (done.envelope, None, done.blobs)
        assert (record.source_execution_id, record.actual_micro_usd, record.estimated) == ("z", 5, False)

    def test_a_large_envelope_is_named_by_its_blob(self, ledger: Ledger) -> None:
        ledger.settle(ending("a", envelope={"text": "x" * 65_536}, envelope_cid=ZERO_CID))
        record = ledger.execution("a")
        assert record is not None
        assert (record.envelope, record.envelope_cid) == (None, ZERO_CID)

    @pytest.mark.parametrize("execution_id", ["never", "\udcff"], ids=ascii)
    def test_an_unknown_execution_has_no_record(self, ledger: Ledger, execution_id: str) -> None:
        assert ledger.execution(execution_id) is None

    def test_executions_are_listed_the_newest_first_over_all_plans_or_in_one(self, ledger: Ledger) -> None:
        ledger.ensure_plan("q")
        for execution_id, plan in (("a", "p"), ("b", "q"), ("c", "p"), ("d", "p")):
            ledger.settle(ending(execution_id, 1, plan=plan))
        assert [record.execution_id for record in ledger.executions(limit=3)] == ["d", "c", "b"]
        assert [record.execution_id for record in ledger.executions(limit=2, plan="p")] == ["d", "c"]
        assert [record.execution_id for record in ledger.executions(limit=9, plan="q")] == ["b"]

    def test_threads_that_close_at_once_keep_the_chain_whole(self, ledger: Ledger) -> None:
        def work(number: int) -> None:
            ledger.reserve("p", f"e{number}", 10)
            ledger.settle(ending(f"e{number}", 3))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(40)))
        assert (money(ledger), ledger.plan("p").events, ledger.check_chain("p")) == ((0, 120), 121, ())


class TestNames:
    def test_the_last_closed_execution_has_the_name(self, ledger: Ledger) -> None:
        path = "/artifacts/outputs/x.txt"
        ledger.settle(ending("a", names=(artifact(path, "b3:aa"),)))
        ledger.settle(ending("b", names=(artifact(path, "b3:bb"),)))
        assert ledger.name(path) == artifact(path, "b3:bb")

    def test_a_prefix_finds_all_that_begin_with_it_by_path(self, ledger: Ledger) -> None:
        paths = [
            "/artifacts/o/%",
            "/artifacts/o/_x",
            "/artifacts/o/é",
            "/artifacts/o/\U0010ffffz",
            "/artifacts/p",
        ]
        ledger.settle(ending("a", names=tuple(map(artifact, reversed(paths)))))
        assert [name.path for name in ledger.names("/artifacts/o/")] == paths[:4]
        assert [name.path for name in ledger.names("/artifacts/o/%")] == paths[:1]
        assert [name.path for name in ledger.names("")] == paths

    def test_a_listing_of_many_names_misses_none(self, ledger: Ledger) -> None:
        paths = [f"/artifacts/{number:05}" for number in range(2500)]
        ledger.settle(ending("a", names=tuple(map(artifact, paths))))
        assert [name.path for name in ledger.names("/artifacts/")] == paths

    @pytest.mark.parametrize(("count", "listed"), [(400, True), (2500, False)])
    def test_the_chain_tells_of_names_up_to_64_kib_whatever_else_its_line_has(
        self, ledger: Ledger, count: int, listed: bool
    ) -> None:
        names = tuple(artifact(f"/artifacts/{number:05}") for number in range(count))
        envelope = {"status": "success", "meta": {"note": "x" * 60_000}}
        ledger.settle(ending("a", names=names, envelope=envelope))
        (event,) = (event for event in ledger.events("p") if event.execution_id == "a")
        content = json.loads(event.payload)
        assert (content["envelope"], len(content.get("names", ()))) == (envelope, count if listed else 0)
        assert (len(list(ledger.names(""))), ledger.check_chain("p")) == (count, ())

    @pytest.mark.parametrize("wanted", ["/artifacts/none", "\udcff"], ids=ascii)
    def test_a_name_that_nobody_gave_is_nothing(self, ledger: Ledger, wanted: str) -> None:
        assert (ledger.name(wanted), list(ledger.names(wanted))) == (None, [])


class TestCorrections:
    def test_a_cost_that_becomes_known_replaces_the_estimate(self, ledger: Ledger) -> None:
        ledger.reserve("p", "a", 600)
        ledger.settle(ending("a", None))
        ledger.correct("a", 650)
        ledger.correct("a", 20)
        ledger.correct("a", 20)
        assert (money(ledger), kinds(ledger)[4:]) == ((0, 20), ["budget.correct", "budget.correct"])
        assert ledger.check_chain("p") == ()

    def test_a_cost_that_was_unknown_with_nothing_reserved_can_be_corrected(self, ledger: Ledger) -> None:
        ledger.settle(ending("a", None))
        ledger.correct("a", 20)
        assert money(ledger) == (0, 20)

    def test_a_cost_that_is_known_is_not_corrected(self, ledger: Ledger) -> None:
        ledger.settle(ending("a", 5))
        with pytest.raises(Usage, match="the cost of execution a is known, and not an estimate"):
            ledger.correct("a", 6)

    def test_an_execution_that_never_was_is_not_corrected(self, ledger: Ledger) -> None:
        with pytest.raises(ArtifactNotFound, match="there is no execution 'a'"):
            ledger.correct("a", 6)


class TestChain:
    @pytest.fixture
    def tampered(self, ledger: Ledger, path: Path) -> Iterator[sqlite3.Connection]:
        """The file in the hands of somebody who changes it, with the guards against accidents removed."""
        ledger.reserve("p", "a", 600)
        ledger.settle(ending("a", 5))
        assert ledger.check_chain("p") == ()
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            raw.executescript("DROP TRIGGER events_stay; DROP TRIGGER events_remain")
            yield raw

    @pytest.mark.parametrize(
        "change",
        [
            "ts = ts + 1",
            "kind = 'budget.release'",
            "execution_id = 'b'",
            "payload = replace(payload, '600', '601')",
            "payload = payload || ' '",
            "prev = 'b3:00'",
            "hash = 'b3:00'",
            "seq = 9",
        ],
    )
    def test_a_changed_column_is_found(
        self, ledger: Ledger, tampered: sqlite3.Connection, change: str
    ) -> None:
        tampered.execute(f"UPDATE events SET {change} WHERE seq = 2")  # noqa: S608 - our own words
        assert ledger.check_chain("p")

    def test_an_event_that_was_changed_with_its_hash_no_longer_fits_the_next(
        self, ledger: Ledger, tampered: sqlite3.Connection
    ) -> None:
        event = list(ledger.events("p"))[1]
        forged = replace(event, ts=event.ts + 1).computed_hash()
        tampered.execute("UPDATE events SET ts = ts + 1, hash = ? WHERE seq = 2", (forged,))
        assert ledger.check_chain("p") == ("event 3 does not follow the one before it",)

    @pytest.mark.parametrize(
        "change",
        ["payload = '{}'", "payload = 7", "ts = x'00'", "payload = substr(payload, 9)"],
    )
    def test_a_record_that_is_not_what_was_written_is_not_believed(
        self, ledger: Ledger, tampered: sqlite3.Connection, change: str
    ) -> None:
        tampered.execute("PRAGMA foreign_keys=OFF")
        tampered.execute(f"UPDATE events SET {change} WHERE seq = 4")  # noqa: S608 - our own words
        for read in (lambda: ledger.execution("a"), lambda: ledger.executions(limit=9)):
            with pytest.raises(LedgerFailed, match=r"event 4 of the plan 'p' is damaged"):
                read()

    @pytest.mark.parametrize("seq", [1, 2, 4], ids=["first", "middle", "last"])
    def test_a_removed_event_is_found(self, ledger: Ledger, tampered: sqlite3.Connection, seq: int) -> None:
        tampered.execute("DELETE FROM events WHERE seq = ?", (seq,))
        assert ledger.check_chain("p")

    def test_an_event_that_was_put_behind_the_last_is_found(
        self, ledger: Ledger, tampered: sqlite3.Connection
    ) -> None:
        tampered.execute(
            "INSERT INTO events (plan, seq, ts, kind, execution_id, payload, prev, hash)"
            " SELECT plan, 5, ts, 'plan.limit', NULL, payload, hash, hash FROM events WHERE seq = 4"
        )
        assert ledger.check_chain("p") == ("the plan's row has 4 events, and the last that is there is 5",)

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            ("spent_micro_usd = 4", "the plan's row has spent 4, and its events say 5"),
            ("limit_micro_usd = NULL", "the plan's row has limit None, and its events say 1000"),
        ],
    )
    def test_a_plan_that_does_not_add_up_is_found(
        self, ledger: Ledger, tampered: sqlite3.Connection, change: str, fault: str
    ) -> None:
        tampered.execute(f"UPDATE plans SET {change}")  # noqa: S608 - our own words
        assert ledger.check_chain("p") == (fault,)

    def test_a_reservation_that_vanished_is_found(self, ledger: Ledger, tampered: sqlite3.Connection) -> None:
        ledger.reserve("p", "b", 7)
        tampered.execute("DELETE FROM reservations")
        assert ledger.check_chain("p") == (
            "the plan's row has reserved 7, and its open reservations add up to 0",
        )

    def test_a_long_chain_is_read_to_its_end(self, ledger: Ledger) -> None:
        for limit in range(1100):
            ledger.set_limit("p", limit)
        assert [event.seq for event in ledger.events("p")] == list(range(1, 1102))
        assert ledger.check_chain("p") == ()

    def test_an_event_says_who_when_and_after_what(self, ledger: Ledger, clock: Clock) -> None:
        ledger.reserve("p", "a", 600)
        first, second = ledger.events("p")
        assert (first.plan, first.seq, first.prev, first.execution_id) == ("p", 1, "", None)
        assert (second.seq, second.ts, second.prev, second.execution_id, second.payload) == (
            2,
            round(clock.now * 1e6),
            first.hash,
            "a",
            '{"amount_micro_usd":600}',
        )

    def test_the_hash_of_an_event_never_changes(self, ledger: Ledger) -> None:
        (event,) = ledger.events("p")
        assert event.hash == "b3:abd0eab0321cfd9042f1157d80c8554a6b1d0fb61f548ef463f45a0631056cd8"


def test_every_failure_of_the_ledger_is_one_that_a_user_can_be_told(path: Path) -> None:
    path.mkdir()
    with pytest.raises(TheoryError, match="unable to open database file"):
        Ledger(path)
