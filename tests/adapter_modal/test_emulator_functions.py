"""Functions on the emulator: the real client on one side, the real worker program on the other."""

from __future__ import annotations

import builtins
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import modal
import modal.exception
import pytest

from adapter_modal import remotely
from adapter_modal.gate import LONG, Gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from modal_emulator.handle import Handle

pytestmark = pytest.mark.usefixtures("deployed")


def function(name: str) -> Any:
    return modal.Function.from_name("remotely", name)


def until(true: Callable[[], Any], what: str) -> Any:
    """Wait for what must come; a test that waits in vain says for what."""
    deadline = time.monotonic() + LONG
    while not (found := true()):
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.01)
    return found


def printed(call: modal.FunctionCall[Any]) -> str:
    return "".join(entry.message for entry in call.logs.tail())


def test_a_call_returns_what_the_code_returned_in_a_container(deployed: Handle) -> None:
    call = function("work").spawn("echo", {"a": [1, b"2"]})
    assert call.get(timeout=LONG) == {"a": [1, b"2"]}
    (shown,) = (shown for shown in deployed.shown("calls") if shown["id"] == call.object_id)
    assert shown["results"] == ["GENERIC_STATUS_SUCCESS"]


def test_a_warm_container_is_used_again() -> None:
    first, second = (function("work").spawn("pid").get(timeout=LONG) for _ in range(2))
    assert first == second


def test_large_arguments_and_results_go_through_blobs(deployed: Handle) -> None:
    payload = bytes(range(256)) * (5 << 12)  # 5 MiB
    assert function("work").spawn("echo", payload).get(timeout=LONG) == payload
    doors = {line["door"] for line in deployed.requests("BlobCreate")}
    assert doors == {"server", "container"}


def test_a_container_without_a_network_gets_and_gives_large_things_too(gate: Gate) -> None:
    payload = b"x" * (3 << 20)
    assert function("offline").spawn("echo", payload).get(timeout=LONG) == payload
    with pytest.raises(OSError, match=r"unreachable|refused"):
        function("offline").spawn("knock", gate.port).get(timeout=LONG)


def test_what_the_code_raises_reaches_the_caller_as_it_is() -> None:
    with pytest.raises(remotely.Refused, match="because"):
        function("work").spawn("raise", "because").get(timeout=LONG)


def test_a_call_known_by_its_id_is_picked_up_again() -> None:
    call = function("work").spawn("echo", 7)
    assert modal.FunctionCall.from_id(call.object_id).get(timeout=LONG) == 7


def test_an_unknown_id_is_refused_at_once() -> None:
    with pytest.raises(modal.exception.NotFoundError, match="fc-unknown"):
        modal.FunctionCall.from_id("fc-unknown").get(timeout=LONG)


def test_a_result_that_is_not_there_in_time_is_the_builtin_timeout(gate: Gate) -> None:
    call = function("work").spawn("knock", gate.port)
    with pytest.raises(builtins.TimeoutError):
        call.get(timeout=0.1)
    gate.visitor().let_in("now")
    assert call.get(timeout=LONG) == "now"


def test_a_function_that_takes_too_long_is_ended() -> None:
    with pytest.raises(modal.exception.FunctionTimeoutError, match="timeout of 1s"):
        function("hasty").spawn("sleep", 60).get(timeout=LONG)
    assert function("hasty").spawn("echo", "again").get(timeout=LONG) == "again"


def test_a_cancelled_call_is_told_to_the_code_and_to_the_caller(deployed: Handle) -> None:
    call = function("work").spawn("sleep", 60)
    until(lambda: "asleep" in printed(call), "the code to begin")
    call.cancel()
    with pytest.raises(modal.exception.RemoteError, match="cancelled"):
        call.get(timeout=LONG)
    until(lambda: "woken by InputCancellation" in printed(call), "the code to hear of it")
    assert deployed.requests("FunctionCallCancel")[-1]["request"]["function_call_id"] == call.object_id


def test_asynchronous_code_is_cancelled_too() -> None:
    call = function("patient").spawn()
    until(lambda: "asleep" in printed(call), "the code to begin")
    call.cancel()
    until(lambda: "woken" in printed(call), "the code to hear of it")


def test_a_cancelled_call_takes_its_container_along_where_that_is_asked(deployed: Handle) -> None:
    call = function("hasty").with_options(timeout=60).spawn("sleep", 60)
    (container,) = until(
        lambda: [one for one in deployed.shown("containers") if call.object_id in one["calls"]], "it to run"
    )
    call.cancel(terminate_containers=True)
    until(
        lambda: container["id"] not in {one["id"] for one in deployed.shown("containers")},
        "the container's end",
    )
    assert deployed.requests("FunctionCallCancel")[-1]["notes"] == {"inputs": 1, "terminate_containers": True}


