"""Events reach a listener in order and whole, and a listener that does not listen holds up nobody."""

from __future__ import annotations

import io
import sys
import threading
from typing import Any

import pytest

from core.bed import Stuck
from theory.cancel import Cancellation
from theory.rooms.delivery import MAX_WAITING_BYTES, Delivery
from theory.testing.channel import Later


def test_all_events_come_in_order_before_the_end() -> None:
    heard: list[Any] = []
    with Delivery(heard.append, Cancellation()) as tell:
        for number in range(5000):
            tell({"event": "x", "n": number})
    assert [event["n"] for event in heard] == list(range(5000))


def test_a_listener_is_called_in_one_thread_that_ends_with_the_run() -> None:
    threads: list[threading.Thread] = []
    with Delivery(lambda _: threads.append(threading.current_thread()), Cancellation()) as tell:
        tell({"event": "x"})
        tell({"event": "x"})
    assert threads[0] is threads[1] is not threading.current_thread()
    assert not threads[0].is_alive()


def test_where_nobody_listens_or_nothing_is_told_no_thread_is_made() -> None:
    before = threading.active_count()
    with Delivery(None, Cancellation()) as nobody, Delivery(print, Cancellation()):
        nobody({"event": "x"})
        nobody.wait_for_room()
        assert threading.active_count() == before


def test_telling_an_event_does_not_wait_for_the_listener() -> None:
    listen = Stuck()
    with Delivery(listen, Cancellation()) as tell:
        for number in range(100):
            tell({"event": "x", "n": number})
        assert listen.inside.wait(30)
        listen.let_go.set()
    assert [event["n"] for event in listen.heard] == list(range(100))


def test_there_is_room_as_long_as_a_mebibyte_waits_and_no_longer() -> None:
    listen = Stuck()
    with Delivery(listen, Cancellation()) as tell:
        tell({"event": "x"}, MAX_WAITING_BYTES // 2)
        Later(tell.wait_for_room).within(30)
        tell({"event": "x"}, MAX_WAITING_BYTES // 2)
        waiting = Later(tell.wait_for_room)
        with pytest.raises(TimeoutError, match="did not return"):
            waiting.within(0.2)
        listen.let_go.set()
        waiting.within(30)


def test_at_the_end_a_listener_without_progress_is_given_up() -> None:
    listen = Stuck()
    tell = Delivery(listen, Cancellation(), patience=0.1)
    tell({"event": "one"})
    tell({"event": "two"})
    Later(tell.close).within(30)
    listen.let_go.set()
    assert [event["event"] for event in listen.heard] == ["one"]
    tell({"event": "three"})
    assert tell.deaf


def test_at_the_end_a_cancellation_ends_the_waiting() -> None:
    listen, cancellation = Stuck(), Cancellation()
    tell = Delivery(listen, cancellation, patience=600)
    tell({"event": "one"})
    closing = Later(tell.close)
    assert listen.inside.wait(30)
    cancellation.set()
    closing.within(30)
    listen.let_go.set()


def test_a_writer_that_gives_a_listener_up_meanwhile_ends_the_waiting() -> None:
    listen = Stuck()
    tell = Delivery(listen, Cancellation(), patience=600)
    tell({"event": "one"}, MAX_WAITING_BYTES)
    closing = Later(tell.close)
    assert listen.inside.wait(30)
    Later(lambda: tell.wait_for_room(deadline=0.0)).within(30)  # long past
    closing.within(30)
    listen.let_go.set()


def test_a_listener_that_fails_is_told_nothing_more_and_its_fault_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    heard = []

    def listen(event: object) -> None:
        heard.append(event)
        raise ValueError("deaf")

    with Delivery(listen, Cancellation()) as tell:
        tell({"event": "x"})
        tell({"event": "x"})
    assert len(heard) == 1
    assert "ValueError: deaf" in capsys.readouterr().err


@pytest.mark.parametrize("fault", [BrokenPipeError(), SystemExit(3)], ids=["reader gone", "said already"])
def test_a_listener_whose_reader_has_gone_is_left_alone_without_a_word(
    fault: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    def listen(_: object) -> None:
        raise fault

    with Delivery(listen, Cancellation()) as tell:
        tell({"event": "x"})
    assert tell.deaf
    assert capsys.readouterr().err == ""


def test_a_full_standard_error_is_no_fault_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device", text)

    monkeypatch.setattr(sys, "stderr", Full())
    with Delivery(lambda _: sys.stderr.write("x"), Cancellation()) as tell:
        tell({"event": "x"})
    assert tell.deaf
