"""A reader that waits for bytes can be cancelled, and leaves the descriptor open."""

from __future__ import annotations

import io
import os

import pytest

from theory.disk.pipes import Pipe
from theory.errors import Interrupted


def test_all_bytes_come_through_in_order_and_the_descriptor_stays_open() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"abc" * 1000)
    os.close(writing)
    with io.BufferedReader(Pipe(reading, lambda: False)) as stream:
        assert stream.read(4) == b"abca"
        assert stream.read() == (b"abc" * 1000)[4:]
        assert stream.read() == b""
    os.fstat(reading)
    os.close(reading)


def test_what_is_there_is_read_even_when_it_was_cancelled() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"x")
    assert Pipe(reading, lambda: True).read(1) == b"x"
    os.close(writing)
    os.close(reading)


def test_an_empty_pipe_is_left_when_it_is_cancelled() -> None:
    reading, writing = os.pipe()
    answers = iter([False, True])
    with pytest.raises(Interrupted, match="cancelled while input was read"):
        Pipe(reading, lambda: next(answers)).read(1)
    os.close(writing)
    os.close(reading)


def test_a_descriptor_that_is_not_open_is_an_os_error() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    os.close(reading)
    with pytest.raises(OSError, match="Bad file descriptor"):
        Pipe(reading, lambda: False).read(1)
