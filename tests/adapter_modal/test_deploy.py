"""``theory modal deploy``, and how what it deployed is found again."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import modal
import pytest
from click.testing import CliRunner, Result

from adapter_modal.deployments import FUNCTION, Bench, with_runtime
from theory import Runner, errors
from theory_adapter_modal import commands
from theory_adapter_modal.account import client
from theory_adapter_modal.function.deployed import app_name
from theory_adapter_modal.options import Options

if TYPE_CHECKING:
    from pathlib import Path

    from modal_emulator.handle import Handle

ENTRY = """ref: acme/tool@1
description: Says hello
image: {{oci: "python:3.11-slim"}}
command: [sh, -c, "echo hello > /job/out/a.txt"]
runtime: {{memory: {memory}}}
adapter: {{modal: {{stub_name: acme_tool}}}}
determinism: pure
"""


@pytest.fixture
def registry(emulator: Handle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: ARG001 - it works there
    monkeypatch.setenv("MODAL_ENABLED", "True")
    monkeypatch.setenv("THEORY_HOME", str(tmp_path / "home"))
    if not entry_points(group="theory.adapters", name="modal"):  # not installed, only importable
        points = tmp_path / "site" / "theory_adapter_modal-0.1.0.dist-info"
        points.mkdir(parents=True)
        (points / "METADATA").write_text("Metadata-Version: 2.1\nName: theory-adapter-modal\nVersion: 0\n")
        (points / "entry_points.txt").write_text("[theory.adapters]\nmodal = theory_adapter_modal.adapter\n")
        monkeypatch.syspath_prepend(tmp_path / "site")
    write(tmp_path / "entries")
    return tmp_path / "entries"


def write(registry: Path, memory: int = 128) -> None:
    folder = registry / "acme" / "tool" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "processor.yaml").write_text(ENTRY.format(memory=memory))


def deploy(registry: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        commands.modal, ["deploy", "acme/tool@1", "--registry", str(registry), *arguments]
    )


def deployed(registry: Path, *arguments: str) -> dict[str, Any]:
    result = deploy(registry, *arguments)
    assert result.exception is None, result.exception
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_it_prints_what_it_deployed_and_doing_it_again_changes_nothing(
    emulator: Handle, registry: Path
) -> None:
    first, second = deployed(registry), deployed(registry)
    assert first == second
    assert (first["ref"], first["function"]) == ("acme/tool@1", "serve")
    assert first["app"].startswith("acme_tool-")
    assert first["image"].startswith("im-")
    handle = modal.Function.from_name(first["app"], "serve", client=client())
    handle.hydrate(client())
    assert {line["request"].get("app_name") for line in emulator.requests("FunctionGet")} == {first["app"]}


def test_a_run_uses_what_is_deployed_and_a_changed_entry_gets_a_sandbox_and_a_note(
    emulator: Handle, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THEORY_REGISTRY", str(registry))
    deployed(registry)
    heard: list[str] = []

    def run() -> Any:
        with Runner() as runner:
            return runner.run(
                "acme/tool@1", adapter="modal", memo="off", listen=lambda event: heard.append(str(event))
            )

    envelope = run()
    assert envelope.status == "success", envelope
    assert [one.path for one in envelope.outputs] == ["/artifacts/outputs/a.txt"]
    assert len(emulator.requests("FunctionMap")) == 1
    write(registry, memory=256)
    assert run().status == "success"
    assert len(emulator.requests("FunctionMap")) == 1
    assert any("theory modal deploy acme/tool@1" in text for text in heard)


@pytest.mark.parametrize(("kind", "spent"), [("after", 500), ("status", 0)], ids=["unknown", "refused"])
def test_a_call_that_nobody_knows_of_is_charged_and_one_that_was_refused_is_not(
    emulator: Handle, registry: Path, monkeypatch: pytest.MonkeyPatch, kind: str, spent: int
) -> None:
    monkeypatch.setenv("THEORY_REGISTRY", str(registry))
    deployed(registry)
    status = "UNAVAILABLE" if kind == "after" else "INVALID_ARGUMENT"
    emulator.fault("FunctionMap", kind, status=status, times=4)
    with Runner() as runner:
        envelope = runner.run("acme/tool@1", adapter="modal", memo="off", reserve_micro_usd=500)
        plan = runner.ledger.plan("default")
    assert envelope.status == "error"
    assert (plan.spent_micro_usd, plan.reserved_micro_usd) == (spent, 0)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["-o", "secret"], errors.Usage, "-o 'secret' is not KEY=VALUE"),
        (["-o", "colour=red"], errors.BadAdapterOptions, "has no option 'colour'"),
        (["-o", "environment=none"], errors.PluginFailed, "none"),
    ],
    ids=["no value", "no such option", "no such environment"],
)
def test_what_cannot_be_deployed_is_said_in_one_of_our_errors(
    registry: Path, arguments: list[str], error: type[Exception], said: str
) -> None:
    result = deploy(registry, *arguments)
    assert isinstance(result.exception, error)
    assert said in str(result.exception)
    assert result.stdout == ""


def test_the_name_of_an_app_tells_all_that_a_call_would_meet(tmp_path: Path) -> None:
    entry = Bench(tmp_path).script("true")
    same = with_runtime(entry, timeout=900)
    others = [
        (with_runtime(entry, memory=1024), FUNCTION),
        (with_runtime(entry, network=True), FUNCTION),
        (with_runtime(entry, gpu="H100"), FUNCTION),
        (entry, Options(region="eu")),
        (entry, Options(secret="a")),  # noqa: S106 - a name
    ]
    names = {app_name(*other) for other in others}
    assert app_name(same, FUNCTION) == app_name(entry, FUNCTION) not in names
    assert len(names) == len(others)


def test_a_stub_name_that_modal_would_not_take_is_the_entrys_fault(tmp_path: Path) -> None:
    entry = Bench(tmp_path).script("true", adapter={"modal": {"stub_name": "a b"}})
    with pytest.raises(errors.RegistryFault, match="stub_name is 'a b'"):
        app_name(entry, FUNCTION)
