"""The money: what moves, and what is written, when a reservation is opened and closed."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from theory.canon import MAX_INTEGER, canonical
from theory.errors import ArtifactNotFound, BudgetRefused, Busy, Internal, Usage
from theory.ledger.chain import EVENT_COLUMNS, Event, PlanState, charged
from theory.ledger.database import CHARGES, CLOSINGS
from theory.ledger.owner import Owner
from theory.money import usd
from theory.paths import HARMFUL, printable

if TYPE_CHECKING:
    import sqlite3

    from theory.ledger.chain import Kind
    from theory.ledger.execution import Closing
    from theory.types import JsonObject

MAX_PLAN_KEY = 128  # characters

SELECT_PLAN = "SELECT key, limit_micro_usd, reserved_micro_usd, spent_micro_usd, events, head FROM plans"
SELECT_HOLD = (
    "SELECT execution_id, plan, amount_micro_usd, expires, boot, namespace, pid, started FROM reservations"
)


@dataclass(frozen=True, slots=True)
class Hold:
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


def check_key(key: str) -> None:
    """Refuse what no plan may be called.

    Raises:
        Usage: It is empty, longer than 128 characters, or not what a person would type.
    """
    fault = ""
    if not 1 <= len(key) <= MAX_PLAN_KEY:
        fault = f"has {len(key)} characters, and 1 to {MAX_PLAN_KEY} are allowed"
    elif HARMFUL.search(key) or not is_text(key):
        fault = "has a control or direction-changing character, or one that is not UTF-8"
    elif key != key.strip() or not unicodedata.is_normalized("NFC", key):
        fault = "begins or ends with a space, or is not in Unicode normal form C"
    if fault:
        raise Usage(f"the plan key {printable(key)!r} {fault}", hint="take a plain name, such as team-a")


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


class Books:
    """The plans and reservations as one write transaction sees and changes them."""

    def __init__(self, connection: sqlite3.Connection, now: int) -> None:
        """Work on this connection, inside its transaction; ``now`` is in microseconds since the epoch."""
        self.connection = connection
        self.now = now

    def state(self, plan: str) -> PlanState:
        """A plan as it stands.

        Raises:
            ArtifactNotFound: There is no such plan.
        """
        row = self.connection.execute(f"{SELECT_PLAN} WHERE key = ?", (plan,)).fetchone()
        if row is None:
            raise ArtifactNotFound(f"there is no plan {printable(plan)!r}", hint="see: theory plan ls")
        return PlanState(*row)

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

    def reserve(
        self,
        plan: str,
        execution_id: str,
        amount: int,
        *,
        here: Owner,
        expires: int,
    ) -> None:
        """Open a reservation, or take over that of a dead owner.

        Raises:
            Busy, BudgetRefused, Usage, ArtifactNotFound: As ``Ledger.reserve`` says.
        """
        if self.closed_as(execution_id):
            raise Busy(f"execution {execution_id} was closed meanwhile", hint="ask again for its answer")
        account = self.state(plan)
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
        already = old.amount if old else 0
        more = max(0, amount - already)
        if more:
            _check_limit(account, more)
            self._move(plan, reserved=more)
            self.append(plan, "budget.reserve", execution_id, {"amount_micro_usd": more})
        self.connection.execute(
            "INSERT OR REPLACE INTO reservations VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (execution_id, plan, already + more, expires, here.boot, here.namespace, here.pid, here.started),
        )

    def end(self, old: Hold, kind: Literal["budget.release", "budget.expire"]) -> None:
        """Close a reservation without a settlement: given back, or (expired) charged in full."""
        payload: JsonObject = {"amount_micro_usd": old.amount}
        if kind == "budget.expire":
            payload["estimated"] = True
        self._remove(old, spent=old.amount if kind == "budget.expire" else 0)
        self.append(old.plan, kind, old.execution_id, payload)

    def settle(self, closing: Closing, *, expired: bool) -> tuple[int, bool]:
        """Charge what an execution cost: the amount in micro-USD, and whether it is an estimate.

        Args:
            closing: What is being closed; its plan is there.
            expired: This process reserved for it: if nothing is open now, the expiry has charged it already.
        """
        id_, plan, actual = closing.execution_id, closing.plan, closing.actual_micro_usd
        old = self.hold(id_)
        if old and old.plan != plan:
            raise Internal(f"execution {id_} holds a reservation on plan {old.plan!r}, not on {plan!r}")
        if expired and old is None:
            before = self._last_expiry(id_)
            if actual is not None:
                self._put_right(plan, id_, before, actual)
            return (before, True) if actual is None else (actual, False)
        reserved = old.amount if old else 0
        spent = reserved if actual is None else actual
        if old:
            self._remove(old, spent=spent)
        elif spent:
            self._move(plan, spent=spent)
        if reserved or spent:
            payload: JsonObject = {
                "reserved_micro_usd": reserved,
                "actual_micro_usd": spent,
                "estimated": actual is None,
                "overrun": spent > reserved,
            }
            self.append(plan, "budget.settle", id_, payload)
        return spent, actual is None

    def correct(self, execution_id: str, actual: int) -> None:
        """Put right an estimated cost that has become known.

        Raises:
            ArtifactNotFound, Usage: As ``Ledger.correct`` says.
        """
        rows: list[tuple[str, Kind, str]] = []
        for kinds in (CHARGES, CLOSINGS):
            query = f"SELECT plan, kind, payload FROM events WHERE execution_id = ? AND {kinds} ORDER BY id"  # noqa: S608
            rows += self.connection.execute(query, (execution_id,))
        if not rows:
            raise ArtifactNotFound(
                f"there is no execution {printable(execution_id)!r}", hint="see: theory ls"
            )
        if not any(json.loads(payload).get("estimated") for _, _, payload in rows):
            raise Usage(f"the cost of execution {execution_id} is known, and not an estimate")
        plan = rows[-1][0]
        before = charged((kind, payload) for where, kind, payload in rows if where == plan)
        self._put_right(plan, execution_id, before, actual)

    def append(self, plan: str, kind: Kind, execution_id: str | None, payload: JsonObject) -> int:
        """Write the next event of a plan that is there; its row number."""
        query = "SELECT events + 1, head FROM plans WHERE key = ?"
        seq, prev = self.connection.execute(query, (plan,)).fetchone()
        text = canonical(payload).decode()
        digest = Event(plan, seq, self.now, kind, execution_id, text, prev, hash="").computed_hash()
        row = self.connection.execute(
            f"INSERT INTO events ({EVENT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - a constant
            (plan, seq, self.now, kind, execution_id, text, prev, digest),
        ).lastrowid
        query = "UPDATE plans SET events = ?, head = ? WHERE key = ?"
        self.connection.execute(query, (seq, digest, plan))
        return row or 0

    def _remove(self, old: Hold, *, spent: int) -> None:
        self.connection.execute("DELETE FROM reservations WHERE execution_id = ?", (old.execution_id,))
        self._move(old.plan, reserved=-old.amount, spent=spent)

    def _move(self, plan: str, *, reserved: int = 0, spent: int = 0) -> None:
        self.connection.execute(
            # What is due is closed whatever it comes to: beyond the largest amount a plan counts no further.
            "UPDATE plans SET reserved_micro_usd = reserved_micro_usd + ?,"
            " spent_micro_usd = min(spent_micro_usd + ?, ?) WHERE key = ?",
            (reserved, spent, MAX_INTEGER, plan),
        )

    def _last_expiry(self, execution_id: str) -> int:
        query = (
            f"SELECT kind, payload FROM events WHERE execution_id = ? AND {CHARGES} ORDER BY id DESC LIMIT 1"  # noqa: S608
        )
        return charged(self.connection.execute(query, (execution_id,)))

    def _put_right(self, plan: str, execution_id: str, before: int, actual: int) -> None:
        if actual != before:
            self._move(plan, spent=actual - before)
            payload: JsonObject = {"actual_micro_usd": actual, "delta_micro_usd": actual - before}
            self.append(plan, "budget.correct", execution_id, payload)


def _check_limit(account: PlanState, amount: int) -> None:
    limit, spent, reserved = account.limit_micro_usd, account.spent_micro_usd, account.reserved_micro_usd
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
