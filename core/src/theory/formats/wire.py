"""Every JSON document that we write, and its keys; nothing else spells them.

Each function is one direction of one document. Key order is part of what people see, never of what is hashed:
hashing goes through ``canon.canonical``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from theory.types import Artifact, Failure, MemoRecord, Success

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from theory.types import Envelope, Image, Json, JsonObject, Processor, Receipt, Scalar

ATTACH = "$attach"
ARTIFACT = "$artifact"

# Keys of the envelope's ``meta`` that are core's own; a processor's meta.json cannot set them.
CORE_META = frozenset(
    {
        "image_digest",
        "env_fingerprint",
        "duration_ms",
        "adapter",
        "memo",
        "cost_micro_usd",
        "cost_estimated",
        "exit_code",
        "log_tail",
    }
)


def artifact_document(artifact: Artifact) -> JsonObject:
    """An output as the envelope and the index show it."""
    return {
        "path": artifact.path,
        "cid": artifact.cid,
        "size_bytes": artifact.size_bytes,
        "mime": artifact.mime,
    }


def artifact_of(document: Mapping[str, Any]) -> Artifact:
    """The other direction of ``artifact_document``."""
    return Artifact(document["path"], document["cid"], document["size_bytes"], document["mime"])


def input_document(artifact: Artifact) -> JsonObject:
    """An input file as the processor sees it in inputs.json."""
    return {ARTIFACT: artifact.path, "cid": artifact.cid, "mime": artifact.mime}


def index_document(outputs: Iterable[Artifact]) -> JsonObject:
    """The outputs index."""
    return {"outputs": [artifact_document(output) for output in outputs]}


def envelope_document(envelope: Envelope) -> JsonObject:
    """The envelope, as ``theory run`` prints it."""
    if isinstance(envelope, Success):
        return {
            "status": envelope.status,
            "execution_id": envelope.execution_id,
            **index_document(envelope.outputs),
            "index_path": envelope.index_path,
            "receipt_path": envelope.receipt_path,
            "meta": _copied(envelope.meta),
        }
    error: JsonObject = {
        "code": envelope.code,
        "message": envelope.message,
        "hint": envelope.hint,
        "exit_status": envelope.exit_code,
    }
    return {
        "status": envelope.status,
        "execution_id": envelope.execution_id,
        "error": error,
        "meta": _copied(envelope.meta),
    }


def envelope_of(document: Mapping[str, Any]) -> Envelope:
    """The other direction of ``envelope_document``."""
    if document["status"] == "success":
        return Success(
            execution_id=document["execution_id"],
            outputs=tuple(artifact_of(output) for output in document["outputs"]),
            index_path=document["index_path"],
            receipt_path=document["receipt_path"],
            meta=document["meta"],
        )
    error = document["error"]
    return Failure(
        execution_id=document["execution_id"],
        code=error["code"],
        message=error["message"],
        hint=error["hint"],
        meta=document["meta"],
        exit_code=error["exit_status"],
    )


def receipt_document(receipt: Receipt) -> JsonObject:
    """The determinism receipt."""
    return {
        "execution_id": receipt.execution_id,
        "ref": receipt.ref,
        "seed": receipt.seed,
        "memo_key": receipt.memo_key,
        "env_fingerprint": receipt.env_fingerprint,
        "output_cids": list(receipt.output_cids),
        "processor_cid": receipt.processor_cid,
        "tree_cid": receipt.tree_cid,
        "inputs_cid": receipt.inputs_cid,
        "image_id": receipt.image_id,
        "image_digest": receipt.image_digest,
        "adapter": receipt.adapter,
        "platform": receipt.platform,
        "started_at": receipt.started_at,
        "finished_at": receipt.finished_at,
        "source_execution_id": receipt.source_execution_id,
    }


def preimage_document(
    processor: Processor,
    image: Image,
    inputs: JsonObject,
    seed: int,
    secrets: Iterable[str],
    *,
    pretends: bool,
) -> JsonObject:
    """What the memo key is the hash of; docs/reference/formats.md gives the reasons for each part."""
    return {
        "ref": str(processor.ref),
        "command": None if processor.command is None else list(processor.command),
        "image": {"dockerfile": processor.image.dockerfile, "oci": processor.image.oci},
        "determinism": processor.determinism,
        "inputs_schema": processor.inputs,
        "outputs_schema": processor.outputs,
        "network": processor.runtime.network,
        "gpu": processor.runtime.gpu,
        "tree": processor.tree,
        "image_id": image.id,
        "platform": image.platform,
        "inputs": _by_content(inputs),
        "seed": seed,
        "secrets": cast("list[Json]", sorted(secrets)),
        "pretends": pretends,
    }


def memo_document(record: MemoRecord) -> JsonObject:
    """A memo record, as the store keeps it."""
    return {
        "memo_key": record.memo_key,
        "source_execution_id": record.source_execution_id,
        "outputs": [artifact_document(output) for output in record.outputs],
        "meta": _copied(record.meta),
        "image_digest": record.image_digest,
        "platform": record.platform,
        "cost_micro_usd": record.cost_micro_usd,
    }


def memo_of(document: Mapping[str, Any]) -> MemoRecord:
    """The other direction of ``memo_document``; a record of another form raises KeyError or TypeError."""
    return MemoRecord(
        memo_key=document["memo_key"],
        source_execution_id=document["source_execution_id"],
        outputs=tuple(artifact_of(output) for output in document["outputs"]),
        meta=document["meta"],
        image_digest=document["image_digest"],
        platform=document["platform"],
        cost_micro_usd=document["cost_micro_usd"],
    )


def _by_content(value: Json) -> Json:
    """Inputs with each artifact named by cid and basename: the same file attached twice is the same work."""
    if isinstance(value, list):
        return [_by_content(item) for item in value]
    if not isinstance(value, dict):
        return value
    if ARTIFACT in value and "cid" in value:
        return {ARTIFACT: {"cid": value["cid"], "name": str(value[ARTIFACT]).rpartition("/")[2]}}
    return {key: _by_content(item) for key, item in value.items()}


def _copied(meta: Mapping[str, Scalar]) -> JsonObject:
    return dict(meta.items())
