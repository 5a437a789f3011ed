"""The real `modal` client against an emulator of Modal's server on loopback."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from adapter_modal.deployments import Bench, Seen
from adapter_modal.gate import Gate
from modal_emulator.handle import Handle, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def modal_server() -> Iterator[Handle]:
    """One emulator for all tests; what it made for one test is gone before the next (`emulator`)."""
    with running("--runner", os.environ.get("THEORY_EMULATOR_RUNNER", "process")) as handle:
        yield handle


def _point_to(handle: Handle, patch: pytest.MonkeyPatch) -> None:
    """Let the client of this process talk to an emulator, whatever the user's own settings are."""
    for name in [name for name in os.environ if name.startswith("MODAL_")]:
        patch.delenv(name)
    for name, value in handle.environ.items():
        patch.setenv(name, value)
    handle.reset()


def _end(handle: Handle) -> None:
    """Forget all; what the emulator did not know or did wrong fails the test."""
    unknown = handle.unknown()
    bugs = [line["notes"]["message"] for line in handle.requests() if line["status"] == "BUG"]
    handle.reset()
    assert not unknown, f"the emulator does not answer {unknown}"
    assert not bugs, "\n".join(bugs)


@pytest.fixture
def emulator(modal_server: Handle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Handle]:
    """An emulator with nothing in it, in whose environment the test runs."""
    _point_to(modal_server, monkeypatch)
    yield modal_server
    _end(modal_server)


@pytest.fixture(scope="module")
def deployed(modal_server: Handle) -> Iterator[Handle]:
    """An emulator with the app of `remotely` in it, deployed once for all tests of a module."""
    from adapter_modal import remotely

    with pytest.MonkeyPatch.context() as patch:
        _point_to(modal_server, patch)
        modal_server.settings(most_containers=3)
        remotely.app.deploy()
        yield modal_server
        _end(modal_server)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Where code in a container waits for the test."""
    with Gate() as gate:
        yield gate


@pytest.fixture(scope="module")
def serving(modal_server: Handle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    """One function that serves all tests of a module: what a job runs stands in the call."""
    with pytest.MonkeyPatch.context() as patch:
        _point_to(modal_server, patch)
        bench = Bench(tmp_path_factory.mktemp("serving"))
        bench.deployed(bench.script("true"))
        yield modal_server
        _end(modal_server)


@pytest.fixture
def seen(serving: Handle) -> Iterator[Seen]:
    """The emulator with that function in it, and what a test asks of it."""
    seen = Seen(serving)
    yield seen
    serving.calm()
    assert not serving.unknown()
    assert not [line for line in seen.requests() if line["status"] == "BUG"]


@pytest.fixture
def bench(seen: Seen, tmp_path: Path) -> Bench:  # noqa: ARG001 - in whose environment it works
    """Makes jobs for that function."""
    return Bench(tmp_path)
