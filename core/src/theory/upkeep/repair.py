"""What ``theory verify --repair`` does: damage goes to the folder ``quarantine`` of the store, never away.

What is damaged is no longer there, so a later run puts it again. Memo records that name what is damaged or
missing go along, so that such a run is no hit. Everything is in the quarantine before it leaves its place.
What is half written is in the store's ``tmp``, where ``theory gc`` finds it if we die.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from theory.disk import durable
from theory.disk.lockfile import LockFile
from theory.disk.sqlite import PATIENCE_S, Database
from theory.errors import Damaged, StoreFailed
from theory.formats.canon import cid_of
from theory.store import blobs
from theory.store.filestore import LAYOUT, FileStore
from theory.store.references import name_of
from theory.store.trash import Trash

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theory.upkeep.verify import Report

_KEPT = 0o444
_NO_DAMAGE = ("locked", "full")  # what SQLite says of a database that may well be one, and in use
_LAST_ROW = 2**48  # no store has so many


def repair(store: FileStore, report: Report) -> dict[str, str]:
    """Move what a report calls damaged to the quarantine; what was moved, and where it is now.

    What was healed since it was looked at stays where it is.

    Args:
        store: One that nobody else repairs or collects meanwhile.
        report: Of ``theory.upkeep.verify``.

    Raises:
        StoreFailed: The quarantine cannot be written; all that is not in it is where it was.
    """
    ward = _Quarantine(store)
    for fault in report.faults:
        if fault.kind == "database":
            ward.take_database()
            break
    for fault in report.faults:
        if fault.kind == "blob" and fault.fault == "damaged":
            ward.take_blob(fault.what)
    for key in dict.fromkeys(key for fault in report.faults for key in fault.memo_keys):
        ward.take_memo(key)
    if ward.taken:
        trash = Trash(store)
        trash.close(trash.begin())  # a new age: who found before what is no longer here has to look again
    return ward.taken


class _Quarantine:
    def __init__(self, store: FileStore) -> None:
        self._store = store
        self._folder = f"{store.root}/quarantine"
        self.taken: dict[str, str] = {}
        try:
            durable.make_folders(self._folder, durable.PRIVATE_FOLDER)
        except OSError as error:
            raise durable.refusal(StoreFailed, f"cannot make {self._folder}", error) from error

    def take_blob(self, cid: str) -> None:
        """Move a blob that is damaged."""
        name, store = name_of(cid), self._store
        data = store.small.raw(name)
        if data is not None:
            content = data if isinstance(data, bytes) else str(data).encode()
            if cid_of(content) != cid:
                self._keep(cid, name.hex(), content)
                store.small.take(name, data)
            return
        path = store.path(cid)
        if not os.path.lexists(path) or self._is_whole(cid):
            return
        place = self._place(name.hex())
        try:
            os.rename(path, place)
            for folder in (self._folder, os.path.dirname(path)):
                durable.sync_folder(folder)
        except OSError as error:
            raise durable.refusal(StoreFailed, f"cannot move {path} to {place}", error) from error
        self.taken[cid] = place

    def take_memo(self, key: str) -> None:
        """Move a memo record, whole or not."""
        name = name_of(key)
        data = self._store.memo.raw(name)
        if data is not None:
            self._keep(key, f"memo-{name.hex()}", data if isinstance(data, bytes) else str(data).encode())
            self._store.memo.take(name, data)

    def take_database(self) -> None:
        """Put a database of all rows that are whole in the place of one that is damaged in its structure.

        Others that have it open see it change as by a commit; where it cannot be opened at all, nobody has.
        """
        path = str(self._store.database.path)
        place, fresh = self._place("small.db"), durable.temporary(self._store.staging)
        # To copy a file that this process has open in SQLite would give up SQLite's locks on it.
        # Source: https://sqlite.org/howtocorrupt.html, 2.2
        self._store.database.close()
        try:
            with closing(LockFile(f"{path}-lock")) as lock, lock.held(PATIENCE_S):
                for end in ("", "-wal"):
                    with suppress(FileNotFoundError):
                        _copy(path + end, place + end, self._store.staging)
                database = Database(Path(fresh), LAYOUT)
                try:
                    database.open()
                    for table in ("blobs", "memo"):
                        _salvage(path, database, table)
                finally:
                    database.close()
                _replace(path, fresh)
        except (OSError, sqlite3.Error) as error:  # a full disk, or another process that does not let go
            raise StoreFailed(
                f"cannot repair {path}: {error}", hint="free some space on its disk, or end who uses it"
            ) from error
        self._store.database.close()  # another thread may have opened what is now replaced
        self.taken[path] = place

    def _is_whole(self, cid: str) -> bool:
        try:
            blobs.verify(self._store, cid)
        except (Damaged, StoreFailed):
            return False
        return True

    def _keep(self, what: str, name: str, content: bytes) -> None:
        place = self._place(name)
        try:
            durable.write_file(place, content, mode=_KEPT, through=self._store.staging)
        except OSError as error:
            raise durable.refusal(StoreFailed, f"cannot write {place}", error) from error
        self.taken[what] = place

    def _place(self, name: str) -> str:
        """A path in the quarantine that nothing has yet."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        return f"{self._folder}/{name}.{stamp}.{os.urandom(4).hex()}"


