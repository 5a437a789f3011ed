"""Jobs as calls of a deployed function: the real client and the real worker, on the emulator."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from adapter_modal.deployments import LONG_S, Bench, Seen, busy, call_of, hears, with_runtime
from theory import errors
from theory.testing.channel import RecordingChannel
from theory.types import SecretNeeds


def test_a_job_runs_in_its_function_and_the_next_one_sees_nothing_of_it(bench: Bench) -> None:
    entry = bench.script(
        "ls -A /job/out /job/tmp; test ! -e /tmp/mark; echo $?; : > /tmp/mark; : > $HOME/x;"
        " cp /job/inputs.json /job/out/a.json"
    )
    first, second = bench.run(entry), bench.run(entry)
    assert (first.outcome.ended, first.outcome.exit_code) == ("exit", 0)
    assert first.out.joinpath("a.json").read_bytes() == b'{"files":[]}'
    assert first.channel.output("stdout") == second.channel.output("stdout") == b"/job/out:\n\n/job/tmp:\n0\n"
    assert (first.outcome.cost_micro_usd or 0) > 0
    assert first.outcome.image is not None
    assert first.outcome.image.id.startswith("modal:im-")


def test_the_calls_id_is_durable_while_it_is_waited_for_and_gone_once_it_is_cancelled(
    seen: Seen, bench: Bench
) -> None:
    record = bench.folder / "0190-durable" / "state" / "call.json"
    channel, later = bench.begin(bench.script("echo on; sleep 60"), execution_id="0190-durable")
    hears(channel, b"on")
    known = call_of(bench, "0190-durable")
    channel.cancel()
    ended = later.within(LONG_S)
    assert (ended.outcome.ended, ended.outcome.exit_code) == ("cancelled", None)
    assert not record.exists()
    (line,) = seen.requests("FunctionCallCancel")
    assert line["request"] == {"function_call_id": known, "terminate_containers": True}


def test_a_job_that_takes_too_long_ends_as_a_timeout_with_its_log(bench: Bench) -> None:
    entry = with_runtime(bench.script("echo on; sleep 60"), timeout=0.6)
    ended = bench.run(entry)
    assert (ended.outcome.ended, ended.outcome.exit_code) == ("timeout", None)
    assert ended.channel.output("stdout") == b"on\n"


def test_an_answer_that_comes_late_is_no_timeout_of_its_command(seen: Seen, bench: Bench) -> None:
    seen.handle.fault("FunctionGetOutputs", "stall", seconds=2.0)
    entry = with_runtime(bench.script("echo on"), timeout=0.6)
    ended = bench.run(entry, channel=RecordingChannel(timeout=0.6))
    assert (ended.outcome.ended, ended.outcome.exit_code) == ("exit", 0)
    assert ended.channel.output("stdout") == b"on\n"


@pytest.mark.parametrize(
    ("doors", "how"), [(("server",), "refuse"), (("server",), "hole")], ids=["refused", "no answer"]
)
def test_a_lost_connection_loses_and_doubles_nothing(
    seen: Seen, bench: Bench, doors: tuple[str, ...], how: str
) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do echo $i; echo $i >&2; sleep 0.3; done; echo out > /job/out/a"
    entry = bench.script(script)
    channel, later = bench.begin(entry)
    hears(channel, b"1\n")
    seen.handle.cut(1.5, *doors, how=how)
    ended = later.within(LONG_S)
    numbers = b"".join(b"%d\n" % number for number in range(1, 9))
    assert ended.outcome.exit_code == 0
    assert channel.output("stdout") == channel.output("stderr") == numbers
    assert seen.calls == 1


def test_modal_that_is_asked_too_often_is_asked_again(seen: Seen, bench: Bench) -> None:
    entry = bench.script("true")
    seen.handle.fault("FunctionMap", "status", status="RESOURCE_EXHAUSTED", times=2)
    seen.handle.fault("FunctionGetOutputs", "status", status="UNAVAILABLE", times=6)
    assert bench.run(entry).outcome.exit_code == 0
    assert seen.calls == 1


def test_a_call_whose_acceptance_nobody_knows_is_not_made_twice(seen: Seen, bench: Bench) -> None:
    entry = bench.script("true")
    seen.handle.fault("FunctionMap", "status", status="UNAVAILABLE", times=20)
    with pytest.raises(errors.Retry, match="Modal did not answer whether it took the call"):
        bench.run(entry)
    assert len({line["key"] for line in seen.requests("FunctionMap")}) == 1


def test_a_lost_container_means_another_run_and_a_note_and_one_result(seen: Seen, bench: Bench) -> None:
    entry = bench.script("echo on; sleep 2; echo end > /job/out/a")
    channel, later = bench.begin(entry, execution_id="0190-lost")
    hears(channel, b"on")
    seen.handle.kill("crash", container=busy(seen, bench, "0190-lost"))
    ended = later.within(LONG_S)
    assert ended.outcome.exit_code == 0
    assert ended.out.joinpath("a").read_text() == "end\n"
    assert channel.output("stdout") == b"on\non\n"
    assert b"runs the command again" in channel.output("stderr")
    assert seen.calls == 1


def test_a_call_that_is_delivered_twice_has_one_result(seen: Seen, bench: Bench) -> None:
    channel, later = bench.begin(
        bench.script("echo on; sleep 2; echo end > /job/out/a"), execution_id="0190-twice"
    )
    hears(channel, b"on")
    seen.handle.redeliver(call_of(bench, "0190-twice"))
    ended = later.within(LONG_S)
    assert ended.outcome.exit_code == 0
    assert ended.out.joinpath("a").read_text() == "end\n"
    assert seen.calls == 1


def test_a_container_that_modal_gives_up_is_a_retry_and_leaves_no_call_to_wait_for(
    seen: Seen, bench: Bench
) -> None:
    seen.handle.settings(crash_retries=0)
    channel, later = bench.begin(bench.script("echo on; sleep 60"), execution_id="0190-given-up")
    hears(channel, b"on")
    seen.handle.kill("crash", container=busy(seen, bench, "0190-given-up"))
    with pytest.raises(errors.Retry, match="the container of acme/tool@1 on Modal ended"):
        later.within(LONG_S)
    seen.handle.settings(crash_retries=3)
    assert not (bench.folder / "0190-given-up" / "state" / "call.json").exists()


def test_an_exception_in_the_program_that_serves_is_told_in_words(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = bench.script("echo > /job/out/a")
    monkeypatch.setattr("theory_adapter_modal.function.documents.LIMITS", {})
    with pytest.raises(errors.PluginFailed, match="the program that serves on Modal failed: KeyError"):
        bench.run(entry)


def test_secrets_from_here_go_as_a_secret_of_modals_and_stand_in_no_call(seen: Seen, bench: Bench) -> None:
    entry = bench.script("echo ${A_KEY}; test $A_KEY = hunter22", secrets=SecretNeeds(required=("A_KEY",)))
    runs = [bench.run(entry, secrets={"A_KEY": "hunter22"}) for _ in range(2)]
    assert [run.outcome.exit_code for run in runs] == [0, 0]
    assert runs[0].channel.output("stdout") == b"***\n"
    assert len({line["request"]["function_id"] for line in seen.requests("FunctionMap")}) == 1
    for line in seen.requests():
        if line["method"] != "SecretGetOrCreate":
            assert "hunter22" not in json.dumps(line)
    assert "hunter22" not in json.dumps(seen.requests("FunctionMap"))


def test_files_that_are_too_large_for_a_document_come_and_go_in_pieces(seen: Seen, bench: Bench) -> None:
    entry = bench.script(
        "cp /artifacts/inputs/*/big /job/out/; echo small > /job/out/small;"
        " head -c 3000000 /dev/zero | tr '\\0' 'x'; echo"
    )
    data = os.urandom(9 << 20)
    ended = bench.run(entry, files={"big": data, "little": b"x"})
    assert ended.outcome.exit_code == 0, ended.channel.output("stderr")
    assert ended.out.joinpath("big").read_bytes() == data
    assert ended.out.joinpath("small").read_bytes() == b"small\n"
    assert ended.channel.output("stdout") == b"x" * 3_000_000 + b"\n"
    assert seen.requests("VolumeRemoveFile2", "VolumeRemoveFile")


CALLER = """
import sys
from adapter_modal.deployments import Bench
from pathlib import Path
bench = Bench(Path(sys.argv[1]))
entry = bench.script(sys.argv[2])
bench.run(entry, execution_id=sys.argv[3])
"""


def test_who_was_killed_finds_its_call_again_and_starts_no_other(seen: Seen, bench: Bench) -> None:
    script = "echo on; sleep 2; echo end > /job/out/a"
    entry = bench.script(script)
    record = bench.folder / "0190-killed" / "state" / "call.json"
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, str(bench.folder), script, "0190-killed"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert caller.stdout
    while not record.is_file() and caller.poll() is None:
        seen.handle.shown("calls")
    caller.send_signal(signal.SIGKILL)
    caller.communicate()
    assert record.is_file()
    ended = bench.run(entry, execution_id="0190-killed")
    assert ended.outcome.exit_code == 0
    assert ended.out.joinpath("a").read_text() == "end\n"
    assert ended.channel.output("stdout") == b"on\n"
    assert seen.calls == 1


def test_a_result_that_modal_no_longer_keeps_is_made_again(seen: Seen, bench: Bench) -> None:
    entry = bench.script("echo end > /job/out/a")
    bench.run(entry, execution_id="0190-expired")
    seen.handle.expire(call_of(bench, "0190-expired"))
    ended = bench.run(entry, execution_id="0190-expired")
    assert ended.out.joinpath("a").read_text() == "end\n"
    assert seen.calls == 2


def test_a_function_that_is_not_deployed_is_not_run(seen: Seen, bench: Bench) -> None:
    changed = with_runtime(bench.script("true"), memory=600)
    with pytest.raises(errors.Unsupported, match="no function of acme/tool@1, as it is now, is") as refused:
        bench.run(changed)
    assert "theory modal deploy acme/tool@1" in refused.value.hint
    assert not seen.requests("FunctionMap")


def test_many_jobs_at_once_are_a_thread_each_and_one_log_stream(seen: Seen, bench: Bench) -> None:
    seen.handle.settings(most_containers=4)
    entry = bench.script("echo on; sleep 0.6")
    begun = [bench.begin(entry) for _ in range(12)]
    for _, later in begun:
        assert later.within(LONG_S).outcome.exit_code == 0
    assert seen.calls == 12
    assert len(seen.requests("AppGetLogs")) <= 2
    assert {channel.output("stdout") for channel, _ in begun} == {b"on\n"}
