"""The engine's client: against a server that can be made to misbehave, and against a real engine."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_local.talker import PING, Request, Talker, json_answer
from theory_adapter_local.engine import client as module
from theory_adapter_local.engine.client import Attached, Engine, Lost, Refused, engine_of
from theory_adapter_local.engine.connection import TooSlow
from theory_adapter_local.engine.faults import DockerUnavailable
from theory_adapter_local.engine.http1 import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"
UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"


@contextmanager
def talking(
    folder: Path, answer: Callable[[Request], bytes | None], ping: bytes = PING, *, reads_bodies: bool = True
) -> Iterator[tuple[Engine, Talker]]:
    with Talker(f"{folder}/s", answer, ping=ping, reads_bodies=reads_bodies) as talker:
        engine = engine_of({"DOCKER_HOST": talker.host})
        try:
            yield engine, talker
        finally:
            engine.close()


def frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


# -------------------------------------------------------------------- who it talks to


@pytest.mark.parametrize(
    ("theirs", "spoken"),
    [("1.40", "1.40"), ("1.41", "1.41"), ("1.47", "1.47"), ("1.100", "1.47"), ("2.0", "1.47")],
)
def test_it_speaks_the_newest_api_that_both_know(tmp_path: Path, theirs: str, spoken: str) -> None:
    ping = PING.replace(b"1.41", theirs.encode())
    with talking(tmp_path, lambda _: json_answer("{}"), ping) as (engine, talker):
        engine.call("GET", "/info")
        assert talker.requests[0].target == f"/v{spoken}/info"


def test_podman_is_known_by_its_answer_to_the_ping(tmp_path: Path) -> None:
    ping = PING.replace(b"Api-Version", b"Libpod-API-Version: 4.3.1\r\nApi-Version")
    with talking(tmp_path, lambda _: None, ping) as (engine, talker):
        assert engine.is_podman
        assert talker.requests == []


def test_one_process_has_one_object_for_an_engine(tmp_path: Path) -> None:
    with talking(tmp_path, lambda _: None) as (engine, talker):
        assert engine_of({"DOCKER_HOST": talker.host}) is engine


def test_an_engine_that_was_not_there_is_looked_for_again(tmp_path: Path) -> None:
    host = f"unix://{tmp_path}/s"
    with pytest.raises(DockerUnavailable, match="Docker daemon not running or not installed"):
        engine_of({"DOCKER_HOST": host})
    with talking(tmp_path, lambda _: None) as (engine, _):
        assert engine.host == host
        assert engine.answers()
    assert not engine.answers()
    with pytest.raises(DockerUnavailable, match="Docker daemon not running or not installed"):
        engine.call("GET", "/info")


def test_after_a_fork_each_process_has_connections_of_its_own(tmp_path: Path) -> None:
    program = """
