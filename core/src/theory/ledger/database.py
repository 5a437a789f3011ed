"""The ledger's SQLite file: how it is opened, made durable, shared and refused.

Rollback journal and ``synchronous=EXTRA``. Measured with SQLite 3.40.1 on ext4 (strace, per commit): DELETE,
TRUNCATE and PERSIST cost 5 syncs each (two of the journal, one of its folder, one of the database, one that
ends the transaction) and 1.47, 1.20 and 1.12 ms. PERSIST it is: it ends a transaction by overwriting the
journal's header and syncing that, which asks nothing of a file system's metadata. WAL would cost 1 sync, but
libraries before 3.51.3 have a corruption bug in it, and it cannot be shared over a network file system or
into a virtual machine, as a home can be.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager, suppress
from threading import RLock
from typing import TYPE_CHECKING, Any

from theory.canon import MAX_INTEGER
from theory.durable import PRIVATE_FOLDER, make_folders, refusal
from theory.errors import LedgerFailed, Retry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from theory.errors import TheoryError

APPLICATION_ID = 0x74686C67  # "thlg"; file(1) and we tell the file by it
VERSION = 1  # of the schema
PATIENCE_S = 30.0  # how long to wait for another process before giving up

CLOSINGS = "kind IN ('execution.success', 'execution.failure', 'execution.memo_hit')"
CHARGES = "kind IN ('budget.settle', 'budget.expire', 'budget.correct')"


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

_HINTS = (  # what SQLite says, and the next step
    ("readonly", "make it and its folder writable, or set THEORY_HOME to a folder that is"),
    ("unable to open", "see that its folder exists and is writable, or set THEORY_HOME to one that is"),
    ("full", "free some space on its file system"),
    ("I/O", "look at the file system: free space, quota, the kernel's log"),
    (
        "not a database",
        "move the file away and put back a copy of the ledger, or set THEORY_HOME to another folder",
    ),
    ("", "move the file away and put back a copy of it"),
)

# A connection that came through a fork is the parent's: to close it could roll back what the parent writes.
_PARENTS: list[sqlite3.Connection] = []


class Database:
    """One connection to the ledger's file, for all threads of a process, in turn.

    After a fork the child leaves the parent's connection alone and opens its own at the next use.

    Every method raises ``LedgerFailed`` where the file cannot be opened, read or written, is damaged, is
    something else or is of a newer version (then it is not touched), and ``Retry`` where another process has
    kept it locked for ``patience_s``.
    """

    def __init__(self, path: Path, patience_s: float = PATIENCE_S) -> None:
        """Open the file at once, and make it where there is none."""
        self.path = path
        self._patience_s = patience_s
        self._lock = RLock()
        self._pid = os.getpid()
        self._connection: sqlite3.Connection | None = None
        with self._used():
            pass

    def read(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        """All rows of one query."""
        with self._used() as connection:
            return connection.execute(query, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One writer at a time; what the block did is durable after it, or not there at all."""
        with self._used() as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    with suppress(sqlite3.Error):  # the first error is the one to tell
                        connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the file; a later use opens it again."""
        if self._pid == os.getpid():
            with self._lock:
                self._drop()

    @contextmanager
    def _used(self) -> Iterator[sqlite3.Connection]:
        if self._pid != os.getpid():
            self._leave_to_parent()
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                yield self._connection
            except sqlite3.Error as error:
                # What SQLite knew of the file may be stale after a failed write: the next use opens it anew.
                self._drop()
                raise self._explained(error) from error

    def _open(self) -> sqlite3.Connection:
        try:
            make_folders(self.path.parent, PRIVATE_FOLDER)
        except OSError as error:
            raise refusal(LedgerFailed, f"cannot make the folder of the ledger {self.path}", error) from error
        connection = sqlite3.connect(
            self.path, timeout=self._patience_s, isolation_level=None, check_same_thread=False
        )
        try:
            fresh = self._check(connection)
            connection.execute("PRAGMA journal_mode=PERSIST")
            connection.execute("PRAGMA synchronous=EXTRA")
            connection.execute("PRAGMA fullfsync=ON")  # macOS: fsync alone stops at the drive's cache
            if fresh:
                self._create(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: sqlite3.Connection) -> bool:
        """Refuse what is not ours; True if the file is still empty."""
        application_id, version, tables = connection.execute(
            "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)"
            " FROM pragma_application_id, pragma_user_version"
        ).fetchone()
        if (application_id, version, tables) == (0, 0, 0):
            return True
        if application_id != APPLICATION_ID:
            raise LedgerFailed(
                f"{self.path} is a database of another program", hint="set THEORY_HOME to a folder of its own"
            )
        if version > VERSION:
            raise LedgerFailed(
                f"the ledger {self.path} has format {version}, and this theory knows {VERSION}",
                hint="upgrade theory-core; the file was not touched",
            )
        return False

    def _create(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")  # the second of two that start together waits and finds it made
        if self._check(connection):
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("COMMIT")

    def _explained(self, error: sqlite3.Error) -> TheoryError:
        words = str(error)
        if "locked" in words:
            return Retry(
                f"another process has kept the ledger {self.path} locked for {self._patience_s:g} s",
                hint="run it again, or look for what holds the file open",
            )
        hint = next(hint for part, hint in _HINTS if part in words)
        return LedgerFailed(f"the ledger {self.path} cannot be used: {words}", hint=hint)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _leave_to_parent(self) -> None:
        if self._connection is not None:
            _PARENTS.append(self._connection)
        self._connection = None
        self._lock = RLock()  # another thread of the parent may have held the old one
        self._pid = os.getpid()
