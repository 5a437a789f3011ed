"""`theory run --adapter local`, interrupted and killed: no container is left, and no reservation."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from adapter_local.command import SOON, WAITS, Command, expect_gone, expect_settled, new_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from theory_adapter_local.engine.client import Engine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

DEAF = ("sh", "-c", "trap 'echo asked to end' TERM; echo up; while :; do sleep 1; done")


@pytest.fixture
def command(
    engine: Engine, base_image: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Command]:
    command = Command(tmp_path, engine.host)
    command.entry(base_image, *getattr(request, "param", WAITS))
    yield command
    command.close()


def test_kill_9_leaves_neither_a_container_nor_a_reservation(command: Command, engine: Engine) -> None:
    execution_id = new_id()
    run = command.start("--execution-id", execution_id)
    run.says("up")
    run.process.kill()
    expect_gone(engine, execution_id)
    expect_settled(command.plan())


def test_ctrl_c_ends_the_run_and_is_answered(command: Command, engine: Engine) -> None:
    execution_id = new_id()
    run = command.start("--execution-id", execution_id)
    run.says("up")
    run.press_ctrl_c()
    status, envelope = run.end(SOON)
    assert (status, envelope["error"]["code"]) == (130, "ERR_INTERRUPTED")
    expect_gone(engine, execution_id)
    expect_settled(command.plan())


@pytest.mark.parametrize("command", [DEAF], ids=["deaf"], indirect=True)
def test_a_second_ctrl_c_ends_at_once_and_the_watchdog_does_the_rest(
    command: Command, engine: Engine
) -> None:
    execution_id = new_id()
    run = command.start("--execution-id", execution_id)
    run.says("up")
    run.press_ctrl_c()
    run.says("asked to end")
    run.press_ctrl_c()
    assert run.end(SOON)[0] == 130
    expect_gone(engine, execution_id)
    expect_settled(command.plan())


def test_an_execution_whose_run_was_killed_can_be_tried_again_at_once(
    command: Command, engine: Engine
) -> None:
    execution_id = new_id()
    first = command.start("--execution-id", execution_id)
    first.says("up")
    first.process.kill()
    again = command.start("--execution-id", execution_id)
    again.says("up")
    again.press_ctrl_c()
    assert again.end(SOON)[0] == 130
    expect_gone(engine, execution_id)
