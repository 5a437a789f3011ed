"""A log that is put together from pieces: each once and in order, whatever way it came."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from theory.testing.channel import RecordingChannel
from theory_adapter_modal.function.log import hear
from theory_adapter_modal.function.told import NOTE, Told

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
