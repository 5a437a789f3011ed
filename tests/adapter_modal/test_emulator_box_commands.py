"""Commands in sandboxes of the emulator: streams, ends, broken connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import modal
import pytest

from adapter_modal.box import LONG, said, sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modal_emulator.handle import Handle


@pytest.fixture(scope="module")
def one(modal_server: Handle) -> Iterator[modal.Sandbox]:
    """One sandbox for all tests here: none changes it for another."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in modal_server.environ.items():
            patch.setenv(name, value)
        modal_server.reset()
        with sandbox(env={"FROM": "sandbox", "KEPT": "yes"}) as one:
            yield one
        unknown, bugs = (
            modal_server.unknown(),
            [line for line in modal_server.requests() if line["status"] == "BUG"],
        )
        modal_server.reset()
    assert not unknown, f"the emulator does not answer {unknown}"
    assert not bugs, bugs


def test_a_command_has_both_its_streams_and_its_exit_code(one: modal.Sandbox) -> None:
    assert said(one, "sh", "-c", "echo out; echo err >&2; exit 9") == (9, "out\n", "err\n")


def test_a_command_reads_its_input_to_the_end(one: modal.Sandbox) -> None:
    process = one.exec("sort", timeout=LONG)
    for line in ("b\n", "a\n"):
        process.stdin.write(line)
        process.stdin.drain()
    process.stdin.write_eof()
    process.stdin.drain()
    assert (process.stdout.read(), process.wait()) == ("a\nb\n", 0)


def test_variables_of_a_command_win_over_those_of_its_sandbox(one: modal.Sandbox) -> None:
    show = ("sh", "-c", "echo $FROM $KEPT $TOKEN; pwd")
    secrets = [modal.Secret.from_dict({"TOKEN": "t"})]
    code, out, _ = said(one, *show, env={"FROM": "command"}, secrets=secrets, workdir="/usr")
    assert (code, out) == (0, "command yes t\n/usr\n")


def test_a_command_that_a_signal_ends_says_which(one: modal.Sandbox) -> None:
    assert said(one, "sh", "-c", "kill -KILL $$")[0] == 128 + 9


def test_a_command_that_is_not_there_ends_with_127(one: modal.Sandbox) -> None:
    code, _, err = said(one, "no-such-program")
    assert code == 127
    assert "no-such-program" in err


def test_a_command_that_runs_out_of_time_is_killed_and_has_no_exit_code(one: modal.Sandbox) -> None:
    process = one.exec("sh", "-c", "echo begun; sleep 1313; echo never", timeout=1)
    assert process.stdout.read() == "begun\n"
    assert process.wait() == -1
    assert (
        said(one, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[s]leep 1313'")[1] == "0\n"
    )


def test_a_start_whose_answer_is_lost_starts_one_command(one: modal.Sandbox, modal_server: Handle) -> None:
    modal_server.fault("TaskExecStart", "after", status="UNAVAILABLE")
    assert said(one, "sh", "-c", "echo x >>/tmp/started; cat /tmp/started") == (0, "x\n", "")
    assert any(line["notes"].get("repeated") for line in modal_server.requests("TaskExecStart"))


def test_a_stream_that_breaks_goes_on_where_it_was(one: modal.Sandbox, modal_server: Handle) -> None:
    modal_server.fault("TaskExecStdioRead", "cut", after_bytes=3, times=2)
    lines = "".join(f"{number}\n" for number in range(30))
    process = one.exec("sh", "-c", "for n in $(seq 0 29); do echo $n; sleep 0.02; done", timeout=LONG)
    assert "".join(process.stdout) == lines
    assert process.wait() == 0
    assert len(modal_server.requests("TaskExecStdioRead")) >= 3


def test_a_router_that_is_away_for_a_while_loses_nothing(one: modal.Sandbox, modal_server: Handle) -> None:
    process = one.exec("sh", "-c", "read go; seq 1 1000", timeout=LONG)
    modal_server.cut(1, "router")
    process.stdin.write("go\n")
    process.stdin.drain()
    assert "".join(process.stdout).split() == [str(number) for number in range(1, 1001)]
    assert process.wait() == 0


def test_megabytes_come_through_whole(one: modal.Sandbox) -> None:
    process = one.exec(
        "sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' x; printf end", timeout=LONG, text=False
    )
    data = process.stdout.read()
    assert len(data) == 5_000_003
    assert data.endswith(b"xend")
