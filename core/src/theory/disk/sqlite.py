"""A SQLite file that threads and processes share, durable at every commit.

On a local file system it is in WAL mode with ``synchronous=FULL``: one sync a commit, and readers wait for
nobody. SQLite before 3.51.3 can corrupt such a file when two connections write or checkpoint at the same
instant (https://sqlite.org/wal.html#walresetbug), so that never happens here: whoever writes, and so may
checkpoint, holds an exclusive lock on the file ``NAME-lock``; closing checkpoints only where no other
connection is left. WAL needs shared memory, which file systems of a network or of a virtual machine's host
do not have: on those, and on all that we do not know, it is a rollback journal with ``synchronous=EXTRA``,
5 syncs a commit. The file keeps the mode that it was made with. The name of a WAL is durable before the
first commit: SQLite syncs the folder too, but takes no notice of a failure. See docs/decisions/0006.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import weakref
from collections import deque
from contextlib import nullcontext, suppress
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar, cast

from theory.disk.commit import Job, commit
from theory.disk.durable import PRIVATE_FILE, PRIVATE_FOLDER, make_folders, refusal, sync_folder
from theory.disk.lockfile import LockFile
from theory.disk.mounts import is_local
from theory.errors import Retry
from theory.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from theory.errors import TheoryError

Result = TypeVar("Result")

PATIENCE_S = 30.0  # how long to wait for another process before giving up
_PAGE_BYTES = 4096
_WAL_PAGES = 256  # a checkpoint's worth: a start after a death reads about so many again, 0.3 ms
_LARGE_WAL_BYTES = 8 * _WAL_PAGES * _PAGE_BYTES  # what only one large commit makes
_HINTS = (  # what SQLite says, and the next step
    ("readonly", "make it and its folder writable, or {elsewhere}"),
    ("unable to open", "see that its folder exists and is writable, or {elsewhere}; or raise ulimit -n"),
    ("full", "free some space on its file system"),
    ("I/O", "look at the file system: free space, quota, a limit on the size of files, the kernel's log"),
    ("", "move the file away and put back a copy of it, or {elsewhere}"),
)

# Where the message of an error quotes damaged text, Python fails to read the message.
_FAULTS = (sqlite3.Error, UnicodeDecodeError, OSError)
_DAMAGED = "database disk image is malformed"

# A connection that came through a fork is the parent's: to close it could undo what the parent writes.
_PARENTS: list[sqlite3.Connection] = []


class Layout(Record):
    """What is in the file, and how its errors speak."""

    application_id: int  # file(1) and we tell the file by it
    version: int  # of the schema
    schema: tuple[str, ...]  # statements
    noun: str  # "the ledger": what users call the file
    failed: type[TheoryError]
    elsewhere: str  # the way out, such as "set THEORY_HOME to another folder"


class Database:
    """One file for all threads of a process; it is made by ``open`` or by the first write.

    After a fork the child leaves the parent's connections alone and opens its own at the next use.

    Every method raises ``layout.failed`` where the file cannot be opened, read or written, is damaged, is
    something else or is of a newer version (then it is not touched), and ``Retry`` where another process has
    kept it locked for ``patience_s``.
    """

    def __init__(self, path: Path, layout: Layout, patience_s: float = PATIENCE_S) -> None:
        self.path = path
        self._layout = layout
        self._touch = f"PRAGMA application_id={layout.application_id}"  # changes a page, to what it was
        self._patience_s = patience_s
        self._start()
        _DATABASES.add(self)

    def open(self) -> None:
        """Open the file, and make it where there is none."""
        with self._lock:
            try:
                self._connected(make=True)
            except _FAULTS as error:
                raise self._failure(error) from error

    def read(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        """All rows of one query; none where there is no file yet. In WAL mode it waits for no writer."""
        spare = not self._lock.acquire(blocking=not self._files.is_wal)
        lock = self._spare_lock if spare else self._lock
        if spare:
            lock.acquire()
        try:
            connection = self._connected(spare=spare)
            return [] if connection is None else connection.execute(query, values).fetchall()
        except _FAULTS as error:
            raise self._failure(error, spare=spare) from error
        finally:
            if self._files.is_immutable:  # what somebody else writes meanwhile would not be seen
                self._files.close()
            lock.release()

    def write(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Do the work in a transaction: durable when this returns, and not there if this raises an Exception.

        What it found there is durable then, too. Threads that write at the same time share one commit, so the
        work may be done by another thread, and more than once until it counts: it changes nothing but the
        database, and leaves the transaction alone. What it raises is raised here, and undoes this work only.
        """
        job = Job(work)
        self._waiting.append(job)
        try:
            with self._lock:
                if not job.is_done:  # nobody has done it along with his own
                    self._do([job, *self._others(job)])
        except BaseException:
            job.is_done = True  # nobody waits for it any more
            raise
        if isinstance(job.error, _FAULTS):
            raise self._explained(job.error) from job.error
        if job.error is not None:
            raise job.error
        return cast("Result", job.result)

    def close(self) -> None:
        """Close the file; a later use opens it again."""
        with self._lock, self._spare_lock:
            self._files.close()

    # ------------------------------------------------------------ writing

    def _others(self, own: Job) -> Iterator[Job]:
        """All that wait; one that is lost on the way, by Ctrl-C, is done when its own thread has its turn."""
        while self._waiting:
            job = self._waiting.popleft()
            if job is not own and not job.is_done:
                yield job

    def _do(self, jobs: list[Job]) -> None:
        """Do these in one transaction; if that comes to nothing, each in one of its own."""
        try:
            self._do_at_once(jobs)
        except Exception as error:  # noqa: BLE001 - each is raised where its work was asked for
            for job in jobs:
                if len(jobs) > 1 and not isinstance(error, Retry):
                    self._do([job])
                else:
                    job.error, job.is_done = error, True

    def _do_at_once(self, jobs: list[Job]) -> None:
        try:
            connection, files = cast("sqlite3.Connection", self._connected(make=True)), self._files
            with files.lock.held(self._patience_s) if files.is_wal else nullcontext():
                if files.is_wal and not files.has_committed:
                    sync_folder(os.path.dirname(files.path))
                # A first commit: what the connection sees may be of a process that died before its sync, and
                # live in memory alone. A commit that changes a page syncs that along.
                commit(connection, jobs, first="" if files.has_committed else self._touch)
                files.has_committed = True
                if files.is_wal:
                    with suppress(sqlite3.Error, OSError):  # the work is durable, whatever comes of this
                        if os.path.getsize(files.wal) > _LARGE_WAL_BYTES:
                            connection.execute(self._touch)  # begins it anew: that cuts it off
        except _FAULTS as error:
            raise self._failure(error) from error

    # ------------------------------------------------------------ opening

    def _start(self) -> None:
        self._lock = RLock()  # of the connection that writes, and reads while nobody writes
        self._spare_lock = RLock()  # of the one that reads beside a writer
        self._waiting: deque[Job] = deque()
        self._files = _Files(os.path.abspath(self.path))
        self._closing = weakref.finalize(self, self._files.close)

    def leave_to_parent(self) -> None:
        """Begin anew in a process that was just forked, while it has but one thread."""
        self._closing.detach()
        _PARENTS.extend(self._files.connections.values())
        self._start()  # with new locks too: another thread of the parent may have held the old ones

    def _connected(self, *, make: bool = False, spare: bool = False) -> sqlite3.Connection | None:
        return self._files.connections.get(spare) or self._opened(make=make, spare=spare)

    def _opened(self, *, make: bool, spare: bool) -> sqlite3.Connection | None:
        path, files = self._files.path, self._files
        if make:
            try:
                make_folders(os.path.dirname(path), PRIVATE_FOLDER)
            except OSError as error:
                what = f"cannot make the folder of {self._layout.noun} {path}"
                raise refusal(self._layout.failed, what, error) from error
        elif not os.path.exists(path):
            return None
        wal = is_local(os.path.dirname(path))
        connection = files.connections[spare] = self._connect(path)
        try:
            try:
                fresh = self._check(connection)
            except sqlite3.OperationalError:
                left, shared = (os.path.exists(path + end) for end in ("-wal", "-shm"))
                if (left and shared) or os.access(os.path.dirname(path), os.W_OK):
                    raise
                from theory.disk.snapshot import snapshot  # noqa: PLC0415 - hardly ever

                connection.close()  # a WAL needs files beside it even for reading
                connection = snapshot(path) if left else self._connect(path, immutable=True)
                files.connections[spare] = connection
                self._check(connection)
                files.is_immutable, files.is_wal = not left, False
                return connection
            if fresh:
                if not make:
                    files.drop(spare=spare)
                    return None
                self._make(connection, wal=wal)
            self._set_care(connection, wal=wal)
        except BaseException:
            files.drop(spare=spare)
            raise
        return connection

    def _set_care(self, connection: sqlite3.Connection, *, wal: bool) -> None:
        self._files.is_wal = connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        if self._files.is_wal and not wal:
            raise self._layout.failed(
                f"{self._layout.noun} {self.path} was made on a local disk, and here it may be on none",
                hint=f"open it where it was made, or {self._layout.elsewhere}",
            )
        if self._files.is_wal:
            size = f"journal_size_limit={_WAL_PAGES * _PAGE_BYTES}"
            pragmas = ["synchronous=FULL", f"wal_autocheckpoint={_WAL_PAGES}", size]
        else:
            pragmas = ["journal_mode=PERSIST", "synchronous=EXTRA"]
        if sys.platform == "darwin":  # where fsync alone stops at the drive's cache
            pragmas += ["fullfsync=ON", "checkpoint_fullfsync=ON"]
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    def _connect(self, path: str, *, immutable: bool = False) -> sqlite3.Connection:
        quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        name = os.fsencode(f"file:{quoted}?immutable=1") if immutable else path
        return sqlite3.connect(
            name, timeout=self._patience_s, isolation_level=None, check_same_thread=False, uri=immutable
        )

    def _check(self, connection: sqlite3.Connection) -> bool:
        """Refuse what is not ours; True if the file is still empty."""
        layout = self._layout
        application_id, version, tables = connection.execute(
            "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)"
            " FROM pragma_application_id, pragma_user_version"
        ).fetchone()
        if (application_id, version, tables) == (0, 0, 0):
            return True
        if application_id != layout.application_id:
            raise layout.failed(f"{self.path} is a database of another program", hint=layout.elsewhere)
        if version > layout.version:
            raise layout.failed(
                f"{layout.noun} {self.path} has format {version}, and this theory knows {layout.version}",
                hint="upgrade theory-core; the file was not touched",
            )
        return False

    def _make(self, connection: sqlite3.Connection, *, wal: bool) -> None:
        os.chmod(self._files.path, PRIVATE_FILE)  # whatever the umask; SQLite makes its other files alike
        with self._files.lock.held(self._patience_s) if wal else nullcontext():
            if wal:
                connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=EXTRA")
            connection.execute("BEGIN IMMEDIATE")  # the second of two that start together finds it made
            if self._check(connection):
                for statement in self._layout.schema:
                    connection.execute(statement)
                connection.execute(self._touch)
                connection.execute(f"PRAGMA user_version={self._layout.version}")
            if wal:
                sync_folder(os.path.dirname(self._files.path))
            connection.execute("COMMIT")

    # ------------------------------------------------------------ errors

    def _failure(self, error: Exception, *, spare: bool = False) -> TheoryError:
        self._files.drop(spare=spare)  # what SQLite knew of the file may be stale: the next use opens it anew
        return self._explained(error)

    def _explained(self, error: Exception) -> TheoryError:
        layout = self._layout
        words = _DAMAGED if isinstance(error, UnicodeDecodeError) else str(error)
        if "locked" in words or isinstance(error, TimeoutError):
            return Retry(
                f"another process has kept {layout.noun} {self.path} locked for {self._patience_s:g} s",
                hint="run it again, or look for what holds the file open",
            )
        if isinstance(error, OSError):
            return refusal(layout.failed, f"{layout.noun} {self.path} cannot be used", error)
        hint = next(hint for part, hint in _HINTS if part in words)
        return layout.failed(
            f"{layout.noun} {self.path} cannot be used: {words}",
            hint=hint.format(elsewhere=layout.elsewhere),
        )


class _Files:
    """What one process has open of a database."""

    def __init__(self, path: str) -> None:
        self.path, self.wal = path, f"{path}-wal"
        self.pid = os.getpid()
        self.connections: dict[bool, sqlite3.Connection] = {}  # the spare one under True
        self.lock = LockFile(f"{path}-lock")
        self.is_wal = self.is_immutable = False
        self.has_committed = False  # since it was opened

    def drop(self, *, spare: bool) -> None:
        """Close one connection."""
        connection = self.connections.pop(spare, None)
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()
            self.has_committed = self.is_immutable = False

    def close(self) -> None:
        """Close it all, unless it is the parent's."""
        if self.pid == os.getpid():
            for spare in tuple(self.connections):
                self.drop(spare=spare)
            self.lock.close()


_DATABASES: weakref.WeakSet[Database] = weakref.WeakSet()


def _after_fork() -> None:
    for database in tuple(_DATABASES):
        database.leave_to_parent()


os.register_at_fork(after_in_child=_after_fork)
