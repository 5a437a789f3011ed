"""A hostile image gets nowhere: whatever it tries in its container, it has what it was given and no more."""

from __future__ import annotations

import ctypes
import io
import json
import os
import socket
import subprocess
import tarfile
import threading
import uuid
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import theory_adapter_local.adapter as local
from theory.testing.bench import Bench, artifact_of
from theory.types import ImageSource, Runtime
from theory_adapter_local.engine.client import Refused
from theory_adapter_local.files.tarball import Packed, pack
from theory_adapter_local.guard.orphans import remove_orphans
from theory_adapter_local.guard.watchdog import OWNER, own_labels
from theory_adapter_local.options import Options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theory_adapter_local.engine.client import Engine

ATTACKER = Path(__file__).with_name("attacker.py")
PROGRAM, MARKED = "/hostile/attacker.py", "/hostile/id"
BLOB = b"what the store has"
MEMORY = 192  # MiB
SCRATCH_BYTES = MEMORY // 2 << 20
LARGEST = 64  # MiB of an output
PATIENCE = 60.0  # seconds
# What the image says of itself, to be run otherwise than it is asked to.
LINES = (
    "USER root",
    'ENTRYPOINT ["python", "-c", "print(0)"]',
    'CMD ["ignored"]',
    "ENV THEORY_ROOT=/evil THEORY_SEED=66 HOME=/root LD_PRELOAD=/hostile/preload.so",
    "VOLUME /data /job/out /artifacts /run/secrets",
    "HEALTHCHECK --interval=1s CMD touch /tmp/checked",
    "ONBUILD RUN false",
    "WORKDIR /evil",
    "LABEL theory.keep=true theory.owner=me theory.deadline=99999999999",
)
# Whatever a container may do: they are mount points, and of another file system.
IMPOSSIBLE = {"link an artifact into out", "replace out", "remove out"}
# Where a test's own machine is a guest, it may not have what it takes.
RARE = {"read the kernel's memory", "write /proc/sysrq-trigger", "allow oneself more than allowed"}
# A root who has his files as copies may add to their volumes, which are removed with the container.
BESIDE = {"make a file in /job/", "make a file in /artifacts/"}


@pytest.fixture(scope="module")
def hostile(engine: Engine, base_image: str) -> Iterator[ImageSource]:
    """The usual image with the attacker, a program of root's that is marked to run as root, and LINES."""
    created = {"Image": base_image, "StopSignal": "SIGCONT"}
    container = engine.call("POST", "/containers/create", body=created)["Id"]  # type: ignore[arg-type]
    archive = f"/containers/{container}/archive"
    tag = uuid.uuid4().hex
    try:
        with engine.stream("GET", archive, query={"path": "/usr/bin/id"}) as answer:
            found = io.BytesIO(b"".join(iter(lambda: answer.read(65536), b"")))
        with tarfile.open(fileobj=found) as packed:
            member = packed.extractfile("id")
            assert member
            things = ((PROGRAM, ATTACKER.read_bytes(), 0o644), (MARKED, member.read(), 0o6755))
        headers = {"Content-Type": "application/x-tar"}
        body = b"".join(pack(Packed(path[1:], mode, (0, 0), data) for path, data, mode in things))
        with engine.stream("PUT", archive, query={"path": "/"}, body=body, headers=headers) as answer:
            answer.read()
        query = {"container": container, "repo": "theory-test", "tag": tag, "changes": "\n".join(LINES)}
        engine.call("POST", "/commit", query=query)
    finally:
        engine.call("DELETE", f"/containers/{container}", query={"v": "1"})
    yield ImageSource(oci=f"theory-test:{tag}")
    engine.call("DELETE", f"/images/theory-test:{tag}", query={"force": "1"})


