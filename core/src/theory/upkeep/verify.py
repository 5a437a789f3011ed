"""Whether a home is whole: every blob, memo record and ledger line, and all that they name.

A first pass looks at what the store has, a second one at what the ledger, the pins and the memo need of it,
so that each fault says what it affects. Nothing is written here; ``repair`` does that. Others may
write meanwhile: what the first pass did not see is looked for again before it is called missing.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, TypeAlias

from theory.errors import ArtifactNotFound, Damaged, StoreFailed
from theory.formats.canon import cid_of
from theory.ledger.audit import audit
from theory.record import Record
from theory.store import blobs
from theory.store.filestore import SMALL_BYTES, FileStore
from theory.store.memo import record_of
from theory.store.references import Contents, references

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from theory.ledger import Ledger
    from theory.ledger.upkeep import Upkeep
    from theory.types import Store

Kind: TypeAlias = Literal["blob", "memo", "database", "ledger"]
Damage: TypeAlias = Literal["damaged", "missing"]

_NAME_BYTES = 32
_MAX_FAULTS = 100  # in the structure of one database: the first ones tell enough
_READERS = min(4, os.cpu_count() or 1)  # large files at a time: hashing lets go of the interpreter
_OTHER_FORMS = (ValueError, KeyError, TypeError, AttributeError, RecursionError)  # of a record


class Fault(Record):
    """One thing that is not as it was written, and what it affects."""

    kind: Kind
    what: str  # a cid, a memo key, a file, or "ledger"
    fault: Damage
    message: str
    roles: tuple[str, ...] = ()  # what records call the blob: "output", "index", "receipt", "inputs", …
    paths: tuple[str, ...] = ()  # world paths
    executions: tuple[str, ...] = ()
    memo_keys: tuple[str, ...] = ()


class Report(Record):
    """What was looked at, and all that is wrong."""

    mode: Literal["quick", "full"]
    blobs: int
    size_bytes: int  # of these blobs
    memo_records: int
    executions: int
    faults: tuple[Fault, ...]


def verify(store: Store, ledger: Ledger, upkeep: Upkeep, *, full: bool) -> Report:
    """Look at everything.

    Args:
        store: Where the blobs are.
        ledger: Whose executions need them.
        upkeep: What stands beside the same ledger.
        full: Read and hash every byte, and walk the ledger's chains; else look at what is there, and how
            large.
    """
    look = _Look(store, upkeep, full=full)
    look.scan()
    look.records()
    look.memo()
    if full:
        look.faults += (Fault("ledger", "ledger", "damaged", told) for told in audit(ledger.read).faults)
    else:
        look.structure(ledger.read, "ledger", "ledger")
    look.affected()
    return Report(
        "full" if full else "quick",
        len(look.sizes),
        sum(look.sizes.values()),
        look.memo_records,
        look.executions,
        tuple(look.faults),
    )


class _Bad:
    """A blob that is damaged or missing, and what needs it: each thing once, in order."""

    def __init__(self, fault: Damage, message: str) -> None:
        self.fault: Damage = fault
        self.message = message
        self.roles: dict[str, None] = {}
        self.paths: dict[str, None] = {}
        self.executions: dict[str, None] = {}
        self.memo_keys: dict[str, None] = {}


class _Look:
    def __init__(self, store: Store, upkeep: Upkeep, *, full: bool) -> None:
        self._store = store
        self._upkeep = upkeep
        self._full = full
        self._bad: dict[str, _Bad] = {}  # by cid
        self.sizes: dict[str, int] = {}  # in bytes, of every blob that is there, by cid
        self.faults: list[Fault] = []
        self.memo_records = self.executions = 0

    # ------------------------------------------------------------ what is there

    def scan(self) -> None:
        """Look at every blob of the store, and at the structure of its database."""
        store = self._store
        if not isinstance(store, FileStore):
            self._all(store.list())
            return
        self.structure(store.database.read, "database", store.url)
        try:
            for name, data in store.small.all(sizes=not self._full):
                self._row(name, data, store.url)
        except StoreFailed as error:
            self._fault("database", store.url, error.message)
        self._all((f"b3:{name.hex()}", size_bytes) for name, size_bytes in store.files())

    def structure(self, read: Callable[[str], list[Any]], kind: Kind, what: str) -> None:
        """What SQLite itself finds wrong; in full, it compares the indices too."""
        check = "integrity_check" if self._full else "quick_check"
        try:
            rows = read(f"PRAGMA {check}({_MAX_FAULTS})")
        except StoreFailed as error:
            rows = [(error.message,)]
        for (told,) in rows:
            if told != "ok":
                self._fault(kind, what, str(told))

    def _fault(self, kind: Kind, what: str, message: str) -> None:
        fault = Fault(kind, what, "damaged", message)
        if fault not in self.faults:
            self.faults.append(fault)

    def _row(self, name: object, data: object, url: str) -> None:
        """Look at one row of the small blobs, with its data or (not in full) their size."""
        if not isinstance(name, bytes) or len(name) != _NAME_BYTES:
            self._fault("database", url, f"a blob has {name!r} for its name")
            return
        cid = f"b3:{name.hex()}"
        if isinstance(data, int):
            self.sizes[cid] = data
            if data > SMALL_BYTES:
                self._bad[cid] = _Bad("damaged", f"a small blob has {data:,} bytes")
        else:
            content = data if isinstance(data, bytes) else str(data).encode()
            self.sizes[cid] = len(content)
            if (found := cid_of(content)) != cid:
                self._bad[cid] = _Bad("damaged", f"its content is {found}")

    def _all(self, found: Iterable[tuple[str, int]]) -> None:
        """Look at these blobs, some at a time."""
        sizes = dict(found)
        self.sizes.update(sizes)
        if self._full:
            with ThreadPoolExecutor(_READERS) as pool:
                self._bad.update(
                    (cid, bad) for cid, bad in zip(sizes, pool.map(self._read, sizes), strict=True) if bad
                )

    def _read(self, cid: str) -> _Bad | None:
        try:
            blobs.verify(self._store, cid)
        except ArtifactNotFound:
            return None  # deleted since it was listed; if anybody needs it, it is missing
        except (Damaged, StoreFailed) as error:
            return _Bad("damaged", error.message.rpartition(": ")[2])
        return None

    def _unreadable(self, cid: str, error: Exception) -> None:
        """Note a blob that was found damaged on the way."""
        self._bad.setdefault(cid, _Bad("damaged", str(error).rpartition(": ")[2]))

    # ------------------------------------------------------------ what is needed

    def records(self) -> None:
        """Look for whatever executions, names and pins need."""
        given_up = self._upkeep.given_up()
        gone = set()  # row numbers of executions whose files were given up

        def kept() -> Iterator[tuple[str, str]]:
            for row, event in self._upkeep.closings():
                self.executions += 1
                if event.execution_id in given_up:
                    gone.add(row)
                elif not self._full or event.is_whole():
                    yield event.execution_id or "", event.payload
                else:
                    self._damaged_record(str(event.execution_id), "its content does not have its hash")

        for execution_id, payload, contents in Contents(self._store, self._unreadable).of(kept()):
            self._execution(execution_id, payload, contents)
        for path, cid, row in self._upkeep.names():
            if row not in gone and (bad := self._needed(cid)):
                bad.paths[path] = None
        for pin in self._upkeep.pins():
            if pin.cid is not None and (bad := self._needed(pin.cid)):
                bad.roles["pin"] = None
                bad.paths[pin.what] = None

    def memo(self) -> None:
        """Look at every memo record, and for what it needs."""
        try:
            for key in self._store.memo_list():
                self.memo_records += 1
                self._memo(key)
        except StoreFailed as error:
            self._fault("database", self._store.url, error.message)

    def _execution(self, execution_id: str, payload: str, contents: dict[str, bytes]) -> None:
        try:
            for cid, role, path, size_bytes in references(payload, contents):
                if bad := self._needed(cid, size_bytes):
                    bad.roles[role] = None
                    bad.executions[execution_id] = None
                    if path:
                        bad.paths[path] = None
        except _OTHER_FORMS as error:
            self._damaged_record(execution_id, str(error))

    def _damaged_record(self, execution_id: str, why: str) -> None:
        message = f"the record of execution {execution_id} is damaged: {why}"
        self.faults.append(Fault("ledger", "ledger", "damaged", message, executions=(execution_id,)))

    def _memo(self, key: str) -> None:
        try:
            data = self._store.memo_get(key)
            if data is None:
                return  # deleted since it was listed
            record = record_of(data)
            if record.memo_key != key:
                raise ValueError(f"it is that of {record.memo_key}")
            for output in record.outputs:
                if bad := self._needed(output.cid, output.size_bytes):
                    bad.roles["output"] = None
                    bad.memo_keys[key] = None
        except (*_OTHER_FORMS, StoreFailed) as error:
            message = f"the memo record {key} is damaged: {error}"
            self.faults.append(Fault("memo", key, "damaged", message, memo_keys=(key,)))

    def _needed(self, cid: str, size_bytes: int | None = None) -> _Bad | None:
        """What to note a need in: None for a blob that is whole."""
        bad = self._bad.get(cid)
        if bad is None:
            found = self.sizes.get(cid)
            if found is None:
                bad = self._look_again(cid)
            elif size_bytes is not None and found != size_bytes:
                bad = self._bad[cid] = _Bad("damaged", f"it has {found:,} bytes instead of {size_bytes:,}")
        return bad

    def _look_again(self, cid: str) -> _Bad | None:
        """Look at a blob that was put since the first look, or is in the trash: the next gc puts it back."""
        try:
            self.sizes[cid] = blobs.verify(self._store, cid)
        except ArtifactNotFound:
            self._bad[cid] = _Bad("missing", "it is not in the store")
        except (Damaged, StoreFailed) as error:
            self._bad[cid] = _Bad("damaged", error.message.rpartition(": ")[2])
        return self._bad.get(cid)

    def affected(self) -> None:
        """Tell of the blobs that are not whole."""
        for cid, bad in self._bad.items():
            roles, paths, executions, keys = map(tuple, (bad.roles, bad.paths, bad.executions, bad.memo_keys))
            message = f"blob {cid} is {bad.fault}: {bad.message}"
            self.faults.append(Fault("blob", cid, bad.fault, message, roles, paths, executions, keys))
