"""What an audit finds in a ledger whose file somebody has changed, with and without a checkpoint."""

import itertools
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from theory.disk.sqlite import Database
from theory.errors import ArtifactNotFound, LedgerFailed, Usage
from theory.formats.canon import event_hash
from theory.ledger import Closing, Ledger
from theory.ledger.audit import MOST, Audit, Checkpoint, Mark, audit, checkpoint
from theory.ledger.chain import EVENT_COLUMNS, Tally
from theory.ledger.execution import executions_of
from theory.ledger.owner import Owner
from theory.ledger.report import report
from theory.ledger.upkeep import Upkeep
from theory.types import Artifact

MEMORY = Path("/dev/shm")  # noqa: S108 - these need no disk, and a sync costs nothing there
ELSEWHERE = Owner("another boot", 1, 1, 1)
FEW = settings(max_examples=settings().max_examples // 8)
IS_LONG = settings().max_examples > 1000  # every change of every row, not one of each
# What no event tells: how long a reservation lasts, and who holds it (docs/how-to/keep-a-budget.md).
UNTOLD = {("reservations", name) for name in ("expires", "boot", "namespace", "pid", "started")}


def output(path: str, fill: str) -> Artifact:
    return Artifact(path, "b3:" + fill * 64, 7, "text/plain")


def closing_of(id_: str, plan: str, cost: int | None, **changes: Any) -> Closing:
    fill = id_[-1]
    made = (output(f'/artifacts/outputs/{id_}/a "quoted".txt', fill), output("/artifacts/outputs/same", fill))
    documents = [
        {"path": name.path, "cid": name.cid, "size_bytes": name.size_bytes, "mime": name.mime}
        for name in made
    ]
    values: dict[str, Any] = {
        "execution_id": id_,
        "plan": plan,
        "ref": "text/wordcount@1",
        "adapter": "mock",
        "kind": "execution.success",
        "actual_micro_usd": cost,
        "envelope": {"status": "success", "outputs": documents},
        "names": (*made, output(f"/artifacts/execution/{id_}/outputs.json", fill)),
        "memo_key": "b3:" + "1" * 64,
        "started_at": 1_799_999_999.25,
        "blobs": {"entry": "b3:" + "2" * 64},
        "write_prefix": "/artifacts/outputs/",
    }
    return Closing(**{**values, **changes})


def fill(path: Path) -> None:
    """Two plans with every kind of event, and a reservation of another machine that is open."""
    now = iter(range(1_800_000_000, 1_900_000_000))
    with Ledger(path, clock=lambda: float(next(now)), owner=ELSEWHERE) as ledger:
        ledger.create_plan("p", 1_000)
        ledger.create_plan("q", None)
        for number, plan in enumerate("pqppq"):
            id_ = f"e{number}"
            ledger.reserve(plan, id_, 10 + number)
            if number == 2:
                ledger.release(id_)
            closing = closing_of(id_, plan, None if number == 1 else 5 * number)
            if number == 3:
                failed = {"envelope": {"status": "error"}, "names": ()}
                closing = closing_of(id_, plan, 20, kind="execution.failure", **failed)
            ledger.settle(closing)
        ledger.correct("e1", 3)
        ledger.set_limit("q", 900)
        ledger.reserve("q", "open", 77, lasts_s=10.0**9)
        ledger.reserve("p", "gone", 9, lasts_s=0.001)
    with Ledger(path, clock=lambda: float(next(now))) as ledger:
        assert ledger.reconcile() == ("gone",)


@pytest.fixture(scope="module")
def whole() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        path = Path(folder, "ledger.db")
        fill(path)
        with closing(sqlite3.connect(path)) as raw:
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        yield path


class Tampered:
    """A copy of a ledger in the hands of one who changes it, whatever guards it, and hides his traces."""

    def __init__(self, whole: Path) -> None:
        self._folder = tempfile.mkdtemp(dir=whole.parent)
        self.path = Path(self._folder, "ledger.db")
        shutil.copy(whole, self.path)
        self.ledger = Ledger(self.path)
        self.mark = checkpoint(self.ledger.read)
        self._raw = sqlite3.connect(self.path, isolation_level=None)
        self._raw.execute("PRAGMA ignore_check_constraints = ON")
        self._taken: list[str] = []

    def __enter__(self) -> "Tampered":  # noqa: PYI034 - typing.Self is newer than our oldest Python
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()
        self.ledger.close()
        shutil.rmtree(self._folder)

    @property
    def raw(self) -> sqlite3.Connection:
        """The file itself, with all that stands in the way taken away."""
        if not self._taken:
            query = "SELECT type, name, sql FROM sqlite_master WHERE type = 'trigger' OR name = 'closed_once'"
            for kind, name, sql in self._raw.execute(query).fetchall():
                self._raw.execute(f"DROP {kind} {name}")
                self._taken.append(sql)
        return self._raw

    def read(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        """What the ledger reads, once all is in its place again that the content lets be there."""
        while self._taken:
            with suppress(sqlite3.IntegrityError):
                self._raw.execute(self._taken.pop())
        return self.ledger.read(query, values)

    def audit(self, against: Checkpoint | None = None, key: str | None = None) -> Audit:
        return audit(self.read, key, against)

    def rehash(self, plan: str, first: int = 1) -> None:
        """Write a plan's chain anew from one event on, and its row."""
        head = ""
        for event in self.rows("events"):
            if event["plan"] != plan:
                continue
            id_, hash_ = event.pop("id"), event.pop("hash")
            if event["seq"] >= first:
                event["prev"] = head
                hash_ = event_hash(event)
                self.raw.execute("UPDATE events SET prev = ?, hash = ? WHERE id = ?", (head, hash_, id_))
            head = hash_
        self.raw.execute("UPDATE plans SET head = ? WHERE key = ?", (head, plan))

    def rows(self, name: str) -> list[dict[str, Any]]:
        cursor = self.raw.execute(f"SELECT * FROM {name}")  # noqa: S608 - our own words
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]


@pytest.fixture
def tampered(whole: Path) -> Iterator[Tampered]:
    with Tampered(whole) as tampered:
        yield tampered


def test_a_ledger_that_nobody_touched_is_whole(tampered: Tampered) -> None:
    found = tampered.audit(tampered.mark)
    assert found.faults == ()
    assert [plan.key for plan in found.plans] == ["p", "q"]
    assert found.events == sum(plan.events for plan in found.plans) == tampered.mark.rows
    assert found.names == len(tampered.rows("names"))
    assert tampered.audit(tampered.mark, "q").faults == ()


def test_a_checkpoint_holds_for_all_that_is_written_after_it(tampered: Tampered) -> None:
    with Ledger(tampered.path) as ledger:
        ledger.reserve("q", "later", 1)
        ledger.settle(closing_of("later", "q", 1))
        ledger.create_plan("new", None)
    assert tampered.audit(tampered.mark).faults == ()


def test_a_checkpoint_is_one_document_that_can_be_kept_as_text(tampered: Tampered) -> None:
    text = json.dumps(tampered.mark.document())
    assert Checkpoint.parse(text) == tampered.mark
    assert len(text) < 1000


def other(value: object) -> list[object]:
    """Values that a column could be changed to."""
    if isinstance(value, int):
        return [value + 1, value - 1, 0, "x", None]
    if isinstance(value, str):
        return [value + "0", value[:-1], value.swapcase(), "", None, value.encode() + b"\xff"]
    return ["x", 1]


def columns() -> list[tuple[str, str]]:
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder, "ledger.db")) as ledger:
        tables = ("plans", "events", "reservations", "names")
        return [(name, row[1]) for name in tables for row in ledger.read(f"PRAGMA table_info({name})")]


