"""The corridor: one request goes through every room once, in order, and comes out as one envelope.

Up to room 5 refusing is free. From room 6 on every reservation is closed exactly once, whatever happens. The
closing line of the ledger is the moment when an execution becomes true; nothing after it changes the verdict.
"""

from __future__ import annotations

import dataclasses
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

from theory.cancel import Cancellation
from theory.disk.lease import lease
from theory.entries.tree import changed
from theory.errors import Interrupted, LedgerFailed, TheoryError, Usage
from theory.formats.canon import parse_json
from theory.formats.money import usd
from theory.formats.paths import printable
from theory.home import Home
from theory.options import options_of
from theory.request import Request, attachments_of, is_execution_id, new_execution_id, options_over
from theory.rooms.admit import admit
from theory.rooms.artifacts import lay_out, materialize
from theory.rooms.close import Cost, close, cost_of, failure, failure_of, known, served, success
from theory.rooms.delivery import Delivery
from theory.rooms.execute import LogChannel, check_outcome, execute
from theory.rooms.inputs import check_inputs
from theory.rooms.job import Prepared, plan_job, ran_as
from theory.rooms.keep import keep, keep_records, records_of
from theory.rooms.outputs import check_outputs
from theory.rooms.redact import Redactor
from theory.rooms.resolve import resolve_ref
from theory.store import blobs
from theory.store.memo import recall, remember, remembers
from theory.types import Outcome, Ref, Workspace

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from theory.types import Envelope, JsonObject, MemoPolicy, MemoRecord, Processor

    Listener = Callable[[JsonObject], None]


