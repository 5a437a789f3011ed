"""Where an engine is looked for: as Docker's own command does, and nowhere that nobody named."""

from __future__ import annotations

import os
import shutil
import ssl
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_local.talker import Talker, json_answer
from theory_adapter_local.engine import find as module
from theory_adapter_local.engine.client import engine_of
from theory_adapter_local.engine.connection import Lost
from theory_adapter_local.engine.endpoint import Endpoint, Tls
from theory_adapter_local.engine.faults import DockerUnavailable
from theory_adapter_local.engine.find import default_sockets, endpoint_of, endpoints_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

UNAVAILABLE = "Docker daemon not running or not installed"


@pytest.mark.parametrize(
    ("host", "scheme", "address", "port"),
    [
        ("unix:///run/a b.sock", "unix", "/run/a b.sock", 0),
        ("tcp://machine", "tcp", "machine", 2375),
        ("tcp://10.0.0.1:99/", "tcp", "10.0.0.1", 99),
        ("tcp://[::1]:99", "tcp", "::1", 99),
        ("http://machine:1", "tcp", "machine", 1),
        ("10.0.0.1:99", "tcp", "10.0.0.1", 99),
        ("machine", "tcp", "machine", 2375),
        ("https://machine", "tcp", "machine", 2376),
        ("ssh://me@machine.example:22", "ssh", "machine.example", 22),
    ],
)
def test_a_host_is_read(host: str, scheme: str, address: str, port: int) -> None:
    found = endpoint_of(host, "x")
    assert (found.host, found.scheme, found.address, found.port) == (host, scheme, address, port)


def test_tls_moves_the_standard_port() -> None:
    assert endpoint_of("tcp://machine", "x", Tls("/c", verify=True)).port == 2376


@pytest.mark.parametrize(
    "host",
    [
        *(
            "unix://relative",
            "unix://",
            "npipe:////./pipe/docker_engine",
            "fd://",
            "foo://bar",
            "tcp://",
            "://",
        ),
        *(
            "tcp://a:b",
            "tcp://a:99999",
            "tcp://a:-1",
            "tcp://a/path",
            "tcp://a?x",
            "tcp://me@a",
            "tcp://[::1",
            "tcp://a..b",
        ),
        *(
            "ssh://",
            "ssh://-oProxyCommand=x",
            "ssh://me@-x",
            "tcp://a b",
            "tcp://a\nb",
            "tcp://" + "x" * 64,
            "/var/run/docker.sock",
        ),
    ],
)
def test_a_host_of_no_known_form_is_refused(host: str) -> None:
    with pytest.raises(DockerUnavailable, match=UNAVAILABLE) as refused:
        endpoints_of({"DOCKER_HOST": host})
    assert refused.value.hint.startswith("DOCKER_HOST is ")
    assert "write unix:///var/run/docker.sock, tcp://machine:2375 or ssh://user@machine" in refused.value.hint


@given(
    host=st.text(max_size=30)
    | st.builds("{}://{}".format, st.sampled_from(["tcp", "ssh", "unix"]), st.text())
)
def test_whatever_docker_host_says_is_read_or_refused(host: str) -> None:
    try:
        found = endpoint_of(host, "x")
    except DockerUnavailable:
        return
    assert found.address
    assert not found.address.startswith("-")


@pytest.mark.parametrize("scheme", ["tcp", "ssh", "https", "foo"])
def test_a_password_is_refused_and_not_shown(scheme: str) -> None:
    with pytest.raises(DockerUnavailable, match=UNAVAILABLE) as refused:
        endpoints_of({"DOCKER_HOST": f"{scheme}://me:hunter2@machine"})
    assert "hunter2" not in refused.value.hint
    assert "a password may not stand in it" in refused.value.hint


# -------------------------------------------------------------------- contexts of Docker's command


def make_context(
    monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, host: str, *, tls: bool | None = None
) -> None:
    """As the ``docker`` package makes one; tls: whether certificates are verified, None: without any."""
    from docker.context.config import get_tls_dir, write_context_name_to_docker_config
    from docker.context.context import Context

    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    folder.mkdir(exist_ok=True)
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text("{}")
    context = Context(name, host=host)
    if tls is not None:
        context.endpoints["docker"]["SkipTLSVerify"] = not tls
    context.save()
    if tls is not None:
        Path(get_tls_dir(name, "docker")).mkdir(parents=True)
    assert write_context_name_to_docker_config(name) is None