import os, sys
from theory_adapter_local.engine.client import engine_of
engine = engine_of()
assert engine.call("GET", "/parent") == {}
child = os.fork()
if not child:
    assert engine.call("GET", "/child") == {}
    assert engine_of() is not engine
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
assert engine.call("GET", "/parent") == {}
"""
    with Talker(f"{tmp_path}/s", lambda _: json_answer("{}")) as talker:
        environ = {**os.environ, "DOCKER_HOST": talker.host, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-W", "error", "-c", program]
        assert subprocess.run(command, env=environ, check=True, capture_output=True).stderr == b""
        assert [(r.target[7:], r.connection) for r in talker.requests] == [
            ("parent", 0),
            ("child", 1),
            ("parent", 0),
        ]


# -------------------------------------------------------------------- requests and answers


@pytest.mark.parametrize(
    ("text", "value"), [("", None), (" \n", None), ("null", None), ("[1]", [1]), ('{"Id":"é"}', {"Id": "é"})]
)
def test_an_answer_is_decoded(tmp_path: Path, text: str, value: object) -> None:
    with talking(tmp_path, lambda _: json_answer(text)) as (engine, _):
        assert engine.call("POST", "/x", body={"a": 1}) == value


def test_what_is_done_already_is_no_error(tmp_path: Path) -> None:
    with talking(tmp_path, lambda _: b"HTTP/1.1 304 Not Modified\r\n\r\n") as (engine, talker):
        assert engine.call("POST", "/containers/c/start") is None
        assert engine.call("POST", "/containers/c/start") is None
        assert talker.connections == 1


@pytest.mark.parametrize("text", ["OK", "{", "[" * 100_000])
def test_an_answer_that_is_not_json_is_lost(tmp_path: Path, text: str) -> None:
    with (
        talking(tmp_path, lambda _: json_answer(text)) as (engine, _),
        pytest.raises(Lost, match="GET /x: the answer is not JSON"),
    ):
        engine.call("GET", "/x")


def test_an_answer_without_an_end_is_given_up(tmp_path: Path) -> None:
    def flood(request: Request) -> None:
        request.socket.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:  # until the client closes the connection
            request.socket.sendall(b"[" * 65536)

    with (
        talking(tmp_path, flood) as (engine, _),
        pytest.raises(Lost, match="the answer has more than 64 MiB"),
    ):
        engine.call("GET", "/x")


@pytest.mark.parametrize(
    ("status", "text", "message"),
    [
        (404, '{"message":"No such image: x:1"}', "No such image: x:1"),
        (500, '{"cause":"c","message":"m","response":500}', "m"),
        (502, "<html>bad gateway</html>", "<html>bad gateway</html>"),
        (400, "", "it answers 400"),
        (409, '["message"]', '["message"]'),
    ],
    ids=["Docker", "Podman", "a proxy", "nothing", "a list"],
)
def test_an_error_has_the_words_of_the_engine(tmp_path: Path, status: int, text: str, message: str) -> None:
    with talking(tmp_path, lambda _: json_answer(text, status)) as (engine, talker):
        for ask in (engine.call, engine.stream):
            with pytest.raises(Refused, match=str(status)) as refused:
                ask("GET", "/x")
            assert (refused.value.status, refused.value.message) == (status, message)
        assert talker.connections == 1


def test_paths_and_queries_are_plain_text(tmp_path: Path) -> None:
    with talking(tmp_path, lambda _: json_answer("{}")) as (engine, talker):
        engine.call("GET", "/images/a/b:1@sha256:0/json", query={"filters": '{"a":["b&c=d"]}', "é": "/ +"})
        engine.call("GET", "/x HTTP/1.1\r\nX: y\r\n\r\n?a#b%2F")
        assert [request.target for request in talker.requests] == [
            "/v1.41/images/a/b:1@sha256:0/json?filters=%7B%22a%22%3A%5B%22b%26c%3Dd%22%5D%7D&%C3%A9=%2F%20%2B",
            "/v1.41/x%20HTTP/1.1%0D%0AX:%20y%0D%0A%0D%0A%3Fa%23b%252F",
        ]


@given(portions=st.lists(st.binary(max_size=40), max_size=6))
def test_a_body_arrives_as_it_was_given(
    tmp_path_factory: pytest.TempPathFactory, portions: list[bytes]
) -> None:
    whole = b"".join(portions)
    folder = tmp_path_factory.mktemp("x")
    (folder / "file").write_bytes(b"before" + whole)
    with talking(folder, lambda _: json_answer("")) as (engine, talker), (folder / "file").open("rb") as file:
        file.seek(6)
        read, write = os.pipe()
        with os.fdopen(write, "wb") as stream:
            stream.write(whole)
        with os.fdopen(read, "rb") as pipe:
            for body in (whole, file, pipe, io.BytesIO(whole), iter(portions)):
                with engine.stream("PUT", "/x", body=body, headers={"Content-Type": "application/x-tar"}):
                    pass
        assert [request.body for request in talker.requests] == [whole] * 5
        lengths = [request.headers.get("content-length") for request in talker.requests]
        assert lengths == [str(len(whole))] * 2 + [None] * 3
        assert talker.connections == 1


def test_a_file_that_grows_is_sent_as_long_as_it_was_and_one_that_shrinks_is_an_error(tmp_path: Path) -> None:
    class Changing(io.FileIO):
        change = b""

        def read(self, size: int | None = -1, /) -> bytes:
            return (super().read(-1 if size is None else size) or b"") + self.change if self.change else b""

    (tmp_path / "file").write_bytes(b"abc")
    with talking(tmp_path, lambda _: json_answer("")) as (engine, talker):
        with Changing(tmp_path / "file") as file:
            file.change = b"more"
            with engine.stream("PUT", "/grows", body=file):
                pass
        assert engine.call("GET", "/between") is None
        with Changing(tmp_path / "file") as file, pytest.raises(ValueError, match="by 3 of 3 bytes"):
            engine.stream("PUT", "/shrinks", body=file)
        assert engine.call("GET", "/after") is None
        whole = [request for request in talker.requests if "shrinks" not in request.target]
        assert [(request.method, request.body) for request in whole] == [
            ("PUT", b"abc"),
            ("GET", b""),
            ("GET", b""),
        ]


def test_an_upload_that_is_refused_early_is_refused_in_the_words_of_the_engine(tmp_path: Path) -> None:
    def refuse(request: Request) -> None:
        request.socket.sendall(json_answer('{"message":"Could not find the file /job"}', 404))

    with (
        talking(tmp_path, refuse, reads_bodies=False) as (engine, _),
        pytest.raises(Refused, match="Could not find the file"),
    ):
        engine.stream("PUT", "/x", body=(b"x" * 65536 for _ in range(1000)))


# -------------------------------------------------------------------- connections


def test_calls_after_one_another_share_a_connection(tmp_path: Path) -> None:
    with talking(tmp_path, lambda _: json_answer("{}")) as (engine, talker):
        for _ in range(20):
            engine.call("GET", "/x")
            engine.stream("GET", "/y").readall()
        assert talker.connections == 1


def test_threads_never_share_a_connection_at_the_same_time(tmp_path: Path) -> None:
    at_once = threading.Barrier(12)

    def answer(request: Request) -> bytes:
        at_once.wait()
        return json_answer(json.dumps(request.target))

    answers = []
    with talking(tmp_path, answer) as (engine, _):
        threads = [
            threading.Thread(target=lambda i=i: answers.append((i, engine.call("GET", f"/{i}"))))
            for i in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == [(i, f"/v1.41/{i}") for i in range(12)]
        assert len(engine._idle) == 8  # noqa: SLF001 - how many are kept shows nowhere else


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_idle_connection_that_the_engine_closed_is_not_used(tmp_path: Path, method: str) -> None:
    gone = threading.Event()

    def answer(request: Request) -> bytes | None:
        if request.target.endswith("/last"):
            request.socket.sendall(json_answer("1"))
            request.socket.shutdown(2)
            gone.set()
            return None
        return json_answer("2")

    with talking(tmp_path, answer) as (engine, talker):
        assert engine.call("GET", "/last") == 1
        gone.wait()
        assert engine.call(method, "/next") == 2
        assert [(request.target, request.connection) for request in talker.requests] == [
            ("/v1.41/last", 0),
            ("/v1.41/next", 1),
        ]


def closes_the_first(request: Request) -> bytes | None:
    return None if request.connection == 0 else json_answer("2")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_question_that_an_idle_connection_lost_is_asked_once_more(tmp_path: Path, method: str) -> None:
    with talking(tmp_path, closes_the_first) as (engine, talker):
        engine.stream(method, "/x").close()
        assert [request.connection for request in talker.requests] == [0, 1]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_an_order_is_never_given_twice(tmp_path: Path, method: str) -> None:
    with talking(tmp_path, closes_the_first) as (engine, talker):
        with pytest.raises(Lost, match=f"{method} /x: "):
            engine.call(method, "/x")
        assert [request.connection for request in talker.requests] == [0]
        assert engine.call(method, "/x") == 2


def test_a_question_that_a_new_connection_loses_is_lost(tmp_path: Path) -> None:
    with talking(tmp_path, lambda _: None) as (engine, talker):
        with pytest.raises(Lost, match="GET /x: the connection ended without an answer"):
            engine.call("GET", "/x")
        assert len(talker.requests) == 2


def test_a_call_ends_when_its_time_is_over_even_if_the_answer_drips(tmp_path: Path) -> None:
    done = threading.Event()

    def drip(request: Request) -> None:
        request.socket.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not done.wait(0.005):
            request.socket.sendall(b" ")

    with talking(tmp_path, drip) as (engine, _):
        with pytest.raises(TooSlow, match="POST /x: nothing came in time"):
            engine.call("POST", "/x", timeout_s=0.1)
        done.set()


def test_a_stream_may_take_longer_than_it_may_be_silent(tmp_path: Path) -> None:
    def drip(request: Request) -> bytes:
        request.socket.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n")
        for _ in range(11):
            time.sleep(0.1)  # this is what it is about: 1.2 s in all
            request.socket.sendall(b"x")
        return b"x"

    with talking(tmp_path, drip) as (engine, _), engine.stream("GET", "/x", timeout_s=1.0) as answer:
        assert answer.readall() == b"x" * 12


def test_a_stream_that_is_silent_for_too_long_is_lost(tmp_path: Path) -> None:
    done = threading.Event()

    def begin(request: Request) -> None:
        request.socket.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx")
        done.wait()

    with talking(tmp_path, begin) as (engine, _), engine.stream("GET", "/x", timeout_s=0.1) as answer:
        try:
            assert answer.read(1) == b"x"
            with pytest.raises(TooSlow, match="GET /x: nothing came in time"):
                answer.read(1)
        finally:
            done.set()


def test_no_descriptor_stays_open_whatever_happens(tmp_path: Path) -> None:
    kinds = {
        "gone": None,
        "bad": b"garbage\r\n\r\n",
        "no": json_answer("{}", 500),
        "cut": HEAD[:20],
        "short": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcd",
        "good": json_answer("{}"),
        "unread": json_answer("{}"),
        "attach": UPGRADED,
    }

    def answer(request: Request) -> bytes | None:
        found = kinds[request.target.split("?")[0].split("/")[3]]
        if found is not None:
            request.socket.sendall(found)
        return b"" if found is not None and found.endswith(b"{}") else None

    (tmp_path / "again").mkdir()
    before = sorted(os.listdir("/dev/fd"))
    with talking(tmp_path, answer) as (engine, _):
        for kind in kinds:
            with suppress(Lost, Refused), engine.stream("POST", f"/x/{kind}") as opened:
                if kind != "unread":
                    opened.readall()
    with talking(tmp_path / "again", answer) as (engine, _):
        engine.attach("attach").close()
    assert sorted(os.listdir("/dev/fd")) == before


# -------------------------------------------------------------------- what a container writes


def test_a_container_may_be_silent_for_longer_than_its_stream_may_take_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_START_S", 0.2)  # of 30

    def answer(request: Request) -> None:
        request.socket.sendall(UPGRADED)
        time.sleep(0.4)  # this is what it is about
        request.socket.sendall(frame(1, b"late"))

    with talking(tmp_path, answer) as (engine, _):
        assert list(engine.attach("c").frames()) == [("stdout", b"late")]


@given(
    written=st.lists(st.tuples(st.sampled_from([1, 2, 3]), st.binary(max_size=200)), max_size=6),
    upgraded=st.booleans(),
)
def test_frames_give_each_stream_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, written: list[tuple[int, bytes]], upgraded: bool
) -> None:
    def answer(request: Request) -> None:
        request.socket.sendall(UPGRADED if upgraded else HEAD)
        request.socket.sendall(b"".join(frame(stream, data) for stream, data in written))

    with talking(tmp_path_factory.mktemp("x"), answer) as (engine, talker):
        read: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        for name, data in engine.attach("c").frames():
            read[name] += data
        assert read == {
            "stdout": b"".join(data for stream, data in written if stream == 1),
            "stderr": b"".join(data for stream, data in written if stream != 1),
        }
        request = talker.requests[0]
        assert (request.method, request.headers["upgrade"]) == ("POST", "tcp")
        assert request.target == "/v1.41/containers/c/attach?stream=1&stdout=1&stderr=1"


@pytest.mark.parametrize(
    "data",
    [
        frame(1, b"abc")[:-1],
        frame(1, b"abc")[:5],
        bytes([1, 0, 0, 0, 255, 255, 255, 255]) + b"a",
        frame(4, b"x"),
        frame(0, b"x"),
        b"\x01\x00\x01\x00\x00\x00\x00\x01x",
        b"plain text of a terminal\r\n",
    ],
    ids=["a portion", "a head", "4 GiB", "a stream that is none", "stdin", "a head that is none", "text"],
)
def test_output_that_breaks_off_or_is_no_frame_is_lost(tmp_path: Path, data: bytes) -> None:
    with (
        talking(tmp_path, lambda r: r.socket.sendall(UPGRADED + data)) as (engine, _),
        pytest.raises(Lost, match=r"broke off in the middle of a frame|where a frame begins"),
    ):
        list(engine.attach("c").frames())


@pytest.mark.parametrize("reads", [True, False], ids=["while somebody reads", "before anybody reads"])
def test_closing_ends_the_frames_from_another_thread(tmp_path: Path, reads: bool) -> None:
    closed = threading.Event()
    seen: list[tuple[str, bytes]] = []

    def answer(request: Request) -> None:
        request.socket.sendall(UPGRADED + frame(1, b"first") + frame(1, b"abc")[:-1])
        closed.wait()

    with talking(tmp_path, answer) as (engine, _):
        attached = engine.attach("c")
        first = threading.Event()

        def read() -> None:
            for portion in attached.frames():
                seen.append(portion)
                first.set()

        reader = threading.Thread(target=read)
        if reads:
            reader.start()
            first.wait()
            attached.close()
        else:
            attached.close()
            reader.start()
        reader.join()
        closed.set()
        assert seen[:1] == ([("stdout", b"first")] if reads else [])


def test_the_log_is_followed_through_chunks_that_do_not_end_with_frames(tmp_path: Path) -> None:
    data = frame(1, b"out") + frame(2, b"err")
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (data[:5], data[5:13], data[13:]))
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"

    def tell(request: Request) -> bytes:
        return answer if "/logs?" in request.target else json_answer("{}")

    with talking(tmp_path, tell) as (engine, talker):
        assert list(engine.logs("c", 1.5).frames()) == [("stdout", b"out"), ("stderr", b"err")]
        assert talker.requests[-1].target.endswith("&follow=1&since=1.500000000")
        engine.call("GET", "/containers/c/json")
        assert [request.connection for request in talker.requests] == [0, 1]


# -------------------------------------------------------------------- a real engine


@pytest.fixture
def container(engine: Engine, base_image: str) -> Iterator[str]:
    command = "echo error >&2; cat /job/in; head -c 300000 /dev/zero"
    config: dict[str, Any] = {
        "Image": base_image,
        "Cmd": ["sh", "-c", command],
        "Volumes": {"/job": {}},
        "HostConfig": {"NetworkMode": "none"},
    }
    made = engine.call("POST", "/containers/create", body=config)["Id"]
    yield made
    engine.call("DELETE", f"/containers/{made}", query={"force": "1", "v": "1"})


def archive(name: str, data: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def test_a_container_lives_its_whole_life(engine: Engine, container: str, tmp_path: Path) -> None:
    path = f"/containers/{container}"
    (tmp_path / "in.tar").write_bytes(archive("in", b"hello"))
    with (tmp_path / "in.tar").open("rb") as file:
        engine.stream("PUT", f"{path}/archive", query={"path": "/job"}, body=file).close()
    attached: Attached = engine.attach(container)
    ended: list[Any] = []

    def wait() -> None:
        ended.append(engine.call("POST", f"{path}/wait", query={"condition": "next-exit"}, timeout_s=None))

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert engine.call("POST", f"{path}/start") is None
    read = {"stdout": b"", "stderr": b""}
    for name, data in attached.frames():
        read[name] += data
    waiter.join()
    assert read == {"stdout": b"hello" + bytes(300_000), "stderr": b"error\n"}
    assert ended[0]["StatusCode"] == 0
    logs = {"stdout": b"", "stderr": b""}
    for name, data in engine.logs(container, 0.0).frames():
        logs[name] += data
    assert logs == read
    with engine.stream("GET", f"{path}/archive", query={"path": "/job/in"}) as answer:
        assert isinstance(answer, Answer)
        with tarfile.open(fileobj=answer, mode="r|") as tar:
            assert [member.name for member in tar] == ["in"]
    with engine.stream("HEAD", f"{path}/archive", query={"path": "/job/in"}) as answer:
        assert answer.headers["x-docker-container-path-stat"]


def test_a_real_engine_says_what_it_is(engine: Engine) -> None:
    assert engine.version()["ApiVersion"]
    assert engine.info()["OSType"] == "linux"
    assert engine.info() is engine.info()
    assert engine.answers()
    with pytest.raises(Refused, match=r"(?i)no such image") as refused:
        engine.call("GET", "/images/theory-nobody-has-this:1/json")
    assert refused.value.status == 404


def test_the_api_that_is_spoken_is_one_that_the_engine_knows(engine: Engine) -> None:
    newest = tuple(map(int, str(engine.version()["ApiVersion"]).split(".")))
    assert tuple(map(int, engine.api.split("."))) == min(newest, module.NEWEST_API)
