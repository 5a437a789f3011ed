"""The channel: lines, events, masks, caps and the tail are the same however the bytes arrive."""

from __future__ import annotations

import itertools
import json
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.bed import Call, Fake, Stuck, done, house
from theory import Failure, Outcome
from theory.cancel import Cancellation
from theory.rooms.delivery import Delivery
from theory.rooms.execute import MAX_LINE_BYTES, LogChannel
from theory.rooms.redact import Redactor
from theory.testing.channel import Later

if TYPE_CHECKING:
    from pathlib import Path


def hear(
    *portions: bytes, secrets: tuple[str, ...] = (), stream: str = "stdout"
) -> tuple[list[Any], LogChannel]:
    events: list[Any] = []
    with Delivery(events.append, Cancellation()) as tell:
        channel = LogChannel(10, Cancellation(), Redactor(secrets), tell)
        for portion in portions:
            channel.write(stream, portion)  # type: ignore[arg-type]  # one of the two
        channel.close()
    return events, channel


LINES = st.lists(
    st.sampled_from(
        [
            b"plain",
            b"",
            "été 漢\r".encode(),
            b'{"event":"token","text":"Hi"}',
            b'{"event":"progress","fraction":0.5}',
            b'{"no":"event"}',
            b'{"event":7}',
            b"{broken",
            b"\xff\xfe",
            b"key s3cr3t-value here",
            b'{"event":"x","text":"s3cr3t-value"}',
            b"x" * 70_000,
        ]
    ),
    max_size=6,
)


@given(lines=LINES, ended=st.booleans(), cuts=st.lists(st.integers(0, 80_000), max_size=10))
def test_any_portions_of_one_log_give_the_same_events_and_tail(
    lines: list[bytes], ended: bool, cuts: list[int]
) -> None:
    whole = b"\n".join(lines) + (b"\n" if ended else b"")
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    portions = [whole[begin:end] for begin, end in itertools.pairwise(edges)]
    at_once, one = hear(whole, secrets=("s3cr3t-value",))
    in_parts, other = hear(*portions, secrets=("s3cr3t-value",))
    assert in_parts == at_once
    assert other.tail() == one.tail()
    assert "s3cr3t" not in json.dumps(at_once)


def test_an_object_with_an_event_is_an_event_and_all_else_is_a_log() -> None:
    events, _ = hear(b'{"event":"token","text":"Hi"}\nhello\n')
    assert events == [
        {"event": "token", "text": "Hi"},
        {"event": "log", "stream": "stdout", "text": "hello"},
    ]


def test_stderr_has_no_events() -> None:
    events, _ = hear(b'{"event":"token"}\n', stream="stderr")
    assert events == [{"event": "log", "stream": "stderr", "text": '{"event":"token"}'}]


