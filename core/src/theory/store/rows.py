"""Names and bytes in one table of a SQLite file: what the file store does not keep as files.

A name is the 32 bytes of a digest.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from theory.disk.commit import insert

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator

    from theory.disk.sqlite import Database

SCHEMA = "CREATE TABLE {} (name BLOB PRIMARY KEY NOT NULL, data BLOB NOT NULL)"

_BATCH = 500  # names in one question; any SQLite takes 999
_NAME_BYTES = 32
_PAGE = 200  # rows with their data at a time: 13 MB at most


class Rows:
    """One table; each method reads or commits once. Errors are those of ``theory.disk.sqlite.Database``."""

    def __init__(self, database: Database, table: str) -> None:
        self._database = database
        self._get = f"SELECT data FROM {table} WHERE name = ?"  # noqa: S608 - table is our own word, here and below
        # What is there and the same is not written again; what is there and damaged is healed.
        self._set = (
            f"INSERT INTO {table} VALUES {{}} ON CONFLICT (name)"  # noqa: S608
            " DO UPDATE SET data = excluded.data WHERE data IS NOT excluded.data"
        )
        self._find = f"SELECT group_concat(hex(name), '') FROM {table} WHERE name IN ({{}})"  # noqa: S608
        self._many = f"SELECT name, data FROM {table} WHERE name IN ({{}})"  # noqa: S608
        self._forget = f"DELETE FROM {table} WHERE name = ?"  # noqa: S608
        self._all = f"SELECT rowid, name, data FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT {_PAGE}"  # noqa: S608
        self._sizes = (
            f"SELECT rowid, name, length(data) FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT 5000"  # noqa: S608
        )
        self._list = f"SELECT name, length(data) FROM {table} WHERE name > ? ORDER BY name LIMIT {_BATCH}"  # noqa: S608

    def raw(self, name: bytes) -> object:
        """What this row holds, bytes unless it is damaged; None where there is none."""
        rows = self._database.read(self._get, (name,))
        return rows[0][0] if rows else None

    def get(self, name: bytes) -> bytes | None:
        """The bytes of this name."""
        rows = self._database.read(self._get, (name,))
        if not rows:
            return None
        data: object = rows[0][0]
        return (
            data if isinstance(data, bytes) else str(data).encode()
        )  # only a damaged row holds anything else

    def many(self, names: Iterable[bytes]) -> dict[bytes, bytes]:
        """The bytes of those of these names that are here, and not damaged in their type."""
        found: dict[bytes, bytes] = {}
        for batch, marks in _batches(names):
            rows = self._database.read(self._many.format(marks), batch)
            found.update((name, data) for name, data in rows if isinstance(data, bytes))
        return found

    def set(self, rows: Callable[[], Iterable[tuple[bytes, bytes]]]) -> None:
        """Make all of these durable, those that are here already too; ``rows`` may be called again."""

        def work(connection: sqlite3.Connection) -> None:
            insert(connection, self._set, rows())

        self._database.write(work)

    def found(self, names: Iterable[bytes]) -> frozenset[bytes]:
        """Which of these are here."""
        found = b""
        for batch, marks in _batches(names):
            for (digits,) in self._database.read(self._find.format(marks), batch):
                found += bytes.fromhex(digits or "")
        return frozenset(found[at : at + _NAME_BYTES] for at in range(0, len(found), _NAME_BYTES))

    def delete(self, names: Iterable[bytes]) -> None:
        """Remove those of these that are here; where none is, nothing is written."""
        gone = [(name,) for name in self.found(names)]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(self._forget, gone)

        if gone:
            self._database.write(work)

    def take(self, name: bytes, data: object) -> bool:
        """Remove this row if it still holds exactly this; whether it did."""

        def work(connection: sqlite3.Connection) -> bool:
            return connection.execute(f"{self._forget} AND data IS ?", (name, data)).rowcount > 0

        return self._database.write(work)

    def list(self) -> Iterator[tuple[bytes, int]]:
        """Every name and size in bytes; in portions, as a reader that pauses would keep the WAL growing."""
        last = b""
        while rows := self._database.read(self._list, (last,)):
            yield from (row for row in rows if isinstance(row[0], bytes) and len(row[0]) == _NAME_BYTES)
            before, last = last, rows[-1][0]
            if not isinstance(last, bytes) or last <= before:
                return  # a damaged index leads in circles

    def all(self, *, sizes: bool = False) -> Iterator[tuple[object, object]]:
        """Every row as it stands, name and data (or only its size): damage may make anything of either."""
        last, query = -1, self._sizes if sizes else self._all
        while rows := self._database.read(query, (last,)):
            yield from (row[1:] for row in rows)
            before, last = last, rows[-1][0]
            if last <= before:
                return  # as above


def _batches(names: Iterable[bytes]) -> Iterator[tuple[list[bytes], str]]:
    """Names for one question, and the marks in it for them."""
    rest = iter(names)
    while batch := list(islice(rest, _BATCH)):
        yield batch, ",".join("?" * len(batch))