@pytest.mark.parametrize(("name", "column"), columns())
def test_every_column_of_every_row_is_guarded(tampered: Tampered, name: str, column: str) -> None:
    changes, rows = 0, tampered.rows(name)
    for number, row in enumerate(rows):
        key = "id" if name == "events" else next(iter(row))
        change = f"UPDATE {name} SET {column} = ? WHERE {key} = ?"  # noqa: S608 - our own words
        values = other(row[column])
        for value in values if IS_LONG else values[number % len(values) :][:1]:
            try:
                tampered.raw.execute(change, (value, row[key]))
            except sqlite3.IntegrityError:
                continue  # NOT NULL, or a key that is there: SQLite itself refuses
            now = tampered.rows(name)
            if now != rows:  # the column's type may have made of it what it was
                changes += 1
                found = bool(tampered.audit().faults), bool(tampered.audit(tampered.mark).faults)
                assert found == ((name, column) not in UNTOLD,) * 2, (row, value)
                (changed,) = (each for each in now if each not in rows)
                tampered.raw.execute(change, (row[column], changed[key]))
                assert tampered.rows(name) == rows
    assert changes or not IS_LONG
    assert tampered.audit(tampered.mark).faults == ()


def cut(tampered: Tampered, plan: str, count: int) -> None:
    """Take the last events of a plan away, and put right all that they had changed."""
    (last,) = tampered.raw.execute("SELECT max(seq) FROM events WHERE plan = ?", (plan,)).fetchone()
    tampered.raw.execute("DELETE FROM events WHERE plan = ? AND seq > ?", (plan, last - count))
    settle_accounts(tampered, plan)


