"""What plans were spent on: the sums are those of a model, by ref and by day."""

import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.errors import ArtifactNotFound, LedgerFailed
from theory.ledger import Closing, Ledger
from theory.ledger.report import NOT_CLOSED, Line, Report, report

MEMORY = Path("/dev/shm")  # noqa: S108 - these need no disk, and a sync costs nothing there
NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc).timestamp()
DAY = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(clock: Clock) -> Iterator[Ledger]:
    with (
        tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder,
        Ledger(Path(folder, "ledger.db"), clock=clock) as ledger,
    ):
        ledger.ensure_plan("p")
        ledger.ensure_plan("q")
        yield ledger


def end(
    ledger: Ledger, id_: str, cost: int | None, *, ref: str = "a/a@1", plan: str = "p", **more: Any
) -> None:
    values: dict[str, Any] = {"kind": "execution.success", "envelope": {}, "names": (), "memo_key": "b3:"}
    ledger.settle(
        Closing(
            execution_id=id_,
            plan=plan,
            ref=ref,
            adapter="mock",
            actual_micro_usd=cost,
            started_at=0.0,
            **{**values, **more},
        )
    )


def spent(of: Report) -> dict[str, int]:
    return {name: line.spent for name, line in {"": of.total, **of.by_ref, **of.by_day}.items()}


def test_an_empty_ledger_has_spent_nothing(ledger: Ledger) -> None:
    assert report(ledger.read) == Report(Line(), {}, {})


def test_what_was_spent_is_told_by_ref_and_by_day_in_utc(ledger: Ledger, clock: Clock) -> None:
    end(ledger, "e1", 5)
    end(ledger, "e2", 7, ref="b/b@2", plan="q")
    clock.now = NOON + DAY / 2 - 0.001
    end(ledger, "e3", 1)
    clock.now += 0.002
    end(ledger, "e4", 2, kind="execution.failure")
    assert spent(report(ledger.read)) == {"": 15, "a/a@1": 8, "b/b@2": 7, "2026-03-01": 13, "2026-03-02": 2}
    assert spent(report(ledger.read, "q")) == {"": 7, "b/b@2": 7, "2026-03-01": 7}
    total = report(ledger.read).total
    assert (total.executions, total.failures, total.hits) == (4, 1, 0)


def test_a_hit_saves_what_its_source_cost(ledger: Ledger, clock: Clock) -> None:
    end(ledger, "e1", 40)
    clock.now += DAY
    for number in range(3):
        end(ledger, f"h{number}", 0, plan="q", kind="execution.memo_hit", source_execution_id="e1")
    end(ledger, "foreign", 0, kind="execution.memo_hit", source_execution_id="of another ledger")
    found = report(ledger.read)
    assert (found.total.hits, found.total.saved, found.total.spent) == (4, 120, 40)
    assert found.by_day["2026-03-02"].saved == found.by_ref["a/a@1"].saved == 120
    assert report(ledger.read, "q").total == Line(executions=3, hits=3, saved=120)


def test_an_overrun_is_counted_with_what_it_was_over(ledger: Ledger) -> None:
    ledger.reserve("p", "e1", 10)
    end(ledger, "e1", 25)
    ledger.reserve("p", "e2", 10)
    end(ledger, "e2", 10)
    found = report(ledger.read).by_ref["a/a@1"]
    assert (found.spent, found.overruns, found.over) == (35, 1, 15)


def test_what_the_dead_held_and_what_was_corrected_is_part_of_it(ledger: Ledger, clock: Clock) -> None:
    ledger.reserve("p", "e1", 10)
    end(ledger, "e1", None)
    clock.now += DAY
    ledger.correct("e1", 4)
    ledger.reserve("p", "dead", 9)
    ledger.release("dead")
    with Ledger(ledger._database.path, clock=clock, owner=None) as _:  # noqa: SLF001 - the same file
        pass
    assert spent(report(ledger.read)) == {"": 4, "a/a@1": 4, "2026-03-01": 10, "2026-03-02": -6}


def test_what_nobody_closed_has_no_ref_until_it_is_tried_again(ledger: Ledger, clock: Clock) -> None:
    from theory.ledger.owner import Owner

    with Ledger(ledger._database.path, clock=clock, owner=Owner("elsewhere", 1, 1, 1)) as other:  # noqa: SLF001 - the same file
        other.reserve("p", "dead", 9, lasts_s=1)
    clock.now += 2
    assert ledger.reconcile() == ("dead",)
    assert spent(report(ledger.read))[NOT_CLOSED] == 9
    end(ledger, "dead", 1)
    assert spent(report(ledger.read)) == {"": 10, "a/a@1": 10, "2026-03-01": 10}


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["p", "q"]),
            st.sampled_from(["a/a@1", "b/b@1"]),
            st.none() | st.integers(0, 50),
            st.integers(0, 50),
            st.integers(0, 3),
        ),
        max_size=12,
    )
)
def test_the_sums_are_those_of_the_plans_whatever_was_closed(
    rows: list[tuple[str, str, int | None, int, int]],
) -> None:
    clock = Clock()
    with (
        tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder,
        Ledger(Path(folder, "ledger.db"), clock=clock) as ledger,
    ):
        for plan in "pq":
            ledger.ensure_plan(plan)
        for number, (plan, ref, cost, held, day) in enumerate(rows):
            clock.now = NOON + day * DAY
            ledger.reserve(plan, f"e{number}", held)
            end(ledger, f"e{number}", cost, ref=ref, plan=plan)
        every = report(ledger.read)
        for found, plans in (
            (every, "pq"),
            (report(ledger.read, "p"), "p"),
            (report(ledger.read, "q"), "q"),
        ):
            assert found.total.spent == sum(ledger.plan(plan).spent_micro_usd for plan in plans)
            for lines in (found.by_ref, found.by_day):
                assert sum(line.spent for line in lines.values()) == found.total.spent
                assert sum(line.executions for line in lines.values()) == found.total.executions
    assert every.total.executions == len(rows)


def test_a_long_ledger_is_read_to_its_end(ledger: Ledger) -> None:
    for number in range(1_050):
        end(ledger, f"e{number}", 1)
    assert (report(ledger.read).total.executions, report(ledger.read).total.spent) == (1_050, 1_050)


@pytest.mark.parametrize("key", ["x", "", "\udcff"])
def test_a_plan_that_is_not_there_is_named(ledger: Ledger, key: str) -> None:
    with pytest.raises(ArtifactNotFound, match="there is no plan "):
        report(ledger.read, key)


def test_a_damaged_event_is_told_and_no_bug_of_ours(ledger: Ledger) -> None:
    import sqlite3
    from contextlib import closing

    end(ledger, "e1", 5)
    with closing(sqlite3.connect(ledger._database.path, isolation_level=None)) as raw:  # noqa: SLF001 - the same file
        raw.execute("DROP TRIGGER events_stay")
        raw.execute("UPDATE events SET payload = '{}' WHERE kind = 'execution.success'")
    with pytest.raises(LedgerFailed, match="an event of the ledger is damaged"):
        report(ledger.read)
