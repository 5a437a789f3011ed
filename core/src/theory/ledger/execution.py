"""What the ledger keeps of one execution: the closing that is written, and the record that is read back."""

from __future__ import annotations

import json
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from theory import record
from theory.errors import Internal, LedgerFailed
from theory.formats.canon import canonical, compact
from theory.formats.paths import quoted
from theory.formats.wire import artifact_document
from theory.ledger.chain import EVENT_COLUMNS, Event
from theory.ledger.database import CLOSINGS, further

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from theory.types import Artifact, Json, JsonObject

MAX_ENVELOPE_BYTES = 64 * 1024  # of JSON kept in the closing event; docs/reference/formats.md

_PAGE, _PAGES = 500, 100  # closing events that are read at a time, and how often, in search of a ref's

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
    write_prefix: str = ""  # below which the outputs are named

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
            "write_prefix": self.write_prefix,
        }
        content.update(self._further_names())
        if self.envelope_cid is None:
            content["envelope"] = self.envelope
        else:
            content["envelope_cid"] = self.envelope_cid
        data = canonical(content)
        if len(data) > MAX_ENVELOPE_BYTES:  # no part of what fits as a whole has to be looked at
            if self.envelope_cid is None and not fits(self.envelope):
                raise Internal(f"the envelope of execution {self.execution_id} is too large for the ledger")
            if not fits({"names": content["names"]}):
                del content["names"]
                data = canonical(content)
        return data.decode()

    def _further_names(self) -> JsonObject:
        """What it names and the envelope does not list, so that the chain tells of every name."""
        outputs = cast("list[JsonObject]", self.envelope.get("outputs", []))
        listed = {output["path"] for output in outputs}
        return {"names": [artifact_document(name) for name in self.names if name.path not in listed]}


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
    write_prefix: str  # of its outputs; empty where an older theory closed it

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
            write_prefix=content.get("write_prefix", ""),
        )


def executions_of(read: Callable[..., list[Any]], ref: str) -> Iterator[Record]:
    """The last executions of a ref, the newest first; those far back in a long ledger are left out.

    Args:
        read: The rows of one query, ``Ledger.read``.
        ref: Whose executions.

    Raises:
        LedgerFailed: One is not what was written.
    """
    last, mark = 2**63 - 1, f'"ref":"{ref}"'
    query = (
        f"SELECT {EVENT_COLUMNS}, id FROM events WHERE {CLOSINGS} AND id < ? ORDER BY id DESC LIMIT {_PAGE}"  # noqa: S608 - constants
    )
    for _ in range(_PAGES):
        rows = read(query, (last,))
        for row in rows:
            if mark in row[5]:
                record = Record.of(Event(*row[:-1]))
                if record.ref == ref:
                    yield record
        if not rows:
            return
        last = -further(-last, -rows[-1][-1])  # it goes backwards


def fits(envelope: Mapping[str, Json]) -> bool:
    """Whether the closing event may keep this document; an envelope that does not fit goes to the store.

    Its compact and its canonical JSON differ in length only where a number is spelled differently.
    """
    return len(compact(envelope).encode()) <= MAX_ENVELOPE_BYTES