def settle_accounts(tampered: Tampered, plan: str) -> None:
    """Make a plan's row what its events say."""
    tally = Tally(plan)
    query = f"SELECT {EVENT_COLUMNS} FROM events WHERE plan = ? ORDER BY seq"  # noqa: S608 - our own words
    for row in tampered.raw.execute(query, (plan,)):
        tally.take(row)
    tampered.raw.execute(
        "UPDATE plans SET limit_micro_usd = ?, reserved_micro_usd = ?, spent_micro_usd = ?, events = ?,"
        " head = ? WHERE key = ?",
        (tally.limit, tally.reserved, tally.spent, tally.seq, tally.head, plan),
    )


def swap(tampered: Tampered, one: int, two: int, columns: str) -> None:
    """Let two events have each other's columns."""
    read = f"SELECT {columns} FROM events WHERE id = ?"  # noqa: S608 - our own words
    first, second = (tampered.raw.execute(read, (id_,)).fetchone() for id_ in (one, two))
    names = columns.split(", ")
    change = f"UPDATE events SET {', '.join(f'{name} = ?' for name in names)} WHERE id = ?"  # noqa: S608
    if "seq" in names:
        tampered.raw.execute("UPDATE events SET seq = 999 WHERE id = ?", (one,))
    tampered.raw.execute(change, (*first, two))
    tampered.raw.execute(change, (*second, one))


def count_of(tampered: Tampered) -> int:
    return int(tampered.raw.execute("SELECT max(id) FROM events").fetchone()[0])


@FEW
@given(data=st.data())
def test_two_events_that_change_places_are_found(whole: Path, data: st.DataObject) -> None:
    with Tampered(whole) as tampered:
        ids = st.integers(1, count_of(tampered))
        one, two = data.draw(ids), data.draw(ids)
        assume(one != two)
        # Whole rows; only what they say; only where they stand.
        what = data.draw(
            st.sampled_from(
                ["plan, seq, ts, kind, execution_id, payload, prev, hash", "ts, kind, execution_id, payload"]
            )
        )
        swap(tampered, one, two, what)
        assert tampered.audit(tampered.mark).faults


