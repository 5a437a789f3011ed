"""Rooms 10 and 11: what it cost, the envelope that says so, and the one transaction that makes it true."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from theory.errors import Internal, Interrupted, TheoryError
from theory.formats import wire
from theory.formats.canon import MAX_INTEGER, cid_of, compact
from theory.formats.paths import spelled_out
from theory.ledger import Closing, fits
from theory.record import Record
from theory.rooms.redact import Redactor
from theory.store import blobs
from theory.store.memo import remembers
from theory.types import Failure, Outcome, Success

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from theory.ledger import Ledger
    from theory.rooms.job import Prepared
    from theory.rooms.keep import Kept
    from theory.types import Artifact, Envelope, MemoRecord, MemoState, Scalar, Store

# Characters of a message: what a plugin raised may be of any length, and a line of the ledger may not.
_MAX_TEXT = 4096


class Cost(Record):
    """What an execution costs its plan, in micro-USD."""

    actual: int | None  # None: it ran, and nobody knows; then the reservation stands for it
    reserved: int

    @property
    def charged(self) -> int:
        """What the plan is charged."""
        return self.reserved if self.actual is None else self.actual


def cost_of(prepared: Prepared, outcome: Outcome | None, said: int | None = None) -> Cost:
    """The adapter's share and the processor's; unknown as soon as one of them is.

    Args:
        prepared: What ran.
        outcome: How it ended; None if it started and nobody knows how it ended.
        said: What the processor says that it cost; None if it does not say.
    """
    share = None if outcome is None else outcome.cost_micro_usd
    if outcome is not None and share is not None and not prepared.adapter.info.pretends:
        if said is not None:
            share = min(share + said, MAX_INTEGER)
        elif prepared.job.processor.reserve_micro_usd or outcome.ended != "exit":
            share = None
    return Cost(share, prepared.admission.reserve_micro_usd)


def success(
    prepared: Prepared,
    outputs: tuple[Artifact, ...],
    meta: Mapping[str, Scalar],
    kept: Kept,
    outcome: Outcome,
    cost: Cost,
) -> Success:
    """The envelope of work that was done and delivered."""
    return _delivered(prepared, outputs, meta, kept, _meta(prepared, outcome, cost))


def served(prepared: Prepared, record: MemoRecord, kept: Kept, outcome: Outcome) -> Success:
    """The envelope of work that had been done before: it costs nothing."""
    return _delivered(
        prepared, record.outputs, record.meta, kept, _meta(prepared, outcome, Cost(0, 0), "hit")
    )


def failure(prepared: Prepared, error: TheoryError, outcome: Outcome, cost: Cost) -> Failure:
    """The envelope of work that was admitted and did not deliver, without a secret in it."""
    return failure_of(error, prepared.job.execution_id, _meta(prepared, outcome, cost), prepared.redactor)


def failure_of(
    error: TheoryError, execution_id: str, meta: Mapping[str, Scalar], redactor: Redactor | None = None
) -> Failure:
    """The envelope of any error."""

    def told(text: str) -> str:
        # What is no text, such as half of a name that an OSError repeats, cannot be written anywhere.
        safe = (redactor or Redactor()).message(text).encode("utf-8", "replace").decode()
        return safe if len(safe) <= _MAX_TEXT else safe[: _MAX_TEXT - 1] + "…"

    said = {told(key): told(value) if isinstance(value, str) else value for key, value in error.meta.items()}
    return Failure(
        execution_id=execution_id,
        code=error.code,
        message=told(error.message),
        hint=told(error.hint),
        meta={**meta, **said},
        exit_code=error.exit_code,
    )


def known(
    error: BaseException, signal: int | None, *, debug: bool, redactor: Redactor | None = None
) -> TheoryError:
    """What people are told of an error; our own bug has its traceback on stderr, its name in the envelope.

    Args:
        error: Whatever came.
        signal: What cancelled the run: whoever noticed did not know.
        debug: Print the traceback of every error, not only of our own bugs.
        redactor: Masks the secrets that a traceback may show.
    """
    if isinstance(error, Interrupted):
        return Interrupted(error.message, signal=signal or 2, meta=error.meta)
    if not isinstance(error, Exception):
        return Interrupted("interrupted")
    if debug or not isinstance(error, TheoryError):
        import traceback  # noqa: PLC0415 - never in a good run

        told = "".join(traceback.format_exception(error))
        sys.stderr.write(spelled_out((redactor or Redactor()).message(told)))
    if isinstance(error, TheoryError):
        return error
    return Internal(
        f"theory itself failed with {type(error).__name__}",
        hint="the traceback on stderr says where; please report it",
    )


def close(  # noqa: PLR0913 - a closing is made of all these
    prepared: Prepared,
    envelope: Envelope,
    cost: Cost,
    began: float,
    ledger: Ledger,
    store: Store,
    *,
    names: Iterable[Artifact] = (),
    records: Mapping[str, str],
    source: str | None = None,
) -> None:
    """Settle, name and record, all or nothing; from now on it is true.

    Args:
        prepared: What is closed.
        envelope: How it ended; one that the ledger has no room for is kept in the store.
        cost: What is charged.
        began: Seconds since the epoch.
        ledger: Where it is written.
        store: Where its blobs are.
        names: Every artifact that it names.
        records: Role and cid of all that a replay or an explanation needs.
        source: The execution whose outputs a memo hit reuses.

    Raises:
        LedgerFailed, StoreFailed: Nothing was written, and the reservation is still open.
    """
    document = wire.envelope_document(envelope)
    cid = None
    if not fits(document):
        data = compact(document).encode()
        cid = cid_of(data)
        store.put([blobs.stage(store, data)])
    ledger.settle(
        Closing(
            execution_id=prepared.job.execution_id,
            plan=prepared.request.plan,
            ref=str(prepared.job.processor.ref),
            adapter=prepared.adapter.name,
            kind=(
                "execution.failure"
                if isinstance(envelope, Failure)
                else "execution.success"
                if source is None
                else "execution.memo_hit"
            ),
            actual_micro_usd=cost.actual,
            envelope=document,
            names=tuple(dict.fromkeys(names)),
            memo_key=prepared.job.memo_key,
            started_at=began,
            source_execution_id=source,
            blobs=records,
            envelope_cid=cid,
            write_prefix=prepared.admission.prefix,
        )
    )


def _delivered(
    prepared: Prepared,
    outputs: tuple[Artifact, ...],
    said: Mapping[str, Scalar],
    kept: Kept,
    meta: Mapping[str, Scalar],
) -> Success:
    return Success(prepared.job.execution_id, outputs, kept.index.path, kept.receipt.path, {**said, **meta})


def _meta(
    prepared: Prepared, outcome: Outcome, cost: Cost, memo: MemoState | None = None
) -> dict[str, Scalar]:
    remembered = remembers(prepared.job.processor, prepared.request.memo)
    meta: dict[str, Scalar] = {
        "image_digest": outcome.image_digest,
        "env_fingerprint": prepared.job.env_fingerprint,
        "duration_ms": round(outcome.duration_s * 1000),
        "adapter": prepared.adapter.name,
        "memo": memo or ("miss" if remembered else "off"),
        "cost_micro_usd": cost.charged,
    }
    return meta if cost.actual is not None else {**meta, "cost_estimated": True}
