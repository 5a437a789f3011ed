"""Calls of a function when luck is bad: what is left at Modal, what is paid, what the next try finds."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import pytest

from adapter_modal.deployments import FUNCTION, LONG_S, Bench, Run, Seen, busy, call_of, hears
from theory import Secrets, errors
from theory.testing.channel import RecordingChannel
from theory.types import SecretNeeds
from theory_adapter_modal.account import client
from theory_adapter_modal.function import call as calls
from theory_adapter_modal.function import documents
from theory_adapter_modal.function.deployed import volume_of
from theory_adapter_modal.patience import Patience

if TYPE_CHECKING:
    from pathlib import Path

BIG = {"big": os.urandom((1 << 20) + 1)}  # does not go with the call
COPIES = "cp /artifacts/inputs/*/big /job/out/big"


def stored(bench: Bench, execution_id: str) -> list[str]:
    """What the app's volume has of an execution."""
    files = volume_of(bench.script("true"), FUNCTION, client()).listdir("/", recursive=True)
    return [file.path for file in files if execution_id in file.path]


def record(bench: Bench, execution_id: str) -> Path:
    return bench.folder / execution_id / "state" / "call.json"


def running(seen: Seen) -> list[str]:
    return [call for one in seen.handle.shown("containers") for call in one["calls"]]


