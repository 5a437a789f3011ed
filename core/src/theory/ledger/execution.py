"""What the ledger keeps of one execution: the closing that is written, and the record that is read back."""

from __future__ import annotations

import json
from dataclasses import field
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from theory import record
from theory.canon import canonical, compact
from theory.errors import Internal, LedgerFailed
from theory.paths import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from theory.ledger.chain import Event
    from theory.types import Artifact, Json, JsonObject

MAX_ENVELOPE_BYTES = 64 * 1024  # of JSON kept in the closing event; docs/reference/formats.md

ClosingKind: TypeAlias = Literal["execution.success", "execution.failure", "execution.memo_hit"]


class Closing(record.Record):
    """All that makes an execution true."""

    execution_id: str
    plan: str
    ref: str
    adapter: str
    kind: ClosingKind
    actual_micro_usd: (
        int | None
    )  # None: it started and its cost is unknown; the reservation is settled in full
    envelope: JsonObject  # the document that answers the run
    names: tuple[Artifact, ...]  # every world path that this execution names
    memo_key: str
    started_at: float  # seconds since the epoch
    source_execution_id: str | None = None  # the execution whose outputs a memo hit reuses
    blobs: Mapping[str, str] = field(
        default_factory=dict
    )  # role -> cid of what a replay or explanation needs
    envelope_cid: str | None = None  # where the envelope is kept as a blob, because it does not fit here

    def payload(self, actual_micro_usd: int, *, estimated: bool) -> str:
        """The content of the closing event, in canonical spelling.

        Raises:
            Internal: The envelope does not fit and is not kept as a blob.
        """
        content: JsonObject = {
            "ref": self.ref,
            "adapter": self.adapter,
            "memo_key": self.memo_key,
            "source_execution_id": self.source_execution_id,
            "actual_micro_usd": actual_micro_usd,
            "estimated": estimated,
            "started_ts": round(self.started_at * 1_000_000),
            "blobs": dict(self.blobs),
        }
        if self.envelope_cid is None:
            content["envelope"] = self.envelope
        else:
            content["envelope_cid"] = self.envelope_cid
        data = canonical(content)
        if self.envelope_cid is None and len(data) > MAX_ENVELOPE_BYTES and not fits(self.envelope):
            raise Internal(f"the envelope of execution {self.execution_id} is too large for the ledger")
        return data.decode()


class Record(record.Record):
    """One closed execution, as its closing event tells it."""

    execution_id: str
    plan: str
    seq: int  # of the closing event in its plan
    kind: ClosingKind
    ref: str
    adapter: str
    memo_key: str
    source_execution_id: str | None
    actual_micro_usd: int  # charged when it closed; a later correction is an event of its own
    estimated: bool  # the cost was unknown, and the reservation stands for it
    started_at: float  # seconds since the epoch
    closed_at: float
    envelope: JsonObject | None  # None: it is the blob envelope_cid
    envelope_cid: str | None
    blobs: Mapping[str, str]

    @classmethod
    def of(cls, event: Event) -> Record:
        """Read a closing event.

        Raises:
            LedgerFailed: It is not what was written.
        """
        if not event.is_whole():
            raise LedgerFailed(
                f"event {event.seq} of the plan {quoted(str(event.plan))} is damaged:"
                " its content does not have its hash",
                hint="put back a copy of the ledger",
            )
        content = json.loads(event.payload)
        return cls(
            execution_id=cast("str", event.execution_id),
            plan=event.plan,
            seq=event.seq,
            kind=cast("ClosingKind", event.kind),
            ref=content["ref"],
            adapter=content["adapter"],
            memo_key=content["memo_key"],
            source_execution_id=content["source_execution_id"],
            actual_micro_usd=content["actual_micro_usd"],
            estimated=content["estimated"],
            started_at=content["started_ts"] / 1_000_000,
            closed_at=event.ts / 1_000_000,
            envelope=content.get("envelope"),
            envelope_cid=content.get("envelope_cid"),
            blobs=content["blobs"],
        )


def fits(envelope: Mapping[str, Json]) -> bool:
    """Whether the closing event may keep this envelope; one that does not fit goes to the store first.

    Its compact and its canonical JSON differ in length only where a number is spelled differently.
    """
    return len(compact(envelope).encode()) <= MAX_ENVELOPE_BYTES
