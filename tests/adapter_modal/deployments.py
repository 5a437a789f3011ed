"""Entries whose functions are deployed on the emulator, and their jobs."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from theory import Artifact, Secrets, canonical_json, cid_of, tree_of
from theory.testing.channel import Later, RecordingChannel
from theory.types import ImageSource, Job, Processor, Ref, Runtime, SecretNeeds, Workspace
from theory_adapter_modal.account import client
from theory_adapter_modal.adapter import execute
from theory_adapter_modal.function.deployed import Deployed, deploy
from theory_adapter_modal.images import identify_image
from theory_adapter_modal.options import Options

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from modal_emulator.handle import Handle
    from theory import JsonObject, Outcome

LONG_S = 90.0  # for what takes a second on a machine that does nothing else
FUNCTION = Options(mode="function", startup=120)


class Run(NamedTuple):
    """A job that has ended."""

    outcome: Outcome
    channel: RecordingChannel
    out: Path


class Bench:
    """Makes entries and jobs below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"THEORY_ROOT": "", "LC_ALL": "C.UTF-8"}

    def entry(self, *command: str, **changes: Any) -> Processor:
        """An entry that runs a command; changes are fields of a processor."""
        folder = self.folder / f"entry-{os.urandom(4).hex()}"
        folder.mkdir(parents=True)
        usual: dict[str, Any] = {
            "ref": Ref("acme", "tool", 1),
            "description": "",
            "image": ImageSource(oci="python:3.11-slim"),
            "command": command,
            "runtime": Runtime(memory=512, timeout=60),
            "adapter": {},
            "secrets": SecretNeeds(),
            "determinism": "pure",
            "reserve_micro_usd": 0,
            "inputs": {},
            "outputs": {},
            "folder": folder,
            "cid": "b3:" + "0" * 64,
            "tree": tree_of(folder),
        }
        return Processor(**{**usual, **changes})

    def script(self, text: str, **changes: Any) -> Processor:
        """An entry that runs a shell script."""
        return self.entry("sh", "-c", text, **changes)

    def deployed(self, processor: Processor, options: Options = FUNCTION) -> Deployed:
        """Deploy it."""
        return asyncio.run(deploy(processor, options, client(), RecordingChannel()))

    def job(
        self, processor: Processor, *, execution_id: str = "", files: Mapping[str, bytes] | None = None
    ) -> tuple[Job, Workspace]:
        """A job and its folders, which a second try of the same execution finds again."""
        execution_id = execution_id or f"0190-{os.urandom(8).hex()}"
        place = self.folder / execution_id
        root = place / f"work-{os.urandom(4).hex()}"
        (root / "out").mkdir(parents=True)
        artifacts = []
        for name, data in (files or {}).items():
            cid = cid_of(data)
            artifact = Artifact(f"/artifacts/inputs/{cid}/{name}", cid, len(data), "application/octet-stream")
            here = root / artifact.path.lstrip("/")
            here.parent.mkdir(parents=True)
            here.write_bytes(data)
            artifacts.append(artifact)
        inputs: JsonObject = {"files": [artifact.path for artifact in artifacts]}
        (root / "inputs.json").write_bytes(canonical_json(inputs))
        job = Job(
            execution_id,
            processor,
            identify_image(processor, FUNCTION),
            inputs,
            tuple(artifacts),
            0,
            "",
            self.environment,
        )
        return job, Workspace(root, place / "state", self.folder / "cache")

    def run(
        self,
        processor: Processor,
        options: Options = FUNCTION,
        secrets: Mapping[str, str] | None = None,
        channel: RecordingChannel | None = None,
        **job: Any,
    ) -> Run:
        """Run it to its end, in this thread."""
        made, workspace = self.job(processor, **job)
        heard = channel or RecordingChannel()
        outcome = execute(made, workspace, options, Secrets(secrets or {}), heard)
        return Run(outcome, heard, workspace.out)

    def begin(
        self, processor: Processor, options: Options = FUNCTION, **job: Any
    ) -> tuple[RecordingChannel, Later[Run]]:
        """Run it in another thread."""
        channel = RecordingChannel()
        return channel, Later(lambda: self.run(processor, options, channel=channel, **job))


class Seen:
    """The emulator, and what was asked of it since this test began."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self._before = len(handle.requests())

    def requests(self, *methods: str) -> list[dict[str, Any]]:
        """The log of this test."""
        lines = self.handle.requests()[self._before :]
        return [line for line in lines if not methods or line["method"] in methods]

    @property
    def calls(self) -> int:
        """How many calls Modal took."""
        return sum(line["status"] == "OK" for line in self.requests("FunctionMap"))


def call_of(bench: Bench, execution_id: str) -> str:
    """The call that a job waits for."""
    return str(json.loads((bench.folder / execution_id / "state" / "call.json").read_text())["call"])


def busy(seen: Seen, bench: Bench, execution_id: str) -> str:
    """The container that runs a job."""
    call = call_of(bench, execution_id)
    return str(next(one["id"] for one in seen.handle.shown("containers") if call in one["calls"]))


def hears(channel: RecordingChannel, word: bytes) -> None:
    """Wait until the command has said a word."""
    channel.wait_for(lambda: word in channel.output("stdout"), LONG_S)


def with_runtime(processor: Processor, **changes: Any) -> Processor:
    """The entry with another runtime."""
    return replace(processor, runtime=replace(processor.runtime, **changes))


__all__ = ["FUNCTION", "LONG_S", "Bench", "Run", "Seen", "busy", "call_of", "hears", "with_runtime"]
