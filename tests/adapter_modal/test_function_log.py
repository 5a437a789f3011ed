"""A log that is put together from pieces: each once and in order, whatever way it came."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from contextlib import suppress
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.testing.channel import RecordingChannel
from theory_adapter_modal.function import log
from theory_adapter_modal.function.log import hear
from theory_adapter_modal.function.told import NOTE, Told

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

JOB = "0190-a"


def pieces(texts: list[str], stream: str = "o") -> list[str]:
    """As the container numbers them."""
    lines = [f"{number} {stream} {json.dumps(text)}" for number, text in enumerate(texts, 1)]
    return ['0 b ""', *lines]


def live(attempt: str, lines: list[str]) -> str:
    """As they stand in Modal's log."""
    return "".join(f"theory-log {attempt} {line}\n" for line in lines)


@given(
    texts=st.lists(st.text(max_size=5), max_size=8),
    chosen=st.lists(st.integers(0, 8), max_size=20),
    cuts=st.lists(st.integers(0, 60), max_size=5),
)
def test_what_comes_in_any_order_more_than_once_and_in_parts_is_passed_on_once_and_in_order(
    texts: list[str], chosen: list[int], cuts: list[int]
) -> None:
    channel = RecordingChannel()
    told, lines = Told(channel), pieces(texts)
    text = live(f"{JOB}.1", [lines[number] for number in chosen if number < len(lines)])
    begun: dict[object, str] = {}
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    for start, end in pairwise(edges):
        hear({JOB: told}, begun, text[start:end], "container")
        told.pass_on()
    sofar = channel.output("stdout")
    told.complete(f"{JOB}.1", lines)
    whole = "".join(texts).encode("utf-8", "surrogateescape")
    assert channel.output("stdout") == whole
    assert whole.startswith(sofar)
    assert channel.heard.count("started") == 1
    assert not told.lacks


def test_bytes_that_are_no_text_come_through_as_they_were() -> None:
    channel = RecordingChannel()
    Told(channel).complete("a.1", pieces([b"\xff\x00\xc3".decode("utf-8", "surrogateescape")]))
    assert channel.output("stdout") == b"\xff\x00\xc3"


def test_a_second_delivery_begins_anew_with_a_note_and_what_is_late_of_the_first_is_dropped() -> None:
    channel = RecordingChannel()
    told = Told(channel)
    for text in (
        live("a.1", pieces(["one"])[:2]),
        live("a.2", pieces(["one"])[:2]),
        live("a.1", ['2 o "late"']),
    ):
        hear({"a": told}, {}, text, "")
        told.pass_on()
    told.complete("a.2", pieces(["one", "two"]))
    assert channel.output("stdout") == b"oneonetwo"
    assert channel.output("stderr") == NOTE


def test_lines_of_other_jobs_and_of_other_programs_are_none_of_its_business() -> None:
    channel = RecordingChannel()
    told = Told(channel)
    text = "hello\n" + live("b.1", pieces(["other"])) + "theory-log\ntheory-log a.1\ntheory-log a.1 x o 1\n"
    hear({"a": told}, {}, text + live("a.1", pieces(["mine"])), "")
    told.pass_on()
    assert channel.output("stdout") == b"mine"


def test_a_piece_that_came_too_early_tells_that_something_is_missing() -> None:
    told = Told(RecordingChannel())
    told.take("a.1", '1 o "late"')
    told.pass_on()
    assert told.lacks
    told.take("a.1", '0 b ""')
    assert not told.lacks


def test_what_waits_for_its_lines_end_is_bounded_and_what_still_comes_is_kept() -> None:
    channel, begun = RecordingChannel(), dict[object, str]()
    told = Told(channel)
    text = live(f"{JOB}.1", pieces(["whole" * 100]))
    hear({JOB: told}, begun, text[:20], "busy")
    for number in range(1000):
        hear({JOB: told}, begun, "ended in the middle of a", number)
        hear({JOB: told}, begun, text[20 + number : 21 + number], "busy")
    for part in (f"theory-log {JOB}", '.1 2 o " and more"\n'):
        hear({JOB: told}, begun, part, "new")
    told.pass_on()
    assert channel.output("stdout") == b"whole" * 100 + b" and more"
    assert len(begun) <= log._MOST_BEGUN  # noqa: SLF001 - a bound
    hear({JOB: told}, begun, "x" * log._MOST_LINE, "long")  # noqa: SLF001 - a bound
    assert "long" not in begun


@pytest.mark.parametrize(
    "text", ["9" * 5000, "[" * 100_000, "1" * 5000, '"\\ud800"'], ids=lambda text: text[:9]
)
def test_a_piece_that_cannot_be_read_is_left_out(text: str) -> None:
    channel = RecordingChannel()
    Told(channel).complete("a.1", ['0 b ""', f"{text} o {text}", f"1 o {text}", '2 o "next"'])
    assert channel.output("stdout") == b"next"


# ---------------------------------------------------------------- listeners


class Silent:
    """A function whose log says what a test puts into it."""

    object_id = "fu-silent"

    def __init__(self) -> None:
        self.logs = SimpleNamespace(stream=SimpleNamespace(aio=self._stream))
        self.says: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.listens = threading.Event()

    async def _stream(self) -> AsyncIterator[SimpleNamespace]:
        self.listens.set()
        while True:
            with suppress(queue.Empty):
                yield SimpleNamespace(message=self.says.get_nowait(), context_ids=[])
            await asyncio.sleep(0.01)


@pytest.fixture
def listeners(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, str], log.Listener]:
    known: dict[tuple[int, str], log.Listener] = {}
    monkeypatch.setattr(log, "_listeners", known)
    monkeypatch.setattr(log, "_LINGER_S", 0.0)
    return known


def joined(function: Silent, execution_id: str, told: Told, *, begin: bool) -> bool:
    return log.join(cast("Any", function), cast("Any", function.object_id), execution_id, told, begin=begin)


def test_a_listener_that_died_is_replaced_and_its_jobs_move_over(
    listeners: dict[tuple[int, str], log.Listener],
) -> None:
    channels = [RecordingChannel(), RecordingChannel()]
    tolds = [Told(channel) for channel in channels]
    function = Silent()
    key = (id(function.object_id), function.object_id)
    dead = log.Listener(key, cast("Any", function))
    dead.run = lambda: None  # type: ignore[method-assign]  # as where it could not go on
    dead.add("a", tolds[0])
    dead.start()
    dead.join()
    listeners[key] = dead
    assert joined(function, "b", tolds[1], begin=False)
    assert function.listens.wait(60)
    assert listeners[key] is not dead
    for name in "ab":
        function.says.put(live(f"{name}.1", pieces([name])))
    for channel, told in zip(channels, tolds, strict=True):
        while not channel.output("stdout"):
            told.pass_on()
    assert [channel.output("stdout") for channel in channels] == [b"a", b"b"]
    log.leave("a")
    log.leave("b")
    listeners[key].join(60)


def test_a_job_that_no_thread_can_listen_for_does_without(
    listeners: dict[tuple[int, str], log.Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(log.Listener, "start", refuse)
    assert not joined(Silent(), "a", Told(RecordingChannel()), begin=True)
    assert not listeners
