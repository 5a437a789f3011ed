"""The ledger: what every execution was, what it cost and what names it gave; one file for a home.

Money is integer micro-USD, 0 … 2^53-1. A reservation is opened once and closed once: settled, released or
expired. Every change of a plan is an event in the plan's hash chain, written in the same transaction.
"""

from __future__ import annotations

import os
import time
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from theory.disk.sqlite import PATIENCE_S, Database
from theory.errors import ArtifactNotFound, Internal, LedgerFailed, TheoryError, Usage
from theory.formats.paths import quoted
from theory.ledger.account import (
    ANY_TRACE,
    SELECT_HOLD,
    SELECT_PLAN,
    Books,
    Hold,
    check_amount,
    is_amount,
    is_text,
)
from theory.ledger.chain import EVENT_COLUMNS, Event, PlanState, micro
from theory.ledger.database import CLOSINGS, LAYOUT, further
from theory.ledger.execution import Closing, Record
from theory.ledger.owner import Fate, Owner
from theory.request import check_plan_key
from theory.types import Artifact

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from theory.ledger.heartbeat import Heartbeat

LASTS_S = 300.0  # how long a reservation outlives the last sign of an owner that cannot be looked at

Answer = TypeVar("Answer")

_PAGE = 1000  # rows read at a time, so that a long listing never holds the file
_SELECT_NAME = "SELECT path, cid, size_bytes, mime FROM names"


class _Held(NamedTuple):
    amount: int  # micro-USD
    lasts_s: float


