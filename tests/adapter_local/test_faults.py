"""Each way in which there can be no engine, made for real: the one message, and the hint that fits."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import socket
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from adapter_local.talker import PING, Talker, json_answer
from theory import errors
from theory_adapter_local.engine import faults
from theory_adapter_local.engine.client import engine_of
from theory_adapter_local.engine.faults import DockerUnavailable
from theory_adapter_local.engine.find import endpoint_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MESSAGE = "Docker daemon not running or not installed"


def hint_of(host: str) -> str:
    with pytest.raises(DockerUnavailable, match=f"^{MESSAGE}$") as refused:
        engine_of({"DOCKER_HOST": host})
    assert (refused.value.code, refused.value.exit_code) == ("ERR_DOCKER_UNAVAILABLE", 69)
    assert isinstance(refused.value, errors.Unavailable)
    return refused.value.hint


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits 5 s for the silent."""
    for scheme in faults.PROBE_S:
        monkeypatch.setitem(faults.PROBE_S, scheme, 0.1)


@contextlib.contextmanager
def listening(path: Path, queue: int = 5) -> Iterator[str]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(queue)
        yield f"unix://{path}"


# -------------------------------------------------------------------- nothing there


@pytest.mark.parametrize(
    ("program", "hint"),
    [
        (
            "",
            "Docker is not installed; install and start it: https://docs.docker.com/engine/install, or ",
        ),
        ("docker", "Docker is installed, but not running; start it: "),
        ("dockerd", "Docker is installed, but not running; start it: "),
        ("podman", "Podman is installed, but its socket is not there; systemctl --user start podman.socket"),
    ],
)
def test_without_any_socket_it_counts_what_is_installed(tmp_path: Path, program: str, hint: str) -> None:
    if program:
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    error = faults.none_found({"PATH": str(tmp_path)})
    assert error.message == MESSAGE
    assert error.hint.startswith(hint)


def test_a_socket_that_is_named_and_not_there(tmp_path: Path) -> None:
    hint = hint_of(f"unix://{tmp_path}/none/docker.sock")
    assert hint.startswith(
        f"unix://{tmp_path}/none/docker.sock (from DOCKER_HOST): there is no such socket; start"
    )


def test_a_link_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "s").symlink_to("nowhere")
    assert hint_of(f"unix://{tmp_path}/s").startswith(
        f"{tmp_path}/s is a link to nothing; start the engine: "
    )


def test_a_socket_whose_daemon_has_ended(tmp_path: Path) -> None:
    with listening(tmp_path / "s") as host:
        pass
    assert hint_of(host).startswith(f"{tmp_path}/s was left behind by a daemon that has ended; start it: ")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_socket(tmp_path: Path, kind: str) -> None:
    path = tmp_path if kind == "folder" else tmp_path / "file"
    if kind == "file":
        path.write_text("x")
    assert hint_of(f"unix://{path}") == f"unix://{path} (from DOCKER_HOST): that is no socket"


def test_a_path_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "Not a directory" in hint_of(f"unix://{tmp_path}/file/s")


def test_a_path_that_no_socket_can_have(tmp_path: Path) -> None:
    assert "path too long" in hint_of(f"unix://{tmp_path}/{'x' * 200}")


# -------------------------------------------------------------------- not allowed


def hint_for_somebody_else(host: str) -> str:
    """The hint that a user gets who does not own the socket; as root, another one is needed for it."""
    program = """
import errno, grp, json, os, pathlib, pwd, sys  # what is imported later may be out of reach then
from theory_adapter_local.engine.client import engine_of
from theory_adapter_local.engine.faults import DockerUnavailable
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    engine_of({"DOCKER_HOST": sys.argv[1]})
except DockerUnavailable as error:
    print(json.dumps([error.message, error.hint]))
"""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program, host], env=environ, check=True, capture_output=True)
    message, hint = json.loads(done.stdout)
    assert message == MESSAGE
    return str(hint)


@pytest.fixture
def open_folder(tmp_path: Path) -> Path:
    """A folder that everybody can reach."""
    for folder in (tmp_path, *tmp_path.parents):
        with contextlib.suppress(PermissionError):
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) | 0o011)
    return tmp_path


def another_group() -> grp.struct_group:
    """One that a socket of ours can have."""
    if os.getuid() == 0:
        return next(group for group in grp.getgrall() if group.gr_gid not in {0, 65534})
    return grp.getgrgid(os.getgid())


def test_a_socket_for_a_group_names_it_and_how_to_join(open_folder: Path) -> None:
    group = another_group()
    with listening(open_folder / "s") as host:
        os.chown(open_folder / "s", -1, group.gr_gid)
        os.chmod(open_folder / "s", 0o060)
        hint = hint_for_somebody_else(host)
    assert hint == (
        f"you may not use {open_folder}/s: it is for the group {group.gr_name}; "
        f"sudo usermod -aG {group.gr_name} $USER, then log in again"
    )


def test_a_socket_for_its_owner_names_them(open_folder: Path) -> None:
    with listening(open_folder / "s") as host:
        os.chown(open_folder / "s", -1, os.getgid())
        os.chmod(open_folder / "s", 0o660 if os.getuid() == 0 else 0)  # the group of root is nobody else's
        hint = hint_for_somebody_else(host)
    owner = pwd.getpwuid(os.getuid()).pw_name
    assert hint == f"you may not use {open_folder}/s: it is for the user {owner} alone"


