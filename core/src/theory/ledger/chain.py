"""The chain of a plan's events: what one is, and how all of them are checked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, TypeAlias

from theory.canon import MAX_INTEGER, event_hash
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
        try:
            return self.computed_hash() == self.hash
        except (TypeError, ValueError):  # damage may make other types of its columns
            return False


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


def faults(events: Iterable[Event], state: PlanState) -> Iterator[str]:
    """What is wrong with a plan: its chain, or its row, which must be what the events add up to.

    Finds a change, a removal or a swap of any event whose successors were not all rewritten; a rewrite of the
    whole chain is found only by comparing its head with one that was kept elsewhere.
    """
    seq, head, limit, reserved, spent = 0, "", None, 0, 0
    for event in events:
        seq += 1
        if event.seq != seq:
            yield f"event {seq} is missing; the next is {event.seq}"
            seq = event.seq
        if event.plan != state.key:
            yield f"event {seq} belongs to another plan"
        if event.prev != head:
            yield f"event {seq} does not follow the one before it"
        if not event.is_whole():
            yield f"event {seq} was changed: its content does not have its hash"
        head = event.hash
        try:
            payload = json.loads(event.payload)
            reserved += _reserved(event.kind, payload)
            spent = counted(spent, _spent(event.kind, payload))
            if event.kind in {"plan.create", "plan.limit"}:
                limit = payload["limit_micro_usd"]
        except (ValueError, KeyError, TypeError):
            yield f"event {seq} has a payload that does not fit {event.kind}"
    for what, row, told in (
        ("number of events", state.events, seq),
        ("head", state.head, head),
        ("limit", state.limit_micro_usd, limit),
        ("reserved", state.reserved_micro_usd, reserved),
        ("spent", state.spent_micro_usd, spent),
    ):
        if row != told:
            yield f"the plan's row has {what} {row}, and its events say {told}"


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
