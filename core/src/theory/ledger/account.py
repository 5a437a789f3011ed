"""The money: what moves, and what is written, when a reservation is opened and closed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from theory.disk.commit import insert
from theory.errors import ArtifactNotFound, BudgetRefused, Busy, Internal, Usage
from theory.formats.canon import MAX_INTEGER, canonical
from theory.formats.money import usd
from theory.formats.paths import quoted
from theory.ledger.chain import EVENT_COLUMNS, charged, counted, hash_of
from theory.ledger.database import CHARGES, CLOSINGS
from theory.ledger.owner import Owner
from theory.record import Record

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from theory.ledger.chain import Kind
    from theory.ledger.execution import Closing
    from theory.types import JsonObject


SELECT_PLAN = "SELECT key, limit_micro_usd, reserved_micro_usd, spent_micro_usd, events, head FROM plans"
SELECT_HOLD = (
    "SELECT execution_id, plan, amount_micro_usd, expires, boot, namespace, pid, started FROM reservations"
)
# A row for what an execution holds, and one for its closing.
ANY_TRACE = (
    "SELECT 1 FROM reservations WHERE execution_id = ?1 UNION ALL "  # noqa: S608 - a constant
    f"SELECT 1 FROM events WHERE execution_id = ?1 AND {CLOSINGS}"
)


class Hold(Record):
    """An open reservation."""

    execution_id: str
    plan: str
    amount: int  # micro-USD
    expires: int  # microseconds since the epoch
    owner: Owner

    @classmethod
    def of(cls, row: tuple[str, str, int, int, str | None, int | None, int, int | None]) -> Hold:
        """Read a row of ``SELECT_HOLD``."""
        return cls(*row[:4], Owner(*row[4:]))

    def lives(self, here: Owner, now: int) -> bool:
        """Whether its owner may still close it; the clock decides only where nobody can look."""
        fate = self.owner.fate(here)
        return fate == "alive" or (fate == "unknown" and self.expires > now)


def is_amount(value: object) -> bool:
    """Whether this is an amount of micro-USD."""
    return type(value) is int and 0 <= value <= MAX_INTEGER


def is_text(text: str) -> bool:
    """Whether SQLite can be asked for this at all; the undecodable bytes of a command line cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_amount(what: str, value: int) -> None:
    """Refuse what is no amount of micro-USD.

    Raises:
        Usage: With what the amount is for.
    """
    if not is_amount(value):
        raise Usage(f"a {what} of {value!r} micro-USD is out of range", hint=f"0 to {usd(MAX_INTEGER)} USD")


class Account:
    """A plan within one change: read once, changed here, and written once; amounts are in micro-USD."""

    __slots__ = ("changed", "events", "head", "key", "limit", "reserved", "spent")

    def __init__(
        self, key: str, limit: int | None, reserved: int, spent: int, events: int, head: str
    ) -> None:
        """Take a row as it stands."""
        self.key, self.limit, self.reserved, self.spent = key, limit, reserved, spent
        self.events, self.head = events, head
        self.changed = False