@contextmanager
def things_of_the_host(engine: Engine, folder: Path) -> Iterator[dict[str, Any]]:
    """What an attacker would like to reach: servers, a process, a file, shared memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    marker = uuid.uuid4().hex
    (folder / "file").write_text("of the host")
    networks = engine.call("GET", "/networks")
    bridge: Any = next((network for network in networks if network["Name"] in {"bridge", "podman"}), {})
    configured = bridge.get("IPAM", {}).get("Config") or [{}]
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("0.0.0.0", 0)))  # noqa: S104 - the gateway
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0{marker}")
        abstract.listen()

        def answer(listener: socket.socket) -> None:
            while True:
                try:
                    stream, _ = listener.accept()
                except OSError:
                    return
                stream.close()

        for listener in (server, abstract):
            thread = threading.Thread(target=answer, args=(listener,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
        sleeper = subprocess.Popen(["sleep", "600"], env={**os.environ, "MARKER": marker})
        stack.callback(sleeper.wait)
        stack.callback(sleeper.kill)
        segment = libc.shmget(key := int(marker[:7], 16) + 1, 4096, 0o1666)
        assert segment >= 0
        stack.callback(libc.shmctl, segment, 0, None)
        yield {
            "port": server.getsockname()[1],
            "gateway": configured[0].get("Gateway", "127.0.0.1"),
            "abstract": marker,
            "marker": marker,
            "file": str(folder / "file"),
            "shared": key,
            "disk": os.stat("/").st_dev,
        }


class Attack(NamedTuple):
    """What came of one."""

    succeeded: set[str]
    allowed: set[str]
    bounds: dict[str, Any]
    outputs: dict[str, bytes]
    blob: tuple[bytes, list[float]]  # of the store, which the artifact is a link to: before …
    after: tuple[bytes, list[float]]  # … and after


def state_of(file: Path) -> tuple[bytes, list[float]]:
    found = file.stat()
    return file.read_bytes(), [found.st_mode, found.st_uid, found.st_gid, found.st_mtime, found.st_size]


@pytest.fixture(
    scope="module",
    params=[(None, set()), ("0:0", set()), ("image", BESIDE)],
    ids=["nobody", "root", "root whose files are copies"],
)
def attack(
    request: pytest.FixtureRequest,
    engine: Engine,
    hostile: ImageSource,
    tmp_path_factory: pytest.TempPathFactory,
) -> Attack:
    """One by nobody in particular, or by root in his container, as his image wants."""
    user, allowed = request.param
    base: Path = tmp_path_factory.mktemp("hostile")
    (base / "bench").mkdir()
    options = Options(user=user, output_size=LARGEST)
    bench = Bench(
        local, base / "bench", base / "cache", lambda _: hostile, lambda _: {}, lambda _: options, PATIENCE
    )
    artifact = artifact_of("a.txt", BLOB)
    with things_of_the_host(engine, base) as told:
        what = json.dumps({**told, "artifact": artifact.path, "bounds": True})
        command = ("python", PROGRAM, what, "argv")
        job = bench.job(files=(artifact,), command=command, runtime=Runtime(cpu=0.5, memory=MEMORY))
        workspace = bench.workspace(job, {artifact.path: BLOB})
        os.link(f"{workspace.root}{artifact.path}", base / "blob")
        before = state_of(base / "blob")
        ran = bench.run(job, workspace=workspace)
    assert ran.outcome.exit_code == 0, str(ran)
    said = json.loads(ran.channel.output("stdout"))
    return Attack({*said["got"]}, allowed, said["bounds"], ran.outputs(), before, state_of(base / "blob"))


# ---------------------------------------------------------------- what it tries


def test_no_attempt_succeeds(attack: Attack) -> None:
    assert attack.succeeded == attack.allowed


def test_the_blob_in_the_store_is_as_it_was(attack: Attack) -> None:
    assert attack.after == attack.blob
    assert attack.outputs == {}


def test_each_attempt_succeeds_where_nothing_hardens(
    engine: Engine, hostile: ImageSource, tmp_path: Path
) -> None:
    """Otherwise the others would prove nothing."""
    name, socket_path = f"theory-test-{uuid.uuid4().hex}", engine.host.removeprefix("unix://")
    for folder in ("out", "artifacts"):
        (tmp_path / folder).mkdir()
    (tmp_path / "artifacts" / "a").write_bytes(BLOB)
    (tmp_path / "inputs").write_bytes(b"{}")
    open_to_all = {
        "Binds": [
            f"{tmp_path}/out:/job/out",
            f"{tmp_path}/artifacts:/artifacts",
            f"{tmp_path}/inputs:/job/inputs.json",
            f"{socket_path}:/var/run/docker.sock",
        ],
        **dict.fromkeys(("NetworkMode", "PidMode", "IpcMode"), "host"),
        "CapAdd": ["SYS_ADMIN", "SYS_PTRACE", "SYS_TIME", "SYS_NICE", "SYS_RAWIO", "DAC_READ_SEARCH"],
        "SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined"],
        "MaskedPaths": [],
        "ReadonlyPaths": [],
    }
    with things_of_the_host(engine, tmp_path) as told:
        told |= {"artifact": "/artifacts/a", "bounds": False}
        command = ["python", PROGRAM, json.dumps(told)]
        body: Any = {"Image": hostile.oci, "Entrypoint": command, "HostConfig": open_to_all}
        engine.call("POST", "/containers/create", query={"name": name}, body=body)
        try:
            attached = engine.attach(name)
            engine.call("POST", f"/containers/{name}/start")
            frames = list(attached.frames())
            attached.close()
        finally:
            engine.call("DELETE", f"/containers/{name}", query={"force": "1", "v": "1"})
    said = b"".join(data for stream, data in frames if stream == "stdout")
    assert json.loads(said or '{"failed": {}}')["failed"].keys() - RARE == IMPOSSIBLE, frames


# ---------------------------------------------------------------- what it has


def test_what_a_container_may_take_is_bounded(attack: Attack) -> None:
    bounds = attack.bounds
    # In whole MiB as the attacker writes, less what it has there already.
    assert SCRATCH_BYTES - (8 << 20) <= bounds["tmp"] <= SCRATCH_BYTES
    assert SCRATCH_BYTES - (8 << 20) <= bounds["shm"] <= SCRATCH_BYTES
    assert 0 < bounds["volume"] <= SCRATCH_BYTES
    assert isinstance(bounds["dev"], str) or bounds["dev"] <= 64 << 20
    assert 900 < bounds["threads"] < 1024
    assert bounds["largest"] == LARGEST << 20
    assert bounds["files"] <= 65536
    assert bounds["core"] == 0
    assert bounds["cpu"][0] == "50000"  # microseconds of each 100 ms
    assert bounds["memory"] == [str(MEMORY << 20)]
    # None: with the memory in version 1 of control groups, which has it only where the kernel was told to.
    assert bounds["swap"] in (["0"], bounds["memory"], [])


def test_scratch_runs_what_is_compiled_there_and_nothing_with_more_rights(attack: Attack) -> None:
    assert {"rw", "nosuid", "nodev"} <= {*attack.bounds["scratch"]}
    assert "noexec" not in attack.bounds["scratch"]
    assert attack.bounds["runs in scratch"] == 0


def test_no_program_gains_rights_and_system_calls_are_filtered(attack: Attack) -> None:
    assert (attack.bounds["NoNewPrivs"], attack.bounds["Seccomp"]) == ("1", "2")
    assert attack.bounds["first"] != "python"  # process 1 passes signals on


def test_the_image_decides_neither_the_command_nor_its_variables(attack: Attack) -> None:
    assert attack.bounds["argv"] == ["argv"]
    environ = attack.bounds["environ"]
    assert (environ["THEORY_ROOT"], environ["THEORY_SEED"], environ["HOME"]) == ("", "7", "/" + "tmp")


def test_the_image_cannot_keep_what_is_left_of_it(engine: Engine, hostile: ImageSource) -> None:
    labels = own_labels(60)
    labels[OWNER] = labels[OWNER].rsplit(":", 2)[0] + ":1:1"  # of somebody who has died
    body: Any = {"Image": hostile.oci, "Labels": labels, "Entrypoint": ["true"]}
    name = f"theory-{uuid.uuid4()}"
    engine.call("POST", "/containers/create", query={"name": name}, body=body)
    remove_orphans(engine)
    with pytest.raises(Refused, match="No such container"):
        engine.call("GET", f"/containers/{name}/json")
