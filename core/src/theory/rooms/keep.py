"""Room 9: outputs, index, receipt and all that a replay needs become durable blobs; nothing is true yet."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from theory.disk.durable import remedy
from theory.entries.tree import ENTRY, files_of
from theory.errors import RegistryFault, Retry
from theory.formats import paths, wire
from theory.formats.canon import canonical, cid_of, compact, tree_cid
from theory.record import Record
from theory.store import blobs
from theory.types import Artifact, Receipt

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from theory.types import Job, Outcome, Processor, Staged, Store

JSON = "application/json"


class Kept(Record):
    """What an execution added to the store."""

    index: Artifact
    receipt: Artifact
    blobs: Mapping[str, str]  # role and cid of all that a replay or an explanation needs


class Records(Record):
    """What explains a job later, by role."""

    here: Mapping[str, str]  # cid of what the store has
    new: Mapping[str, bytes]  # content of what is put when the job is done
    files: frozenset[str] = frozenset()  # cids of those of the tree, if its listing is new


# What this process has put, so it is durable: the cid of a tree's listing, and of all that a run of the entry
# relies on, by store, entry's cid and tree.
_listings: dict[tuple[str, str, str], tuple[str, frozenset[str]]] = {}


def records_of(job: Job, preimage: bytes, store: Store) -> Records:
    """What explains this job later, read before it runs; the files of its tree are put.

    Whatever happens to the entry's folder while the job runs, the records are those of what ran.

    Raises:
        Retry: The entry was changed since it was resolved.
        RegistryFault: Its folder cannot be read.
        StoreFailed: The store refused.
    """
    processor, folder = job.processor, job.processor.folder
    new = {"inputs": canonical(job.inputs), "preimage": preimage}
    listed, needed = _listings.get((store.url, processor.cid, processor.tree), ("", frozenset()))
    if listed and store.has(needed) == needed:
        return Records({"entry": processor.cid, "tree": listed}, new)
    try:
        entry = (folder / ENTRY).read_bytes()
        files = sorted(files_of(folder, processor.image.dockerfile))
        listing = canonical([list(file) for file in files])
        if cid_of(entry) != processor.cid or tree_cid(files) != processor.tree:
            raise _changed(processor)
        needed = frozenset((cid_of(listing), *(cid for _, cid, _ in files)))
        if store.has(needed) != needed:
            # The listing is put later; it says that these are durable, and not that nobody deletes them.
            put = _put(store, {path: (folder / path).read_bytes() for path, _, _ in files})
            if any(put[path] != cid for path, cid, _ in files):
                raise _changed(processor)
    except OSError as error:
        raise RegistryFault(
            f"{folder} cannot be read: {error.strerror}",
            hint=remedy(error, "check its files and permissions"),
        ) from error
    return Records({}, {"entry": entry, "tree": listing, **new}, frozenset(cid for _, cid, _ in files))


def keep(
    job: Job,
    records: Records,
    adapter: str,
    outputs: tuple[Artifact, ...],
    staged: Iterable[Staged],
    store: Store,
    *,
    outcome: Outcome,
    source_execution_id: str | None = None,
) -> Kept:
    """Put every output and record, and the index last, so that it never lists what is missing.

    Raises:
        StoreFailed: The store refused; what was put stays, unlisted and harmless.
    """
    receipt = Receipt(
        execution_id=job.execution_id,
        ref=str(job.processor.ref),
        seed=job.seed,
        memo_key=job.memo_key,
        env_fingerprint=job.env_fingerprint,
        output_cids=tuple(output.cid for output in outputs),
        processor_cid=job.processor.cid,
        tree_cid=job.processor.tree,
        inputs_cid=cid_of(records.new["inputs"]),
        image_id=job.image.id,
        image_digest=outcome.image_digest,
        adapter=adapter,
        platform=outcome.platform or job.image.platform,
        started_at=_rfc3339(outcome.started_at),
        finished_at=_rfc3339(outcome.started_at + outcome.duration_s),
        source_execution_id=source_execution_id,
    )
    documents = {
        **records.new,
        "receipt": compact(wire.receipt_document(receipt)).encode(),
        "index": compact(wire.index_document(outputs)).encode(),
    }
    cids = {**records.here, **_put(store, documents, staged)}
    if "tree" in records.new:
        needed = records.files | {cids["entry"], cids["tree"]}
        _listings[store.url, job.processor.cid, job.processor.tree] = cids["tree"], needed
    folder = f"{paths.EXECUTIONS}{job.execution_id}/"
    return Kept(
        index=Artifact(folder + "outputs.json", cids["index"], len(documents["index"]), JSON),
        receipt=Artifact(folder + "determinism.json", cids["receipt"], len(documents["receipt"]), JSON),
        blobs=cids,
    )


def keep_records(records: Records, store: Store) -> Mapping[str, str]:
    """Put what explains an execution that did not deliver; role and cid of each.

    Raises:
        StoreFailed: The store refused.
    """
    return {**records.here, **_put(store, records.new)}


def _changed(processor: Processor) -> Retry:
    return Retry(f"the entry {processor.ref} was changed while it was read", hint="run it again")


def _put(store: Store, documents: Mapping[str, bytes], staged: Iterable[Staged] = ()) -> dict[str, str]:
    with blobs.Batch(store, staged) as batch:
        cids = {role: batch.add(blobs.stage(store, data)).cid for role, data in documents.items()}
        batch.put()
    return cids


def _rfc3339(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
