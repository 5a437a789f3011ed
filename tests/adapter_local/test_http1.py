"""What the client makes of an answer, whoever sends it."""

from __future__ import annotations

import http.client
import socket
import threading
from contextlib import closing, contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory_adapter_local.engine.connection import Connection, Lost, Malformed
from theory_adapter_local.engine.http1 import MOST_HEAD, Answer, head_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PIECES = [
    *(b"HTTP/1.1 200 OK", b"HTTP/1.1 100 Continue", b"HTTP/1.1 304 X", b"HTTP/1.0 200 OK", b"200"),
    *(b"Content-Length: 3", b"Content-Length: -1", b"Content-Length: 9999999999", b"Content-Length: +1"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Connection: close", b"A: b", b": x"),
    *(b"\r\n", b"\n", b"\r", b"\0", b"3", b"0", b"fffffffffffffffff", b"-1", b"0x1", b"3;x=y", b"abc", b" "),
]


@contextmanager
def sent(*portions: bytes) -> Iterator[Connection]:
    """A connection on which all of this comes, in these portions, and then nothing more ever."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        with theirs:
            for portion in portions:
                try:
                    theirs.sendall(portion)
                except OSError:
                    return

    sender = threading.Thread(target=send)
    sender.start()
    with closing(Connection(ours)) as connection:
        yield connection
    sender.join()


def told(*portions: bytes, method: str = "GET") -> tuple[int, dict[str, str], bytes, bool]:
    """Status, headers, body, and whether the connection can be used again."""
    spare: list[Connection] = []
    with sent(*portions) as connection, Answer(connection, method, spare.append) as answer:
        return answer.status, answer.headers, answer.readall() or b"", spare == [connection]


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    places = [0, *sorted({place % (len(data) + 1) for place in at}), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


@given(
    body=st.binary(max_size=300),
    chunks=st.lists(st.integers(1, 300), max_size=5) | st.none(),
    headers=st.dictionaries(st.sampled_from(["X-A", "X-B", "server"]), st.text("ab 1;=", max_size=9)),
    waits=st.booleans(),
    at=st.lists(st.integers(0, 1000), max_size=4),
)
def test_an_answer_says_what_http_client_reads_in_it(
    body: bytes, chunks: list[int] | None, headers: dict[str, str], waits: bool, at: list[int]
) -> None:
    lines = ["HTTP/1.1 100 Continue", ""] if waits else []
    lines += ["HTTP/1.1 201 Made", *(f"{name}: {value}" for name, value in headers.items())]
    if chunks is None:
        content = body
        lines.append(f"Content-Length: {len(body)}")
    else:
        parts = [part for part in cut(body, chunks) if part]
        content = b"".join(b"%X;x=y\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\nX-T: 1\r\n\r\n"
        lines.append("Transfer-Encoding: chunked")
    data = "\r\n".join([*lines, "", ""]).encode() + content

    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        reference = http.client.HTTPResponse(ours, method="GET")
        reference.begin()
        expected = (reference.status, {name.lower(): value.strip() for name, value in reference.getheaders()})
        expected_body = reference.read()

    status, found, read, is_spare = told(*cut(data, at))
    assert (status, found) == expected
    assert read == expected_body == body
    assert is_spare


@given(data=st.binary(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=14).map(b"".join))
def test_whatever_comes_is_an_answer_or_is_refused(data: bytes) -> None:
    try:
        _, headers, body, _ = told(data)
    except Lost:
        return
    assert len(body) <= len(data)
    assert body in data or "transfer-encoding" in headers


@given(
    lines=st.lists(st.sampled_from(PIECES), max_size=8),
    body=st.lists(st.sampled_from(PIECES), max_size=8),
)
def test_whatever_follows_a_good_status_is_an_answer_or_is_refused(
    lines: list[bytes], body: list[bytes]
) -> None:
    data = b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b"\r\n".join(body)])
    try:
        _, _, read, _ = told(data)
    except Lost:
        return
    assert len(read) <= len(data)


@pytest.mark.parametrize(
    "head",
    [
        "",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.0 400 Bad Request\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 \uff1200 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\n\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: nameless\r\n\r\n",
        "HTTP/1.1 200 OK\r\nName : x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na",
        "HTTP/1.1 200 OK\r\nContent-Length: ²\r\n\r\na",
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000000000000\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0000000000000000000\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused(head: str) -> None:
    with pytest.raises(Lost, match=r"it (answers|sends) |the connection ended without an answer"):
        told(head.encode("utf-8"))


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcd",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200",
    ],
    ids=[
        "length",
        "chunk",
        "no last chunk",
        "no end of the last chunk",
        "end of a chunk",
        "header",
        "status",
    ],
)
def test_an_answer_that_breaks_off_is_lost(data: bytes) -> None:
    with pytest.raises(Lost, match="the connection ended"):
        told(data)


@pytest.mark.parametrize(
    "begin",
    [b"", b"HTTP/1.1 200 OK\r\nA: ", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"],
    ids=["status", "header", "chunk"],
)
def test_a_line_without_an_end_is_refused_long_before_it_ends(begin: bytes) -> None:
    with pytest.raises(Malformed, match="a line without an end"):
        told(begin + b"1" * (MOST_HEAD + 10) * 20)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * MOST_HEAD,
        b"HTTP/1.1 100 Continue\r\n\r\n" * MOST_HEAD,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * MOST_HEAD,
    ],
    ids=["headers", "answers to wait for", "trailers"],
)
def test_heads_without_an_end_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed, match="a line without an end"):
        told(data)


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_has_no_body_ends_with_its_head(status: int) -> None:
    data = f"HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\n".encode()
    assert told(data)[2:] == (b"", True)


def test_the_answer_to_head_ends_with_its_head() -> None:
    assert told(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", method="HEAD")[2:] == (b"", True)


def test_a_body_without_a_length_lasts_as_long_as_its_connection() -> None:
    assert told(b"HTTP/1.1 200 OK\r\n\r\nabc", b"def")[2:] == (b"abcdef", False)


def test_a_connection_that_the_other_side_will_close_is_not_used_again() -> None:
    assert not told(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na")[3]


def test_a_connection_whose_answer_was_not_read_is_not_used_again() -> None:
    spare: list[Connection] = []
    with sent(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab") as connection:
        with Answer(connection, "GET", spare.append) as answer:
            assert answer.read(1) == b"a"
        assert spare == []
        assert connection.sock.fileno() == -1


def test_a_connection_with_bytes_that_nobody_asked_for_is_not_idle() -> None:
    ours, theirs = socket.socketpair()
    with theirs, closing(Connection(ours)) as connection:
        theirs.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")
        Answer(connection, "GET", lambda _: None).readall()
        assert connection.is_idle()
        ours.settimeout(60)
        theirs.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab")
        Answer(connection, "GET", lambda _: None).readall()
        assert not connection.is_idle()


def test_reading_nothing_is_not_the_end() -> None:
    with sent(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab") as connection:
        answer = Answer(connection, "GET", lambda _: None)
        assert [answer.read(0), answer.read(2), answer.read(2)] == [b"", b"ab", b""]


@pytest.mark.parametrize("bad", ["a\r\nb", "a\nb", "a\rb", "a\0b"])
def test_no_line_of_a_request_can_begin_another(bad: str) -> None:
    for target, headers in ((f"/{bad}", {}), ("/", {"X": bad}), ("/", {bad: "x"})):
        with pytest.raises(ValueError, match="printable"):
            head_of("GET", target, headers)


def test_a_chunk_can_be_read_before_anything_follows_it() -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    with theirs, closing(Connection(ours)) as connection:
        theirs.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with Answer(connection, "GET", None) as answer:
            theirs.sendall(b"3\r\nabc\r\n")
            assert answer.read(10) == b"abc"
            theirs.sendall(b"0\r\n\r\n")
            assert answer.read(10) == b""
