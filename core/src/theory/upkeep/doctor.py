"""The surroundings of a home: who is at work in it, what the dead left, its disk, databases and clock.

It looks and changes nothing, so it makes no home, no ledger and no store where there are none.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from theory.disk.claims import claimed
from theory.disk.lease import is_held
from theory.disk.mounts import LOCAL, file_system
from theory.errors import LedgerFailed, StoreFailed, TheoryError
from theory.formats.canon import ZERO_CID
from theory.formats.money import usd
from theory.formats.paths import quoted
from theory.ledger import Ledger
from theory.record import Record
from theory.request import is_execution_id
from theory.store.filestore import FileStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from theory.home import Home

State: TypeAlias = Literal["ok", "warning", "wrong"]

# Where other machines have the files too, or the host of a virtual one; as Linux calls them.
_NETWORK = frozenset(
    {"9p", "afs", "afpfs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "lustre", "nfs", "nfs4", "ocfs2"}
    | {"fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "smb2", "smb3", "vboxsf", "virtiofs"}
)
_LEAST_FREE_BYTES = 256 * 1024 * 1024
_OLD_S = 3600.0  # a temporary file that nobody has written to for so long is hardly on its way in
_MANY = 20  # lines of one kind that are told one by one


class Sign(Record):
    """One line of ``theory doctor``."""

    subject: str
    state: State
    message: str
    hint: str = ""  # what to do about it


def signs(home: Home, clock: Callable[[], float] = time.time) -> Iterator[Sign]:
    """All that core itself can tell, one thing a line; a part that cannot be looked at is a line too."""
    folder = home.settings.home
    yield from _tried("home", lambda: _home(folder))
    yield from _tried("store", lambda: _store(home))
    yield from _tried("ledger", lambda: _ledger(folder, clock))
    yield from _tried("leases", lambda: _leases(folder / "state"))
    yield from _tried("registries", lambda: _registries(home))


def _tried(subject: str, look: Callable[[], Iterator[Sign]]) -> Iterator[Sign]:
    try:
        yield from look()
    except TheoryError as error:
        yield Sign(subject, "wrong", error.message, error.hint)


# ---------------------------------------------------------------- folders


def _home(folder: Path) -> Iterator[Sign]:
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not os.access(there, os.W_OK | os.X_OK):
        raise StoreFailed(f"cannot write to {there}", hint="set THEORY_HOME to a folder that can be written")
    yield Sign("home", "ok", str(folder) if there == folder else f"{folder}, which the first run makes")
    yield from _disk("home's disk", there, "set THEORY_HOME to a folder on a local disk")


def _disk(subject: str, folder: Path, elsewhere: str) -> Iterator[Sign]:
    kind = file_system(str(folder))
    if kind in _NETWORK:
        what = (
            f"{kind}: a file system that other machines write to as well; its locks may fail, and it is slow"
        )
        yield Sign(subject, "warning", what, elsewhere)
    elif kind in LOCAL:
        yield Sign(subject, "ok", kind)
    else:
        what = f"{kind or 'nobody tells its type'}: not known to be local, so SQLite keeps a slower journal"
        yield Sign(subject, "ok", what)
    try:
        found = os.statvfs(folder)
    except OSError:
        return
    free = found.f_bavail * found.f_frsize
    if free < _LEAST_FREE_BYTES:
        yield Sign(subject, "warning", f"{free:,} bytes are free", "free some space, or theory gc")


def _store(home: Home) -> Iterator[Sign]:
    store = home.store
    store.has([ZERO_CID])  # one that cannot be read says so
    yield Sign("store", "ok", store.url)
    if not isinstance(store, FileStore) or not store.root.exists():
        return
    yield from _disk("store's disk", store.root, "choose a store on a local disk: --store or THEORY_STORE")
    yield from _mode("store's SQLite", store.database.read)
    sizes, old = [], 0
    for entry in _entries(store.root / "tmp"):
        sizes.append(entry.st_size)
        old += time.time() - entry.st_mtime > _OLD_S
    told = f"{len(sizes)} in the store's tmp, {sum(sizes):,} bytes"
    if old:
        hint = "theory gc removes those that nobody writes any more"
        yield Sign("temporary files", "warning", f"{told}; {old} are older than an hour", hint)
    else:
        yield Sign("temporary files", "ok", told)


def _entries(folder: Path) -> Iterator[os.stat_result]:
    try:
        with os.scandir(folder) as entries:
            listed = list(entries)
    except OSError:
        return
    for entry in listed:
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:  # it is gone: somebody is at work
            continue
        if stat.S_ISREG(found.st_mode):
            yield found


def _mode(subject: str, read: Callable[[str], list[Any]]) -> Iterator[Sign]:
    for (mode,) in read("PRAGMA journal_mode"):  # nothing where there is no file
        kind = "WAL" if mode == "wal" else "rollback"
        yield Sign(subject, "ok", f"{sqlite3.sqlite_version}, {kind} journal")


# ---------------------------------------------------------------- the ledger


def _ledger(folder: Path, clock: Callable[[], float]) -> Iterator[Sign]:
    with Ledger(folder / "ledger.db", make=False) as ledger:
        yield Sign("ledger", "ok", f"{len(ledger.plans())} plans")
        yield from _mode("ledger's SQLite", ledger.read)
        yield from _clock(ledger, clock())
        yield from _reservations(ledger)


def _clock(ledger: Ledger, now: float) -> Iterator[Sign]:
    last = ledger.read("SELECT ts FROM events ORDER BY id DESC LIMIT 1")
    if now < 0:
        yield Sign("clock", "wrong", "it is before 1970", "set the clock of this machine")
    elif last and now * 1_000_000 < last[0][0]:
        what = f"it is {_moment(now)}, and the ledger's last event is of {_moment(last[0][0] / 1_000_000)}"
        hint = "set the clock of this machine; deadlines of other machines are judged by it"
        yield Sign("clock", "warning", what, hint)
    else:
        yield Sign("clock", "ok", _moment(now))


def _reservations(ledger: Ledger) -> Iterator[Sign]:
    holds = ledger.holds()
    if not holds:
        yield Sign("reservations", "ok", "none is open")
    for hold, fate in holds[:_MANY]:
        what = (
            f"{usd(hold.amount)} USD of plan {quoted(hold.plan)} for execution {hold.execution_id}, held by"
        )
        until = f"until {_moment(hold.expires / 1_000_000)}"
        if fate == "alive":
            yield Sign("reservation", "ok", f"{what} the process {hold.owner.pid}, which lives")
        elif fate == "dead":
            hint = "theory plan reconcile charges it, as the next run does"
            yield Sign("reservation", "warning", f"{what} the process {hold.owner.pid}, which is dead", hint)
        else:
            hint = "wait; nobody here can look whether it lives"
            yield Sign("reservation", "ok", f"{what} another machine or container {until}", hint)
    if len(holds) > _MANY:
        yield Sign("reservations", "ok", f"and {len(holds) - _MANY} more")


# ---------------------------------------------------------------- executions


def _leases(states: Path) -> Iterator[Sign]:
    try:
        names = sorted(filter(is_execution_id, os.listdir(states)))
        prefixes = claimed(states)
    except FileNotFoundError:
        names, prefixes = [], {}
    except OSError as error:
        raise LedgerFailed(
            f"{states} cannot be read: {error.strerror}", hint="check its permissions"
        ) from error
    held = [name for name in names if is_held(states / name)]
    for name in held[:_MANY]:
        alone = f", and has {quoted(prefixes[name])} for itself" if name in prefixes else ""
        hint = "wait until it has ended, or end its process" if alone else ""
        yield Sign("lease", "ok", f"execution {name} is running{alone}", hint)
    left = len(names) - len(held)
    if left:
        who = f"{left} executions" if left > 1 else "an execution"
        what = f"{who} died and left something in {states}"
        hint = "theory run REF --execution-id ID tries one again; a run removes what no retry needs"
        yield Sign("leases", "warning", what, hint)
    if len(held) > _MANY or not held:
        yield Sign("leases", "ok", f"{len(held)} executions are running")


def _registries(home: Home) -> Iterator[Sign]:
    yield Sign("registries", "ok", f"{sum(1 for source in home.sources for _ in source.refs())} entries")


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s after 1970"
