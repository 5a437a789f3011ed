"""What the real client does when the network and the server fail: notes of measurements, made again here."""

from __future__ import annotations

import builtins
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import modal
import modal.exception
import pytest

from adapter_modal.gate import LONG, Gate

if TYPE_CHECKING:
    from modal_emulator.handle import Handle


def work() -> Any:
    return modal.Function.from_name("remotely", "work")


def calls(deployed: Handle) -> int:
    return len(deployed.shown("calls"))


@pytest.mark.parametrize("status", ["UNAVAILABLE", "UNKNOWN"])
def test_three_failures_in_a_row_are_not_noticed(deployed: Handle, status: str) -> None:
    deployed.fault("FunctionMap", "status", status=status, times=3)
    assert work().spawn("echo", 1).get(timeout=LONG) == 1
    tries = deployed.requests("FunctionMap")[-4:]
    assert [line["attempt"] for line in tries] == [0, 1, 2, 3]
    assert len({line["key"] for line in tries}) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("INTERNAL", modal.exception.InternalError),
        ("PERMISSION_DENIED", modal.exception.PermissionDeniedError),
        ("INVALID_ARGUMENT", modal.exception.InvalidError),
    ],
)
def test_other_failures_are_told(deployed: Handle, status: str, error: type[Exception]) -> None:
    deployed.fault("FunctionMap", "status", status=status, times=4, message="out of order")
    with pytest.raises(error, match="out of order"):
        work().spawn("echo", 1)
    deployed.calm()


@pytest.mark.parametrize("status", ["UNAVAILABLE", ""], ids=["refused", "cut"])
def test_a_lost_answer_does_not_start_a_second_call(deployed: Handle, status: str) -> None:
    before = calls(deployed)
    deployed.fault("FunctionMap", "after", status=status)
    assert work().spawn("echo", 1).get(timeout=LONG) == 1
    assert calls(deployed) == before + 1
    assert deployed.requests("FunctionMap")[-1]["notes"]["repeated"] is True


def test_a_throttled_call_fails_at_once(deployed: Handle) -> None:
    deployed.fault("FunctionMap", "throttle")
    with pytest.raises(modal.exception.ResourceExhaustedError, match="rate limit"):
        work().spawn("echo", 1)


def test_a_throttled_call_waits_where_the_server_says_how_long(deployed: Handle) -> None:
    before = len(deployed.requests("FunctionMap"))
    deployed.fault("FunctionMap", "throttle", times=2, retry_after_s=0.1)
    assert work().spawn("echo", 1).get(timeout=LONG) == 1
    assert len(deployed.requests("FunctionMap")) == before + 3


def test_a_connection_that_breaks_is_made_again(deployed: Handle, gate: Gate) -> None:
    call = work().spawn("knock", gate.port)
    deployed.cut(0.3, "server")
    gate.visitor().let_in("now")
    assert call.get(timeout=LONG) == "now"


def test_a_server_that_is_away_for_long_is_told_and_the_call_goes_on(deployed: Handle, gate: Gate) -> None:
    call = work().spawn("knock", gate.port)
    deployed.cut(1.5, "server")
    with pytest.raises(modal.exception.ConnectionError):
        call.get(timeout=LONG)
    gate.visitor().let_in("now")
    for _ in range(100):
        try:
            assert call.get(timeout=LONG) == "now"
        except (modal.exception.ConnectionError, OSError):
            time.sleep(0.1)
        else:
            return
    pytest.fail("the server did not come back")


def test_a_black_hole_is_waited_out(deployed: Handle) -> None:
    call = work().spawn("echo", 1)
    deployed.cut(1.0, "server", how="hole")
    assert call.get(timeout=LONG) == 1


def test_a_call_can_hang_by_itself(deployed: Handle) -> None:
    deployed.fault("FunctionGetOutputs", "stall", seconds=0.5)
    start = time.monotonic()
    assert work().spawn("echo", 1).get(timeout=LONG) == 1
    assert time.monotonic() - start >= 0.5


def test_a_generator_goes_on_after_a_broken_connection(deployed: Handle, gate: Gate) -> None:
    heard = modal.Function.from_name("remotely", "count").remote_gen(5, gate.port)
    assert [next(heard), next(heard)] == [0, 1]
    deployed.cut(0.0, "server", how="drop")
    gate.visitor().let_in("now")
    assert list(heard) == [2, 3, 4]


def test_a_generator_ends_when_the_server_is_away(deployed: Handle, gate: Gate) -> None:
    heard = modal.Function.from_name("remotely", "count").remote_gen(5, gate.port)
    assert next(heard) == 0
    deployed.cut(1.0, "server")
    with pytest.raises(builtins.ConnectionRefusedError):
        list(heard)
    gate.visitor().let_in("now")
    deployed.calm()


def test_a_blob_is_fetched_again_when_its_connection_breaks(deployed: Handle) -> None:
    payload = b"x" * (3 << 20)
    call = work().spawn("echo", payload)
    call.get(timeout=LONG)
    deployed.cut(0.2, "blobs")
    assert call.get(timeout=LONG) == payload


def test_what_nobody_answers_is_written_down(modal_server: Handle, emulator: Handle) -> None:
    with pytest.raises(modal.exception.UnimplementedError, match="DictGetOrCreate"):
        modal.Dict.from_name("d", create_if_missing=True).hydrate()
    assert emulator.unknown() == ["DictGetOrCreate"]
    modal_server.reset()


def test_a_fault_that_there_is_none_of_is_refused(emulator: Handle) -> None:
    with pytest.raises(ValueError, match="no fault is called"):
        emulator.fault("FunctionMap", "earthquake")


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_it_listens_on_loopback_only(emulator: Handle) -> None:
    ports = {int(url.rpartition(":")[2]) for url in (emulator.server_url, emulator.control_url)}
    listening = [line.split()[1:4] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = [local for local, _, state in listening if state == "0A" and int(local[9:], 16) in ports]
    assert [address[:8] for address in ours] == ["0100007F"] * 2
