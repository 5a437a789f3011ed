"""One request, run by every adapter that runs programs; and what they answer, spelled the same way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.bed import read
from theory.formats import wire
from theory.types import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from theory import Envelope, JsonObject, Runner

ANYTHING = "anything/python@1"  # does what its input ``program`` says
CHECKED = "anything/checked@1"  # the same, with a schema for what it leaves
_MAIN = """\
import json, os
with open(os.environ["THEORY_ROOT"] + "/job/inputs.json") as file:
    inputs = json.load(file)
os.chdir(os.environ["THEORY_ROOT"] + "/job/out")
exec(inputs["program"])
"""
_DOCKERFILE = "FROM {base}\nWORKDIR /app\nCOPY main.py ./\n"
_ENTRY = """\
ref: {ref}
description: Does what it is told
image: {{dockerfile: Dockerfile}}
command: [python, main.py]
runtime: {{cpu: 1, memory: 256, timeout: 120}}
adapter: {{modal: {{stub_name: anything}}}}
determinism: pure
inputs: {{type: object, required: [program]}}
outputs: {outputs}
"""


@dataclass(frozen=True)
class Way:
    """One way to run: an adapter and its options."""

    adapter: str
    mode: str = ""

    @property
    def options(self) -> JsonObject | None:
        """The adapter's options."""
        return {"mode": self.mode} if self.mode else None


WAYS = {
    "local": Way("local"),
    "modal": Way("modal", "sandbox"),
    "modal function": Way("modal", "function"),
}


def write_entries(root: Path, base: str = "python:3.11-slim") -> None:
    """Write both entries below a registry's root."""
    schema = (
        "{type: object, required: [answer.json], properties: {answer.json: {type: object, required: [n]}}}"
    )
    for ref, outputs in ((ANYTHING, "{type: object}"), (CHECKED, schema)):
        folder = root / ref.replace("@", "/")
        folder.mkdir(parents=True)
        (folder / "processor.yaml").write_text(_ENTRY.format(ref=ref, outputs=outputs))
        (folder / "main.py").write_text(_MAIN)
        (folder / "Dockerfile").write_text(_DOCKERFILE.format(base=base))


def run(runner: Runner, way: Way, ref: str, inputs: Mapping[str, Any], **more: Any) -> Envelope:
    """Really run it that way."""
    given: dict[str, Any] = {"memo": "off", "options": way.options, **more}
    return runner.run(ref, dict(inputs), adapter=way.adapter, **given)


def answer(runner: Runner, envelope: Envelope) -> dict[str, Any]:
    """What everybody has to answer alike; what is one execution's or one adapter's own is left out."""
    if isinstance(envelope, Failure):
        said = {name: envelope.meta.get(name) for name in ("exit_code", "log_tail")}
        message = envelope.message.replace(envelope.execution_id, "ID")
        return {"code": envelope.code, "message": message, "exit": envelope.exit_code, **said}
    own = {"adapter", "duration_ms", "env_fingerprint", "image_digest", "cost_micro_usd"}
    return {
        "outputs": [wire.artifact_document(output) for output in envelope.outputs],
        "index": read(runner, envelope.index_path),
        "meta": {name: value for name, value in envelope.meta.items() if name not in own},
    }
