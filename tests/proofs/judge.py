"""What must hold in a home after the end of all who wrote there, whatever ended them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from theory.errors import TheoryError
from theory.formats import wire
from theory.ledger.audit import audit
from theory.store import blobs
from theory.store.filestore import SMALL_BYTES, FileStore
from theory.store.inuse import is_free
from theory.store.memo import record_of
from theory.store.references import cids_in
from theory.upkeep import gc
from theory.upkeep.verify import verify

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from theory import Runner

# All that is in a home when everybody is dead and theory gc has been there; anything else is a leftover.
_STAYS = re.compile(
    r"ledger\.id|ledger\.db(-wal|-shm|-journal|-lock)?"
    r"|cache(/.*)?"
    r"|state(/exclusive-lock)?"
    r"|store(/(format|in-use|gc-lock|tmp|trash|ledgers|ledgers/[0-9a-f]{32}-[0-9a-f]{16}"
    r"|small\.db(-wal|-shm|-journal|-lock)?|blobs|blobs/b3|blobs/b3/([0-9a-f]{2})|blobs/b3/([0-9a-f]{2})/[0-9a-f]{64}))?"
)


def faults(runner: Runner, told: Iterable[dict[str, Any]] = ()) -> Iterator[str]:
    """All that is wrong; what the dead held on a plan is closed on the way, as ``plan reconcile`` does.

    Args:
        runner: A new one, for it to see what a next start would; its store and ledger are of its own home.
        told: The envelopes that were acknowledged: lines printed whole. Each wrote below a prefix of its own.
    """
    try:
        for envelope in told:
            yield from _lost(runner, envelope)
        report = verify(runner.store, runner.ledger, runner.upkeep, full=True)
        yield from (fault.message for fault in report.faults)
        yield from _dangling(runner)
        runner.ledger.reconcile()
        yield from (f"{hold} is still open" for hold in runner.ledger.holds())
        yield from (f"{plan} holds something" for plan in runner.ledger.plans() if plan.reserved_micro_usd)
        yield from audit(runner.ledger.read).faults
    except TheoryError as error:
        yield f"{type(error).__name__}: {error}"


def left_over(runner: Runner) -> Iterator[str]:
    """What the dead left and ``theory gc`` without grace leaves too; whole is then what was whole before.

    The store is ``<home>/store``, one that an execution of this home has used.
    """
    home = runner.settings.home
    try:
        gc.collect(runner, grace_s=0)
    except TheoryError as error:
        yield f"gc: {type(error).__name__}: {error}"
    for path in sorted(home.rglob("*")):
        if not _STAYS.fullmatch(relative := path.relative_to(home).as_posix()):
            yield f"{relative} is left"
    mark = home / "store" / "in-use"
    if mark.exists() and not is_free(str(mark)):
        yield "somebody still uses the store"


def _lost(runner: Runner, envelope: dict[str, Any]) -> Iterator[str]:
    """What is not there of an acknowledged execution, whole: as ``theory show`` and ``cat`` look for it."""
    id_ = envelope["execution_id"]
    try:
        stored, record = runner.stored_envelope(id_), runner.ledger.execution(id_)
        if stored is None or record is None or wire.envelope_document(stored) != envelope:
            yield f"execution {id_} was told as {envelope} and is {stored}"
            return
        if envelope["status"] != "success":
            return
        for output in envelope["outputs"]:
            if _content(runner, output["path"]) != (output["cid"], output["size_bytes"]):
                yield f"{output['path']} is not what was told"
        for path in (envelope["index_path"], envelope["receipt_path"]):
            _content(runner, path)
        if envelope["meta"]["memo"] != "off":
            data = runner.store.memo_get(record.memo_key)
            if data is None or record_of(data).memo_key != record.memo_key:
                yield f"execution {id_} is not remembered"
    except (TheoryError, LookupError, ValueError) as error:
        yield f"execution {id_} was told: {type(error).__name__}: {error}"


def _content(runner: Runner, path: str) -> tuple[str, int]:
    """The cid that a world path names, and how many bytes of that content were read."""
    artifact = runner.ledger.name(path)
    if artifact is None:
        raise LookupError(f"{path} names nothing")
    with runner.open(artifact) as stream:
        return artifact.cid, len(stream.read())


def _dangling(runner: Runner) -> Iterator[str]:
    """Names, receipts and indices that lead to nothing, those of executions that are not true yet too.

    ``verify`` has looked for all that is true; this does not rely on it.
    """
    has = runner.store.has
    for artifact in runner.ledger.names("/"):
        if not has([artifact.cid]):
            yield f"{artifact.path} names {artifact.cid}, which is not there"
    for cid, size_bytes in runner.store.list():
        if size_bytes > SMALL_BYTES:
            continue
        with blobs.read_verified(runner.store, cid) as stream:
            data = stream.read()
        for missing in _named(data) - has(_named(data)):
            yield f"the receipt or index {cid} names {missing}, which is not there"


def _named(data: bytes) -> frozenset[str]:
    """The blobs that a receipt or an index names; none, if it is neither."""
    try:
        document = json.loads(data)
    except ValueError:
        return frozenset()
    if not isinstance(document, dict):
        return frozenset()
    if "output_cids" in document and "memo_key" in document:
        return frozenset((*document["output_cids"], document["processor_cid"], document["inputs_cid"]))
    return frozenset(cids_in(data)) if document.keys() == {"outputs"} else frozenset()


def enrolled(runner: Runner) -> bool:
    """Whether any execution got so far as to use the store: before, ``theory gc`` refuses it."""
    store = runner.store
    assert isinstance(store, FileStore)
    return (store.root / "format").exists() and any((store.root / "ledgers").glob("*"))
