"""The bench on which ``AdapterContract`` has an adapter run real jobs."""

from __future__ import annotations

import fcntl
import secrets as random_source
import time
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pluggy

from theory import hookspecs
from theory.formats import canon, mime
from theory.testing.channel import Later, RecordingChannel
from theory.types import (
    AdapterInfo,
    Artifact,
    Image,
    ImageSource,
    Job,
    JsonObject,
    Outcome,
    Processor,
    Ref,
    Runtime,
    SecretNeeds,
    Secrets,
    Workspace,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from theory.types import Json

Behaviour = Literal["success", "exit 3", "timeout", "until cancelled"]

SEED = 7
_PROGRAM = Path(__file__).with_name("processor.py")


@dataclass(frozen=True)
class Ran:
    """One execution, seen from outside."""

    job: Job
    workspace: Workspace
    channel: RecordingChannel
    outcome: Outcome
    began_at: float  # seconds since the epoch
    returned_at: float  # on time.monotonic
    took_s: float  # of execute as a whole

    def __str__(self) -> str:
        """What a reader of a failed test wants to see."""
        output = [f"{stream}: {self.channel.output(stream)!r:.2000}" for stream in ("stdout", "stderr")]
        return "\n".join([str(self.outcome), *output])

    def outputs(self) -> dict[str, bytes]:
        """Every output by path: what the adapter handed over, or the files in ``out``."""
        if self.outcome.files is not None:
            return dict(self.outcome.files)
        return {
            path.relative_to(self.workspace.out).as_posix(): path.read_bytes()
            for path in sorted(self.workspace.out.rglob("*"))
            if path.is_file()
        }


@dataclass
class Bench:
    """Makes jobs and has one adapter run them, the way core does: through pluggy, with nothing but the hooks.

    Args:
        adapter: The plugin: a module or an object with hook implementations.
        folder: An empty folder for everything below.
        cache: The adapter's cache folder.
        image: Makes the image source of an entry, given the entry's folder.
        material: What the entry tells the adapters, given the outputs that are wanted.
        options: The adapter's options for a behaviour; None for its defaults.
        patience_s: How long an execution may take before it counts as hanging.
    """

    adapter: object
    folder: Path
    cache: Path
    image: Callable[[Path], ImageSource]
    material: Callable[[dict[str, str]], Mapping[str, JsonObject]]
    options: Callable[[Behaviour], object]
    patience_s: float
    manager: pluggy.PluginManager = field(init=False)

    def __post_init__(self) -> None:
        """Register the adapter alone, as core does."""
        self.manager = pluggy.PluginManager("theory")
        self.manager.add_hookspecs(hookspecs)
        self.manager.register(self.adapter)
        self.cache.mkdir(parents=True, exist_ok=True)

    @property
    def info(self) -> AdapterInfo:
        """What the adapter says of itself."""
        info = self.manager.hook.describe_adapter()
        assert isinstance(info, AdapterInfo), f"describe_adapter gave {info!r}, which is no AdapterInfo"
        return info

    def chosen(self, behaviour: Behaviour) -> object:
        """The options record for a test: as core would make it, None where the adapter takes none."""
        options, kind = self.options(behaviour), self.info.options
        return kind() if options is None and kind is not None else options

    def processor(self, outputs: dict[str, str] | None = None, **changes: object) -> Processor:
        """An entry on disk with the program of ``processor.py``; ``changes`` replace fields of the record."""
        folder = self.folder / "entry"
        folder.mkdir(exist_ok=True)
        program = folder / "main.py"
        if not program.exists():
            program.write_bytes(_PROGRAM.read_bytes())
        image = self.image(folder)
        files = [path for path in folder.rglob("*") if path.is_file()]
        named = [(str(path.relative_to(folder)), canon.cid_of(path.read_bytes()), False) for path in files]
        processor = Processor(
            ref=Ref("contract", "steps", 1),
            description="Does the steps in its inputs",
            image=image,
            command=("python", "main.py"),
            runtime=Runtime(cpu=1, memory=512, timeout=300, network=False),
            adapter=self.material(outputs or {}),
            secrets=SecretNeeds(),
            determinism="pure",
            reserve_micro_usd=0,
            inputs={"type": "object"},
            outputs={"type": "object"},
            folder=folder,
            cid=canon.cid_of(repr((self.material(outputs or {}), changes)).encode()),
            tree=canon.tree_cid(named),
        )
        return replace(processor, **changes)  # type: ignore[arg-type]  # tests name real fields

    def identify(self, processor: Processor) -> Image:
        """The adapter's answer to ``identify``."""
        image = self.manager.hook.identify(processor=processor, options=self.chosen("success"))
        assert isinstance(image, Image), f"identify gave {image!r}, which is no Image"
        return image

    def job(
        self,
        *steps: Sequence[Json],
        outputs: dict[str, str] | None = None,
        files: tuple[Artifact, ...] = (),
        **changes: object,
    ) -> Job:
        """A job that does these steps; a pretending adapter is told of ``outputs``, its answer."""
        processor = self.processor(outputs, **changes)
        execution_id = _execution_id()
        environment = {  # docs: what a processor sees; an adapter adds PATH, HOME and TMPDIR, and its root
            "THEORY_EXECUTION_ID": execution_id,
            "THEORY_REF": str(processor.ref),
            "THEORY_SEED": str(SEED),
            "THEORY_ROOT": "",
            "USER": "theory",
            "LOGNAME": "theory",
            "PYTHONUNBUFFERED": "1",
            "PYTHONHASHSEED": str(SEED),
            "SOURCE_DATE_EPOCH": "315532800",
            "TZ": "UTC",
            "LC_ALL": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
        }
        return Job(
            execution_id=execution_id,
            processor=processor,
            image=self.identify(processor),
            inputs={"steps": [list(step) for step in steps]},
            artifacts=files,
            seed=SEED,
            memo_key=canon.cid_of(execution_id.encode()),
            environment=environment,
        )

    def workspace(self, job: Job, content: Mapping[str, bytes] | None = None) -> Workspace:
        """Fresh folders for a job, laid out as core does; ``content`` has its artifacts' bytes by path.

        For an adapter that says that it needs none they are not there.
        """
        root = self.folder / f"work-{random_source.token_hex(4)}"
        workspace = Workspace(root, self.folder / "state" / job.execution_id, self.cache)
        if not self.info.folders:
            return workspace
        workspace.out.mkdir(parents=True)
        workspace.state.mkdir(parents=True, exist_ok=True)
        workspace.inputs.write_bytes(canon.canonical(job.inputs))
        for artifact in job.artifacts:
            file = root / artifact.path.lstrip("/")
            file.parent.mkdir(parents=True)
            file.write_bytes((content or {})[artifact.path])
            file.chmod(0o444)
        return workspace

    def start(
        self,
        job: Job,
        behaviour: Behaviour = "success",
        *,
        secrets: Secrets | None = None,
        channel: RecordingChannel | None = None,
        workspace: Workspace | None = None,
    ) -> Later[Ran]:
        """Begin an execution; whatever it does, its inputs must be the same afterwards."""
        options = self.chosen(behaviour)
        line = channel or RecordingChannel(job.processor.runtime.timeout)
        place = workspace or self.workspace(job)

        def execute() -> Ran:
            began_at, began = time.time(), time.monotonic()
            outcome = self.manager.hook.execute(
                job=job, workspace=place, options=options, secrets=secrets or Secrets(), channel=line
            )
            returned_at = time.monotonic()
            assert isinstance(outcome, Outcome), f"execute gave {outcome!r}, which is no Outcome"
            if self.info.folders:
                assert place.inputs.read_bytes() == canon.canonical(job.inputs), "execute changed inputs.json"
            else:
                assert not place.root.exists(), "it says that it needs no folders, and made some"
            return Ran(job, place, line, outcome, began_at, returned_at, returned_at - began)

        return Later(execute)

    def run(
        self,
        job: Job,
        behaviour: Behaviour = "success",
        *,
        secrets: Secrets | None = None,
        workspace: Workspace | None = None,
    ) -> Ran:
        """An execution from its beginning to its end."""
        return self.start(job, behaviour, secrets=secrets, workspace=workspace).within(self.patience_s)


def files_below(folder: Path) -> dict[str, bytes]:
    """Every regular file, by path relative to the folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def nothing_holds(path: Path) -> bool:
    """Whether no process has the lock of this file: whoever has it was left running.

    A killed process may take a moment to be gone, so it has two seconds.
    """
    until = time.monotonic() + 2
    while path.exists() and _is_locked(path):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def artifact_of(name: str, data: bytes) -> Artifact:
    """An attachment, named as core names it."""
    cid = canon.cid_of(data)
    return Artifact(f"/artifacts/inputs/{cid}/{name}", cid, len(data), mime.mime_of(name))


def _execution_id() -> str:
    """A UUIDv7 (RFC 9562, 5.7): 48 bits of milliseconds, then chance."""
    bits = time.time_ns() // 1_000_000 << 80 | random_source.randbits(76)
    return str(uuid.UUID(int=bits & ~(0xF << 76) & ~(0b11 << 62) | 0x7 << 76 | 0b10 << 62))
