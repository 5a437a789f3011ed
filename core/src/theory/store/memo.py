"""The side door from room 5 to room 9: work that was done before is not done again.

A record serves only if it is whole itself, and every blob that it names is there and whole. It is a JSON
document that begins with its ``check``, the cid of the document without it.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from types import NoneType
from typing import TYPE_CHECKING, cast

from theory.errors import ArtifactNotFound, Damaged
from theory.formats import paths, wire
from theory.formats.canon import CID, MAX_INTEGER, cid_of, compact, parse_json
from theory.store import blobs
from theory.types import Artifact, MemoRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from theory.types import Job, JsonObject, MemoPolicy, Outcome, Processor, Scalar, Store

_CHECK = b'{"check":"', b'",'  # what stands before and after the cid
_SHORT_BYTES, _MOST_REMEMBERED = 4096, 256


def sealed(document: JsonObject) -> bytes:
    """A memo record as the store keeps it: what damages it is found."""
    body = compact(document).encode()
    return cid_of(body).encode().join(_CHECK) + body[1:]


def record_of(data: bytes) -> MemoRecord:
    """The other direction of ``sealed``.

    Raises:
        ValueError: It is damaged, or of another version.
    """
    return (_remembered if len(data) <= _SHORT_BYTES else _read)(data)


def _read(data: bytes) -> MemoRecord:
    begin, end = _CHECK
    cid, found, rest = data.removeprefix(begin).partition(end)
    if not (data.startswith(begin) and found) or cid_of(b"{" + rest).encode() != cid:
        raise ValueError("not what was written")
    try:
        record = wire.memo_of(cast("JsonObject", parse_json(data)))
        sound = _is_sound(record)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("of another form") from error
    if not sound:
        raise ValueError("of another form")
    return record


_remembered = lru_cache(_MOST_REMEMBERED)(_read)  # the same bytes are the same record


def _is_sound(record: MemoRecord) -> bool:
    """Whether every value is of its type: others may write to the store, and write what nobody here would."""
    given: dict[type | tuple[type, ...], list[object]] = {
        str: [record.memo_key, record.source_execution_id, record.platform],
        (str, NoneType): [record.image_digest],
        (str, int, float, NoneType): [*record.meta.values()],
    }
    for output in record.outputs:
        given[str] += output.path, output.cid, output.mime
    numbers = (record.cost_micro_usd, *(output.size_bytes for output in record.outputs))
    return (
        all(isinstance(value, kind) for kind, values in given.items() for value in values)
        and all(type(number) is int and 0 <= number <= MAX_INTEGER for number in numbers)
        and all(CID.fullmatch(output.cid) for output in record.outputs)
    )


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
        record = record_of(data)
        outputs = tuple(
            Artifact(prefix + output.path, output.cid, output.size_bytes, output.mime)
            for output in record.outputs
        )
        # It may come from a store that others write to, and name what no run could have made.
        if record.memo_key != memo_key or any(paths.fault_of_path(output.path) for output in outputs):
            return None
        for output in outputs:
            if blobs.verify(store, output.cid, cancelled=cancelled) != output.size_bytes:
                return None
    except (ValueError, TypeError):
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
    store.memo_set(job.memo_key, sealed(wire.memo_document(record)))