def test_the_current_context_of_dockers_command_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_context(monkeypatch, tmp_path / "c", "mine", "unix:///nowhere/é.sock")
    environ = {"DOCKER_CONFIG": str(tmp_path / "c")}
    assert endpoints_of(environ) == (
        Endpoint(
            "unix:///nowhere/é.sock", "the Docker context mine", "unix", "/nowhere/é.sock", context="mine"
        ),
    )
    os.rename(tmp_path / "c", tmp_path / ".docker")
    assert endpoints_of({"HOME": str(tmp_path)})[0].address == "/nowhere/é.sock"


@pytest.mark.parametrize("verify", [True, False])
def test_a_context_brings_its_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: bool
) -> None:
    make_context(monkeypatch, tmp_path, "far", "tcp://machine:9", tls=verify)
    from docker.context import ContextAPI

    (found,) = endpoints_of(os.environ)
    assert found.port == 9
    assert found.tls is not None
    assert found.tls.verify is verify
    reference = ContextAPI.get_context("far")
    assert found.tls.folder == f"{reference.tls_path}docker"


def test_what_is_said_nearer_counts_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_context(monkeypatch, tmp_path, "one", "unix:///1")
    make_context(monkeypatch, tmp_path, "two", "unix:///2")
    environ = {"DOCKER_CONFIG": str(tmp_path)}
    assert endpoints_of(environ)[0].host == "unix:///2"
    assert endpoints_of({**environ, "DOCKER_CONTEXT": "one"})[0].host == "unix:///1"
    assert (
        endpoints_of({**environ, "DOCKER_CONTEXT": "one", "DOCKER_HOST": "unix:///0"})[0].host == "unix:///0"
    )


def test_the_default_context_is_what_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_context(monkeypatch, tmp_path, "mine", "unix:///1")
    environ = {"DOCKER_CONFIG": str(tmp_path), "DOCKER_CONTEXT": "default"}
    assert all(found.host != "unix:///1" for found in endpoints_of(environ))


def test_a_context_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DockerUnavailable, match=UNAVAILABLE) as refused:
        endpoints_of({"DOCKER_CONFIG": str(tmp_path), "DOCKER_CONTEXT": "lost"})
    assert refused.value.hint.startswith(
        "DOCKER_CONTEXT names the Docker context 'lost', which does not exist"
    )
    (tmp_path / "config.json").write_text('{"currentContext": "lost"}')
    with pytest.raises(DockerUnavailable, match=UNAVAILABLE) as refused:
        endpoints_of({"DOCKER_CONFIG": str(tmp_path)})
    assert refused.value.hint.startswith(f"{tmp_path}/config.json names")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"currentContext": ""}', '{"auths": {}}', "null"])
