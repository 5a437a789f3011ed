"""What nobody needs goes to the trash, and from there away: ``theory gc``.

Needed is what a name, a closed execution, a memo record or a pin names, and what those name in turn. All else
goes to the trash (``store.trash``), and is deleted by a later run when it has been there for the grace time.
That is safe beside those who write, for a reason that has nothing to do with time:

1. Whoever relies on a blob has put it, has found it with ``has``, or has it from a memo record, all
   while it held the store's present age (``store.inuse``), and holds it until its ledger line is written.
2. What is in the trash, ``has`` does not find and a ``put`` puts again. So only who came before a blob went
   there can rely on it; and each batch of the trash ends with an age, after the last blob of it went there.
3. A blob is deleted from a batch only when nobody holds the age of the batch or one before it, and when a
   look at all needs that began after that does not find it: then all who could rely on it have written that
   down, or died.
4. What such a look finds in the trash is put back, before any record that names it may go: so a memo record
   that was recalled a moment ago, and went to the trash since, named blobs that went there no earlier than it
   did.

Meanwhile ``open`` finds what is in the trash, so nothing ever dangles: not what an execution has put that is
not closed yet, and so needed by nobody when it is looked for. Every step can be the last one: what is in a
batch stays in it, an open batch goes on, and the next run does the rest. ``--undo`` puts everything back.

The files of ``tmp`` are listed as an age ends; when it is free, those who made them are done. The workspaces
of the dead are told by their locks (``theory.disk.lease``).
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections import deque
from contextlib import ExitStack, closing, contextmanager, nullcontext
from typing import TYPE_CHECKING

from theory.disk.durable import refusal
from theory.disk.lease import bury, sweep
from theory.disk.lockfile import LockFile
from theory.disk.sqlite import PATIENCE_S
from theory.errors import Busy, Damaged, StoreFailed, Unsupported, Usage
from theory.record import Record
from theory.store import users
from theory.store.filestore import FileStore
from theory.store.memo import record_of
from theory.store.references import Contents, cids_in, name_of
from theory.store.trash import Trash

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from theory.home import Home
    from theory.ledger.chain import Event
    from theory.ledger.upkeep import Upkeep

GRACE_S = 3600.0  # time for second thoughts; safety does not depend on it
RETRY_S = 7 * 86_400.0  # how long what an adapter stored of an execution that died waits for its retry


class Policy(Record):
    """Which executions give up their files; None: none for that reason. With both, those that both name."""

    keep_last: int | None = None  # of each ref, the newest stay
    older_than_s: float | None = None  # seconds since it was closed


class Freed(Record):
    """What one run did, or (a dry one) would do."""

    executions: int = 0  # whose files were given up
    trashed_blobs: int = 0
    trashed_bytes: int = 0
    trashed_memo: int = 0
    restored_blobs: int = 0  # from the trash: they are needed after all
    freed_blobs: int = 0  # deleted for good
    freed_bytes: int = 0
    temporary_files: int = 0
    states: int = 0  # folders of executions that died
    trash_blobs: int = 0  # what is in the trash now
    trash_bytes: int = 0
    unused_bytes: int = 0  # free pages of the store's database, for later blobs


def collect(
    home: Home, *, policy: Policy | None = None, grace_s: float = GRACE_S, dry_run: bool = False
) -> Freed:
    """Move what nobody needs to the trash, and delete what has been there for the grace time.

    Args:
        home: Whose store and ledger; the store is one that no other ledger uses.
        policy: Executions that give up their files; their ledger lines and names stay.
        grace_s: Seconds that things stay in the trash; 0: no longer than until nobody can rely on them.
        dry_run: Only look.

    Raises:
        Busy: Another gc, repair or ``theory keep`` is at it.
        Unsupported, Usage: The store is none that this can be done to.
        Damaged: A record that says what is needed is damaged.
    """
    with nullcontext(_store_of(home)) if dry_run else upkeep_of(home) as store:
        _check_users(store, home.settings.home)
        run = _Run(home, store, policy or Policy(), grace_s)
        return run.look() if dry_run else run.collect()


def undo(home: Home) -> Freed:
    """Put back all that is in the trash; errors as for ``collect``."""
    with upkeep_of(home) as store:
        trash = Trash(store)
        restored = trash.restore(lambda _: True)
        memo = trash.restore_memo()
        executions = home.upkeep.take_back()
        for batch in trash.free():
            trash.remove(batch)
        return Freed(executions=executions, restored_blobs=restored, trashed_memo=memo)


def compact(home: Home) -> int:
    """Give the free pages of the store's database back to the disk; how many bytes.

    It writes the whole database anew, so it needs as much room for a while, and whoever writes waits for it.

    Raises:
        StoreFailed: It did not work, and nothing was changed.
    """
    with upkeep_of(home) as store:
        path = str(store.database.path)
        unused = unused_bytes(store)
        try:
            with (
                closing(LockFile(f"{path}-lock")) as lock,
                lock.held(PATIENCE_S),
                closing(sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)) as connection,
            ):
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except (sqlite3.Error, OSError, TimeoutError) as error:
            raise StoreFailed(
                f"cannot compact {path}: {error}", hint="see that its disk has as much room as the file again"
            ) from error
        return unused


@contextmanager
def upkeep_of(home: Home) -> Iterator[FileStore]:
    """The home's store, for one at a time who changes what is in it and in the trash.

    Raises:
        Busy: Another is at it.
        Unsupported, Usage: The store is not a folder of this machine, or not there.
        StoreFailed: It cannot be written.
    """
    store = _store_of(home)
    lock = LockFile(f"{store.root}/gc-lock")
    with ExitStack() as leaving:
        leaving.callback(lock.close)
        try:
            leaving.enter_context(lock.held(0))
        except TimeoutError:
            raise Busy(
                f"another process is at work on the store {store.root}", hint="wait until it has ended"
            ) from None
        except OSError as error:
            raise refusal(StoreFailed, f"cannot lock {lock.path}", error) from error
        yield store


def _store_of(home: Home) -> FileStore:
    store = home.store
    if not isinstance(store, FileStore):
        raise Unsupported(
            f"{store.url} is kept by a plugin", hint="theory gc and keep know the store of core alone"
        )
    if not os.path.exists(store.root / "format"):
        raise Usage(f"there is no store {store.root} yet", hint="the first run makes it")
    return store


def _check_users(store: FileStore, home: Path) -> None:
    if not users.is_enrolled(store.root, home):
        raise Usage(
            f"no execution of {home} has used the store {store.root}, so all of it would be garbage",
            hint="name its own store with --store, or its home with THEORY_HOME",
        )
    for mark, where in users.others(store.root, home):
        raise Usage(
            f"the store {store.root} is used by another ledger too, {where}, whose needs are not known",
            hint=f"if that ledger is gone, remove its mark: {mark}",
        )


def _closings(upkeep: Upkeep) -> Iterator[tuple[int, Event]]:
    """All of them, if they are what was written."""
    for row, event in upkeep.closings():
        if not event.is_whole():
            raise Damaged(
                f"the record of execution {event.execution_id} is damaged, and its needs not known",
                hint="theory verify tells more; nothing was deleted",
            )
        yield row, event


class _Needs:
    """The names of all blobs that are needed, in 32 bytes each."""

    def __init__(self, upkeep: Upkeep, store: FileStore, given_up: frozenset[str]) -> None:
        self.names: set[bytes] = set()
        self.spare_memo: dict[
            str, set[bytes]
        ] = {}  # memo records of executions that gave up, and what each needs
        gone = set()  # row numbers of executions that gave up

        def kept() -> Iterator[tuple[str, str]]:
            for row, event in _closings(upkeep):
                if event.execution_id not in given_up:
                    yield event.execution_id or "", event.payload
                    continue
                gone.add(row)
                if cid := json.loads(event.payload).get("envelope_cid"):
                    self.names.add(name_of(cid))

        seen: set[str] = set()  # listings come again and again
        for _, payload, contents in Contents(store, _unreadable).of(kept()):
            self._add(cids_in(payload))
            for cid, data in contents.items():
                if cid not in seen:
                    seen.add(cid)
                    self._add(cids_in(data))
        self._add(cid for _, cid, row in upkeep.names() if row not in gone)
        self._add(pin.cid for pin in upkeep.pins() if pin.cid is not None)
        for key in store.memo_list():
            self._remember(key, store.memo_get(key) or b"", given_up)

    def with_all_memo(self) -> set[bytes]:
        """What is needed as long as no memo record goes."""
        return self.names.union(*self.spare_memo.values())

    def memo_to_forget(self) -> list[str]:
        """The memo records of executions that gave up whose blobs nobody else needs."""
        return [key for key, needed in self.spare_memo.items() if not needed <= self.names]

    def _add(self, cids: Iterable[str]) -> None:
        self.names.update(map(name_of, cids))

    def _remember(self, key: str, data: bytes, given_up: frozenset[str]) -> None:
        try:
            record = record_of(data)
        except ValueError:  # verify tells; what it may name stays
            self._add(cids_in(data))
            return
        needed = {name_of(output.cid) for output in record.outputs}
        if record.source_execution_id in given_up:
            self.spare_memo[key] = needed
        else:
            self.names |= needed


def _unreadable(cid: str, error: Exception) -> None:
    raise Damaged(
        f"{error}, and blob {cid} names others that are needed",
        hint="theory verify --repair; nothing was deleted",
    ) from error


class _Run:
    def __init__(self, home: Home, store: FileStore, policy: Policy, grace_s: float) -> None:
        self._home = home
        self._store = store
        self._policy = policy
        self._grace_s = grace_s
        self._upkeep = home.upkeep
        self._trash = Trash(store)
        self._done = dict.fromkeys(Freed.__match_args__, 0)

    def collect(self) -> Freed:
        """All of it."""
        done, trash, upkeep = self._done, self._trash, self._upkeep
        states = self._home.settings.home / "state"
        sweep(states)
        done["states"] = bury(states, self._is_over)
        trash.close(trash.begin())
        needs = self._empty()
        given_up = upkeep.given_up()
        leaving = self._leaving(given_up)
        if leaving:
            upkeep.give_up(leaving, trash.begin())
            done["executions"] = len(leaving)
            needs = _Needs(upkeep, self._store, given_up | leaving)
        memo = needs.memo_to_forget()
        done["trashed_memo"] = len(memo)
        small = self._count(self._store.small.list(), needs.names)
        large = self._count(self._store.files(), needs.names)
        if leaving or memo or small or large:
            batch = trash.begin()
            trash.take_small("memo", map(name_of, memo), batch)
            trash.take_small("blobs", small, batch)
            trash.take_large(large, batch)
            trash.close(batch)
        if not self._grace_s:
            self._empty()
        return self._told()

    def look(self) -> Freed:
        """What ``collect`` would do, and nothing is written."""
        given_up = self._upkeep.given_up()
        leaving = self._leaving(given_up)
        needs = _Needs(self._upkeep, self._store, given_up | leaving)
        self._done["executions"] = len(leaving)
        self._done["trashed_memo"] = len(needs.memo_to_forget())
        self._count(self._store.small.list(), needs.names)
        self._count(self._store.files(), needs.names)
        wanted = needs.with_all_memo()
        due = {batch for batch in self._trash.free() if self._is_due(batch)}
        for name, size_bytes, batch in (*self._trash.small(), *self._trash.large()):
            if name in wanted:
                self._done["restored_blobs"] += 1
            elif batch in due:
                self._done["freed_blobs"] += 1
                self._done["freed_bytes"] += size_bytes
        return self._told()

    def _empty(self) -> _Needs:
        """Put back what is needed, and delete what may go; what is needed."""
        done, trash = self._done, self._trash
        free = trash.free()  # asked before all needs are looked for: who is done by now has told his
        for batch in free:
            done["temporary_files"] += trash.remove_temporary(batch)
        needs = _Needs(self._upkeep, self._store, self._upkeep.given_up())
        done["restored_blobs"] += trash.restore(needs.with_all_memo().__contains__)
        due = {batch for batch in free if self._is_due(batch)}
        for _, size_bytes, batch in (*trash.small(), *trash.large()):
            if batch in due:
                done["freed_blobs"] += 1
                done["freed_bytes"] += size_bytes
        for batch in free:
            if batch in due:
                self._upkeep.forget(batch)
                trash.empty(batch)
            trash.remove(batch)
        return needs

    def _is_due(self, batch: int) -> bool:
        closed_at = self._trash.closed_at(batch)
        return closed_at is not None and closed_at + self._grace_s <= time.time()

    def _leaving(self, given_up: frozenset[str]) -> frozenset[str]:
        """The executions that the policy gives up now."""
        keep_last, older_than_s = self._policy.keep_last, self._policy.older_than_s
        if keep_last is None and older_than_s is None:
            return frozenset()
        before = None if older_than_s is None else (time.time() - older_than_s) * 1_000_000
        stay = given_up | {pin.what for pin in self._upkeep.pins()}
        newest: dict[str, deque[str]] = {}
        leaving = set()
        old = set()
        for _, event in _closings(self._upkeep):
            id_ = event.execution_id or ""
            if before is None or event.ts < before:
                old.add(id_)
            last = newest.setdefault(json.loads(event.payload)["ref"], deque())
            last.append(id_)
            if len(last) > (keep_last or 0):
                leaving.add(last.popleft())
        return frozenset((leaving & old) - stay)

    def _count(self, there: Iterable[tuple[bytes, int]], needed: set[bytes]) -> list[bytes]:
        """The names of what is not needed."""
        garbage = []
        for name, size_bytes in there:
            if name not in needed:
                garbage.append(name)
                self._done["trashed_bytes"] += size_bytes
        self._done["trashed_blobs"] += len(garbage)
        return garbage

    def _is_over(self, execution_id: str, age_s: float) -> bool:
        """Whether nobody will ask for what an adapter stored of an execution that died."""
        wait_s = RETRY_S if self._grace_s else 0.0
        return age_s >= wait_s or self._home.ledger.execution(execution_id) is not None

    def _told(self) -> Freed:
        for _, size_bytes, _ in (*self._trash.small(), *self._trash.large()):
            self._done["trash_blobs"] += 1
            self._done["trash_bytes"] += size_bytes
        return Freed(**{**self._done, "unused_bytes": unused_bytes(self._store)})


def unused_bytes(store: FileStore) -> int:
    """The free pages of a store's database: later blobs fill them, and ``compact`` gives them back."""
    pages, page_bytes = map(store.database.read, ("PRAGMA freelist_count", "PRAGMA page_size"))
    return pages[0][0] * page_bytes[0][0] if pages and page_bytes else 0
