"""A house for one test: a registry, a home, and one small adapter that does what the test says."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from theory import AdapterInfo, Image, Outcome, Runner, Success, config, hookimpl
from theory.plugins import Plugins

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from theory import Capability, Channel, Envelope, Job, Processor, Secrets, Workspace

EVERYTHING: frozenset[Capability] = frozenset(
    {"process", "network", "gpu", "isolation", "secrets_file", "secrets_env"}
)


def done(exit_code: int | None = 0, **changes: Any) -> Outcome:
    """An outcome as a good adapter reports it."""
    usual = {"ended": "exit", "started_at": time.time(), "duration_s": 0.25, "cost_micro_usd": 0}
    return Outcome(**{**usual, "exit_code": exit_code, **changes})


@dataclass(frozen=True)
class Call:
    """What an adapter was given."""

    job: Job
    workspace: Workspace
    options: object
    secrets: Secrets
    channel: Channel

    def write(self, files: Mapping[str, bytes | str]) -> None:
        """Leave outputs."""
        for name, content in files.items():
            target = self.workspace.out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content if isinstance(content, bytes) else content.encode())


@dataclass
class Fake:
    """An adapter that leaves files and succeeds, or does what ``act`` says."""

    files: Mapping[str, bytes | str] = field(default_factory=lambda: {"a.txt": "hello\n"})
    act: Callable[[Call], object] | None = None
    offers: frozenset[Capability] = EVERYTHING
    pretends: bool = False
    options: type | None = None
    folders: bool = True
    image: Image = field(default_factory=lambda: Image("fake:1", None, "linux/amd64", "3.11"))
    calls: list[Call] = field(default_factory=list)

    @hookimpl
    def describe_adapter(self) -> AdapterInfo:
        return AdapterInfo("fakes", self.offers, self.pretends, self.options, folders=self.folders)

    @hookimpl
    def identify(self, processor: Processor) -> Image:
        del processor
        return self.image

    @hookimpl
    def execute(
        self, job: Job, workspace: Workspace, options: object, secrets: Secrets, channel: Channel
    ) -> object:
        call = Call(job, workspace, options, secrets, channel)
        self.calls.append(call)
        if self.act is not None:
            return self.act(call)
        channel.started()
        call.write(self.files)
        return done()


def write_entry(root: Path, ref: str = "test/thing@1", **fields: Any) -> Path:
    """An entry below a registry's root; its folder."""
    name, _, version = ref.partition("@")
    folder = root / name / version
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "ref": ref,
        "description": "A thing for a test",
        "image": {"dockerfile": "Dockerfile"},
        "command": ["python", "main.py"],
        "determinism": "pure",
        **fields,
    }
    (folder / "processor.yaml").write_text(json.dumps(document))  # JSON is YAML
    (folder / "Dockerfile").write_text("FROM scratch\n")
    (folder / "main.py").write_text("print('hello')\n")
    return folder


def house(
    folder: Path, adapter: object = None, *, environ: Mapping[str, str] | None = None, **more: object
) -> Runner:
    """A runner with a home and a registry below the folder, whose only adapter is the given one, called fake.

    Args:
        folder: A folder of the test's own.
        adapter: The adapter, a ``Fake`` unless told.
        environ: Variables beside those that say where home and registry are.
        more: Plugins by ``group_name``: ``plugins_listener`` is ``theory.plugins:listener``.
    """
    registry = folder / "entries"
    if not registry.exists():
        write_entry(registry)
    variables = {
        "HOME": str(folder),
        "THEORY_HOME": str(folder / "home"),
        "THEORY_REGISTRY": str(registry),
        "THEORY_ADAPTER": "fake",
        **(environ or {}),
    }
    named: dict[str, object] = {"theory.adapters:fake": Fake() if adapter is None else adapter}
    named.update({f"theory.{key.replace('_', ':', 1)}": plugin for key, plugin in more.items()})
    settings = config.load(variables, folder)
    return Runner(settings, plugins=Plugins(named=named), environ=variables)


def good(envelope: Envelope) -> Success:
    """The envelope of a success, or the failure as the test's message."""
    assert isinstance(envelope, Success), envelope
    return envelope


def read(runner: Runner, path: str) -> bytes:
    """The bytes that a world path names in this house."""
    artifact = runner.ledger.name(path)
    assert artifact is not None, f"{path} is not named"
    with runner.open(artifact) as stream:
        return stream.read()


def document(runner: Runner, path: str) -> Any:
    """The JSON that a world path names."""
    return json.loads(read(runner, path))


class Stuck:
    """A listener that takes one event and does not come back until it is let go."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.inside = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, event: object) -> None:
        self.heard.append(event)
        self.inside.set()
        self.let_go.wait(60)