def _copy(source: str, dest: str, through: Path) -> None:
    descriptor, temp = durable.create(through)
    try:
        with open(source, "rb") as stream, open(descriptor, "wb") as target:
            shutil.copyfileobj(stream, target)
        os.chmod(temp, _KEPT)
    except BaseException:
        durable.discard(temp)
        raise
    durable.replace(temp, dest)


def _replace(path: str, fresh: str) -> None:
    """Make a database what another one is, or put that in its place."""
    with closing(sqlite3.connect(fresh)) as source:
        try:
            with closing(sqlite3.connect(path, timeout=PATIENCE_S)) as target:
                source.backup(target)
        except sqlite3.DatabaseError as error:
            if any(words in str(error) for words in _NO_DAMAGE):
                raise
            for end in ("-wal", "-shm"):
                durable.discard(path + end)
            source.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            durable.replace(fresh, path)
    for end in ("", "-wal", "-shm", "-lock"):
        durable.discard(fresh + end)


def _salvage(path: str, into: Database, table: str) -> None:
    """Copy all rows that can be read; whether their content is whole is another question."""
    insert = f"INSERT OR IGNORE INTO {table} VALUES (?, ?)"  # noqa: S608 - table is our own word
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as source:
            source.text_factory = bytes
            for rows in _readable(source, table):
                good = [row for row in rows if isinstance(row[0], bytes) and isinstance(row[1], bytes)]
                _insert(into, insert, good)
    except sqlite3.DatabaseError:
        return  # nothing of it can be read


def _insert(into: Database, query: str, rows: list[tuple[object, object]]) -> None:
    into.write(lambda connection: connection.executemany(query, rows))


def _readable(source: sqlite3.Connection, table: str) -> Iterator[list[tuple[object, object]]]:
    """Rows in portions, by row number; past a damaged page it goes on at the next number that can be read."""
    query = f"SELECT rowid, name, data FROM {table} NOT INDEXED WHERE rowid > ? ORDER BY rowid LIMIT 1"  # noqa: S608
    last, step = -1, 1
    while last < _LAST_ROW:
        try:
            rows = source.execute(query.replace("LIMIT 1", "LIMIT 200"), (last,)).fetchall()
        except sqlite3.DatabaseError:
            try:
                rows = source.execute(query, (last,)).fetchall()
            except sqlite3.DatabaseError:
                last, step = last + step, step * 2
                continue
        if not rows:
            return
        if rows[-1][0] <= last:  # a damaged page leads back
            last, step = last + step, step * 2
            continue
        last, step = rows[-1][0], 1
        yield [row[1:] for row in rows]
