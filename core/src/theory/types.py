"""The records that pass from room to room, and the protocols that plugins meet; no I/O.

Every record is frozen and finished when it is made. Units stand beside the field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from typing import IO, TYPE_CHECKING, Literal, Protocol, TypeAlias

from theory.errors import UnknownRef
from theory.record import Ordered, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

Scalar: TypeAlias = "bool | int | float | str | None"
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = "dict[str, Json]"

Capability: TypeAlias = Literal[
    "image",
    "process",
    "network",
    "gpu",
    "isolation",
    "memory_limit",
    "cpu_limit",
    "secrets_file",
    "secrets_env",
]
Determinism: TypeAlias = Literal["pure", "seeded", "nondeterministic"]
Ended: TypeAlias = Literal["exit", "timeout", "oom", "cancelled"]
MemoPolicy: TypeAlias = Literal["auto", "on", "off", "refresh"]
MemoState: TypeAlias = Literal["miss", "hit", "off"]

_REF = re.compile(r"([a-z0-9][a-z0-9_-]*)/([a-z0-9][a-z0-9_-]*)@([1-9][0-9]*)")


class Ref(Ordered):
    """The name of one version of a processor, ``namespace/name@version``.

    >>> Ref.parse("llm/litellm@1")
    Ref(namespace='llm', name='litellm', version=1)
    >>> str(Ref("llm", "litellm", 1))
    'llm/litellm@1'
    """

    namespace: str
    name: str
    version: int

    @classmethod
    def parse(cls, text: str) -> Ref:
        """Read a ref.

        Raises:
            UnknownRef: The text does not have the form of a ref.
        """
        match = _REF.fullmatch(text)
        if match is None or len(text) > 255:  # noqa: PLR2004 - the longest name of a path segment, in bytes
            plain = text.strip().lower()
            near = next((ref for ref in (plain, f"{plain}@1") if _REF.fullmatch(ref)), "")
            meant = f"did you mean {near}? " if near and len(near) <= 255 else ""  # noqa: PLR2004 - as above
            raise UnknownRef(
                f"{text[:100]!r} is not a processor reference",
                hint=f"{meant}write namespace/name@version, such as llm/litellm@1",
            )
        return cls(match[1], match[2], int(match[3]))

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}@{self.version}"


class ImageSource(Record):
    """Where a processor's image comes from: exactly one of the two."""

    dockerfile: str | None = None  # path below the entry's folder, which is the build context
    oci: str | None = None  # a reference, pinned by digest or a bare tag


class Runtime(Record):
    """What a command gets."""

    cpu: float = 1  # cores
    memory: int = 512  # MiB
    timeout: float = 300  # seconds of wall clock, counted from the start of the command
    gpu: str | int | None = None
    network: bool = False


class SecretNeeds(Record):
    """The secrets that an entry asks for, by name."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    deliver: Literal["file", "env"] | None = None  # None: the adapter's own safest way


class Processor(Record):
    """One registry entry, checked."""

    ref: Ref
    description: str
    image: ImageSource
    command: tuple[str, ...] | None  # the whole argv; None: the image's own
    runtime: Runtime
    adapter: Mapping[str, JsonObject]  # per adapter, what the entry tells it
    secrets: SecretNeeds
    determinism: Determinism
    reserve_micro_usd: int  # held on the plan before a run
    inputs: JsonObject  # JSON Schema 2020-12
    outputs: JsonObject  # JSON Schema 2020-12 of the outputs document
    folder: Path  # where the entry and its build context are
    cid: str  # of the bytes of processor.yaml
    tree: str  # of the folder without processor.yaml


PASSING = "once:"  # begins the id of an image that nothing pins, which is another one for each run


class Image(Record):
    """What an entry's image means on this adapter, found out before anything runs."""

    id: str  # part of the memo key; see docs/reference/formats.md
    digest: str | None  # of an OCI image, where there is one
    platform: str  # as Docker writes it: linux/amd64; "" where there is none
    python: str | None = None  # "3.11" where a known interpreter runs the command

    @property
    def is_passing(self) -> bool:
        """Whether its id is of one run alone: no other can be served what that made."""
        return self.id.startswith(PASSING)


class Artifact(Ordered):
    """Named bytes."""

    path: str  # world path
    cid: str  # "b3:" and 64 hex digits
    size_bytes: int
    mime: str


class Job(Record):
    """One piece of work, complete: all that an adapter needs to know of a run."""

    execution_id: str
    processor: Processor
    image: Image
    inputs: JsonObject  # as checked; the bytes of inputs.json are its canonical JSON
    artifacts: tuple[Artifact, ...]  # the input files, each at its world path below Workspace.root
    seed: int  # 0 … 2^53-1
    memo_key: str
    environment: Mapping[str, str]  # what every adapter sets; it adds PATH, HOME and TMPDIR
    plan: str = ""  # whose budget pays, for an adapter that can tell its own bills apart

    @property
    def env_fingerprint(self) -> str:
        """``<os>_<arch>_<py311 or none>_<namespace>-<name>``; unknown parts are ``none``.

        The spelling of the architecture is that of the requirements: x64 for what Docker calls amd64.
        """
        system, _, arch = self.image.platform.partition("/")
        arch = {"amd64": "x64"}.get(arch, arch.replace("/", ""))
        python = "py" + self.image.python.replace(".", "") if self.image.python else "none"
        ref = self.processor.ref
        return f"{system or 'none'}_{arch or 'none'}_{python}_{ref.namespace}-{ref.name}"


