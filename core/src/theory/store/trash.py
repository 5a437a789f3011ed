"""The trash of a file store: what ``theory gc`` took away, in numbered batches, until a later run empties it.

    trash/7/<64 hex digits>   a large blob
    trash/7/in-use            the file that all held who came before the batch was closed; its mtime is when
    trash/7/temporary         the names of the files in ``tmp`` at that time
    small.db                  tables trash_blobs and trash_memo: small blobs, and memo records, with their
    batch

What is here is not in the store: ``has`` and ``list`` do not know it, and a ``put`` puts it again. Only
``open`` finds it, so that nothing dangles meanwhile. A batch without ``in-use`` is still open: its age is the
present one.
"""

from __future__ import annotations

import io
import os
import re
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

from theory.disk import durable
from theory.errors import StoreFailed
from theory.store.inuse import is_free

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator

    from theory.store.filestore import FileStore

_CHUNK = 500  # rows moved in one commit, 32 MB at most: writers wait no longer than for one of their own
_BATCH = re.compile(r"[1-9][0-9]{0,17}")
_NAME = re.compile(r"[0-9a-f]{64}")
_TABLES = {"blobs": "trash_blobs", "memo": "trash_memo"}
_COLUMNS = "name BLOB PRIMARY KEY NOT NULL, data BLOB NOT NULL, batch INTEGER NOT NULL"