@pytest.mark.parametrize(
    "line",
    [
        b'{"event":"x","n":NaN}',
        b'{"event":"x","n":1e999}',
        rb'{"event":"x","t":"\ud800"}',
        b'{"event":"x","event":"y"}',
        b'{"event":"x","n":' + b"9" * 5000 + b"}",
        b'{"event":"x","d":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
    ids=["NaN", "infinite", "lone surrogate", "key twice", "endless integer", "too deep"],
)
def test_an_event_that_could_not_be_passed_on_as_json_is_a_log_line(line: bytes) -> None:
    events, _ = hear(line + b"\n")
    assert [event["event"] for event in events] == ["log"]


def test_a_line_that_is_too_long_comes_in_pieces() -> None:
    events, _ = hear(b"x" * (2 * MAX_LINE_BYTES + 5) + b"\nnext\n")
    assert [len(event["text"]) for event in events] == [MAX_LINE_BYTES, MAX_LINE_BYTES, 5, 4]


def test_the_tail_is_the_last_40_lines_and_4_kib() -> None:
    _, short = hear(b"".join(b"%d\n" % number for number in range(100)))
    assert short.tail().split("\n") == [str(number) for number in range(60, 100)]
    _, long = hear(("ü" * 60_000 + "\nend\n").encode())
    assert len(long.tail().encode()) <= 4096
    assert long.tail().endswith("üü\nend")


@given(lines=LINES, secrets=st.sampled_from([(), ("s3cr3t-value",)]))
def test_the_tail_is_the_same_whether_anybody_listens_or_not(
    lines: list[bytes], secrets: tuple[str, ...]
) -> None:
    _, heard = hear(*(line + b"\n" for line in lines), secrets=secrets)
    unheard = LogChannel(10, Cancellation(), Redactor(secrets), Delivery(None, Cancellation()))
    for line in lines:
        unheard.write("stdout", line + b"\n")
    unheard.close()
    assert unheard.tail() == heard.tail()
    assert unheard.tail() == heard.tail()  # asked for again


@pytest.mark.parametrize(
    ("line", "times"), [(b"\n", 80_000), (b"x" * 1000 + b"\n", 1600), (b'{"event":"token"}\n', 16_000)]
)
def test_of_a_log_that_nobody_hears_no_more_is_held_than_its_end(line: bytes, times: int) -> None:
    channel = LogChannel(10, Cancellation(), Redactor(), Delivery(None, Cancellation()))
    tracemalloc.start()
    try:
        channel.write("stdout", line * times)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1024**2


@pytest.mark.parametrize("edge", range(1, 12))
def test_a_secret_over_the_edge_of_two_portions_is_masked(edge: int) -> None:
    line = b"a s3cr3t-value.\n"
    events, channel = hear(line[: 2 + edge], line[2 + edge :], secrets=("s3cr3t-value",))
    assert [event["text"] for event in events] == ["a ***."]
    assert channel.tail() == "a ***."


def test_a_secret_hidden_by_escapes_in_an_event_is_masked() -> None:
    escaped = "".join(f"\\u{ord(char):04x}" for char in "s3cr3t-value").encode()
    events, _ = hear(b'{"event":"token","text":"' + escaped + b'"}\n', secrets=("s3cr3t-value",))
    assert events == [{"event": "token", "text": "***"}]


def test_a_secret_that_stands_in_the_json_itself_makes_the_event_a_masked_log_line() -> None:
    events, _ = hear(b'{"event":"token","n":12345}\n', secrets=("12345",))
    assert events == [{"event": "log", "stream": "stdout", "text": '{"event":"token","n":***}'}]


def test_the_deadline_counts_from_the_first_start() -> None:
    channel = LogChannel(10, Cancellation(), Redactor(), Delivery(None, Cancellation()))
    assert channel.deadline is None
    channel.started()
    first = channel.deadline
    channel.started()
    assert channel.deadline == first


def test_events_come_one_thread_at_a_time_and_none_is_lost() -> None:
    inside, most, heard = [0], [0], []

    def listen(event: object) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        heard.append(event)
        inside[0] -= 1

    with Delivery(listen, Cancellation()) as tell:
        channel = LogChannel(10, Cancellation(), Redactor(), tell)
        gate = threading.Barrier(4)

        def write(number: int) -> None:
            gate.wait()
            for _ in range(200):
                channel.write("stdout" if number % 2 else "stderr", b"line\n")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        channel.close()
    assert (most[0], len(heard)) == (1, 800)


@pytest.mark.parametrize("end", ["cancellation", "deadline"])
def test_a_listener_that_does_not_come_back_holds_up_nobody_after_the(end: str) -> None:
    listen, cancellation = Stuck(), Cancellation()
    tell = Delivery(listen, cancellation, patience=0.1)
    channel = LogChannel(0.2 if end == "deadline" else 600, cancellation, Redactor(), tell)
    channel.started()
    writer = Later(lambda: channel.write("stdout", b"x" * 100 + b"\n" * 40_000))
    assert listen.inside.wait(30)
    channel.tail()  # no lock is held meanwhile
    if end == "cancellation":
        cancellation.set()
    writer.within(30)
    Later(channel.close).within(30)
    Later(tell.close).within(30)
    listen.let_go.set()
    assert len(listen.heard) == 1
    assert channel.tail() == "\n" * 39


def test_a_writer_waits_for_a_listener_that_has_too_much_to_hear_already() -> None:
    listen, cancellation = Stuck(), Cancellation()
    with Delivery(listen, cancellation) as tell:
        channel = LogChannel(600, cancellation, Redactor(), tell)

        def write() -> None:
            for number in range(20_000):
                channel.write("stdout", b"%d\n" % number)

        writer = Later(write)
        with pytest.raises(TimeoutError, match="did not return"):
            writer.within(0.5)
        listen.let_go.set()
        writer.within(60)
        channel.close()
    assert [event["text"] for event in listen.heard] == [str(number) for number in range(20_000)]


def test_what_comes_after_the_end_is_not_taken() -> None:
    heard: list[Any] = []
    with Delivery(heard.append, Cancellation()) as tell:
        channel = LogChannel(10, Cancellation(), Redactor(), tell)
        channel.close()
        channel.write("stdout", b"late\n")
    assert (heard, channel.tail()) == ([], "")


def test_what_an_adapter_notes_is_not_the_commands_last_word(tmp_path: Path) -> None:
    def act(call: Call) -> Outcome:
        call.channel.started()
        call.channel.write("stderr", b"bad\ntheory: the container is kept\n")
        return done(exit_code=42)

    with house(tmp_path, Fake(act=act)) as runner:
        envelope = runner.run("test/thing@1")
    assert isinstance(envelope, Failure)
    assert envelope.message.endswith("ended with exit status 42: bad")
    assert envelope.meta["log_tail"] == "bad\ntheory: the container is kept"


@pytest.mark.parametrize(
    ("status", "message", "said"),
    [
        (139, "", "ended by SIGSEGV"),
        (143, "", "ended by SIGTERM"),
        (137, "the system wanted memory", "the system wanted memory"),
        (200, "", "Segments are bad"),
    ],
)
def test_a_signal_is_told_by_its_name_where_the_adapter_says_no_more(
    tmp_path: Path, status: int, message: str, said: str
) -> None:
    def act(call: Call) -> Outcome:
        call.channel.started()
        call.channel.write("stderr", b"Segments are bad\n")
        return done(exit_code=status, message=message)

    with house(tmp_path, Fake(act=act)) as runner:
        envelope = runner.run("test/thing@1")
    assert isinstance(envelope, Failure)
    assert envelope.message.endswith(f"ended with exit status {status}: {said}")