class Workspace(Record):
    """The folders of one execution on this machine."""

    root: Path  # inputs.json, artifacts/…, out/; gone after the run
    state: Path  # of this execution, durable until it is closed; a retry of the same execution finds it again
    cache: Path  # of this adapter, durable

    @property
    def inputs(self) -> Path:
        """The checked inputs as canonical JSON."""
        return self.root / "inputs.json"

    @property
    def out(self) -> Path:
        """Every regular file that the processor leaves here is an output."""
        return self.root / "out"


class Outcome(Record):
    """How a command ended. A non-zero exit is an outcome, not an exception."""

    ended: Ended
    exit_code: int | None  # 128 + n for signal n, as shells have it; None unless ended is "exit"
    started_at: float  # seconds since the epoch
    duration_s: float
    image_digest: str | None = None
    platform: str = ""
    cost_micro_usd: int | None = None  # what the adapter charges; None: unknown
    message: str = ""  # more about the end, for people
    image: Image | None = None  # what ran, where ``identify`` could not know it: built or pulled since
    files: Mapping[str, bytes] | None = None  # the outputs by path, held in memory; None: they are in out


class AdapterInfo(Record):
    """What an adapter can do."""

    summary: str
    offers: frozenset[Capability]
    pretends: bool = False  # simulates: gets no secrets and no files, and serves no real run from the memo
    options: type | None = None  # a dataclass whose fields are the options; None: it takes none
    capacity: int = 1  # jobs that it can usefully run at once
    folders: bool = True  # a job has a Workspace; without, none of it is made, and Outcome has the files


class Finding(Record):
    """One line of ``theory doctor``."""

    subject: str
    ok: bool
    message: str
    hint: str = ""


class Secrets(Mapping[str, str]):
    """Names and values that only the processor may see; the values never print."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self._values = dict(values or {})

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Secrets({', '.join(sorted(self._values))})"


class Channel(Protocol):
    """An adapter's line to core while a job runs; every method may be called from any thread."""

    def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        """Pass on what the command wrote, in any portions; core splits, redacts, caps and keeps the tail."""

    def started(self) -> None:
        """Say that the command starts now: the timeout counts from here, not from the pull or the build."""

    @property
    def deadline(self) -> float | None:
        """When the command's time is over, on ``time.monotonic``; None before ``started``."""

    def wait_cancelled(self, seconds: float) -> bool:
        """Wait at most so long; True as soon as the run is cancelled: stop the work, answer within 10 s."""


class Staged(Record):
    """Bytes that core has named, ready to be taken into a store: either in a file or in memory.

    Core keeps up to 64 KiB in memory; a store takes any size either way.
    """

    cid: str
    size_bytes: int
    path: Path | None = None  # a private file in ``Store.staging``; ``Store.put`` may move it away
    data: bytes | None = None  # all of them


class Store(Protocol):
    """Keeps blobs by cid, and memo records; it moves bytes and never names them.

    Every method may be called from several threads and processes at once. A failed write raises
    ``StoreFailed`` and leaves nothing half visible; so does a cid or memo key that is not ``b3:`` and 64 hex
    digits.
    """

    @property
    def url(self) -> str:
        """What ``--store`` takes to reach this store."""

    @property
    def staging(self) -> Path:
        """A folder here for files that ``put`` will take; for a local store, on its own file system."""

    def put(self, blobs: Sequence[Staged]) -> None:
        """Take all of these; they are durable when this returns, those that were here already too."""

    def open(self, cid: str) -> IO[bytes]:
        """Open a blob; who reads it compares its cid.

        Raises:
            ArtifactNotFound: The blob is not here.
        """

    def has(self, cids: Iterable[str]) -> frozenset[str]:
        """Which of these are here."""

    def delete(self, cids: Iterable[str]) -> None:
        """Remove these; one that is not here is none of its business."""

    def list(self) -> Iterator[tuple[str, int]]:
        """Every blob's cid and size in bytes, in no order."""

    def memo_get(self, key: str) -> bytes | None:
        """The record of this memo key."""

    def memo_set(self, key: str, record: bytes) -> None:
        """Set the record of this memo key, durably; the last one wins, and nobody sees half of it."""

    def memo_delete(self, key: str) -> None:
        """Remove the record of this memo key, if there is one."""

    def memo_list(self) -> Iterator[str]:
        """Every memo key, in no order."""


class Receipt(Record):
    """What a replay or an auditor needs to know of one execution."""

    execution_id: str
    ref: str
    seed: int
    memo_key: str
    env_fingerprint: str
    output_cids: tuple[str, ...]  # in the order of the outputs
    processor_cid: str
    tree_cid: str
    inputs_cid: str
    image_id: str
    image_digest: str | None
    adapter: str
    platform: str
    started_at: str  # RFC 3339, UTC
    finished_at: str
    source_execution_id: str | None  # the execution whose outputs a memo hit reuses


class MemoRecord(Record):
    """What a later run of the same work needs to make its own names, index and receipt."""

    memo_key: str
    source_execution_id: str
    outputs: tuple[Artifact, ...]  # their paths relative, without a write prefix
    meta: Mapping[str, Scalar]  # scalars of meta.json
    image_digest: str | None
    platform: str
    cost_micro_usd: int  # of the execution that made it


class Success(Record):
    """The envelope of an execution that delivered."""

    execution_id: str
    outputs: tuple[Artifact, ...]  # by path, a top-level meta.json last
    index_path: str
    receipt_path: str
    meta: Mapping[str, Scalar] = field(default_factory=dict)

    status: Literal["success"] = "success"

    @property
    def exit_code(self) -> int:
        """What the command line exits with."""
        return 0


class Failure(Record):
    """The envelope of an execution that did not."""

    execution_id: str
    code: str  # ERR_…
    message: str
    hint: str = ""
    meta: Mapping[str, Scalar] = field(default_factory=dict)
    exit_code: int = 70

    status: Literal["error"] = "error"


Envelope: TypeAlias = "Success | Failure"
