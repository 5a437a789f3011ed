"""Which blobs the record of an execution names: what ``theory gc`` keeps, and ``theory verify`` looks for.

Up to three blobs that a record names hold further names themselves: the listing of the entry's folder, the
inputs, and an envelope that is too large for the ledger.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from theory.errors import ArtifactNotFound, Damaged, StoreFailed
from theory.formats import wire
from theory.formats.canon import CID, cid_of
from theory.store import blobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from theory.types import Json, Store

    Key = TypeVar("Key")

_TOGETHER = 500  # records whose contents are read at once
_CIDS = re.compile(CID.pattern)
# In the canonical spelling of a payload. Something else may look so too; then it is read in vain.
_HOLDERS = re.compile(rf'"(?:tree|inputs|envelope_cid)":"({CID.pattern})"')
_PREFIX = len("b3:")


class Reference(NamedTuple):
    """One blob that a record names."""

    cid: str
    role: str  # "output", "index", "receipt", "inputs", …
    path: str = ""  # of an output: its world path
    size_bytes: int | None = None  # where the record says it


class Contents:
    """Reads what records name, many at a time.

    Args:
        store: Where the blobs are.
        damaged: Told the cid of a blob that cannot be read, and why; what it raises goes through.
    """

    def __init__(self, store: Store, damaged: Callable[[str, Exception], object]) -> None:
        self._store = store
        self._damaged = damaged
        self._many = getattr(getattr(store, "small", None), "many", None)  # core's own store has it

    def of(self, records: Iterable[tuple[Key, str]]) -> Iterator[tuple[Key, str, dict[str, bytes]]]:
        """Each record with its payload, and by cid the blobs there are that hold further names."""
        source, known = iter(records), dict[str, bytes]()
        while some := list(islice(source, _TOGETHER)):
            holders = [dict.fromkeys(_HOLDERS.findall(payload)) for _, payload in some]
            wanted = {cid for each in holders for cid in each}
            # Listings come again and again, in what follows too.
            known = {cid: data for cid, data in known.items() if cid in wanted}
            known.update(self._read(wanted - known.keys()))
            for (key, payload), each in zip(some, holders, strict=True):
                yield key, payload, {cid: known[cid] for cid in each if cid in known}

    def _read(self, cids: Iterable[str]) -> dict[str, bytes]:
        names = {name_of(cid): cid for cid in cids}
        rows: dict[bytes, bytes] = {}
        if self._many is not None:
            with suppress(StoreFailed):  # then each tells by itself
                rows = self._many(names)
        found = {}
        for name, cid in names.items():
            data = rows.get(name)
            if data is None or cid_of(data) != cid:
                data = self._one(cid)
            if data is not None:
                found[cid] = data
        return found

    def _one(self, cid: str) -> bytes | None:
        try:
            with blobs.read_verified(self._store, cid) as stream:
                return stream.read()
        except ArtifactNotFound:
            pass
        except (Damaged, StoreFailed) as error:
            self._damaged(cid, error)
        return None


def references(payload: str, contents: dict[str, bytes]) -> Iterator[Reference]:
    """What the payload of a closing event names, and what the blobs name that hold further names.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: It is no such payload.
    """
    record: dict[str, Any] = json.loads(payload)
    roles, envelope = record["blobs"], record.get("envelope")
    for role, cid in roles.items():
        yield Reference(cid, role)
    if envelope is None:
        cid = record["envelope_cid"]
        yield Reference(cid, "envelope")
        envelope = json.loads(contents.get(cid, b"{}"))
    for output in envelope.get("outputs", ()):
        yield Reference(output["cid"], "output", output["path"], output["size_bytes"])
    for cid in _listed(contents.get(roles.get("tree"), b"[]")):
        yield Reference(cid, "file of the entry")
    inputs = contents.get(roles.get("inputs"), b"{}")
    if wire.ARTIFACT.encode() in inputs:
        for cid in _artifacts(json.loads(inputs)):
            yield Reference(cid, "input")


@lru_cache(maxsize=64)
def _listed(listing: bytes) -> tuple[str, ...]:
    """The cids in the listing of a folder; the same one comes with every execution of an entry."""
    return tuple(cid for _, cid, _ in json.loads(listing))


def _artifacts(value: Json) -> Iterator[str]:
    """The cids of the files in checked inputs."""
    if isinstance(value, list):
        for item in value:
            yield from _artifacts(item)
    elif isinstance(value, dict):
        if wire.ARTIFACT in value and isinstance(cid := value.get("cid"), str):
            yield cid
        for item in value.values():
            yield from _artifacts(item)


def cids_in(data: bytes | str) -> set[str]:
    """All that look like a cid: some may name something else, a memo key, say."""
    return set(_CIDS.findall(data if isinstance(data, str) else data.decode(errors="replace")))


def name_of(cid: str) -> bytes:
    """The 32 bytes of a cid, which take a third of its memory."""
    return bytes.fromhex(cid[_PREFIX:])
