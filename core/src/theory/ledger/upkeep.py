"""What the upkeep of a home keeps beside the chain: pins, and executions whose files were given up.

The chain and its names are never touched. The tables are made by the first write that needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from theory.disk.sqlite import PATIENCE_S, Database
from theory.ledger.chain import EVENT_COLUMNS, Event
from theory.ledger.database import CLOSINGS, LAYOUT, further
from theory.record import Record

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

Result = TypeVar("Result")

_PAGE = 1000  # rows read at a time, so that a long listing never holds the file
_TABLES = (
    """CREATE TABLE IF NOT EXISTS pins (
        what TEXT PRIMARY KEY NOT NULL,
        cid TEXT
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS given_up (
        execution_id TEXT PRIMARY KEY NOT NULL,
        batch INTEGER
    ) WITHOUT ROWID""",
)


class Pin(Record):
    """What ``theory gc`` never takes away."""

    what: str  # an execution's id, a world path, or a cid
    cid: str | None  # what the path named when it was pinned; None for an execution


class Upkeep:
    """Beside the ledger, over a connection of its own; errors are those of ``disk.sqlite.Database``."""

    def __init__(self, path: Path, patience_s: float = PATIENCE_S) -> None:
        self._database = Database(path, LAYOUT, patience_s)

    def close(self) -> None:
        """Close the file; a later use opens it again."""
        self._database.close()

    def closings(self) -> Iterator[tuple[int, Event]]:
        """Row number and event of every closed execution, the oldest first, read as they are asked for."""
        query = (
            f"SELECT id, {EVENT_COLUMNS} FROM events WHERE id > ? AND {CLOSINGS} ORDER BY id LIMIT {_PAGE}"  # noqa: S608 - constants
        )
        last = 0
        while rows := self._database.read(query, (last,)):
            for row in rows:
                yield row[0], Event(*row[1:])
            last = further(last, rows[-1][0])

    def names(self) -> Iterator[tuple[str, str, int]]:
        """Every world path with its cid and the row number of the event that gave it."""
        last = ""
        query = f"SELECT path, cid, event FROM names WHERE path > ? ORDER BY path LIMIT {_PAGE}"  # noqa: S608 - a constant
        while rows := self._database.read(query, (last,)):
            yield from rows
            last = further(last, rows[-1][0])

    # ------------------------------------------------------------ pins

    def pins(self) -> tuple[Pin, ...]:
        """All pins, by what is pinned."""
        return tuple(Pin(*row) for row in self._read("pins", "SELECT what, cid FROM pins ORDER BY what"))

    def pin(self, pin: Pin) -> None:
        """Pin this; a path that was pinned before is pinned to what it names now."""
        self._write(
            lambda connection: _do(connection, "INSERT OR REPLACE INTO pins VALUES (?, ?)", pin.what, pin.cid)
        )

    def unpin(self, what: str) -> bool:
        """Take the pin away; False if there was none."""
        if all(pin.what != what for pin in self.pins()):
            return False
        self._write(lambda connection: _do(connection, "DELETE FROM pins WHERE what = ?", what))
        return True

    # ------------------------------------------------------------ executions whose files are given up

    def given_up(self) -> frozenset[str]:
        """The ids of the executions whose files are in the trash or gone."""
        return frozenset(id_ for (id_,) in self._read("given_up", "SELECT execution_id FROM given_up"))

    def give_up(self, executions: Iterable[str], batch: int) -> None:
        """Give up the files of these; until this batch of the trash is emptied, ``take_back`` undoes it."""
        rows = [(id_, batch) for id_ in executions]
        query = "INSERT OR IGNORE INTO given_up VALUES (?, ?)"
        if rows:
            self._write(lambda connection: connection.executemany(query, rows))

    def take_back(self, execution_id: str | None = None) -> int:
        """Undo what was given up and is still in the trash, of one execution or all; how many."""
        one = "" if execution_id is None else " AND execution_id = ?"
        values = () if execution_id is None else (execution_id,)
        these = f"FROM given_up WHERE batch IS NOT NULL{one}"
        if not self._read("given_up", f"SELECT 1 {these} LIMIT 1", values):
            return 0
        return self._write(lambda connection: _do(connection, f"DELETE {these}", *values))

    def forget(self, batch: int) -> None:
        """The trash is about to be emptied up to this batch: nothing brings these back."""
        if self._read("given_up", "SELECT 1 FROM given_up WHERE batch <= ? LIMIT 1", (batch,)):
            query = "UPDATE given_up SET batch = NULL WHERE batch <= ?"
            self._write(lambda connection: _do(connection, query, batch))

    # ------------------------------------------------------------ within

    def _read(self, table: str, query: str, values: Sequence[object] = ()) -> list[Any]:
        there = self._database.read("SELECT 1 FROM sqlite_master WHERE name = ?", (table,))
        return self._database.read(query, values) if there else []

    def _write(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        def within(connection: sqlite3.Connection) -> Result:
            for table in _TABLES:
                connection.execute(table)
            return work(connection)

        return self._database.write(within)


def _do(connection: sqlite3.Connection, query: str, *values: object) -> int:
    return connection.execute(query, values).rowcount
