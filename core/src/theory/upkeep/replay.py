"""An execution again, from its receipt and its records alone, and whether the same bytes come of it.

The entry, its folder's tree, the checked inputs and their files are blobs that the execution's record names;
no registry is asked. It runs without the memo, as an execution of its own, with its own names and charge.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from theory.disk.lease import lease
from theory.entries.registry import FolderRegistry
from theory.entries.tree import ENTRY
from theory.errors import ArtifactNotFound, Damaged, Interrupted, MissingSecret, Usage
from theory.formats import paths
from theory.formats.canon import parse_json
from theory.formats.paths import quoted
from theory.record import Record
from theory.request import new_execution_id
from theory.rooms.resolve import Source
from theory.run import Runner
from theory.store import blobs
from theory.types import Failure, Ref, Success

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from theory import ledger
    from theory.cancel import Cancellation
    from theory.types import Envelope, Json, JsonObject

# A replay takes no name away from what it repeats.
PREFIX = "/artifacts/replays/{execution_id}/"
State: TypeAlias = Literal["same", "differs", "missing", "new"]

_FACTS = ("adapter", "image_id", "image_digest", "platform", "env_fingerprint")  # of a receipt


class Compared(Record):
    """One output, then and now."""

    path: str  # below the write prefix
    then: str | None  # its cid; None: it was not there
    now: str | None

    @property
    def state(self) -> State:
        """How the two compare."""
        if self.then == self.now:
            return "same"
        if self.then is None:
            return "new"
        return "missing" if self.now is None else "differs"


class Replayed(Record):
    """One run of a replay."""

    envelope: Envelope
    outputs: tuple[Compared, ...]  # by path; empty where it failed
    changed: Mapping[str, tuple[Json, Json]]  # what its receipt says otherwise: then and now

    @property
    def is_same(self) -> bool:
        """Whether it delivered exactly the bytes of the original."""
        return isinstance(self.envelope, Success) and all(each.state == "same" for each in self.outputs)

    def document(self) -> JsonObject:
        """As JSON."""
        document: JsonObject = {
            "execution_id": self.envelope.execution_id,
            "status": "same" if self.is_same else "differs",
            "outputs": [
                {"path": each.path, "state": each.state, "then": each.then, "now": each.now}
                for each in self.outputs
            ],
            "changed": {name: {"then": then, "now": now} for name, (then, now) in self.changed.items()},
        }
        if isinstance(self.envelope, Failure):
            error: JsonObject = {"code": self.envelope.code, "message": self.envelope.message}
            document.update(status="error", error={**error, "hint": self.envelope.hint})
        return document


class Original(Record):
    """What is repeated."""

    record: ledger.Record
    receipt: JsonObject
    inputs: bytes
    secrets: tuple[str, ...]  # names of those that it had
    outputs: Mapping[str, str]  # cid by path below the write prefix


class Replayer(Runner):
    """Runs executions of one home again; arguments as for ``Home``."""

    _recorded: tuple[Source, ...] | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        """The records of what is repeated, while it is."""
        return super().sources if self._recorded is None else self._recorded

    def original(self, execution_id: str) -> Original:
        """What an execution left for its replay.

        Raises:
            ArtifactNotFound: There is no such execution, or some of its records are gone.
            Usage: It has no receipt: it failed.
            Damaged: What it kept is not what was written.
        """
        record = self.ledger.execution(execution_id)
        envelope = self.stored_envelope(execution_id)
        if record is None or envelope is None:
            raise ArtifactNotFound(
                f"no execution is called {quoted(execution_id)}", hint="theory ls shows those that there are"
            )
        if not isinstance(envelope, Success):
            raise Usage(
                f"execution {execution_id} failed, so it has no receipt to replay from",
                hint=f"theory run {record.ref} runs it as it is now",
            )
        preimage = cast("JsonObject", parse_json(self._blob(record.blobs["preimage"])))
        prefix = record.write_prefix or _prefix_of([output.path for output in envelope.outputs])
        return Original(
            record=record,
            receipt=cast("JsonObject", parse_json(self._blob(record.blobs["receipt"]))),
            inputs=self._blob(record.blobs["inputs"]),
            secrets=tuple(cast("list[str]", preimage["secrets"])),
            outputs={output.path.removeprefix(prefix): output.cid for output in envelope.outputs},
        )

    def replay(
        self,
        original: Original,
        *,
        runs: int = 1,
        adapter: str | None = None,
        options: JsonObject | None = None,
        plan: str | None = None,
        timeout: float | None = None,
        cancellation: Cancellation | None = None,
        listen: Callable[[JsonObject], None] | None = None,
    ) -> tuple[Replayed, ...]:
        """Run it again, so often, or until a run fails; arguments as for ``run``.

        Raises:
            UnknownAdapter, PluginFailed: The adapter that it had is not here.
            MissingSecret: A secret that it had is not here.
            ArtifactNotFound, Damaged: A record of it is gone, or not what was written.
        """
        receipt, record = original.receipt, original.record
        name = adapter or record.adapter
        here = self.plugins.adapter(name)
        absent = [secret for secret in original.secrets if not self.secrets().get(secret)]
        if absent and not here.info.pretends:
            raise MissingSecret(
                f"execution {record.execution_id} had the secret {absent[0]}, which is not here now",
                hint=f"export {absent[0]}=…",
            )
        done: list[Replayed] = []
        with lease(self.settings.home / "state", new_execution_id()) as folder:
            self._recorded = (self._source(original, folder / "work" / "entries"),)
            try:
                while len(done) < runs and (not done or isinstance(done[-1].envelope, Success)):
                    if cancellation is not None and cancellation.is_set():
                        raise Interrupted("cancelled between two runs", signal=cancellation.signal or 2)
                    envelope = self.run(
                        record.ref,
                        original.inputs,
                        adapter=name,
                        options=options,
                        plan=plan,
                        write_prefix=PREFIX,
                        seed=cast("int", receipt["seed"]),
                        timeout=timeout,
                        memo="off",
                        cancellation=cancellation,
                        listen=listen,
                    )
                    done.append(self._compared(original, envelope))
            finally:
                self._recorded = None
        return tuple(done)

    def _compared(self, original: Original, envelope: Envelope) -> Replayed:
        if isinstance(envelope, Failure):
            return Replayed(envelope, (), {})
        prefix = PREFIX.replace("{execution_id}", envelope.execution_id)
        now = {output.path.removeprefix(prefix): output.cid for output in envelope.outputs}
        record = self.ledger.execution(envelope.execution_id)
        receipt: JsonObject = {}
        if record is not None:
            receipt = cast("JsonObject", parse_json(self._blob(record.blobs["receipt"])))
        pairs = {name: (original.receipt.get(name), receipt.get(name)) for name in _FACTS}
        return Replayed(
            envelope,
            tuple(
                Compared(path, original.outputs.get(path), now.get(path))
                for path in sorted({*original.outputs, *now})
            ),
            {name: pair for name, pair in pairs.items() if pair[0] != pair[1]},
        )

    def _source(self, original: Original, root: Path) -> Source:
        """A registry that has the entry as it was, file by file from the store, and nothing else."""
        record, receipt = original.record, original.receipt
        ref = Ref.parse(record.ref)
        folder = root / ref.namespace / ref.name / str(ref.version)
        listing = cast("list[tuple[str, str, bool]]", parse_json(self._blob(record.blobs["tree"])))
        for path, cid, executable in ((ENTRY, record.blobs["entry"], False), *listing):
            if not {"", ".", ".."}.isdisjoint(path.split("/")):
                raise Damaged(
                    f"a file of execution {record.execution_id} is called {quoted(path)}",
                    hint="that is no record of theory's",
                )
            os.makedirs(os.path.dirname(folder / path), exist_ok=True)
            blobs.clone(self.store, cid, folder / path, mode=0o755 if executable else 0o644)
        label = f"the records of execution {record.execution_id}"
        registry = FolderRegistry(root, self.settings.home / "cache" / "registry")
        resolve = self.plugins.registry(registry, label)
        processor = resolve(ref)
        if processor is None or (processor.cid, processor.tree) != (
            receipt["processor_cid"],
            receipt["tree_cid"],
        ):
            raise Damaged(
                f"{label} are not the entry that its receipt names", hint="theory verify says what is damaged"
            )
        return Source("named", label, resolve, registry.refs, root)

    def _blob(self, cid: str) -> bytes:
        with blobs.read_verified(self.store, cid) as stream:
            return stream.read()


def _prefix_of(outputs: list[str]) -> str:
    """The write prefix of an execution that did not record it."""
    if all(path.startswith(paths.DEFAULT_PREFIX) for path in outputs):
        return paths.DEFAULT_PREFIX
    return os.path.commonpath([os.path.dirname(path) for path in outputs]) + "/"