class Books:
    """The plans and reservations as one change sees and changes them."""

    def __init__(self, connection: sqlite3.Connection, now: int) -> None:
        """Work on this connection, inside its transaction; ``now`` is in microseconds since the epoch."""
        self.connection = connection
        self.now = now
        self._accounts: dict[str, Account] = {}

    def account(self, plan: str) -> Account:
        """A plan as this change has it so far.

        Raises:
            ArtifactNotFound: There is no such plan.
        """
        if (known := self._accounts.get(plan)) is not None:
            return known
        row = self.connection.execute(f"{SELECT_PLAN} WHERE key = ?", (plan,)).fetchone()
        if row is None:
            raise ArtifactNotFound(f"there is no plan {quoted(plan)}", hint="see: theory plan ls")
        account = self._accounts[plan] = Account(*row)
        return account

    def flush(self) -> None:
        """Write the plans that have changed; the last thing that a change does."""
        for plan, account in self._accounts.items():
            if account.changed:
                self.connection.execute(
                    "UPDATE plans SET limit_micro_usd = ?, reserved_micro_usd = ?, spent_micro_usd = ?,"
                    " events = ?, head = ? WHERE key = ?",
                    (account.limit, account.reserved, account.spent, account.events, account.head, plan),
                )

    def create(self, plan: str, limit: int | None) -> bool:
        """Make a plan; False, and nothing is changed, if it is there."""
        query = "INSERT OR IGNORE INTO plans (key, limit_micro_usd) VALUES (?, ?)"
        made = self.connection.execute(query, (plan, limit)).rowcount == 1
        if made:
            self.append(plan, "plan.create", None, {"limit_micro_usd": limit})
        return made

    def limit(self, plan: str, limit: int | None) -> None:
        """Set or (None) lift the limit of a plan that is there."""
        self.account(plan).limit = limit
        self.append(plan, "plan.limit", None, {"limit_micro_usd": limit})

    def hold(self, execution_id: str) -> Hold | None:
        """The open reservation of an execution."""
        row = self.connection.execute(f"{SELECT_HOLD} WHERE execution_id = ?", (execution_id,)).fetchone()
        return None if row is None else Hold.of(row)

    def closed_as(self, execution_id: str) -> str | None:
        """The kind of an execution's closing event, if it has one."""
        row = self.connection.execute(
            f"SELECT kind FROM events WHERE execution_id = ? AND {CLOSINGS}",  # noqa: S608 - a constant
            (execution_id,),
        ).fetchone()
        return None if row is None else str(row[0])

    def _traces(self, execution_id: str) -> tuple[str | None, Hold | None]:
        """``closed_as`` and ``hold``: of most executions there is neither, as they hold nothing."""
        if self.connection.execute(ANY_TRACE, (execution_id,)).fetchone() is None:
            return None, None
        return self.closed_as(execution_id), self.hold(execution_id)

    def reserve(self, plan: str, execution_id: str, amount: int, *, here: Owner, lasts: int) -> None:
        """Open a reservation for so many µs; what the dead still hold for this execution is charged first.

        Raises:
            Busy, BudgetRefused, Usage, ArtifactNotFound: As ``Ledger.reserve`` says.
        """
        if self.closed_as(execution_id):
            raise Busy(f"execution {execution_id} was closed meanwhile", hint="ask again for its answer")
        account = self.account(plan)
        old = self.hold(execution_id)
        if old and old.lives(here, self.now):
            raise Busy(
                f"execution {execution_id} is running in another process", hint="wait until it has ended"
            )
        if old and old.plan != plan:
            raise Usage(
                f"execution {execution_id} holds a reservation on plan {old.plan!r}",
                hint="retry it with that plan",
            )
        if old:
            self.end(old, "budget.expire")
        if not amount:
            return
        _check_limit(account, amount)
        account.reserved += amount
        self.append(plan, "budget.reserve", execution_id, {"amount_micro_usd": amount})
        owner = (here.boot, here.namespace, here.pid, here.started)
        query = "INSERT INTO reservations VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        self.connection.execute(query, (execution_id, plan, amount, self.now + lasts, *owner))

    def end(self, old: Hold, kind: Literal["budget.release", "budget.expire"]) -> None:
        """Close a reservation without a settlement: given back, or (expired) charged in full."""
        payload: JsonObject = {"amount_micro_usd": old.amount}
        if kind == "budget.expire":
            payload["estimated"] = True
        self._remove(old, spent=old.amount if kind == "budget.expire" else 0)
        self.append(old.plan, kind, old.execution_id, payload)

    def close(self, closing: Closing, *, here: Callable[[], Owner], reserved: int | None) -> str | None:
        """Charge, name and write the closing event; if there is one already, only charge what is still held.

        Args:
            closing: What is being closed.
            here: This process. What another one holds for the execution is that one's to close.
            reserved: What this process has reserved for it, in micro-USD; None: nothing.

        Returns:
            The kind of the closing event that was there before, if one was.

        Raises:
            ArtifactNotFound, Internal: As ``Ledger.settle`` says.
        """
        id_, plan = closing.execution_id, closing.plan
        before, hold = self._traces(id_)
        self.account(plan)
        if hold and hold.owner != here():
            hold = None
        if hold and hold.plan != plan:
            raise Internal(f"execution {id_} holds a reservation on plan {hold.plan!r}, not on {plan!r}")
        if before:
            if hold:
                self._settle(closing, hold)
            return before
        if hold is None and reserved is not None:
            spent = self._settle_late(closing, reserved)
        else:
            spent = self._settle(closing, hold)
        payload = closing.payload(spent, estimated=closing.actual_micro_usd is None)
        row = self._append(plan, closing.kind, id_, payload)
        insert(
            self.connection,
            "INSERT OR REPLACE INTO names VALUES {}",
            [(name.path, name.cid, name.size_bytes, name.mime, row) for name in closing.names],
        )
        return None

    def correct(self, execution_id: str, actual: int) -> None:
        """Put right an estimated cost that has become known.

        Raises:
            ArtifactNotFound, Usage: As ``Ledger.correct`` says.
        """
        rows = [*self._events(execution_id, CHARGES), *self._events(execution_id, CLOSINGS)]
        if not rows:
            raise ArtifactNotFound(f"there is no execution {quoted(execution_id)}", hint="see: theory ls")
        if not any(json.loads(payload).get("estimated") for _, _, payload in rows):
            raise Usage(f"the cost of execution {execution_id} is known, and not an estimate")
        plan = rows[-1][0]
        before = charged((kind, payload) for where, kind, payload in rows if where == plan)
        self._put_right(plan, execution_id, actual, actual - before)

    def append(self, plan: str, kind: Kind, execution_id: str | None, payload: JsonObject) -> None:
        """Write the next event of a plan that is there."""
        self._append(plan, kind, execution_id, canonical(payload).decode())

    def _append(self, plan: str, kind: Kind, execution_id: str | None, text: str) -> int:
        """Write an event with this payload; its row number."""
        account = self.account(plan)
        seq, prev = account.events + 1, account.head
        digest = hash_of(plan, seq, self.now, kind, execution_id, text, prev)
        row = self.connection.execute(
            f"INSERT INTO events ({EVENT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - a constant
            (plan, seq, self.now, kind, execution_id, text, prev, digest),
        ).lastrowid
        account.events, account.head, account.changed = seq, digest, True
        return row or 0

    def _settle(self, closing: Closing, hold: Hold | None) -> int:
        """Close what is held with what it cost, the whole of it where nobody knows; the amount charged."""
        reserved = hold.amount if hold else 0
        spent = reserved if closing.actual_micro_usd is None else closing.actual_micro_usd
        if hold:
            self._remove(hold, spent=spent)
        else:
            account = self.account(closing.plan)
            account.spent = counted(account.spent, spent)
        if reserved or spent:
            payload: JsonObject = {
                "reserved_micro_usd": reserved,
                "actual_micro_usd": spent,
                "estimated": closing.actual_micro_usd is None,
                "overrun": spent > reserved,
            }
            self.append(closing.plan, "budget.settle", closing.execution_id, payload)
        return spent

    def _settle_late(self, closing: Closing, reserved: int) -> int:
        """Put right what was charged when the reservation expired under its owner; the amount charged.

        A correction was told all that the execution cost, so after one only a larger cost changes anything.
        Where nothing expired, another thread has just given the reservation back.
        """
        id_, plan, actual = closing.execution_id, closing.plan, closing.actual_micro_usd
        rows = [(kind, payload) for where, kind, payload in self._events(id_, CHARGES) if where == plan]
        if not any(kind == "budget.expire" for kind, _ in rows):
            return self._settle(closing, None)
        if actual is None:
            return reserved
        corrected = any(kind == "budget.correct" for kind, _ in rows)
        self._put_right(plan, id_, actual, max(0, actual - charged(rows)) if corrected else actual - reserved)
        return actual

    def _events(self, execution_id: str, kinds: str) -> list[tuple[str, Kind, str]]:
        """Plan, kind and payload of an execution's events of these kinds, in their order."""
        query = f"SELECT plan, kind, payload FROM events WHERE execution_id = ? AND {kinds} ORDER BY id"  # noqa: S608 - constants
        return self.connection.execute(query, (execution_id,)).fetchall()

    def _remove(self, old: Hold, *, spent: int) -> None:
        self.connection.execute("DELETE FROM reservations WHERE execution_id = ?", (old.execution_id,))
        account = self.account(old.plan)
        account.reserved -= old.amount
        account.spent = counted(account.spent, spent)

    def _put_right(self, plan: str, execution_id: str, actual: int, delta: int) -> None:
        if delta:
            account = self.account(plan)
            account.spent = counted(account.spent, delta)
            payload: JsonObject = {"actual_micro_usd": actual, "delta_micro_usd": delta}
            self.append(plan, "budget.correct", execution_id, payload)


def _check_limit(account: Account, amount: int) -> None:
    limit, spent, reserved = account.limit, account.spent, account.reserved
    if spent + reserved + amount > MAX_INTEGER:
        raise BudgetRefused(
            f"plan {account.key!r} cannot count beyond {usd(MAX_INTEGER)} USD, and {usd(amount)} more would",
            hint="take another plan: --plan KEY",
        )
    if limit is not None and spent + reserved + amount > limit:
        raise BudgetRefused(
            f"plan {account.key!r} has a limit of {usd(limit)} USD, of which {usd(spent)} is spent and"
            f" {usd(reserved)} reserved; {usd(amount)} more does not fit",
            hint="raise the limit: theory plan limit KEY USD",
            meta={
                "plan": account.key,
                "limit_micro_usd": limit,
                "spent_micro_usd": spent,
                "reserved_micro_usd": reserved,
                "asked_micro_usd": amount,
            },
        )
