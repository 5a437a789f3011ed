"""The corridor: one request goes through every room once, in order, and comes out as one envelope.

Up to room 5 refusing is free. From room 6 on every reservation is closed exactly once, whatever happens. The closing
line of the ledger is the moment when an execution becomes true; nothing after it changes the verdict.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

from theory import blobs, config, filestore, wire
from theory.admit import Admission, admit, pretended_cost
from theory.artifacts import lay_out, materialize
from theory.cancel import Cancellation
from theory.canon import canonical, cid_of, compact
from theory.errors import Internal, Interrupted, RegistryFault, TheoryError
from theory.execute import LogChannel, check_outcome, execute
from theory.inputs import check_inputs
from theory.job import env_fingerprint, plan_job
from theory.keep import keep, keep_records
from theory.lease import lease, sweep
from theory.ledger import Closing, Ledger, fits
from theory.memo import recall, remember, remembers
from theory.outputs import check_outputs
from theory.plugins import REGISTRIES, Plugins
from theory.redact import Redactor
from theory.registry import FolderRegistry
from theory.request import Request, new_execution_id
from theory.resolve import Source, resolve_ref
from theory.types import Failure, Outcome, Ref, Success, Workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from theory.config import Settings
    from theory.plugins import Adapter
    from theory.types import Artifact, Envelope, Job, JsonObject, MemoPolicy, MemoRecord, Scalar, Store

    Listener = Callable[[JsonObject], None]


@dataclasses.dataclass(frozen=True, slots=True)
class _Prepared:
    """All that is known before anything is spent."""

    request: Request
    adapter: Adapter
    admission: Admission
    job: Job
    preimage: JsonObject
    workspace: Workspace
    redactor: Redactor


class Runner:
    """Runs processors for one home, from any thread.

    >>> envelope = Runner().run("text/wordcount@1", {"text": "to be"}, adapter="process")  # doctest: +SKIP
    >>> envelope.outputs[0].path  # doctest: +SKIP
    '/artifacts/outputs/counts.json'

    Args:
        settings: Where the home, the store and the registries are; as the command line finds them unless told.
        plugins: What is installed, unless told.
        environ: Where secrets come from.
        debug: Print the traceback of every error on stderr, not only of our own bugs.

    A runner holds one connection to its ledger; ``close`` it, or use it as a context manager.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        plugins: Plugins | None = None,
        environ: Mapping[str, str] = os.environ,
        debug: bool = False,
    ) -> None:
        self._debug = debug
        self.settings = config.load(environ) if settings is None else settings
        self.plugins = Plugins.installed(environ) if plugins is None else plugins
        self._environ = environ
        self._lock = threading.RLock()
        self._ledger: Ledger | None = None
        self._store: Store | None = None
        self._sources: tuple[Source, ...] | None = None
        self._tidy = False

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the ledger; a later run opens it again."""
        with self._lock:
            ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.close()

    # ---------------------------------------------------------------- the ways in

    def run(
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
            memo: ``auto``: as the entry's determinism allows; ``on``; ``off``; ``refresh``: run, and remember anew.
            reserve_micro_usd: What to hold on the plan; what the entry says unless told.
            execution_id: Try this execution again: if it is closed, its envelope is the answer.
            cancellation: Set it from any thread, and the run ends as soon as it can.
            listen: Gets events (``log``, ``token``, ``progress``, ``warning`` …) while the run goes on.
        """
        settings, minted = self.settings, execution_id or new_execution_id()
        cancellation = cancellation or Cancellation()
        try:
            chosen = adapter or settings.adapter
            request = Request(
                ref=ref,
                inputs={} if inputs is None else inputs,
                attachments={name: os.fspath(source) for name, source in (attachments or {}).items()},
                adapter=chosen,
                options={**settings.adapter_options.get(chosen, {}), **(options or {})},
                plan=plan or settings.plan,
                prefix=write_prefix if write_prefix is not None else settings.write_prefix,
                seed=seed,
                timeout=timeout,
                memo=memo,
                reserve_micro_usd=reserve_micro_usd,
                execution_id=execution_id,
            )
            envelope = self._carry(request, minted, cancellation, listen or _ignore)
        except Exception as error:  # noqa: BLE001 - our own bug, wherever it is, still gets one envelope
            return failure_of(self._known(error), minted, {"adapter": adapter or settings.adapter})
        for warning in self.plugins.finalize(envelope):
            (listen or _ignore)({"event": "warning", "message": warning})
        return envelope

    def open(self, artifact: Artifact) -> IO[bytes]:
        """An artifact's bytes, compared with its cid as they are read.

        Raises:
            ArtifactNotFound, Damaged, StoreFailed: By this call or by any read.
        """
        return blobs.read_verified(self.store, artifact.cid)

    @property
    def store(self) -> Store:
        """The store that the settings name."""
        with self._lock:
            if self._store is None:
                url = self.settings.store
                self._store = filestore.open_store(url) or self.plugins.open_store(url)
            return self._store

    @property
    def ledger(self) -> Ledger:
        """The home's ledger."""
        with self._lock:
            if self._ledger is None:
                self._ledger = Ledger(self.settings.home / "ledger.db")
            return self._ledger

    @property
    def sources(self) -> tuple[Source, ...]:
        """The registries, in the order in which they are asked."""
        with self._lock:
            if self._sources is None:
                self._sources = tuple(self._registries())
            return self._sources

    # ---------------------------------------------------------------- the corridor

    def _carry(
        self, request: Request, execution_id: str, cancellation: Cancellation, listen: Listener
    ) -> Envelope:
        if request.execution_id is not None and (stored := self.stored_envelope(execution_id)) is not None:
            return stored
        with ExitStack() as leaving:
            prepared = self._prepare(request, execution_id, cancellation, leaving)
            if self.ledger.ensure_plan(request.plan) and request.plan != self.settings.plan:
                listen({"event": "warning", "message": f"the plan {request.plan!r} is new and has no limit"})
            if remembers(prepared.job.processor, request.memo) and request.memo != "refresh":
                record = recall(self.store, prepared.job.memo_key, prepared.admission.prefix)
                if record is not None:
                    return self._serve(prepared, record)
            return self._perform(prepared, cancellation, listen)

    def _prepare(
        self, request: Request, execution_id: str, cancellation: Cancellation, leaving: ExitStack
    ) -> _Prepared:
        """Rooms 1 to 5: nothing is spent yet, so refusing is free."""
        adapter = self.plugins.adapter(request.adapter)
        resolved = resolve_ref(Ref.parse(request.ref), self.sources)
        processor = resolved.processor
        if request.timeout is not None:
            runtime = dataclasses.replace(processor.runtime, timeout=request.timeout)
            processor = dataclasses.replace(processor, runtime=runtime)
        inputs = check_inputs(processor, request.inputs, request.attachments)
        if resolved.origin == "found" and "process" in adapter.info.offers and "isolation" not in adapter.info.offers:
            raise RegistryFault(
                f"{processor.ref} comes from {processor.folder}, which you did not name,"
                f" and {adapter.name} would run it without isolation",
                hint=f"if you trust it: --registry {processor.folder.parents[2]}",
            )
        admission = admit(
            processor,
            adapter.name,
            adapter.info,
            adapter.identify,
            options=request.options,
            prefix=request.prefix,
            execution_id=execution_id,
            environ=self._secrets(),
        )
        self._tidy_up(execution_id)
        folder = leaving.enter_context(lease(self.settings.home / "state", execution_id))
        cache = self.settings.home / "cache" / "adapters" / adapter.name
        workspace = Workspace(folder / "work", folder / "adapter", cache)
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
            seed=request.seed,
            secrets=admission.secrets,
            pretends=adapter.info.pretends,
        )
        _stop_if(cancellation)
        redactor = Redactor(admission.secrets.values())
        return _Prepared(request, adapter, admission, job, preimage, workspace, redactor)

    def _perform(self, prepared: _Prepared, cancellation: Cancellation, listen: Listener) -> Envelope:
        """Rooms 6 to 11: from here on it costs."""
        job, adapter, admission = prepared.job, prepared.adapter, prepared.admission
        self._lay_out(prepared)
        reserved = self._reserve(prepared)
        channel = LogChannel(job.processor.runtime.timeout, cancellation, prepared.redactor, listen)
        outcome: Outcome | None = None
        began = time.time()
        try:
            outcome = execute(
                job, adapter, prepared.workspace, admission.options, admission.secrets, channel
            )
            check_outcome(job, outcome, channel, cancellation.signal)
            outputs = check_outputs(
                job.processor,
                prepared.workspace.out,
                admission.prefix,
                self.store,
                prepared.redactor,
                cancelled=cancellation.is_set,
            )
            for warning in outputs.warnings:
                listen({"event": "warning", "message": warning})
            kept = keep(
                job, prepared.preimage, adapter.name, outputs.artifacts, outputs.staged, self.store, outcome=outcome
            )
            cost = _cost(prepared, outcome, outputs.cost_micro_usd)
            if remembers(job.processor, prepared.request.memo):
                remember(
                    self.store,
                    job,
                    outcome,
                    outputs.artifacts,
                    admission.prefix,
                    meta=outputs.meta,
                    cost_micro_usd=reserved if cost is None else cost,
                )
            envelope = Success(
                execution_id=job.execution_id,
                outputs=outputs.artifacts,
                index_path=kept.index.path,
                receipt_path=kept.receipt.path,
                meta={**outputs.meta, **self._meta(prepared, outcome, cost, reserved)},
            )
            named = (*outputs.artifacts, kept.index, kept.receipt, *job.artifacts)
            self._close(prepared, envelope, cost, began, names=named, records=kept.blobs)
        except BaseException as error:
            return self._fail(prepared, error, outcome, channel, began, reserved)
        return envelope

    def _serve(self, prepared: _Prepared, record: MemoRecord) -> Envelope:
        """Rooms 9 to 11 for work that was done before: names, index, receipt and ledger line are this execution's own."""
        job, began, clock = prepared.job, time.time(), time.monotonic()
        outcome = Outcome(
            "exit", 0, began, time.monotonic() - clock, record.image_digest, record.platform, cost_micro_usd=0
        )
        kept = keep(
            job,
            prepared.preimage,
            prepared.adapter.name,
            record.outputs,
            (),
            self.store,
            outcome=outcome,
            source_execution_id=record.source_execution_id,
        )
        outcome = dataclasses.replace(outcome, duration_s=time.monotonic() - clock)
        envelope = Success(
            execution_id=job.execution_id,
            outputs=record.outputs,
            index_path=kept.index.path,
            receipt_path=kept.receipt.path,
            meta={**record.meta, **self._meta(prepared, outcome, 0, 0, memo="hit")},
        )
        self._close(
            prepared,
            envelope,
            0,
            began,
            names=(*record.outputs, kept.index, kept.receipt, *job.artifacts),
            records=kept.blobs,
            source=record.source_execution_id,
        )
        return envelope

    def _fail(
        self,
        prepared: _Prepared,
        error: BaseException,
        outcome: Outcome | None,
        channel: LogChannel,
        began: float,
        reserved: int,
    ) -> Envelope:
        """Close an execution that did not deliver; what is no ``Exception`` goes on after that."""
        if channel.deadline is None:
            self.ledger.release(prepared.job.execution_id)
            cost: int | None = 0
        else:
            cost = None if outcome is None else _cost(prepared, outcome, None)
        ended = outcome or Outcome("exit", None, began, time.time() - began)
        meta = self._meta(prepared, ended, cost, reserved if channel.deadline else 0)
        envelope = failure_of(self._known(error), prepared.job.execution_id, meta, prepared.redactor)
        records = keep_records(prepared.job, prepared.preimage, self.store)
        self._close(prepared, envelope, cost, began, names=(), records=records)
        if not isinstance(error, Exception):
            raise error
        return envelope

    # ---------------------------------------------------------------- what the rooms need

    def stored_envelope(self, execution_id: str) -> Envelope | None:
        """The envelope of a closed execution."""
        record = self.ledger.execution(execution_id)
        if record is None:
            return None
        document = record.envelope
        if document is None:
            import json  # noqa: PLC0415 - for envelopes of thousands of outputs

            with blobs.read_verified(self.store, str(record.envelope_cid)) as stream:
                document = json.loads(stream.read())
        return wire.envelope_of(document)

    def _registries(self) -> Iterator[Source]:
        cache = self.settings.home / "cache" / "registry"
        for folder in self.settings.named_registries:
            if not folder.is_dir():
                raise RegistryFault(f"the registry {folder} is not a folder", hint="check --registry or the configuration")
            yield self._source("named", str(folder), FolderRegistry(folder, cache))
        for folder in self.settings.found_registries:
            yield self._source("found", str(folder), FolderRegistry(folder, cache))
        for name in self.plugins.names(REGISTRIES):
            module = self.plugins.load(REGISTRIES, name)
            if not hasattr(module, "resolve_ref"):
                module = FolderRegistry(Path(str(getattr(module, "__file__", name))).parent, cache)
            yield self._source("installed", f"the installed registry {name}", module)

    def _source(self, origin: str, label: str, registry: object) -> Source:
        resolve = self.plugins.registry(registry, label)
        refs = registry.refs if isinstance(registry, FolderRegistry) else tuple
        return Source(origin, label, resolve, refs, getattr(registry, "root", None))  # type: ignore[arg-type]  # a literal of ours

    def _known(self, error: BaseException) -> TheoryError:
        """What people are told of an error; our own bug has its traceback on stderr, its name in the envelope."""
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            return Interrupted("interrupted")
        if self._debug or not isinstance(error, TheoryError):
            import traceback  # noqa: PLC0415 - never in a good run

            traceback.print_exception(error)
        if isinstance(error, TheoryError):
            return error
        return Internal(
            f"theory itself failed with {type(error).__name__}",
            hint="the traceback on stderr says where; please report it",
        )

    def _secrets(self) -> Mapping[str, str]:
        file = self.settings.secrets_file
        return self._environ if file is None else {**config.secrets_of(file), **self._environ}

    def _tidy_up(self, execution_id: str) -> None:
        """Once a runner: what the dead left behind is closed and removed."""
        with self._lock:
            if not self._tidy:
                sweep(self.settings.home / "state")
                self.ledger.reconcile(keep=execution_id)
                self._tidy = True

    def _lay_out(self, prepared: _Prepared) -> None:
        """Make the workspace complete; an adapter that pretends reads no file of it."""
        workspace, job = prepared.workspace, prepared.job
        workspace.inputs.write_bytes(canonical(job.inputs))
        if not prepared.adapter.info.pretends:
            workspace.cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            lay_out(job.artifacts, self.store, workspace.root)

    def _reserve(self, prepared: _Prepared) -> int:
        asked = prepared.request.reserve_micro_usd
        if asked is None:
            pretends = prepared.adapter.info.pretends
            entry = prepared.job.processor.reserve_micro_usd
            asked = pretended_cost(prepared.admission.options) if pretends else entry
        self.ledger.reserve(prepared.request.plan, prepared.job.execution_id, asked)
        return asked

    def _close(
        self,
        prepared: _Prepared,
        envelope: Envelope,
        cost: int | None,
        began: float,
        *,
        names: tuple[Artifact, ...],
        records: Mapping[str, str],
        source: str | None = None,
    ) -> None:
        document = wire.envelope_document(envelope)
        cid = None
        if not fits(document):
            data = compact(document).encode()
            cid = cid_of(data)
            self.store.put([blobs.stage(self.store, data)])
        succeeded = "execution.success" if source is None else "execution.memo_hit"
        self.ledger.settle(
            Closing(
                execution_id=prepared.job.execution_id,
                plan=prepared.request.plan,
                ref=str(prepared.job.processor.ref),
                adapter=prepared.adapter.name,
                kind=succeeded if isinstance(envelope, Success) else "execution.failure",  # type: ignore[arg-type]  # literals
                actual_micro_usd=cost,
                envelope=document,
                names=tuple(dict.fromkeys(names)),
                memo_key=prepared.job.memo_key,
                started_at=began,
                source_execution_id=source,
                blobs=records,
                envelope_cid=cid,
            )
        )

    def _meta(
        self, prepared: _Prepared, outcome: Outcome, cost: int | None, reserved: int, memo: str = ""
    ) -> dict[str, Scalar]:
        remembered = remembers(prepared.job.processor, prepared.request.memo)
        meta: dict[str, Scalar] = {
            "image_digest": outcome.image_digest,
            "env_fingerprint": env_fingerprint(prepared.job.image, prepared.job.processor),
            "duration_ms": round(outcome.duration_s * 1000),
            "adapter": prepared.adapter.name,
            "memo": memo or ("miss" if remembered else "off"),
            "cost_micro_usd": reserved if cost is None else cost,
        }
        return meta if cost is not None else {**meta, "cost_estimated": True}


def failure_of(
    error: TheoryError, execution_id: str, meta: Mapping[str, Scalar], redactor: Redactor | None = None
) -> Failure:
    """The envelope of an error, without a secret in it."""
    mask = (redactor or Redactor()).text
    said = {key: mask(value) if isinstance(value, str) else value for key, value in error.meta.items()}
    return Failure(
        execution_id=execution_id,
        code=error.code,
        message=mask(error.message),
        hint=mask(error.hint),
        meta={**meta, **said},
        exit_code=error.exit_code,
    )


def _cost(prepared: _Prepared, outcome: Outcome, said: int | None) -> int | None:
    """What an execution cost in micro-USD: the adapter's share and the processor's; None where one is unknown."""
    if outcome.cost_micro_usd is None or prepared.adapter.info.pretends:
        return outcome.cost_micro_usd
    if said is None:
        return None if prepared.job.processor.reserve_micro_usd else outcome.cost_micro_usd
    return outcome.cost_micro_usd + said


def _stop_if(cancellation: Cancellation) -> None:
    if cancellation.is_set():
        raise Interrupted("cancelled before it ran", signal=cancellation.signal or 2)


def _ignore(_: JsonObject) -> None:
    """Nobody listens."""

