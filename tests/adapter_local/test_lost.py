"""What becomes of a run whose engine goes away: it goes on where it can, and else says what happened."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from adapter_local.relay import Relay
from theory import errors
from theory.testing.channel import RecordingChannel
from theory.types import Runtime
from theory_adapter_local.container.life import name_of
from theory_adapter_local.engine.client import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from theory import Job
    from theory.testing.bench import Bench
    from theory.testing.channel import Later
    from theory_adapter_local.engine.client import Engine

# Tells where it is, and goes on when the test says so.
TWO_STEPS = "echo one; until [ -e /job/out/go ]; do sleep 0.05; done; echo two; exit 7"


@pytest.fixture
def relay(
    engine: Engine, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Relay]:
    if not engine.is_local:
        pytest.skip("no Docker engine answers at a socket here")
    relay = Relay(tmp_path_factory.mktemp("relay") / "s", engine.host.removeprefix("unix://"))
    monkeypatch.setenv("DOCKER_HOST", relay.host)
    yield relay
    relay.cut()
    for container in relay.containers:
        with suppress(Refused):  # as it should be: it is gone
            engine.call("DELETE", f"/containers/{container}", query={"force": "1", "v": "1"})


def begin(
    bench: Bench, relay: Relay, script: str, **runtime: Any
) -> tuple[Job, RecordingChannel, Later[Any], Path]:
    """A run that has said its first word."""
    job = bench.job(command=("sh", "-c", script), runtime=Runtime(**runtime))
    relay.containers.append(name_of(job))
    workspace, channel = bench.workspace(job), RecordingChannel(job.processor.runtime.timeout)
    later = bench.start(job, channel=channel, workspace=workspace)
    channel.wait_for(lambda: "stdout" in channel.heard, 60)
    relay.wait_for(b"/wait HTTP")
    return job, channel, later, workspace.out


def test_a_command_that_outlives_its_engine_is_heard_to_its_end(bench: Bench, relay: Relay) -> None:
    _, channel, later, out = begin(bench, relay, TWO_STEPS)
    relay.cut()
    relay.open()
    relay.wait_for(b"/logs?")
    (out / "go").touch()
    outcome = later.within(30).outcome
    assert (outcome.ended, outcome.exit_code) == ("exit", 7)
    assert channel.output("stdout") == b"one\ntwo\n"


def test_what_ended_while_the_engine_was_away_is_told_when_it_is_back(
    bench: Bench, engine: Engine, relay: Relay
) -> None:
    job, channel, later, out = begin(bench, relay, TWO_STEPS)
    relay.cut()
    (out / "go").touch()
    engine.call("POST", f"/containers/{name_of(job)}/wait")
    relay.open()
    outcome = later.within(30).outcome
    assert (outcome.ended, outcome.exit_code) == ("exit", 7)
    assert channel.output("stdout") == b"one\ntwo\n"


@pytest.mark.parametrize("is_sudden", [False, True], ids=["asked to stop", "killed"])
def test_a_command_that_the_engine_took_along_may_be_tried_again(
    bench: Bench, engine: Engine, relay: Relay, is_sudden: bool
) -> None:
    job, _, later, _ = begin(bench, relay, "trap 'exit 143' TERM; echo one; while :; do sleep 0.1; done")
    relay.cut(connections=is_sudden)
    engine.call("POST", f"/containers/{name_of(job)}/kill", query={"signal": "SIGTERM"})
    engine.call("POST", f"/containers/{name_of(job)}/wait")
    if is_sudden:
        relay.open()
    with pytest.raises(
        errors.Retry, match=f"the Docker daemon was stopped while the container {name_of(job)} ran"
    ):
        later.within(30)


def test_a_cancellation_is_answered_though_the_engine_is_away(bench: Bench, relay: Relay) -> None:
    _, channel, later, _ = begin(bench, relay, "echo one; exec sleep 300")
    relay.cut()
    channel.cancel()
    assert later.within(10).outcome.ended == "cancelled"  # as design has it


def test_the_deadline_holds_though_the_engine_was_away(bench: Bench, relay: Relay) -> None:
    _, _, later, _ = begin(bench, relay, "echo one; exec sleep 300", timeout=1)
    relay.cut()
    relay.open()
    assert later.within(20).outcome.ended == "timeout"


def test_a_container_that_somebody_else_stops_may_be_tried_again(
    bench: Bench, engine: Engine, relay: Relay
) -> None:
    job, _, later, _ = begin(bench, relay, "echo one; exec sleep 300")
    engine.call("POST", f"/containers/{name_of(job)}/kill", query={"signal": "SIGKILL"})
    with pytest.raises(errors.Retry, match=f"the container {name_of(job)} was stopped by somebody else"):
        later.within(20)
