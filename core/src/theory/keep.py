"""Room 9: outputs, index, receipt and all that a replay needs become durable blobs; nothing is true yet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from theory import blobs, paths, wire
from theory.canon import canonical, cid_of, compact
from theory.job import env_fingerprint
from theory.tree import ENTRY, files_of
from theory.types import Artifact, Receipt, Staged

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from theory.types import Job, JsonObject, Outcome, Store

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Kept:
    """What an execution added to the store."""

    index: Artifact
    receipt: Artifact
    blobs: Mapping[str, str]  # role and cid of all that a replay or an explanation needs


def keep(
    job: Job,
    preimage: JsonObject,
    adapter: str,
    outputs: tuple[Artifact, ...],
    staged: Iterable[Staged],
    store: Store,
    *,
    outcome: Outcome,
    source_execution_id: str | None = None,
) -> Kept:
    """Put every output and record, then the receipt, and the index last, so that it never lists what is missing.

    Raises:
        StoreFailed: The store refused; what was put stays, unlisted and harmless.
    """
    records = _records(job, preimage)
    receipt = Receipt(
        execution_id=job.execution_id,
        ref=str(job.processor.ref),
        seed=job.seed,
        memo_key=job.memo_key,
        env_fingerprint=env_fingerprint(job.image, job.processor),
        output_cids=tuple(output.cid for output in outputs),
        processor_cid=job.processor.cid,
        tree_cid=job.processor.tree,
        inputs_cid=cid_of(records["inputs"]),
        image_id=job.image.id,
        image_digest=outcome.image_digest,
        adapter=adapter,
        platform=outcome.platform or job.image.platform,
        started_at=_rfc3339(outcome.started_at),
        finished_at=_rfc3339(outcome.started_at + outcome.duration_s),
        source_execution_id=source_execution_id,
    )
    records["receipt"] = compact(wire.receipt_document(receipt)).encode()
    records["index"] = compact(wire.index_document(outputs)).encode()
    cids = _put(job, records, staged, store)
    folder = f"{paths.EXECUTIONS}{job.execution_id}/"
    return Kept(
        index=Artifact(folder + "outputs.json", cids["index"], len(records["index"]), JSON),
        receipt=Artifact(folder + "determinism.json", cids["receipt"], len(records["receipt"]), JSON),
        blobs=cids,
    )


def keep_records(job: Job, preimage: JsonObject, store: Store) -> Mapping[str, str]:
    """Put what explains an execution that did not deliver; role and cid of each.

    Raises:
        StoreFailed: The store refused.
    """
    return _put(job, _records(job, preimage), (), store)


def _records(job: Job, preimage: JsonObject) -> dict[str, bytes]:
    files = sorted([path, cid, executable] for path, cid, executable in files_of(job.processor.folder))
    return {
        "entry": (job.processor.folder / ENTRY).read_bytes(),
        "tree": canonical(files),
        "inputs": canonical(job.inputs),
        "preimage": canonical(preimage),
    }


def _put(job: Job, records: Mapping[str, bytes], staged: Iterable[Staged], store: Store) -> dict[str, str]:
    cids = {role: cid_of(data) for role, data in records.items()}
    if cids["tree"] not in store.has([cids["tree"]]):
        # The listing that goes in below says that these are here, so they are durable before it is.
        folder = job.processor.folder
        _put_all(store, [(folder / path).read_bytes() for path, _, _ in files_of(folder)], ())
    _put_all(store, records.values(), staged)
    return cids


def _put_all(store: Store, documents: Iterable[bytes], staged: Iterable[Staged]) -> None:
    batch = list(staged)
    try:
        batch.extend(blobs.stage(store, data) for data in documents)
        store.put(batch)
    finally:
        for blob in batch:
            blob.path.unlink(missing_ok=True)


def _rfc3339(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
