"""How long a lost connection is waited for, and how a run is ended while it waits."""

from __future__ import annotations

import asyncio
import threading

import aiohttp
import grpclib.exceptions
import modal.exception
import pytest

from theory import errors
from theory.testing.channel import RecordingChannel
from theory_adapter_modal import faults, patience
from theory_adapter_modal.patience import Patience, Stopped, drop, news_to, patiently, unless_stopped

BROKEN = [
    modal.exception.ConnectionError("gone"),
    modal.exception.ServiceError("unavailable"),
    modal.exception.InternalError("oh"),
    ConnectionRefusedError(111, "refused"),
    TimeoutError("late"),
    asyncio.TimeoutError("late"),
    aiohttp.ServerDisconnectedError(),
    grpclib.exceptions.StreamTerminatedError("cut"),
]
FINAL = [
    modal.exception.AuthError("who"),
    modal.exception.NotFoundError("what"),
    modal.exception.InvalidError("no"),
    modal.exception.PermissionDeniedError("no"),
    FileNotFoundError(2, "no such file", "/x"),
    FileNotFoundError("no such file in the volume"),
    OSError(28, "no space left"),
    ValueError("ours"),
]


def named(value: object) -> str:
    return type(value).__module__.partition(".")[0] + "-" + type(value).__name__


@pytest.mark.parametrize("error", [*BROKEN, modal.exception.ResourceExhaustedError("too often")], ids=named)
def test_what_may_pass_is_asked_again(error: Exception) -> None:
    asked = []

    async def ask() -> str:
        asked.append(1)
        if len(asked) == 1:
            raise error
        return "yes"

    assert asyncio.run(patiently(ask)) == "yes"
    assert len(asked) == 2


@pytest.mark.parametrize("error", FINAL, ids=named)
def test_what_will_not_pass_is_asked_once(error: Exception) -> None:
    asked = []

    async def ask() -> str:
        asked.append(1)
        raise error

    with pytest.raises(type(error), match=r"."):
        asyncio.run(patiently(ask))
    assert len(asked) == 1


def test_patience_ends_at_its_limit_and_says_so() -> None:
    now = [0.0]
    patience = Patience(60.0, clock=lambda: now[0])

    async def suffer() -> None:
        for now[0] in (0.0, 30.0, 61.0):
            await patience.bear(ConnectionError("still gone"))

    with pytest.raises(errors.Retry, match="Modal could not be reached for 61 s: still gone"):
        asyncio.run(suffer())


def test_a_success_in_between_begins_anew() -> None:
    now = [0.0]
    patience = Patience(60.0, clock=lambda: now[0])

    async def suffer() -> None:
        await patience.bear(ConnectionError("gone"))
        patience.calm()
        now[0] = 61.0
        await patience.bear(ConnectionError("gone again"))

    asyncio.run(suffer())


@pytest.mark.parametrize("why", ["timeout", "cancelled"])
def test_work_is_cancelled_and_has_ended_when_a_run_is_to_stop(why: str) -> None:
    channel = RecordingChannel(timeout=0.05 if why == "timeout" else 300)
    channel.started()
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(300)
        finally:
            ended.append(True)

    if why == "cancelled":
        threading.Timer(0.05, channel.cancel).start()
    with pytest.raises(Stopped, match=why):
        asyncio.run(unless_stopped(channel, work()))
    assert ended == [True]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (modal.exception.AuthError("x"), "ERR_MODAL_UNAVAILABLE"),
        (modal.exception.ResourceExhaustedError("x"), "ERR_RETRY"),
        (modal.exception.ConnectionError("x"), "ERR_RETRY"),
        (ConnectionResetError("x"), "ERR_RETRY"),
        (modal.exception.InternalFailure("x"), "ERR_RETRY"),
        (modal.exception.ImageBuildError("x", "im-1"), "ERR_IMAGE_BUILD"),
        (modal.exception.VersionError("x"), "ERR_PLUGIN"),
        (modal.exception.PermissionDeniedError("x"), "ERR_PLUGIN"),
        (modal.exception.NotFoundError("x"), "ERR_PLUGIN"),
        (modal.exception.ConflictError("x"), "ERR_PLUGIN"),
        (errors.Busy("x"), "ERR_BUSY"),
    ],
    ids=lambda value: value if isinstance(value, str) else named(value),
)
def test_what_modal_says_becomes_an_error_of_ours(error: Exception, code: str) -> None:
    known = faults.told(error)
    assert known.code == code
    assert known.hint or code in {"ERR_IMAGE_BUILD", "ERR_BUSY"}


def test_a_server_that_somebody_chose_is_named_where_it_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MODAL_SERVER_URL", raising=False)
    assert "MODAL_SERVER_URL" not in faults.told(ConnectionResetError("x")).hint
    monkeypatch.setenv("MODAL_SERVER_URL", "http://127.0.0.1:1")
    assert faults.told(ConnectionResetError("x")).hint.startswith("unset MODAL_SERVER_URL")


def test_trouble_that_comes_back_after_a_good_while_is_a_new_one() -> None:
    now = [0.0]

    async def twice() -> None:
        patience = Patience(limit_s=10, clock=lambda: now[0])
        for _ in range(2):
            await patience.bear(ConnectionResetError("gone"))
            now[0] += 3600

    asyncio.run(twice())


def test_what_comes_after_the_command_has_ended_does_not_count_as_its_time() -> None:
    channel = RecordingChannel(timeout=0)
    channel.started()

    async def collected() -> str:
        await asyncio.sleep(0.2)
        return "all"

    assert asyncio.run(unless_stopped(channel, collected(), has_time=lambda: False)) == "all"
    with pytest.raises(Stopped, match="timeout"):
        asyncio.run(unless_stopped(channel, collected()))


@pytest.mark.parametrize("error", [*BROKEN, *FINAL[:4], errors.Retry("ours"), *FINAL[4:]], ids=named)
def test_an_error_of_modals_is_told_from_a_bug_of_ours(error: Exception) -> None:
    assert faults.is_of_modal(error) is (error in BROKEN or error in FINAL[:4])


def test_a_cancellation_that_modals_client_loses_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_HEARD_S", 0.01)

    async def deaf(lost: int) -> None:
        while True:
            try:
                await asyncio.sleep(300)
            except asyncio.CancelledError:
                if lost == 0:
                    raise
                lost -= 1

    async def failing() -> None:
        raise ValueError("of no interest")

    async def ended() -> list[bool]:
        tasks = [asyncio.ensure_future(work) for work in (deaf(0), deaf(2), failing())]
        await asyncio.sleep(0)
        await drop(*tasks)
        return [task.done() for task in tasks]

    assert asyncio.run(asyncio.wait_for(ended(), 60)) == [True, True, True]


def test_who_waits_for_modal_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_TOLD_S", -1.0)
    monkeypatch.setattr(patience, "_FIRST_S", 0.001)
    channel, errors_left = RecordingChannel(), [ConnectionError("gone")] * 6

    async def ask() -> None:
        if errors_left:
            raise errors_left.pop()

    async def run() -> None:
        news_to(channel)
        await asyncio.gather(patiently(ask), patiently(ask))

    asyncio.run(run())
    assert channel.output("stderr") == b"theory: Modal cannot be reached; still trying\n"
