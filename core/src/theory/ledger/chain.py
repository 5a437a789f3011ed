"""The chain of a plan's events: what one is, and how all of them are checked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from theory.formats.canon import MAX_INTEGER, event_hash
from theory.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from theory.types import JsonObject

Kind: TypeAlias = Literal[
    "plan.create",
    "plan.limit",
    "budget.reserve",
    "budget.settle",
    "budget.release",
    "budget.expire",
    "budget.correct",
    "execution.success",
    "execution.failure",
    "execution.memo_hit",
]

EVENT_COLUMNS = "plan, seq, ts, kind, execution_id, payload, prev, hash"
EventRow: TypeAlias = "tuple[str, int, int, Kind, str | None, str, str, str]"  # of these columns
CLOSING_KINDS = frozenset({"execution.success", "execution.failure", "execution.memo_hit"})


def micro(seconds: float) -> int:
    """Seconds as the ledger writes them, in whole µs."""
    return round(seconds * 1_000_000)


class Event(Record):
    """One line of a plan, as it stands in the database."""

    plan: str
    seq: int  # dense from 1 in its plan
    ts: int  # microseconds since the epoch, by the clock of who wrote it
    kind: Kind
    execution_id: str | None  # None for what concerns the plan itself
    payload: str  # a JSON object in canonical spelling
    prev: str  # hash of the event before it; empty for the first
    hash: str  # of all columns above, the payload as text

    def computed_hash(self) -> str:
        """What ``hash`` must be."""
        return hash_of(self.plan, self.seq, self.ts, self.kind, self.execution_id, self.payload, self.prev)

    def is_whole(self) -> bool:
        """Whether it has its hash."""
        return is_whole(self.__values__(self))


def hash_of(
    plan: str, seq: int, ts: int, kind: Kind, execution_id: str | None, payload: str, prev: str
) -> str:
    """The hash of an event with these columns."""
    return event_hash(
        {
            "plan": plan,
            "seq": seq,
            "ts": ts,
            "kind": kind,
            "execution_id": execution_id,
            "payload": payload,
            "prev": prev,
        }
    )


class PlanState(Record):
    """A plan as it stands."""

    key: str
    limit_micro_usd: int | None  # None: the plan only counts
    reserved_micro_usd: int
    spent_micro_usd: int
    events: int  # how many; the seq of the last one
    head: str  # hash of the last event


class Tally:
    """What the events of one plan add up to, taken one after another from the first.

    Finds a change, a removal or a swap of any event whose successors were not all rewritten; a rewrite of the
    whole chain is found only by comparing its head with one that was kept elsewhere.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.seq, self.head = 0, ""
        self.limit: int | None = None
        self.reserved = self.spent = 0  # micro-USD
        self.open: dict[str | None, int] = {}  # micro-USD that are held and not closed, by execution

    def take(self, row: EventRow) -> tuple[str, ...]:
        """Count the next event, a row of ``EVENT_COLUMNS``; what is wrong with it."""
        plan, seq, _, kind, execution_id, payload, prev, digest = row
        self.seq += 1
        found: tuple[str, ...] = ()
        if seq != self.seq or plan != self.key or prev != self.head or not is_whole(row):
            found = tuple(self._faults(row))
        self.head = digest
        if kind not in CLOSING_KINDS:  # those move nothing
            try:
                self._count(kind, execution_id, json.loads(payload))
            except (ValueError, KeyError, TypeError):
                return (*found, f"event {self.seq} has a payload that does not fit {kind}")
        return found

    def differs(self, state: PlanState) -> Iterator[str]:
        """Where the plan's row is not what its events add up to."""
        for what, row, told in (
            ("number of events", state.events, self.seq),
            ("head", state.head, self.head),
            ("limit", state.limit_micro_usd, self.limit),
            ("reserved", state.reserved_micro_usd, self.reserved),
            ("spent", state.spent_micro_usd, self.spent),
        ):
            if type(row) is not type(told) or row != told:
                yield f"the plan's row has {what} {row}, and its events say {told}"

    def _faults(self, row: EventRow) -> Iterator[str]:
        plan, seq, _, _, _, _, prev, _ = row
        if seq != self.seq:
            yield f"event {self.seq} is missing; the next is {seq}"
            self.seq = seq if type(seq) is int else self.seq
        if plan != self.key:
            yield f"event {self.seq} belongs to another plan"
        if prev != self.head:
            yield f"event {self.seq} does not follow the one before it"
        if not is_whole(row):
            yield f"event {self.seq} was changed: its content does not have its hash"

    def _count(self, kind: Kind, execution_id: str | None, payload: JsonObject) -> None:
        reserved = _reserved(kind, payload)
        self.reserved += reserved
        self.spent = counted(self.spent, _spent(kind, payload))
        if reserved > 0:
            self.open[execution_id] = reserved
        elif reserved < 0:
            self.open.pop(execution_id, None)
        elif kind in {"plan.create", "plan.limit"}:
            self.limit = cast("int | None", payload["limit_micro_usd"])


def is_whole(row: EventRow) -> bool:
    """Whether an event has its hash."""
    try:
        return hash_of(*row[:-1]) == row[-1]
    except (TypeError, ValueError):  # damage may make other types of its columns
        return False


def _reserved(kind: Kind, payload: JsonObject) -> int:
    """What an event adds to the reserved amount."""
    if kind == "budget.reserve":
        return _amount(payload, "amount_micro_usd")
    if kind in {"budget.release", "budget.expire"}:
        return -_amount(payload, "amount_micro_usd")
    return -_amount(payload, "reserved_micro_usd") if kind == "budget.settle" else 0


def _spent(kind: Kind, payload: JsonObject) -> int:
    """What an event adds to the spent amount."""
    if kind == "budget.settle":
        return _amount(payload, "actual_micro_usd")
    if kind == "budget.expire":
        return _amount(payload, "amount_micro_usd")
    return _amount(payload, "delta_micro_usd") if kind == "budget.correct" else 0


def counted(spent: int, more: int) -> int:
    """What is spent after a charge or (below zero) a correction, in micro-USD.

    What is due is closed whatever it comes to: beyond the largest amount a plan counts no further, and what
    it has not counted cannot be taken away again.
    """
    return max(0, min(spent + more, MAX_INTEGER))


def charged(rows: Iterable[tuple[Kind, str]]) -> int:
    """What these events, kind and payload each, put on the account together, in micro-USD."""
    return sum(_spent(kind, json.loads(payload)) for kind, payload in rows)


def _amount(payload: JsonObject, key: str) -> int:
    value = payload[key]
    if type(value) is not int:
        raise TypeError(key)
    return value