class Ledger:
    """The ledger of one home: safe for threads, beside other processes, and after a fork.

    A child process that was forked holds no reservation: those stay its parent's, and the child opens the
    file anew and has its own heartbeat. Every method raises ``LedgerFailed`` where the file cannot be used,
    naming it and the next step, and ``Retry`` where another process has kept it locked for ``patience_s``.
    A call that failed has changed nothing. Where the home is read-only, what reads works.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        patience_s: float = PATIENCE_S,
        owner: Owner | None = None,
        make: bool = True,
    ) -> None:
        """Open the file at once, and make it where there is none.

        Args:
            path: The database, ``<home>/ledger.db``.
            clock: Seconds since the epoch.
            patience_s: How long to wait for another process that writes.
            owner: Who holds what is reserved here; None: this process.
            make: False: only look, at a file that may not be there.
        """
        self._clock = clock
        self._database = Database(path, LAYOUT, patience_s)
        if make:
            self._database.open()
        self._given_owner = owner
        self._owner: Owner | None = None
        self._pid = os.getpid()
        self._held: dict[str, _Held] = {}  # what this process has reserved and not closed, by execution
        self._heartbeat: Heartbeat | None = None
        self._guard = Lock()  # of the two above
        self._plans: set[str] = set()  # that are there: no plan is ever removed

    def __enter__(self) -> Ledger:  # noqa: PYI034 - typing.Self is newer than our oldest Python
        """Use it in a ``with`` block, which closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End the heartbeat and close the file; what is still reserved stays so while this process lives."""
        self._look_around()
        if self._heartbeat is not None:
            self._heartbeat.stop()
            self._heartbeat = None
        self._database.close()

    # ------------------------------------------------------------ plans

    def ensure_plan(self, key: str) -> bool:
        """Make the plan, without a limit, if it is not there; True if it was made now.

        Raises:
            Usage: No plan can have this key.
        """
        if key in self._plans:
            return False
        check_plan_key(key)
        made = not self._states(key) and self._write(lambda books: books.create(key, None))
        self._plans.add(key)
        return made

    def create_plan(self, key: str, limit_micro_usd: int | None) -> None:
        """Make a plan, with a limit or (None) to count only.

        Raises:
            Usage: It is there already, or no plan can have this key or limit.
        """
        check_plan_key(key)
        check_amount("limit", limit_micro_usd or 0)
        if not self._write(lambda books: books.create(key, limit_micro_usd)):
            raise Usage(
                f"plan {key!r} is there already", hint="change its limit with: theory plan limit KEY USD"
            )

    def set_limit(self, key: str, limit_micro_usd: int | None) -> None:
        """Set or (None) lift a plan's limit; one below what is spent refuses every further reservation.

        Raises:
            ArtifactNotFound: There is no such plan.
            Usage: The amount is out of range.
        """
        check_amount("limit", limit_micro_usd or 0)
        self.plan(key)
        self._write(lambda books: books.limit(key, limit_micro_usd))

    def plan(self, key: str) -> PlanState:
        """A plan as it stands.

        Raises:
            ArtifactNotFound: There is no such plan; the hint names those that are near.
        """
        states = self._states(key)
        if states:
            return states[0]
        from difflib import get_close_matches  # noqa: PLC0415 - only for a plan that is not there

        near = get_close_matches(key, [state.key for state in self.plans()], n=3)
        raise ArtifactNotFound(
            f"there is no plan {quoted(key)}",
            hint=f"did you mean {' or '.join(near)}?" if near else "see: theory plan ls",
        )

    def plans(self) -> tuple[PlanState, ...]:
        """All plans, by key."""
        return tuple(PlanState(*row) for row in self._database.read(f"{SELECT_PLAN} ORDER BY key"))

    def events(self, key: str) -> Iterator[Event]:
        """The events of a plan from its first, read as they are asked for; none if there is no such plan."""
        seq = 0
        query = f"SELECT {EVENT_COLUMNS} FROM events WHERE plan = ? AND seq > ? ORDER BY seq LIMIT {_PAGE}"  # noqa: S608 - constants
        while is_text(key) and (rows := self._database.read(query, (key, seq))):
            yield from (Event(*row) for row in rows)
            seq = further(seq, rows[-1][1])

    def check_chain(self, key: str) -> tuple[str, ...]:
        """What is wrong with a plan; empty if its chain is whole and its row is what the events add up to."""
        from theory.ledger.audit import audit  # noqa: PLC0415 - no run asks

        found = audit(self.read, key).faults
        return tuple(fault.removeprefix(f"plan {quoted(key)}: ") for fault in found)

    def read(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        """The rows of one query, for who looks at all of it: ``audit`` and ``report``."""
        return self._database.read(query, values)

    # ------------------------------------------------------------ reservations

    def reserve(self, plan: str, execution_id: str, amount: int, *, lasts_s: float = LASTS_S) -> None:
        """Hold an amount for an execution, durably, until it is settled or released.

        Zero writes nothing. What a dead process still holds for the same execution is charged in full and
        marked as estimated, for it may have spent it; the limit is asked after that.

        Args:
            plan: An existing plan.
            execution_id: Whose reservation it is.
            amount: Micro-USD.
            lasts_s: How many seconds it outlives the last sign of this process; renewed at a third of it.

        Raises:
            BudgetRefused: It would go beyond the plan's limit.
            Busy: The execution is running elsewhere, or was closed meanwhile.
            ArtifactNotFound: There is no such plan.
            Usage: The amount is out of range, or the execution holds a reservation on another plan.
        """
        check_amount("reservation", amount)
        if amount == 0 and not self._database.read(ANY_TRACE, (execution_id,)):
            return
        here, lasts = self._here(), micro(lasts_s)
        self._write(lambda books: books.reserve(plan, execution_id, amount, here=here, lasts=lasts))
        if not amount:
            return
        with self._guard:
            self._held[execution_id] = _Held(amount, lasts_s)
            if self._heartbeat is None:
                from theory.ledger.heartbeat import Heartbeat  # noqa: PLC0415 - most executions hold nothing

                self._heartbeat = Heartbeat(self.renew)
            self._heartbeat.beat_every(lasts_s / 3)

    def release(self, execution_id: str) -> None:
        """Give back what this process holds for an execution that never started; nothing held is fine too."""

        def give_back(books: Books) -> None:
            hold = books.hold(execution_id)
            if hold and hold.owner == self._here():
                books.end(hold, "budget.release")

        if self._database.read(f"{SELECT_HOLD} WHERE execution_id = ?", (execution_id,)):
            self._write(give_back)
        self._forget(execution_id)

    def renew(self) -> None:
        """Put off the expiry of everything that this process holds; the heartbeat calls this."""
        here = self._here()
        with self._guard:
            held = dict(self._held)
        owner = (here.boot, here.namespace, here.pid, here.started)

        def put_off(books: Books) -> None:
            books.connection.executemany(
                "UPDATE reservations SET expires = ? WHERE execution_id = ? AND boot IS ? AND namespace IS ?"
                " AND pid = ? AND started IS ?",
                [(books.now + micro(ours.lasts_s), id_, *owner) for id_, ours in held.items()],
            )

        if held:
            self._write(put_off)

    def holds(self) -> tuple[tuple[Hold, Fate], ...]:
        """All open reservations by execution, and what has become of who holds each."""
        rows = self._database.read(f"{SELECT_HOLD} ORDER BY execution_id")
        return tuple((hold, hold.owner.fate(self._here())) for hold in map(Hold.of, rows))

    def reconcile(self, *, keep: str | None = None) -> tuple[str, ...]:
        """Close what the dead still hold; the executions whose reservations were closed, by id."""
        return tuple(hold.execution_id for hold in self.close_the_dead(keep=keep))

    def close_the_dead(self, *, keep: str | None = None) -> tuple[Hold, ...]:
        """Close what the dead still hold, in full and marked as estimated, for they may have spent it.

        A process of this machine is dead when it is gone, whatever the clock says. Of any other only the
        expiry of its reservation is known. Where there is nothing to close it writes nothing.

        Args:
            keep: The execution that is being retried just now: its reservation is taken over instead.

        Returns:
            The reservations that were closed, by execution.
        """
        query = f"{SELECT_HOLD} ORDER BY execution_id"

        def lost(rows: Iterable[Any], now: int) -> tuple[Hold, ...]:
            holds = [hold for hold in map(Hold.of, rows) if hold.execution_id != keep]
            return tuple(hold for hold in holds if not hold.lives(self._here(), now))

        def end(books: Books) -> tuple[Hold, ...]:
            found = lost(books.connection.execute(query).fetchall(), books.now)
            for hold in found:
                books.end(hold, "budget.expire")
            return found

        return self._write(end) if lost(self._database.read(query), micro(self._clock())) else ()

    # ------------------------------------------------------------ executions

    def settle(self, closing: Closing) -> None:
        """Charge, set all names and write the closing event, in one durable transaction: now it is true.

        The cost is recorded in full, above the reservation too (then marked as an overrun). Where nothing was
        reserved and nothing spent, no settlement is written. Where the reservation expired although this
        process lives (its machine was suspended, say), what was charged then is corrected to the actual cost.

        Raises:
            LedgerFailed: It was closed before. What this process still holds for it is charged; nothing else
                is changed.
            ArtifactNotFound: There is no such plan.
            Internal: The closing breaks the rules of its own record.
        """
        id_, cost = closing.execution_id, closing.actual_micro_usd
        if cost is not None and not is_amount(cost):
            raise Internal(f"execution {id_} closes with a cost of {cost!r} micro-USD")
        self._look_around()
        ours = self._held.get(id_)
        before = self._write(
            lambda books: books.close(closing, here=self._here, reserved=ours and ours.amount)
        )
        self._forget(id_)
        if before:
            raise LedgerFailed(
                f"execution {id_} was closed before, as {before}", hint="see it with: theory show ID"
            )

    def correct(self, execution_id: str, actual_micro_usd: int) -> None:
        """Put right an estimated cost that is known now: all that the execution cost, retries included.

        The same amount again writes nothing.

        Raises:
            ArtifactNotFound: Nothing was ever charged for such an execution, and none was closed.
            Usage: Its cost was no estimate, or the amount is out of range.
        """
        check_amount("cost", actual_micro_usd)
        self._write(lambda books: books.correct(execution_id, actual_micro_usd))

    def execution(self, execution_id: str) -> Record | None:
        """A closed execution, or None."""
        if not is_text(execution_id):
            return None
        query = f"SELECT {EVENT_COLUMNS} FROM events WHERE execution_id = ? AND {CLOSINGS}"  # noqa: S608 - constants
        rows = self._database.read(query, (execution_id,))
        return Record.of(Event(*rows[0])) if rows else None

    def executions(self, *, limit: int, plan: str | None = None) -> tuple[Record, ...]:
        """The executions that closed last, the newest first, of one plan or of all."""
        start = f"SELECT {EVENT_COLUMNS} FROM events WHERE {CLOSINGS}"  # noqa: S608 - constants
        if plan is None:
            rows = self._database.read(f"{start} ORDER BY id DESC LIMIT ?", (limit,))
        else:
            self.plan(plan)
            rows = self._database.read(f"{start} AND plan = ? ORDER BY seq DESC LIMIT ?", (plan, limit))
        return tuple(Record.of(Event(*row)) for row in rows)

    # ------------------------------------------------------------ names

    def name(self, path: str) -> Artifact | None:
        """What the last closed execution that named this world path gave it, or None."""
        rows = self._database.read(f"{_SELECT_NAME} WHERE path = ?", (path,)) if is_text(path) else ()
        return Artifact(*rows[0]) if rows else None

    def names(self, prefix: str) -> Iterator[Artifact]:
        """All names that begin with this text, by path, read as they are asked for."""
        comparison, last = ">=", prefix
        while is_text(prefix):
            query = f"{_SELECT_NAME} WHERE path {comparison} ? ORDER BY path LIMIT {_PAGE}"
            rows = self._database.read(query, (last,))
            for row in rows:
                if not row[0].startswith(prefix):
                    return
                yield Artifact(*row)
            if not rows:
                return
            last = rows[-1][0] if comparison == ">=" else further(last, rows[-1][0])
            comparison = ">"

    # ------------------------------------------------------------ within

    def _write(self, change: Callable[[Books], Answer]) -> Answer:
        """What the change answers, once it is durable."""

        def within(connection: sqlite3.Connection) -> Answer:
            books = Books(connection, micro(self._clock()))
            answer = change(books)
            books.flush()
            return answer

        try:
            return self._database.write(within)
        except TheoryError:
            self._plans.clear()  # it may be another file by now, put in the place of one that failed
            raise

    def _look_around(self) -> None:
        """Notice a fork: the child holds nothing and has no heartbeat yet."""
        if self._pid != os.getpid():
            self._guard = Lock()
            self._held, self._heartbeat, self._owner, self._pid = {}, None, None, os.getpid()

    def _here(self) -> Owner:
        """This process."""
        self._look_around()
        if self._owner is None:
            self._owner = self._given_owner or Owner.here()
        return self._owner

    def _forget(self, execution_id: str) -> None:
        with self._guard:
            self._held.pop(execution_id, None)

    def _states(self, key: str) -> list[PlanState]:
        rows = self._database.read(f"{SELECT_PLAN} WHERE key = ?", (key,)) if is_text(key) else ()
        return [PlanState(*row) for row in rows]