class Runner(Home):
    """Runs processors for one home, from any thread; arguments as for ``Home``.

    >>> envelope = Runner().run("text/wordcount@1", {"text": "to be"}, adapter="process")  # doctest: +SKIP
    >>> envelope.outputs[0].path  # doctest: +SKIP
    '/artifacts/outputs/counts.json'
    """

    def run(  # noqa: PLR0913 - what the command line has as options
        self,
        ref: str,
        inputs: str | bytes | JsonObject | None = None,
        *,
        attachments: Mapping[str, str | os.PathLike[str]] | None = None,
        adapter: str | None = None,
        options: JsonObject | None = None,
        plan: str | None = None,
        write_prefix: str | None = None,
        seed: int = 0,
        timeout: float | None = None,
        memo: MemoPolicy = "auto",
        reserve_micro_usd: int | None = None,
        execution_id: str | None = None,
        exclusive: bool = False,
        cancellation: Cancellation | None = None,
        listen: Listener | None = None,
    ) -> Envelope:
        """Run a processor and answer with its envelope; a failure is an envelope too, never an exception.

        Args:
            ref: ``namespace/name@version``.
            inputs: A JSON object, or its text.
            attachments: Path, URI or ``-`` by the name that ``{"$attach": name}`` uses.
            adapter: Where to run; the configured adapter unless told.
            options: The adapter's options; they go before those of the configuration.
            plan: The budget account.
            write_prefix: Below which world path the outputs are named.
            seed: 0 … 2^53-1.
            timeout: Seconds of wall clock for the command; the entry's unless told.
            memo: ``auto``: as the determinism allows; ``on``; ``off``; ``refresh``: run, and remember anew.
            reserve_micro_usd: What to hold on the plan; what the entry says unless told.
            execution_id: Try this execution again: if it is closed, its envelope is the answer.
            exclusive: Refuse, unless no other run that is exclusive writes below the prefix or above it.
            cancellation: Set it from any thread, and the run ends as soon as it can.
            listen: Gets events (``log``, ``token``, ``progress``, ``warning`` …) while the run goes on, one
                at a time, in a thread of its own.
        """
        settings, chosen = self.settings, adapter or self.settings.adapter
        minted = execution_id if execution_id and is_execution_id(execution_id) else new_execution_id()
        cancellation = cancellation or Cancellation()
        with Delivery(listen, cancellation) as tell:
            try:
                request = Request(
                    ref=ref,
                    inputs={} if inputs is None else inputs,
                    attachments=attachments_of(attachments),
                    adapter=chosen,
                    options=options_over(settings.adapter_options, chosen, options),
                    plan=settings.plan if plan is None else plan,
                    prefix=write_prefix if write_prefix is not None else settings.write_prefix,
                    seed=seed,
                    timeout=timeout,
                    memo=memo,
                    reserve_micro_usd=reserve_micro_usd,
                    execution_id=execution_id,
                    exclusive=exclusive,
                )
                if execution_id is not None and (stored := self._answered(request, execution_id)) is not None:
                    return stored
                envelope, is_new = self._carry(request, minted, cancellation, tell)
            except Exception as error:  # noqa: BLE001 - our own bug, wherever it is, still gets one envelope
                return failure_of(
                    known(error, cancellation.signal, debug=self._debug),
                    minted,
                    {"adapter": printable(str(chosen))},
                )
            for warning in self.plugins.finalize(envelope) if is_new else ():
                tell({"event": "warning", "message": warning})
            return envelope

    def entry(self, ref: str) -> Processor:
        """The entry that a run of this ref takes.

        Raises:
            UnknownRef, RegistryFault, PluginFailed: There is none, or it is faulty.
        """
        return resolve_ref(Ref.parse(ref), self.sources).processor

    def options(self, adapter: str, given: Mapping[str, object] | None = None) -> object:
        """An adapter's options as a run has them: these, over those of the configuration.

        Raises:
            UnknownAdapter, BadAdapterOptions, Usage: It is not here, or has no such options.
        """
        wanted = options_over(self.settings.adapter_options, adapter, given)
        return options_of(adapter, self.plugins.adapter(adapter).info.options, wanted)

    # ---------------------------------------------------------------- the corridor

    def _carry(
        self, request: Request, execution_id: str, cancellation: Cancellation, tell: Delivery
    ) -> tuple[Envelope, bool]:
        """The envelope, and whether it is this run's own."""
        with ExitStack() as leaving:
            prepared = self._prepare(request, execution_id, cancellation, leaving)
            # Who held this execution a moment ago may have closed it since it was asked for.
            if request.execution_id and (stored := self.stored_envelope(execution_id)) is not None:
                return stored, False
            if self.ledger.ensure_plan(request.plan) and request.plan != self.settings.plan:
                tell({"event": "warning", "message": f"the plan {request.plan!r} is new and has no limit"})
            if remembers(prepared.job.processor, request.memo) and request.memo != "refresh":
                job, prefix = prepared.job, prepared.admission.prefix
                record = recall(self.store, job.memo_key, prefix, cancelled=cancellation.is_set)
                if record is not None:
                    return self._serve(prepared, record), True
            if request.execution_id is None and not request.exclusive and prepared.adapter.info.folders:
                leaving.enter_context(lease(self.states, execution_id))
            return self._perform(prepared, cancellation, tell), True

    def _prepare(
        self, request: Request, execution_id: str, cancellation: Cancellation, leaving: ExitStack
    ) -> Prepared:
        """Rooms 1 to 5: nothing is spent yet, so refusing is free."""
        adapter = self.plugins.adapter(request.adapter)
        resolved = resolve_ref(Ref.parse(request.ref), self.sources)
        processor = resolved.processor
        if request.timeout is not None:
            runtime = dataclasses.replace(processor.runtime, timeout=request.timeout)
            processor = dataclasses.replace(processor, runtime=runtime)
        inputs = check_inputs(processor, request.inputs, request.attachments)
        admission = admit(
            processor,
            adapter.name,
            adapter.info,
            adapter.identify,
            options=request.options,
            prefix=request.prefix,
            execution_id=execution_id,
            reserve_micro_usd=request.reserve_micro_usd,
            found=resolved.origin == "found",
            environ=self.secrets(),
        )
        self.tidy_up(execution_id)
        leaving.enter_context(self.in_use())
        # A minted one is nobody else's, and not every run needs a folder; a claim is a file in it.
        if request.execution_id is not None or request.exclusive:
            leaving.enter_context(lease(self.states, execution_id))
        if request.exclusive:
            from theory.disk.claims import claim  # noqa: PLC0415 - few runs ask for it

            leaving.enter_context(claim(self.states, execution_id, admission.prefix))
        folder = self.states / execution_id
        workspace = Workspace(folder / "work", folder / "adapter", self.caches / adapter.name)
        _stop_if(cancellation)
        document, artifacts = materialize(
            inputs,
            self.store,
            fetch=self.plugins.materialize,
            lookup=self.ledger.name,
            cancelled=cancellation.is_set,
        )
        job, preimage = plan_job(
            execution_id,
            processor,
            admission.image,
            document,
            artifacts,
            request=request,
            secrets=admission.secrets,
            pretends=adapter.info.pretends,
        )
        records = records_of(job, preimage, self.store)
        _stop_if(cancellation)
        return Prepared(
            request, adapter, admission, job, records, workspace, Redactor(admission.secrets.values())
        )

    def _perform(self, prepared: Prepared, cancellation: Cancellation, tell: Delivery) -> Envelope:
        """Rooms 6 to 11: from here on it costs."""
        job, adapter, admission, store = prepared.job, prepared.adapter, prepared.admission, self.store
        lay_out(job, prepared.workspace, store, adapter.info, cancelled=cancellation.is_set)
        channel = LogChannel(job.processor.runtime.timeout, cancellation, prepared.redactor, tell)
        reserved, outcome = False, None
        began = time.time()
        try:
            # Of an id that is new nobody can hold anything, so to hold nothing for it is nothing to ask.
            if admission.reserve_micro_usd or prepared.request.execution_id:
                self.ledger.reserve(prepared.request.plan, job.execution_id, admission.reserve_micro_usd)
            reserved = True
            outcome = execute(job, adapter, prepared.workspace, admission.options, admission.secrets, channel)
            prepared = ran_as(prepared, outcome.image)
            job = prepared.job
            check_outcome(job, outcome, channel, cancellation.signal)
            outputs = check_outputs(
                job.processor,
                prepared.workspace.out if outcome.files is None else outcome.files,
                admission.prefix,
                store,
                prepared.redactor,
                cancelled=cancellation.is_set,
            )
            for warning in outputs.warnings:
                tell({"event": "warning", "message": warning})
            made, meta = outputs.artifacts, outputs.meta
            kept = keep(job, prepared.records, adapter.name, made, outputs.staged, store, outcome=outcome)
            cost = cost_of(prepared, outcome, outputs.cost_micro_usd)
            if not remembers(job.processor, prepared.request.memo) or job.image.is_passing:
                pass
            elif changed(job.processor):
                told = f"{job.processor.folder} was changed during the run, so its result is not remembered"
                tell({"event": "warning", "message": told})
            else:
                remember(store, job, outcome, made, admission.prefix, meta=meta, cost_micro_usd=cost.charged)
            envelope = success(prepared, made, meta, kept, outcome, cost)
            names = (*made, kept.index, kept.receipt, *job.artifacts)
            close(prepared, envelope, cost, began, self.ledger, store, names=names, records=kept.blobs)
            if cost.charged > cost.reserved:
                told = f"it cost {usd(cost.charged)} USD, and {usd(cost.reserved)} were reserved"
                tell({"event": "warning", "message": told})
        except BaseException as error:
            if not reserved:  # refused; or interrupted just after it was held
                self.ledger.release(job.execution_id)
                raise
            started = outcome is not None or channel.deadline is not None
            cost = cost_of(prepared, outcome) if started else Cost(0, 0)
            ended = outcome or Outcome("exit", None, began, time.time() - began)
            fault = known(error, cancellation.signal, debug=self._debug, redactor=prepared.redactor)
            failed = failure(prepared, fault, ended, cost)
            return self._fail(prepared, failed, cost, began, error, started=started)
        return envelope

    def _serve(self, prepared: Prepared, record: MemoRecord) -> Envelope:
        """Rooms 9 to 11 for work that was done before; all that is written is this execution's own."""
        job, store, source = prepared.job, self.store, record.source_execution_id
        began, clock = time.time(), time.monotonic()
        outcome = Outcome("exit", 0, began, 0.0, record.image_digest, record.platform, cost_micro_usd=0)
        kept = keep(
            job,
            prepared.records,
            prepared.adapter.name,
            record.outputs,
            (),
            store,
            outcome=outcome,
            source_execution_id=source,
        )
        outcome = dataclasses.replace(outcome, duration_s=time.monotonic() - clock)
        envelope = served(prepared, record, kept, outcome)
        names = (*record.outputs, kept.index, kept.receipt, *job.artifacts)
        close(
            prepared,
            envelope,
            Cost(0, 0),
            began,
            self.ledger,
            store,
            names=names,
            records=kept.blobs,
            source=source,
        )
        return envelope

    def _fail(
        self,
        prepared: Prepared,
        failed: Envelope,
        cost: Cost,
        began: float,
        error: BaseException,
        *,
        started: bool,
    ) -> Envelope:
        """Close an execution that did not deliver; what is no ``Exception`` goes on after that."""
        id_ = prepared.job.execution_id
        try:
            if (stored := self.stored_envelope(id_)) is not None:
                failed = stored  # the error came after the closing: nothing changes the verdict
            else:
                if not started:
                    self.ledger.release(id_)
                try:
                    records = keep_records(prepared.records, self.store)
                except (TheoryError, OSError):
                    records = {}  # a store that takes nothing must not keep the reservation open
                close(prepared, failed, cost, began, self.ledger, self.store, records=records)
        except (TheoryError, OSError) as second:
            raise LedgerFailed(
                f"execution {id_} has ended and cannot be closed: {second}",
                hint=f"what it holds on the plan {prepared.request.plan!r} is closed by a later start",
            ) from second
        if not isinstance(error, Exception):
            raise error
        return failed

    # ---------------------------------------------------------------- what the rooms need

    def _answered(self, request: Request, execution_id: str) -> Envelope | None:
        """The envelope of a closed execution, if this is the same request."""
        record = self.ledger.execution(execution_id)
        if record is None:
            return None
        other = ""
        if record.ref != request.ref:
            other = f"was one of {record.ref}, not of {printable(request.ref)}"
        elif (cid := record.blobs.get("inputs")) is not None and self.store.has([cid]):
            processor = resolve_ref(Ref.parse(request.ref), self.sources).processor
            inputs = check_inputs(processor, request.inputs, request.attachments)
            with blobs.read_verified(self.store, cid) as stream:
                other = "" if inputs.agree_with(parse_json(stream.read())) else "had other inputs"
        if not other and (cid := record.blobs.get("preimage")) is not None and self.store.has([cid]):
            with blobs.read_verified(self.store, cid) as stream:
                preimage = cast("JsonObject", parse_json(stream.read()))
            other = "" if preimage["seed"] == request.seed else f"had the seed {preimage['seed']}"
        if other:
            raise Usage(
                f"execution {execution_id} {other}",
                hint="without --execution-id it becomes an execution of its own",
            )
        return self.stored_envelope(execution_id)


def _stop_if(cancellation: Cancellation) -> None:
    if cancellation.is_set():
        raise Interrupted("cancelled before it ran")
