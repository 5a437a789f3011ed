"""Sandboxes of the emulator from their start to their end, through the real client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import modal
import modal.exception
import pytest

from adapter_modal.box import LONG, app, made, said, sandbox

if TYPE_CHECKING:
    from modal_emulator.handle import Handle

pytestmark = pytest.mark.usefixtures("emulator")


def test_a_sandbox_ends_with_its_command_and_keeps_what_that_printed() -> None:
    one = made("sh", "-c", "echo out; echo err >&2; exit 7")
    one.wait()
    assert (one.returncode, one.stdout.read(), one.stderr.read()) == (7, "out\n", "err\n")
    again = modal.Sandbox.from_id(one.object_id)
    assert (again.poll(), again.stdout.read()) == (7, "out\n")


def test_a_command_that_a_signal_ends_is_told_as_shells_do() -> None:
    one = made("sh", "-c", "kill -TERM $$")
    one.wait()
    assert one.returncode == 128 + 15


def test_a_sandbox_reads_what_is_written_to_it() -> None:
    one = made("sh", "-c", "read line; echo got $line; cat; exit 3")
    one.stdin.write("first\n")
    one.stdin.drain()
    one.stdin.write("second\n")
    one.stdin.write_eof()
    one.stdin.drain()
    one.wait()
    assert (one.stdout.read(), one.returncode) == ("got first\nsecond\n", 3)


def test_a_sandbox_that_runs_out_of_time_is_ended() -> None:
    one = made("sleep", "infinity", timeout=1)
    with pytest.raises(modal.exception.SandboxTimeoutError):
        one.wait()
    assert one.returncode == 124


def test_a_sandbox_that_nobody_uses_is_ended() -> None:
    one = made("sleep", "infinity", idle_timeout=1)
    one.wait(raise_on_termination=False)
    assert one.returncode == 124


def test_a_terminated_sandbox_says_so_and_takes_no_more_commands() -> None:
    with sandbox() as one:
        running = one.exec("sleep", "infinity", timeout=LONG)
        one.terminate()
        with pytest.raises(modal.exception.SandboxTerminatedError):
            one.wait()
        assert one.returncode == 137
        with pytest.raises(modal.exception.NotFoundError, match="has finished"):
            running.wait()
        with pytest.raises(modal.exception.NotFoundError, match="has finished"):
            one.exec("true", timeout=LONG)


@pytest.mark.parametrize(
    ("how", "status"), [("crash", "FAILURE"), ("preempt", "INTERNAL_FAILURE"), ("oom", "OOM")]
)
def test_a_sandbox_can_be_killed_from_the_control_port(emulator: Handle, how: str, status: str) -> None:
    with sandbox() as one:
        emulator.kill(how, sandbox=one.object_id)
        one.wait(raise_on_termination=False)
        assert one.returncode == 137
        (told,) = emulator.shown("sandboxes")
        assert status in told["status"]
        assert not told["alive"]


def test_sandboxes_are_found_by_tags_and_by_name_until_they_end() -> None:
    mine = app()
    with sandbox(app=mine, tags={"plan": "a", "step": "1"}, name="only-one") as one, sandbox(app=mine):
        found = list(modal.Sandbox.list(app_id=mine.app_id, tags={"plan": "a"}))
        assert [other.object_id for other in found] == [one.object_id]
        assert not list(modal.Sandbox.list(app_id=mine.app_id, tags={"plan": "b"}))
        assert len(list(modal.Sandbox.list(app_id=mine.app_id))) == 2
        assert modal.Sandbox.from_name("box", "only-one").object_id == one.object_id
        with pytest.raises(modal.exception.AlreadyExistsError, match="only-one"):
            made(app=mine, name="only-one")
        one.set_tags({"plan": "b"})
        assert one.get_tags() == {"plan": "b"}
        one.terminate()
        with pytest.raises(modal.exception.NotFoundError, match="only-one"):
            modal.Sandbox.from_name("box", "only-one")
        with sandbox(app=mine, name="only-one"):
            pass


def test_a_create_whose_answer_is_lost_makes_one_sandbox(emulator: Handle) -> None:
    emulator.fault("SandboxCreateV2", "after", status="UNAVAILABLE")
    with sandbox() as one:
        assert said(one, "echo", "there") == (0, "there\n", "")
        assert [told["id"] for told in emulator.shown("sandboxes")] == [one.object_id]


def test_an_app_that_stops_ends_its_sandboxes(emulator: Handle) -> None:
    mine = modal.App("short")
    with mine.run():
        made("sleep", "infinity", app=mine)
        assert [told["alive"] for told in emulator.shown("sandboxes")] == [True]
    assert [told["alive"] for told in emulator.shown("sandboxes")] == [False]


def test_a_sandbox_with_a_gpu_takes_the_older_calls_and_does_the_same(emulator: Handle) -> None:
    mine = app()
    with sandbox(
        "sh", "-c", "echo grüße; cat; exit 5", app=mine, gpu="H100", name="old", tags={"a": "b"}
    ) as one:
        assert said(one, "echo", "hello") == (0, "hello\n", "")
        assert [other.object_id for other in modal.Sandbox.list(app_id=mine.app_id)] == [one.object_id]
        assert one.get_tags() == {"a": "b"}
        one.stdin.write("in\n")
        one.stdin.write_eof()
        one.stdin.drain()
        one.wait()
        assert (one.returncode, one.stdout.read()) == (5, "grüße\nin\n")
    asked = {line["method"] for line in emulator.requests()}
    assert {"SandboxCreate", "SandboxWait", "SandboxGetLogs", "TaskGetCommandRouterAccess"} <= asked
    assert "SandboxCreateV2" not in asked
    with pytest.raises(modal.exception.InvalidError, match="Z80"):
        made("true", gpu="Z80")


def test_an_ended_sandbox_is_charged_for() -> None:
    one = made("true", cpu=2.0, memory=1024)
    one.wait()
    stats = one._experimental_stats()  # noqa: SLF001 - there is no other way to ask
    assert stats.cost is not None
    assert stats.cost > 0
    assert stats.billed_cpu_core_seconds == pytest.approx(2 * stats.duration.total_seconds(), rel=0.01)


def test_secrets_and_variables_reach_its_command() -> None:
    modal.Secret.objects.create("key", {"API_KEY": "kept", "OTHER": "old"})
    secrets = [modal.Secret.from_name("key"), modal.Secret.from_dict({"OTHER": "new"})]
    one = made("sh", "-c", "echo $API_KEY $OTHER $PLAIN", secrets=secrets, env={"PLAIN": "text"})
    one.wait()
    assert one.stdout.read() == "kept new text\n"


def test_an_image_that_was_not_built_is_refused() -> None:
    with pytest.raises(modal.exception.NotFoundError, match="Image im-none"):
        made("true", image=modal.Image.from_id("im-none"))


def test_a_child_that_holds_the_streams_open_does_not_hold_up_the_end() -> None:
    one = made("sh", "-c", "sleep 1414 & echo done; exit 4")
    one.wait()
    assert (one.returncode, one.stdout.read()) == (4, "done\n")
    with sandbox() as other:
        assert other.exec("sh", "-c", "sleep 1414 & exit 6", timeout=LONG).wait() == 6