def test_a_config_that_names_no_context_names_no_engine(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert all(found.context == "" for found in endpoints_of({"DOCKER_CONFIG": str(tmp_path)}))


# -------------------------------------------------------------------- sockets of this machine


def test_sockets_are_looked_for_in_order_and_the_first_that_answers_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DOCKER", str(tmp_path / "rootful"))
    monkeypatch.setattr(module, "_PODMAN", str(tmp_path / "podman"))
    environ = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    expected = ["rootful", "run/docker.sock", ".docker/run/docker.sock", "run/podman/podman.sock", "podman"]
    assert list(default_sockets(environ)) == [str(tmp_path / name) for name in expected]
    assert endpoints_of(environ) == ()
    with pytest.raises(DockerUnavailable, match=UNAVAILABLE):
        engine_of(environ)
    (tmp_path / "rootful").write_text("no socket")
    with pytest.raises(DockerUnavailable, match=UNAVAILABLE) as refused:
        engine_of(environ)
    assert refused.value.hint == f"unix://{tmp_path}/rootful: that is no socket"
    with Talker(str(tmp_path / "podman"), lambda _: json_answer("{}")) as talker:
        engine = engine_of(environ)
        assert (engine.host, engine.is_local) == (talker.host, True)
        engine.close()


# -------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, cert.pem and key.pem of 127.0.0.1, for both sides; and other.pem, an authority of nothing."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    for name in ("ca", "other"):
        openssl(
            "req", "-x509", *key, "-keyout", f"{name}-key.pem", "-out", f"{name}.pem", "-subj", f"/CN={name}"
        )
    openssl("req", *key[:-2], "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=both")
    (folder / "extensions").write_text("subjectAltName=IP:127.0.0.1")
    openssl(
        *("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial"),
        *("-days", "2", "-out", "cert.pem", "-extfile", "extensions"),
    )
    return folder


@pytest.fixture
def serving(certificates: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    context.load_verify_locations(certificates / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def copied(certificates: Path, folder: Path, **names: str) -> Path:
    """A DOCKER_CERT_PATH with these of the files, under other names."""
    for target, source in names.items():
        shutil.copy(certificates / f"{source}.pem", folder / f"{target}.pem")
    return folder


def test_tls_carries_everything_there_and_back(
    tmp_path: Path, certificates: Path, serving: ssl.SSLContext
) -> None:
    (tmp_path / "file").write_bytes(bytes(300_000))
    with Talker("", lambda request: json_answer(str(len(request.body))), tls=serving) as talker:
        engine = engine_of(
            {"DOCKER_HOST": talker.host, "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(certificates)}
        )
        assert not engine.is_local
        for _ in range(2):
            assert engine.call("GET", "/x") == 0
            with (tmp_path / "file").open("rb") as file, engine.stream("PUT", "/x", body=file) as answer:
                assert answer.readall() == b"300000"
        engine.close()
        assert talker.connections == 1


def test_a_context_may_leave_certificates_unverified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certificates: Path, serving: ssl.SSLContext
) -> None:
    with Talker("", lambda _: json_answer("1"), tls=serving) as talker:
        make_context(monkeypatch, tmp_path, "far", talker.host, tls=False)
        folder = endpoints_of(os.environ)[0].tls
        assert folder is not None
        copied(certificates, Path(folder.folder), ca="other", cert="cert", key="key")
        engine = engine_of()
        assert engine.call("GET", "/x") == 1
        engine.close()


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ({"ca": "other", "cert": "cert", "key": "key"}, "certificate verify failed"),
        ({"ca": "ca"}, "GET /_ping: "),  # only then the server says so, or just ends it
        ({"ca": "ca", "cert": "cert"}, "No such file or directory"),
        ({"ca": "ca", "cert": "cert", "key": "other-key"}, "key values mismatch"),
    ],
    ids=["another authority", "no certificate of ours", "no key", "another key"],
)
def test_tls_that_fails_says_why_and_where_its_files_belong(
    tmp_path: Path, certificates: Path, serving: ssl.SSLContext, names: dict[str, str], reason: str
) -> None:
    folder = copied(certificates, tmp_path, **names)
    with Talker("", lambda _: None, tls=serving) as talker:
        environ = {"DOCKER_HOST": talker.host, "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(folder)}
        with pytest.raises(DockerUnavailable, match=UNAVAILABLE) as refused:
            engine_of(environ)
    assert "no TLS connection: " in refused.value.hint
    assert f"ca.pem, cert.pem and key.pem belong in {folder}" in refused.value.hint
    assert reason in refused.value.hint.replace("_VALUES_MISMATCH", " values mismatch").replace("KEY", "key")


def test_an_engine_that_wants_tls_says_so(serving: ssl.SSLContext) -> None:
    with (
        Talker("", lambda _: None, tls=serving) as talker,
        pytest.raises(DockerUnavailable, match=UNAVAILABLE) as refused,
    ):
        engine_of({"DOCKER_HOST": talker.host})
    assert "if it wants TLS: DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH" in refused.value.hint


# -------------------------------------------------------------------- ssh

RELAY = f"""#!{sys.executable}
import os, socket, sys, threading
with open({{log!r}}, "a") as log:
    print(os.getpid(), *sys.argv[1:], sep="|", file=log)
end = socket.socket(socket.AF_UNIX)
end.connect({{path!r}})
def upload():
    while data := os.read(0, 65536):
        end.sendall(data)
    end.shutdown(socket.SHUT_WR)
threading.Thread(target=upload, daemon=True).start()
while data := end.recv(65536):
    os.write(1, data)
"""


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program in the place of ssh."""

    def place(program: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "ssh").write_text(program)
        (folder / "ssh").chmod(stat.S_IRWXU)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return place


def test_ssh_carries_everything_there_and_back(tmp_path: Path, ssh: Callable[[str], None]) -> None:
    ssh(RELAY.format(log=str(tmp_path / "log"), path=str(tmp_path / "s")))
    with Talker(str(tmp_path / "s"), lambda request: json_answer(str(len(request.body)))) as talker:
        engine = engine_of({"DOCKER_HOST": "ssh://me@machine:2222/run/other engine.sock"})
        assert not engine.is_local
        for _ in range(2):
            with engine.stream("PUT", "/x", body=bytes(300_000)) as answer:
                assert answer.readall() == b"300000"
        engine.close()
        assert talker.connections == 1
    asked = (tmp_path / "log").read_text().splitlines()
    assert len(asked) == 1
    assert asked[0].endswith(
        "|-T|-l|me|-p|2222|--|machine|docker --host unix://'/run/other engine.sock' system dial-stdio"
    )
    assert "-o|BatchMode=yes|" in asked[0]


def test_ssh_ends_with_its_connection(tmp_path: Path, ssh: Callable[[str], None]) -> None:
    ssh(RELAY.format(log=str(tmp_path / "log"), path=str(tmp_path / "s")))
    with Talker(str(tmp_path / "s"), lambda _: None):
        engine = engine_of({"DOCKER_HOST": "ssh://machine.that.ends"})
        with pytest.raises(Lost, match="ssh ended with 0"):
            engine.call("POST", "/x")
        engine.close()
    for line in (tmp_path / "log").read_text().splitlines():
        with pytest.raises(ProcessLookupError, match="No such process"):
            os.kill(int(line.split("|")[0]), 0)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (
            "echo 'Warning: x' >&2; echo 'ssh: connect to host machine port 22: refused' >&2; exit 255",
            "port 22: refused",
        ),
        ("exit 127", "ssh ended with 127"),
        ("echo garbage; cat >/dev/null", "it answers 'garbage"),
    ],
    ids=["words", "no words", "a greeting"],
)
def test_ssh_that_fails_says_why(ssh: Callable[[str], None], program: str, words: str) -> None:
    ssh(f"#!/bin/sh\n{program}\n")
    with pytest.raises(DockerUnavailable, match=UNAVAILABLE) as refused:
        engine_of({"DOCKER_HOST": "ssh://me@machine"})
    assert refused.value.hint.startswith("ssh://me@machine (from DOCKER_HOST): ")
    assert words in refused.value.hint
    assert refused.value.hint.endswith("; try: ssh me@machine docker system dial-stdio")


def test_without_ssh_the_hint_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DockerUnavailable, match=UNAVAILABLE) as refused:
        engine_of({"DOCKER_HOST": "ssh://machine.without.ssh"})
    assert "install OpenSSH's client" in refused.value.hint


# -------------------------------------------------------------------- for other programs


def around(environment: Mapping[str, str], **others: str) -> dict[str, str]:
    return {**others, **environment}


def test_the_variables_of_an_engine_lead_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_context(monkeypatch, tmp_path, "mine", "tcp://machine:9", tls=False)
    folder = {"DOCKER_CONFIG": str(tmp_path)}
    for environ in (
        {**folder},
        {**folder, "DOCKER_HOST": "unix:///x"},
        {**folder, "DOCKER_HOST": "tcp://x", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/c"},
        {**folder, "DOCKER_HOST": "tcp://x", "DOCKER_TLS_VERIFY": ""},
    ):
        (found,) = endpoints_of(environ)
        other = around(found.environment, DOCKER_HOST="unix:///y", DOCKER_TLS_VERIFY="1", **folder)
        assert endpoints_of(other) == (found,)