@FEW
@given(data=st.data())
def test_an_event_that_is_copied_or_moved_to_another_place_is_found(whole: Path, data: st.DataObject) -> None:
    with Tampered(whole) as tampered:
        id_ = data.draw(st.integers(1, count_of(tampered)))
        plan = data.draw(st.sampled_from("pq"))
        copies = data.draw(st.booleans())
        row = tampered.raw.execute("SELECT * FROM events WHERE id = ?", (id_,)).fetchone()
        (seq,) = tampered.raw.execute("SELECT max(seq) + 1 FROM events WHERE plan = ?", (plan,)).fetchone()
        if not copies:
            tampered.raw.execute("DELETE FROM events WHERE id = ?", (id_,))
        values = (plan, seq, *row[3:])
        tampered.raw.execute(
            "INSERT INTO events (plan, seq, ts, kind, execution_id, payload, prev, hash)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        assert tampered.audit().faults
        assert tampered.audit(tampered.mark).faults


@FEW
@given(data=st.data())
def test_an_event_that_is_missing_anywhere_is_found(whole: Path, data: st.DataObject) -> None:
    with Tampered(whole) as tampered:
        id_ = data.draw(st.integers(1, count_of(tampered)))
        tampered.raw.execute("DELETE FROM events WHERE id = ?", (id_,))
        assert tampered.audit().faults


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("plan", ["p", "q"])
def test_an_end_that_was_cut_off_with_all_its_traces_is_found_with_a_checkpoint(
    tampered: Tampered, plan: str, count: int
) -> None:
    cut(tampered, plan, count)
    of_plan = tampered.audit(tampered.mark, plan).faults
    assert any(f"plan '{plan}': it ends with event" in fault for fault in of_plan)
    assert any(
        f"plan '{plan}': it ends with event" in fault for fault in tampered.audit(tampered.mark).faults
    )


def test_an_end_that_was_cut_off_without_names_and_holds_is_not_found_without_a_checkpoint(
    whole: Path,
) -> None:
    """As documented: nothing in the file tells of it."""
    with Tampered(whole) as tampered:
        cut(tampered, "p", 2)  # the reservation of "gone", and its expiry
        assert tampered.audit().faults == ()
        assert tampered.audit(tampered.mark).faults[0].startswith("plan 'p': it ends with event")


@pytest.mark.parametrize("first", [1, 3])
def test_a_chain_that_was_written_anew_is_found_with_a_checkpoint_alone(
    tampered: Tampered, first: int
) -> None:
    tampered.raw.execute("UPDATE events SET ts = ts + 1 WHERE plan = 'p' AND seq = ?", (first,))
    tampered.rehash("p", first)
    assert tampered.audit().faults == ()
    assert "is not the checkpoint's: it was written anew" in tampered.audit(tampered.mark).faults[0]
    assert "is not the checkpoint's: it was written anew" in tampered.audit(tampered.mark, "p").faults[0]


def test_a_plan_that_was_removed_with_all_its_traces_is_found(tampered: Tampered) -> None:
    tampered.raw.executescript(
        "DELETE FROM names WHERE event IN (SELECT id FROM events WHERE plan = 'q');"
        "DELETE FROM events WHERE plan = 'q'; DELETE FROM plans WHERE key = 'q';"
        "DELETE FROM reservations WHERE plan = 'q'"
    )
    assert "plan 'q': it ends with event 0, and the checkpoint has" in tampered.audit(tampered.mark).faults[0]


def test_two_plans_that_change_names_are_found_with_a_checkpoint(tampered: Tampered) -> None:
    for table_, column in (("events", "plan"), ("plans", "key"), ("reservations", "plan")):
        swapped = f"CASE {column} WHEN 'p' THEN 'Q' ELSE 'P' END"
        tampered.raw.execute(f"UPDATE {table_} SET {column} = {swapped}")  # noqa: S608 - our own words
        tampered.raw.execute(f"UPDATE {table_} SET {column} = lower({column})")  # noqa: S608
    tampered.rehash("p")
    tampered.rehash("q")
    assert tampered.audit().faults == ()
    assert tampered.audit(tampered.mark).faults


def test_another_order_over_the_plans_is_found_with_a_checkpoint(tampered: Tampered) -> None:
    """The order of rows is no column of an event; the checkpoint has it all the same."""
    tampered.raw.executescript(  # the first events of the two plans, which gave no names
        "UPDATE events SET id = -1 WHERE id = 1; UPDATE events SET id = 1 WHERE id = 2;"
        "UPDATE events SET id = 2 WHERE id = -1"
    )
    assert tampered.audit().faults == ()
    assert tampered.audit(tampered.mark).faults == (
        "the events are not those of the checkpoint in their order",
    )


def test_a_gap_between_the_rows_is_found(tampered: Tampered) -> None:
    tampered.raw.execute("UPDATE events SET id = id + 100 WHERE id = (SELECT max(id) FROM events)")
    (fault,) = tampered.audit().faults
    assert fault.startswith("rows of the events are missing between 0 and ")


def test_events_of_one_plan_that_are_not_in_the_order_of_their_rows_are_found(tampered: Tampered) -> None:
    one, two = (row["id"] for row in tampered.rows("events") if row["plan"] == "q" and row["seq"] < 3)
    for old, new in ((one, -1), (two, one), (-1, two)):
        tampered.raw.execute("UPDATE events SET id = ? WHERE id = ?", (new, old))
    assert tampered.audit(key="q").faults == ("plan 'q': its events are not in the order of their rows",)
    assert tampered.audit().faults[0] == "plan 'q': event 1 is missing; the next is 2"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            "DROP TRIGGER events_stay",
            "a guard of the file was removed or changed: CREATE TRIGGER events_stay",
        ),
        (
            "DROP INDEX closed_once",
            "a guard of the file was removed or changed: CREATE UNIQUE INDEX closed_once",
        ),
        ("DELETE FROM names WHERE path LIKE '%same'", "the name '/artifacts/outputs/same', which row"),
        (
            "INSERT INTO names VALUES ('/artifacts/x', 'b3:', 1, '', 4)",
            "the name '/artifacts/x' is not one that",
        ),
        (
            "INSERT INTO reservations VALUES ('e', 'nowhere', 5, 1, '', 1, 1, 1)",
            "plan 'nowhere' has 0 events",
        ),
        ("UPDATE reservations SET execution_id = 'x'", "plan 'q': the reservation of open is not"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(whole: Path, change: str, fault: str) -> None:
    with Tampered(whole) as tampered:
        with closing(sqlite3.connect(tampered.path, isolation_level=None)) as raw:
            raw.execute(change)
        faults = tampered.audit().faults
        assert any(told.startswith(fault) for told in faults), faults


def test_a_ledger_that_is_all_wrong_is_told_in_a_few_lines(tampered: Tampered) -> None:
    tampered.raw.execute("UPDATE events SET ts = 0")
    assert len(tampered.audit().faults) == MOST


def test_damage_that_sqlite_cannot_read_is_a_fault_and_no_crash(whole: Path) -> None:
    with Tampered(whole) as tampered:
        tampered.ledger.close()
        with closing(sqlite3.connect(tampered.path)) as raw:
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        data = bytearray(tampered.path.read_bytes())
        at = data.index(b'"amount_micro_usd":77')
        data[at + 3] = 0xFF  # no UTF-8 any more
        tampered.path.write_bytes(data)
        assert "ledger.db cannot be used: " in tampered.audit().faults[0]


def test_names_of_an_old_ledger_or_of_too_many_outputs_are_left_out(tampered: Tampered) -> None:
    """Their events do not list them, so the chain cannot tell."""
    many = tuple(output(f"/artifacts/outputs/many/{number}", "7") for number in range(1000))
    with Ledger(tampered.path) as ledger:
        ledger.settle(closing_of("many", "p", 0, names=many, envelope={}, envelope_cid="b3:" + "5" * 64))
    found = tampered.audit()
    assert (found.faults, found.names) == ((), len(tampered.rows("names")) - len(many))


def test_what_others_write_meanwhile_is_no_fault(tampered: Tampered) -> None:
    with Ledger(tampered.path) as ledger:
        numbers = itertools.count()

        def reading(query: str, values: Any = ()) -> list[Any]:
            rows = ledger.read(query, values)
            id_ = f"m{next(numbers)}"
            ledger.reserve("p", id_, 1)
            ledger.settle(closing_of(id_, "p", 1))
            return rows

        found = audit(reading, None, tampered.mark)
        assert (found.faults, next(numbers) > 3) == ((), True)
        assert audit(reading, "p", tampered.mark).faults == ()
        made = checkpoint(reading)
    assert tampered.audit(made).faults == ()


@pytest.mark.parametrize("ask", [audit, checkpoint])
def test_a_plan_that_is_not_there_is_named(tampered: Tampered, ask: Callable[..., object]) -> None:
    with Ledger(tampered.path) as ledger, pytest.raises(ArtifactNotFound, match="there is no plan 'x'"):
        ask(ledger.read, "x")


def test_a_checkpoint_of_one_plan_tells_of_that_plan_alone(tampered: Tampered) -> None:
    with Ledger(tampered.path) as ledger:
        mark = checkpoint(ledger.read, "p")
        assert (mark.rows, list(mark.plans)) == (None, ["p"])
        assert audit(ledger.read, None, mark).faults == ()
        with pytest.raises(Usage, match="the checkpoint does not know the plan 'q'"):
            audit(ledger.read, "q", mark)


GOOD = Checkpoint({"p": Mark(3, "b3:" + "a" * 64)}, 3, "b3:" + "b" * 64).document()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        json.dumps({**GOOD, "format": "theory checkpoint v2"}),
        json.dumps({**GOOD, "rows": -1}),
        json.dumps({**GOOD, "rows": None}),
        json.dumps({**GOOD, "order": "b3:1"}),
        json.dumps({**GOOD, "plans": {"p": {"events": True, "head": "b3:" + "a" * 64}}}),
        json.dumps({**GOOD, "plans": {"p": {"events": 3}}}),
        json.dumps({**GOOD, "plans": ["p"]}),
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    assert Checkpoint.parse(json.dumps(GOOD)).document() == GOOD
    with pytest.raises(Usage, match="what --against names is no checkpoint"):
        Checkpoint.parse(text)


@pytest.mark.parametrize(
    "walk",
    [
        lambda ledger, _: list(ledger.events("p")),
        lambda ledger, _: list(ledger.names("/artifacts/")),
        lambda ledger, _: report(ledger.read),
        lambda ledger, _: list(executions_of(ledger.read, "text/wordcount@1")),
        lambda ledger, _: checkpoint(ledger.read),
        lambda _, upkeep: list(upkeep.closings()),
        lambda _, upkeep: list(upkeep.names()),
    ],
    ids=["events", "names", "report", "executions", "checkpoint", "closings", "all names"],
)
def test_an_index_that_leads_in_circles_is_told_and_not_followed_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, walk: Callable[[Ledger, Upkeep], object]
) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger, closing(Upkeep(tmp_path / "ledger.db")) as upkeep:
        ledger.ensure_plan("p")
        ledger.settle(closing_of("e1", "p", 1))
        honest = Database.read
        asked: dict[str, list[Sequence[object]]] = {}

        def circling(database: Database, query: str, values: Sequence[object] = ()) -> list[Any]:
            former = asked.setdefault(query.replace(">=", ">"), [])
            former.append(values)
            assert len(former) < 100, "it goes round and round"
            return honest(database, query, former[0])

        monkeypatch.setattr(Database, "read", circling)
        with pytest.raises(LedgerFailed, match="the ledger is damaged: its rows are not in their order"):
            walk(ledger, upkeep)


def test_an_audit_tells_of_an_index_that_leads_in_circles(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.ensure_plan("p")
        first: dict[str, Sequence[object]] = {}

        def circling(query: str, values: Sequence[object] = ()) -> list[Any]:
            return ledger.read(query, first.setdefault(query, values))

        for key in (None, "p"):
            assert "the ledger is damaged: its rows are not in their order" in audit(circling, key).faults