class Trash:
    """The trash of one store; one process at a time changes it (``theory.upkeep.gc`` sees to that)."""

    def __init__(self, store: FileStore) -> None:
        self._store = store
        self._database = store.database
        self._folder = f"{store.root}/trash"
        self._temporary = str(store.root / "tmp")

    # ------------------------------------------------------------ looking

    def open(self, cid: str) -> IO[bytes] | None:
        """A blob that is in the trash."""
        name = bytes.fromhex(cid[-64:])
        if rows := self._read("trash_blobs", "SELECT data FROM trash_blobs WHERE name = ?", name):
            data = rows[0][0]
            return io.BytesIO(data if isinstance(data, bytes) else str(data).encode())
        for batch in self.batches():
            with suppress(FileNotFoundError):
                return open(f"{self._folder}/{batch}/{name.hex()}", "rb")
        return None

    def batches(self) -> list[int]:
        """The numbers of all batches, the oldest first."""
        return sorted(int(entry) for entry in _listed(self._folder) if _BATCH.fullmatch(entry))

    def closed_at(self, batch: int) -> float | None:
        """When a batch was closed, in seconds since the epoch; None: it is open."""
        try:
            return os.stat(f"{self._folder}/{batch}/in-use").st_mtime
        except FileNotFoundError:
            return None

    def free(self) -> list[int]:
        """The closed batches that nobody relies on who came before they were closed, the oldest first."""
        free = []
        for batch in self.batches():
            if self.closed_at(batch) is None or not is_free(f"{self._folder}/{batch}/in-use"):
                break
            free.append(batch)
        return free

    def small(self, table: str = "blobs") -> Iterator[tuple[bytes, int, int]]:
        """Name, size in bytes and batch of every small blob, or memo record, in the trash."""
        kept = _TABLES[table]
        query = f"SELECT name, length(data), batch FROM {kept} WHERE name > ? ORDER BY name LIMIT {_CHUNK}"  # noqa: S608 - our own words, here and below
        last = b""
        while rows := self._read(kept, query, last):
            yield from rows
            before, last = last, rows[-1][0]
            if last <= before:
                return  # a damaged index leads in circles

    def large(self) -> Iterator[tuple[bytes, int, int]]:
        """Name, size in bytes and batch of every large blob in the trash."""
        for batch in self.batches():
            folder = f"{self._folder}/{batch}"
            for name in filter(_NAME.fullmatch, _listed(folder)):
                yield bytes.fromhex(name), os.stat(f"{folder}/{name}").st_size, batch

    # ------------------------------------------------------------ filling

    def begin(self) -> int:
        """The open batch, made if there is none; what a folder that is gone left in the database joins it."""
        with self._worded():
            there = self.batches()
            stray = [
                row[0]
                for kept in _TABLES.values()
                for row in self._read(kept, f"SELECT DISTINCT batch FROM {kept}")  # noqa: S608
                if row[0] not in there
            ]
            batch = there[-1] if there and self.closed_at(there[-1]) is None else max([*there, *stray, 0]) + 1
            durable.make_folder(self._folder, durable.PRIVATE_FOLDER)
            durable.make_folder(f"{self._folder}/{batch}", durable.PRIVATE_FOLDER)
        for old in stray:
            for kept in _TABLES.values():
                self._do(f"UPDATE {kept} SET batch = ? WHERE batch = ?", batch, old)  # noqa: S608
        return batch

    def take_small(self, table: str, names: Iterable[bytes], batch: int) -> None:
        """Move rows into the trash."""
        kept = _TABLES[table]
        for chunk in _chunks(names):

            def work(connection: sqlite3.Connection, chunk: list[bytes] = chunk) -> None:
                for name in chunk:
                    connection.execute(
                        f"INSERT OR REPLACE INTO {kept} SELECT name, data, ? FROM {table} WHERE name = ?",  # noqa: S608
                        (batch, name),
                    )
                    connection.execute(f"DELETE FROM {table} WHERE name = ?", (name,))  # noqa: S608

            self._write(work)

    def take_large(self, names: Iterable[bytes], batch: int) -> None:
        """Move files into the trash."""
        with self._worded():
            for name in names:
                with suppress(FileNotFoundError):
                    os.rename(self._store.path(f"b3:{name.hex()}"), f"{self._folder}/{batch}/{name.hex()}")

    def close(self, batch: int) -> None:
        """Begin a new age: who comes from now on cannot have seen what is in this batch."""
        folder, in_use = f"{self._folder}/{batch}", self._store.in_use.path
        with self._worded():
            left = "\n".join(_listed(self._temporary)).encode(errors="surrogateescape")
            durable.write_file(
                f"{folder}/temporary", left, mode=durable.PRIVATE_FILE, through=self._temporary
            )
            os.close(os.open(in_use, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, durable.PRIVATE_FILE))
            os.utime(in_use)
            os.rename(in_use, f"{folder}/in-use")

    # ------------------------------------------------------------ emptying

    def restore(self, wanted: Callable[[bytes], bool]) -> int:
        """Put back the blobs whose names are wanted; how many."""
        small = [name for name, _, _ in self.small() if wanted(name)]
        self._restore_small("blobs", small)
        large = [(name, batch) for name, _, batch in self.large() if wanted(name)]
        with self._worded():
            for name, batch in large:
                path = self._store.path(f"b3:{name.hex()}")
                place = f"{self._folder}/{batch}/{name.hex()}"
                if os.path.lexists(path):  # it was put again since
                    os.unlink(place)
                else:
                    durable.make_folders(os.path.dirname(path), durable.PRIVATE_FOLDER)
                    os.rename(place, path)
            for folder in {os.path.dirname(self._store.path(f"b3:{name.hex()}")) for name, _ in large}:
                durable.sync_folder(folder)
        return len(small) + len(large)

    def restore_memo(self) -> int:
        """Put back all memo records that were not written anew since; how many."""
        names = [name for name, _, _ in self.small("memo")]
        self._restore_small("memo", names)
        return len(names)

    def empty(self, batch: int) -> None:
        """Delete what is in a batch, for good."""
        for kept in _TABLES.values():
            some = f"FROM {kept} WHERE batch = ? LIMIT {_CHUNK}"
            while self._read(kept, f"SELECT 1 {some}", batch):
                # By row: a damaged index of the names would find none, for ever.
                self._do(f"DELETE FROM {kept} WHERE rowid IN (SELECT rowid {some})", batch)  # noqa: S608
        with self._worded():
            folder = f"{self._folder}/{batch}"
            for name in filter(_NAME.fullmatch, _listed(folder)):
                os.unlink(f"{folder}/{name}")

    def remove(self, batch: int) -> bool:
        """Remove a batch that nobody holds and that is empty; whether it was."""
        folder = f"{self._folder}/{batch}"
        if any(map(_NAME.fullmatch, _listed(folder))):
            return False
        if any(
            self._read(kept, f"SELECT 1 FROM {kept} WHERE batch = ? LIMIT 1", batch)  # noqa: S608
            for kept in _TABLES.values()
        ):
            return False
        with self._worded():
            for name in ("temporary", "in-use"):
                with suppress(FileNotFoundError):
                    os.unlink(f"{folder}/{name}")
            with suppress(OSError):  # somebody put something of his own there
                os.rmdir(folder)
        return True

    def remove_temporary(self, batch: int) -> int:
        """Remove the files in ``tmp`` of those who held a batch that is free: they are nobody's; how many."""
        removed = 0
        try:
            with open(
                f"{self._folder}/{batch}/temporary", encoding="utf-8", errors="surrogateescape"
            ) as file:
                names = file.read().split("\n")
        except FileNotFoundError:
            return 0
        with self._worded():
            for name in filter(_TEMPORARY.fullmatch, names):
                with suppress(FileNotFoundError):
                    os.unlink(f"{self._temporary}/{name}")
                    removed += 1
        return removed

    # ------------------------------------------------------------ within

    def _restore_small(self, table: str, names: Iterable[bytes]) -> None:
        kept = _TABLES[table]
        for chunk in _chunks(names):

            def work(connection: sqlite3.Connection, chunk: list[bytes] = chunk) -> None:
                for name in chunk:
                    connection.execute(
                        f"INSERT OR IGNORE INTO {table} SELECT name, data FROM {kept} WHERE name = ?",  # noqa: S608
                        (name,),
                    )
                    connection.execute(f"DELETE FROM {kept} WHERE name = ?", (name,))  # noqa: S608

            self._write(work)

    def _read(self, table: str, query: str, *values: object) -> list[Any]:
        there = self._database.read("SELECT 1 FROM sqlite_master WHERE name = ?", (table,))
        return self._database.read(query, values) if there else []

    def _do(self, query: str, *values: object) -> None:
        self._write(lambda connection: connection.execute(query, values))

    def _write(self, work: Callable[[sqlite3.Connection], object]) -> None:
        def within(connection: sqlite3.Connection) -> None:
            for table in _TABLES.values():
                connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({_COLUMNS})")
            work(connection)

        self._database.write(within)

    @contextmanager
    def _worded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise durable.refusal(StoreFailed, f"cannot write to {self._folder}", error) from error


_TEMPORARY = re.compile(  # theory.disk.durable, theory.upkeep.repair and theory.rooms.artifacts
    r"[0-9a-f]{32}\.tmp(-lock|-wal|-shm|-journal)?|fetched-[0-9a-f]{32}"
)


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _chunks(names: Iterable[bytes]) -> Iterator[list[bytes]]:
    rest = list(names)
    for at in range(0, len(rest), _CHUNK):
        yield rest[at : at + _CHUNK]
