"""The ledger's tables; how their file is made, shared and kept safe is ``theory.disk.sqlite``'s."""

from __future__ import annotations

from typing import TypeVar

from theory.disk.sqlite import Layout
from theory.errors import LedgerFailed
from theory.formats.canon import MAX_INTEGER

APPLICATION_ID = 0x74686C67  # "thlg"; file(1) and we tell the file by it
VERSION = 1  # of the schema

CLOSINGS = "kind IN ('execution.success', 'execution.failure', 'execution.memo_hit')"
CHARGES = "kind IN ('budget.settle', 'budget.expire', 'budget.correct')"


Position = TypeVar("Position", int, str)  # of a row


def further(before: Position, last: Position) -> Position:
    """Where the next page of rows begins: after the last that was read, which comes after the page before.

    Raises:
        LedgerFailed: It does not: a damaged index leads in circles, for ever.
    """
    if type(last) is not type(before) or last <= before:
        raise LedgerFailed(
            "the ledger is damaged: its rows are not in their order",
            hint="theory plan verify tells more; put back a copy",
        )
    return last


def _money(column: str, default: str = "NOT NULL") -> str:
    within = f"typeof({column}) = 'integer' AND {column} BETWEEN 0 AND {MAX_INTEGER}"
    return f"{column} INTEGER {default} CHECK ({within})"


# ``id`` is SQLite's row number, the order over all plans; it is no part of an event. Both indices over events
# are partial: an execution costs one entry in the first, and only one that costs money any in the second.
_SCHEMA = (
    f"""CREATE TABLE plans (
        key TEXT PRIMARY KEY NOT NULL,
        limit_micro_usd INTEGER CHECK (limit_micro_usd IS NULL OR
            typeof(limit_micro_usd) = 'integer' AND limit_micro_usd BETWEEN 0 AND {MAX_INTEGER}),
        {_money("reserved_micro_usd", "NOT NULL DEFAULT 0")},
        {_money("spent_micro_usd", "NOT NULL DEFAULT 0")},
        events INTEGER NOT NULL DEFAULT 0,
        head TEXT NOT NULL DEFAULT ''
    ) WITHOUT ROWID""",
    """CREATE TABLE events (
        id INTEGER PRIMARY KEY,
        plan TEXT NOT NULL REFERENCES plans (key),
        seq INTEGER NOT NULL CHECK (seq >= 1),
        ts INTEGER NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('plan.create', 'plan.limit', 'budget.reserve', 'budget.settle',
            'budget.release', 'budget.expire', 'budget.correct',
            'execution.success', 'execution.failure', 'execution.memo_hit')),
        execution_id TEXT,
        payload TEXT NOT NULL,
        prev TEXT NOT NULL,
        hash TEXT NOT NULL,
        UNIQUE (plan, seq)
    )""",
    """CREATE TRIGGER events_stay BEFORE UPDATE ON events
        BEGIN SELECT RAISE(ABORT, 'events are never changed'); END""",
    """CREATE TRIGGER events_remain BEFORE DELETE ON events
        BEGIN SELECT RAISE(ABORT, 'events are never removed'); END""",
    f"CREATE UNIQUE INDEX closed_once ON events (execution_id) WHERE {CLOSINGS}",
    f"CREATE INDEX charges ON events (execution_id) WHERE {CHARGES}",
    f"""CREATE TABLE reservations (
        execution_id TEXT PRIMARY KEY NOT NULL,
        plan TEXT NOT NULL REFERENCES plans (key),
        {_money("amount_micro_usd")},
        expires INTEGER NOT NULL,
        boot TEXT, namespace INTEGER, pid INTEGER NOT NULL, started INTEGER
    ) WITHOUT ROWID""",
    """CREATE TABLE names (
        path TEXT PRIMARY KEY NOT NULL,
        cid TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        mime TEXT NOT NULL,
        event INTEGER NOT NULL REFERENCES events (id)
    ) WITHOUT ROWID""",
)

LAYOUT = Layout(
    application_id=APPLICATION_ID,
    version=VERSION,
    schema=_SCHEMA,
    noun="the ledger",
    failed=LedgerFailed,
    elsewhere="set THEORY_HOME to another folder",
)
