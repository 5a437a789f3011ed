"""The emulator's doors, token and objects, asked by the real client."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import modal
import modal.exception
import pytest

import modal_emulator
from modal_emulator.handle import Handle, running

if TYPE_CHECKING:
    from adapter_modal.gate import Gate

SPAWN = """
import modal
from adapter_modal import remotely
remotely.app.deploy()
modal.Function.from_name("remotely", "work")"""


def test_a_client_with_the_right_token_is_welcome(emulator: Handle) -> None:
    modal.Client.from_env().hello()
    assert [line["status"] for line in emulator.requests("ClientHello")] == ["OK"]


def test_a_client_with_a_wrong_token_is_refused(emulator: Handle) -> None:
    client = modal.Client.from_credentials("ak-wrong", "as-wrong")
    with pytest.raises(modal.exception.AuthError, match="Token"):
        client.hello()
    with pytest.raises(modal.exception.AuthError, match="Token"):
        modal.App.lookup("x", client=client, create_if_missing=True)
    assert {line["status"] for line in emulator.requests()} == {"UNAUTHENTICATED"}


def test_secrets_tell_their_keys_and_never_their_values(emulator: Handle) -> None:
    modal.Secret.objects.create("key", {"API_KEY": "a-hidden-value"})
    modal.Secret.from_name("key", required_keys=["API_KEY"]).hydrate()
    with pytest.raises(modal.exception.ConflictError, match="OTHER"):
        modal.Secret.from_name("key", required_keys=["OTHER"]).hydrate()
    with pytest.raises(modal.exception.NotFoundError, match="nothing"):
        modal.Secret.from_name("nothing").hydrate()
    assert "a-hidden-value" not in str(emulator.requests())


def test_nothing_runs_on_when_it_ends(gate: Gate) -> None:
    with running("--runner", "process") as handle:
        deployed = subprocess.run(
            [sys.executable, "-c", f"{SPAWN}.spawn('knock', {gate.port})"],
            env={**os.environ, **handle.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            check=False,
            capture_output=True,
            text=True,
        )
        assert deployed.returncode == 0, deployed.stderr
        visitor = gate.visitor()
        os.kill(handle.pid, signal.SIGINT)
        assert visitor.gone()


def test_it_is_written_from_the_protocol_alone() -> None:
    folder = Path(modal_emulator.__file__).parent
    imported = {
        name.partition(".")[0]
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    others = imported - set(sys.stdlib_module_names) - {"modal_emulator"}
    assert others <= {"modal_proto", "google", "grpclib", "aiohttp"}
