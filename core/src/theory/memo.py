"""The side door from room 5 to room 9: work that was done before is not done again.

A record serves only if every blob that it names is there and whole.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from theory import blobs, paths, wire
from theory.canon import CID, compact
from theory.errors import ArtifactNotFound, Damaged
from theory.types import Artifact, MemoRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from theory.types import Job, MemoPolicy, Outcome, Processor, Scalar, Store


def remembers(processor: Processor, policy: MemoPolicy) -> bool:
    """Whether this run may use the memo at all: pure and seeded work by itself, other work when asked to."""
    return policy in ("on", "refresh") or (policy == "auto" and processor.determinism != "nondeterministic")


def recall(
    store: Store, memo_key: str, prefix: str, *, cancelled: Callable[[], bool] | None = None
) -> MemoRecord | None:
    """The record of this work, its outputs below the prefix; None where none can be served.

    Raises:
        Interrupted: ``cancelled``, asked before each block that is verified, said so.
    """
    data = store.memo_get(memo_key)
    if data is None:
        return None
    try:
        record = wire.memo_of(json.loads(data))
        outputs = tuple(dataclasses.replace(output, path=prefix + output.path) for output in record.outputs)
        if record.memo_key != memo_key or any(map(_fault, outputs)):
            return None
        for output in outputs:
            if blobs.verify(store, output.cid, cancelled=cancelled) != output.size_bytes:
                return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # of another version, or damaged: the run that follows writes it anew
    except (ArtifactNotFound, Damaged):
        return None
    return dataclasses.replace(record, outputs=outputs)


def remember(
    store: Store,
    job: Job,
    outcome: Outcome,
    outputs: tuple[Artifact, ...],
    prefix: str,
    *,
    meta: Mapping[str, Scalar],
    cost_micro_usd: int,
) -> None:
    """Write the record of a success; its blobs are durable already.

    Raises:
        StoreFailed: The store refused.
    """
    relative = (dataclasses.replace(output, path=output.path.removeprefix(prefix)) for output in outputs)
    record = MemoRecord(
        memo_key=job.memo_key,
        source_execution_id=job.execution_id,
        outputs=tuple(relative),
        meta=meta,
        image_digest=outcome.image_digest,
        platform=outcome.platform or job.image.platform,
        cost_micro_usd=cost_micro_usd,
    )
    store.memo_set(job.memo_key, compact(wire.memo_document(record)).encode())


def _fault(output: Artifact) -> bool:
    """Whether the record names what no run could have made: it may come from a store that others write to."""
    return bool(paths.fault_of_path(output.path)) or CID.fullmatch(output.cid) is None