def away(seen: Seen, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """No answers of one kind, and little patience."""
    seen.handle.fault(method, "status", status="UNAVAILABLE", times=0)
    monkeypatch.setattr(calls, "Patience", partial(Patience, 0.1))


def lost(seen: Seen, bench: Bench, monkeypatch: pytest.MonkeyPatch, script: str, name: str) -> None:
    """Begin a call, and lose it from sight."""
    with monkeypatch.context() as patch:
        away(seen, patch, "FunctionGetOutputs")
        with pytest.raises(errors.Retry, match="Modal could not be reached"):
            bench.run(bench.script(script), execution_id=name, files=BIG)
    seen.handle.calm()
    assert record(bench, name).exists()


# ---------------------------------------------------------------- what is left in the volume


def test_nothing_is_left_of_a_call_that_is_cancelled(bench: Bench) -> None:
    channel, later = bench.begin(bench.script("echo on; sleep 60"), execution_id="0190-a", files=BIG)
    hears(channel, b"on")
    assert stored(bench, "0190-a")
    channel.cancel()
    assert later.within(LONG_S).outcome.ended == "cancelled"
    assert not stored(bench, "0190-a")


def test_nothing_is_left_of_a_call_that_modal_gave_up(seen: Seen, bench: Bench) -> None:
    seen.handle.settings(crash_retries=0)
    channel, later = bench.begin(bench.script("echo on; sleep 60"), execution_id="0190-b", files=BIG)
    hears(channel, b"on")
    seen.handle.kill("crash", container=busy(seen, bench, "0190-b"))
    with pytest.raises(errors.Retry, match="the container of acme/tool@1 on Modal ended"):
        later.within(LONG_S)
    seen.handle.settings(crash_retries=3)
    assert not stored(bench, "0190-b")


@pytest.mark.parametrize("status", ["INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"])
def test_nothing_is_left_of_a_call_that_modal_refuses(
    seen: Seen, bench: Bench, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    monkeypatch.setattr(calls, "Patience", partial(Patience, 0.1))
    seen.handle.fault("FunctionMap", "status", status=status, times=0)
    channel = RecordingChannel()
    with pytest.raises((errors.PluginFailed, errors.Retry), match=r"Modal (refuses|had no room)"):
        bench.run(bench.script("true"), channel=channel, execution_id="0190-c", files=BIG)
    assert seen.requests("VolumePutFiles2")
    assert not stored(bench, "0190-c")
    assert channel.deadline is None  # it cost nothing


def test_what_a_call_may_still_read_stays_until_another_try_has_its_answer(
    seen: Seen, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "sleep 1; cat /artifacts/inputs/*/big | wc -c > /job/out/size"
    lost(seen, bench, monkeypatch, script, "0190-d")
    ended = bench.run(bench.script(script), execution_id="0190-d", files=BIG)
    assert int(ended.out.joinpath("size").read_text()) == len(BIG["big"])
    assert seen.calls == 1
    assert not stored(bench, "0190-d")


def test_an_answer_whose_files_are_lost_is_made_again_by_the_next_try(
    seen: Seen, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost(seen, bench, monkeypatch, COPIES, "0190-e")
    while not any("/out/" in path for path in stored(bench, "0190-e")) or running(seen):
        pass
    volume_of(bench.script(COPIES), FUNCTION, client()).remove_file("0190-e", recursive=True)
    with pytest.raises(errors.Damaged, match="Modal's volume has lost 0190-e/"):
        bench.run(bench.script(COPIES), execution_id="0190-e", files=BIG)
    assert not record(bench, "0190-e").exists()
    ended = bench.run(bench.script(COPIES), execution_id="0190-e", files=BIG)
    assert ended.out.joinpath("big").read_bytes() == BIG["big"]
    assert seen.calls == 2


def test_what_this_disk_had_no_room_for_is_fetched_by_the_next_try(
    seen: Seen, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise errors.StoreFailed("no room")

    run = partial(bench.run, bench.script(COPIES), execution_id="0190-p", files=BIG)
    with monkeypatch.context() as patch:
        patch.setattr(calls, "lay_down", refuse)
        with pytest.raises(errors.StoreFailed, match="no room"):
            run()
    assert run().out.joinpath("big").read_bytes() == BIG["big"]
    assert seen.calls == 1
    assert not stored(bench, "0190-p")


def test_outputs_that_cannot_be_taken_leave_nothing_to_come_back_to(
    seen: Seen, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "_MOST_PATH", 200)  # as where this machine takes less than that one
    entry = bench.script(f"{COPIES}; touch /job/out/{'x' * 250}")
    with pytest.raises(errors.BadOutputPath, match=r"the output 'xxx.* cannot have this name here"):
        bench.run(entry, execution_id="0190-f", files=BIG)
    assert not stored(bench, "0190-f")
    assert not record(bench, "0190-f").exists()
    assert seen.calls == 1


# ---------------------------------------------------------------- the id of the call


def test_a_call_that_cannot_be_written_down_is_ended(seen: Seen, bench: Bench) -> None:
    (bench.folder / "0190-g").mkdir()
    (bench.folder / "0190-g" / "state").write_bytes(b"")  # where a folder is to be
    channel = RecordingChannel()
    with pytest.raises(errors.StoreFailed, match=r"0190-g/state/call\.json cannot be written: File exists"):
        bench.run(bench.script("sleep 60"), channel=channel, execution_id="0190-g", files=BIG)
    assert len(seen.requests("FunctionCallCancel")) == seen.calls == 1
    assert not stored(bench, "0190-g")
    assert channel.deadline is not None  # it may have cost something


def test_what_cannot_be_read_starts_no_second_call(seen: Seen, bench: Bench) -> None:
    record(bench, "0190-h").mkdir(parents=True)
    with pytest.raises(errors.StoreFailed, match=r"call\.json cannot be read: Is a directory"):
        bench.run(bench.script("true"), execution_id="0190-h")
    assert seen.calls == 0


def test_the_answer_of_an_entry_as_it_was_is_not_that_of_the_entry_as_it_is(
    seen: Seen, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost(seen, bench, monkeypatch, f"sleep 60; {COPIES}", "0190-i")
    former = call_of(bench, "0190-i")
    ended = bench.run(bench.script("echo new > /job/out/a"), execution_id="0190-i", files=BIG)
    assert sorted(os.listdir(ended.out)) == ["a"]
    (line,) = seen.requests("FunctionCallCancel")
    assert line["request"]["function_call_id"] == former


@pytest.mark.parametrize("size", [5, 2_000_000], ids=["inline", "in the volume"])
def test_a_kill_after_the_outputs_came_leaves_an_execution_that_can_be_tried_again(
    bench: Bench, size: int
) -> None:
    entry = bench.script(f"head -c {size} /dev/zero > /job/out/big")
    first, second = (bench.run(entry, execution_id="0190-j") for _ in range(2))
    assert first.out != second.out
    assert first.out.joinpath("big").read_bytes() == second.out.joinpath("big").read_bytes() == bytes(size)
    assert not stored(bench, "0190-j")


# ---------------------------------------------------------------- cancelled at a bad moment


def cancelled_while_asking(seen: Seen, bench: Bench, name: str) -> Run:
    channel, later = bench.begin(bench.script("sleep 60"), execution_id=name)
    while not seen.requests("FunctionMap"):
        pass
    channel.cancel()
    return later.within(LONG_S)


def test_a_call_that_comes_of_a_cancelled_question_is_cancelled(seen: Seen, bench: Bench) -> None:
    seen.handle.fault("FunctionMap", "stall", seconds=1.0)
    ended = cancelled_while_asking(seen, bench, "0190-k")
    assert ended.outcome.ended == "cancelled"
    assert len(seen.requests("FunctionCallCancel")) == seen.calls == 1
    assert not running(seen)
    assert not record(bench, "0190-k").exists()


def test_a_question_that_stays_open_is_told_and_charged(
    seen: Seen, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_CANCEL_S", 0.2)
    seen.handle.fault("FunctionMap", "stall", seconds=LONG_S)
    ended = cancelled_while_asking(seen, bench, "0190-l")
    assert ended.outcome.ended == "cancelled"
    assert (ended.outcome.cost_micro_usd or 0) > 0
    assert b"did not answer whether it took the call" in ended.channel.output("stderr")


def test_a_cancel_that_does_not_reach_modal_leaves_what_the_next_try_finds(
    seen: Seen, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_CANCEL_S", 0.4)
    script = f"echo on; sleep 2; {COPIES}"
    channel, later = bench.begin(bench.script(script), execution_id="0190-m", files=BIG)
    hears(channel, b"on")
    seen.handle.fault("FunctionCallCancel", "status", status="UNAVAILABLE", times=0)
    channel.cancel()
    assert later.within(LONG_S).outcome.ended == "cancelled"
    assert f"the call {call_of(bench, '0190-m')} ends there".encode() in channel.output("stderr")
    seen.handle.calm()
    ended = bench.run(bench.script(script), execution_id="0190-m", files=BIG)
    assert ended.out.joinpath("big").read_bytes() == BIG["big"]
    assert seen.calls == 1


# ---------------------------------------------------------------- what Modal does not say


def test_a_call_is_cancelled_where_modal_refuses_to_say_how_it_is(seen: Seen, bench: Bench) -> None:
    seen.handle.fault("FunctionGetOutputs", "status", status="PERMISSION_DENIED")
    with pytest.raises(errors.PluginFailed, match="Modal does not permit it"):
        bench.run(bench.script("sleep 60"), execution_id="0190-n", files=BIG)
    assert len(seen.requests("FunctionCallCancel")) == 1
    assert not running(seen)
    assert not record(bench, "0190-n").exists()
    assert not stored(bench, "0190-n")


def test_a_call_that_nobody_knows_of_is_charged_and_keeps_its_files(seen: Seen, bench: Bench) -> None:
    seen.handle.fault("FunctionMap", "after", status="UNAVAILABLE", times=4)
    channel = RecordingChannel()
    with pytest.raises(errors.Retry, match="Modal did not answer whether it took the call"):
        bench.run(bench.script("true"), channel=channel, execution_id="0190-o", files=BIG)
    assert channel.deadline is not None
    assert stored(bench, "0190-o")


def test_a_connection_that_breaks_before_the_call_is_asked_for_is_waited_for(
    seen: Seen, bench: Bench
) -> None:
    seen.handle.fault("FunctionBindParams", "status", status="UNAVAILABLE", times=5)
    entry = bench.script("test -n $A_KEY", secrets=SecretNeeds(required=("A_KEY",)))
    ended = bench.run(entry, secrets=Secrets({"A_KEY": os.urandom(8).hex()}))
    assert ended.outcome.exit_code == 0
    assert seen.calls == 1