def test_code_that_always_crashes_is_given_up(deployed: Handle) -> None:
    deployed.settings(crash_retries=1, crash_pause=0.0)
    try:
        with pytest.raises(modal.exception.RemoteError, match="exit code: 3"):
            function("work").spawn("exit", 3).get(timeout=LONG)
    finally:
        deployed.settings(crash_retries=3, crash_pause=0.1)


@pytest.mark.parametrize("how", ["crash", "preempt", "oom"])
def test_a_killed_container_is_replaced_and_its_input_done(deployed: Handle, gate: Gate, how: str) -> None:
    call = function("work").spawn("knock", gate.port)
    gate.visitor()
    (container,) = (one for one in deployed.shown("containers") if call.object_id in one["calls"])
    deployed.kill(how, container=container["id"])
    gate.visitor().let_in("again")
    assert call.get(timeout=LONG) == "again"
    assert container["id"] not in {one["id"] for one in deployed.shown("containers")}


def test_an_input_can_be_given_out_twice_and_has_one_result(deployed: Handle, gate: Gate) -> None:
    call = function("work").spawn("knock", gate.port)
    first = gate.visitor()
    deployed.redeliver(call.object_id)
    gate.visitor().let_in("second")
    assert call.get(timeout=LONG) == "second"
    first.let_in("first")
    until(lambda: not any(one["calls"] for one in deployed.shown("containers")), "both to end")
    (shown,) = (shown for shown in deployed.shown("calls") if shown["id"] == call.object_id)
    assert shown["results"] == ["GENERIC_STATUS_SUCCESS"]
    assert call.get(timeout=LONG) == "second"


def test_the_server_retries_as_the_function_asks(gate: Gate) -> None:
    call = function("stubborn").spawn(gate.port)
    for answer in ("no", "no", "enough"):
        gate.visitor().let_in(answer)
    assert call.get(timeout=LONG) == "enough"


def test_a_generator_is_heard_while_it_runs(gate: Gate) -> None:
    heard = function("count").remote_gen(4, gate.port)
    assert [next(heard), next(heard)] == [0, 1]
    gate.visitor().let_in()
    assert list(heard) == [2, 3]


def test_a_generator_that_fails_is_heard_until_then(gate: Gate) -> None:
    heard = function("count").remote_gen(4, gate.port, fail_at=2)
    assert [next(heard), next(heard)] == [0, 1]
    gate.visitor().let_in()  # the client lets a failure overtake what it has not handed on yet
    with pytest.raises(remotely.Refused, match="2"):
        next(heard)


def test_a_caller_that_stops_listening_cancels_nothing(deployed: Handle) -> None:
    before = len(deployed.requests("FunctionCallCancel"))
    for _ in function("count").remote_gen(3):
        break
    assert len(deployed.requests("FunctionCallCancel")) == before


def test_many_inputs_of_one_call_come_back_in_order() -> None:
    assert list(function("work").map(["echo"] * 100, range(100))) == list(range(100))


def test_many_threads_call_at_once() -> None:
    with ThreadPoolExecutor(16) as threads:
        got = threads.map(lambda number: function("work").spawn("echo", number).get(timeout=LONG), range(64))
        assert list(got) == list(range(64))


def test_logs_are_those_of_the_call() -> None:
    silent, loud = function("work").spawn("echo", 1), function("work").spawn("say", 3)
    loud.get(timeout=LONG)
    silent.get(timeout=LONG)
    lines = until(lambda: printed(loud) if "stderr" in printed(loud) else "", "the lines")
    assert sorted(lines.splitlines()) == ["line 0", "line 1", "line 2", "to stderr"]
    assert printed(silent) == ""


def test_logs_are_streamed_once_each_over_a_broken_connection(deployed: Handle, gate: Gate) -> None:
    call = function("work").spawn("tell", gate.port)
    half, stream = gate.visitor(), call.logs.stream(timeout=LONG)
    text = next(stream).message
    deployed.cut(0.0, "server", how="drop")
    half.let_in()
    text += "".join(entry.message for entry in stream)
    assert text.splitlines() == [f"line {number}" for number in range(50)]


def test_a_result_that_is_too_old_is_gone(deployed: Handle) -> None:
    call = function("work").spawn("echo", 1)
    call.get(timeout=LONG)
    deployed.expire(call.object_id)
    with pytest.raises(modal.exception.OutputExpiredError):
        call.get(timeout=0.1)


def test_with_other_options_it_is_a_function_of_its_own(deployed: Handle) -> None:
    secret = modal.Secret.from_dict({"WORD": "a-hidden-value"})
    changed = function("work").with_options(secrets=[secret], cpu=2.0)
    assert changed.spawn("environ", "WORD").get(timeout=LONG) == "a-hidden-value"
    assert function("work").spawn("environ", "WORD").get(timeout=LONG) is None
    assert 2000 in {one["milli_cpu"] for one in deployed.shown("functions")}
    assert "a-hidden-value" not in str(deployed.requests())