def test_a_socket_for_a_group_without_a_name(open_folder: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root")
    with listening(open_folder / "s") as host:
        os.chown(open_folder / "s", -1, 54321)
        os.chmod(open_folder / "s", 0o660)
        assert hint_for_somebody_else(host).endswith("it is for the group 54321, which has no name here")


def test_a_folder_that_is_closed(open_folder: Path) -> None:
    (open_folder / "closed").mkdir()
    with listening(open_folder / "closed" / "s") as host:
        (open_folder / "closed").chmod(0)
        try:
            hint = hint_for_somebody_else(host)
        finally:
            (open_folder / "closed").chmod(0o700)
    assert hint == f"you may not use {open_folder}/closed/s: its folder is closed to you"


def test_who_joined_the_group_after_the_login_is_told_to_log_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    group = grp.struct_group(("docker", "x", os.getgid() or 1, [me]))
    monkeypatch.setattr(grp, "getgrgid", lambda _: group)  # nobody's groups are changed for a test
    with listening(tmp_path / "s") as host:
        os.chown(tmp_path / "s", -1, group.gr_gid)
        os.chmod(tmp_path / "s", 0o660)
        error = faults.no_connection(endpoint_of(host, ""), PermissionError(13, "Permission denied"))
    assert (
        error.hint
        == f"you joined the group docker, which may use {tmp_path}/s, after you logged in; log in again"
    )


# -------------------------------------------------------------------- not in time


@pytest.mark.usefixtures("quick")
def test_a_daemon_that_says_nothing(tmp_path: Path) -> None:
    with listening(tmp_path / "s") as host:
        assert hint_of(host).startswith(
            f"{host} (from DOCKER_HOST) does not answer within 0.1 s; restart it: "
        )


@pytest.mark.usefixtures("quick")
def test_a_daemon_that_takes_no_connection(tmp_path: Path) -> None:
    with listening(tmp_path / "s", queue=0) as host, contextlib.ExitStack() as waiting:
        for _ in range(10):  # more than the queue takes
            caller = waiting.enter_context(socket.socket(socket.AF_UNIX))
            caller.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                caller.connect(str(tmp_path / "s"))
        assert "does not answer within 0.1 s" in hint_of(host)


@pytest.mark.usefixtures("quick")
def test_a_machine_that_says_nothing() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        host = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        assert hint_of(host).endswith("does not answer within 0.1 s; see whether it is running")


@pytest.mark.usefixtures("quick")
def test_an_answer_that_never_ends(tmp_path: Path) -> None:
    with Talker(str(tmp_path / "s"), lambda _: None, ping=b"HTTP/1.1 200 OK\r\nX: ") as talker:
        assert "does not answer within 0.1 s" in hint_of(talker.host)


# -------------------------------------------------------------------- not on that machine


def test_a_port_where_nothing_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        hint = hint_of(f"tcp://127.0.0.1:{port}")
    assert f": nothing listens on port {port} there; start its engine, or run without it" in hint


def test_a_name_that_is_not_resolved() -> None:
    with pytest.raises(socket.gaierror, match=r".") as real:  # without asking the network
        socket.getaddrinfo("127.0.0.1", "no-such-service")
    error = faults.no_connection(endpoint_of("tcp://machine:1", "DOCKER_HOST"), real.value)
    assert error.hint.startswith("tcp://machine:1 (from DOCKER_HOST): the name machine cannot be resolved: ")


# -------------------------------------------------------------------- not Docker


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "what listens there is not Docker: it answers 'SSH-2.0"),
        (b"\x15\x03\x01\x00\x02\x02\x46\n", "what listens there is not Docker: it answers '\\x15"),
        (None, "what listens there is not Docker: GET /_ping: the connection ended without an answer"),
        (json_answer("{}"), "what listens there is not Docker: it names no API version"),
        (PING.replace(b"1.41", b"new"), "its API is new, and 1.40 is needed"),
        (
            PING.replace(b"1.41", b"1.39"),
            "its API is 1.39, and 1.40 is needed; install Docker 19.03 or newer",
        ),
        (PING.replace(b"1.41", b"9" * 5000), "its API is 99999999999999999999, and"),
        (json_answer("<html>nginx</html>", 404), "it answers 404, <html>nginx</html>"),
        (
            json_answer('{"message":"starting"}', 503),
            "it is not ready, not Docker, or something stands in front",
        ),
        (json_answer("x" * 9999, 403), "it answers 403, " + "x" * 200),
    ],
    ids=[
        "ssh",
        "TLS",
        "nothing",
        "a web server",
        "no number",
        "too old",
        "too much",
        "404",
        "503",
        "a long no",
    ],
)
def test_what_answers_and_is_no_engine(tmp_path: Path, answer: bytes | None, words: str) -> None:
    with Talker(str(tmp_path / "s"), lambda _: None, ping=answer) as talker:
        hint = hint_of(talker.host)
    assert hint.startswith(f"{talker.host} (from DOCKER_HOST): ")
    assert words in hint
    assert len(hint) < 400
