"""A daemon, one of our own, is stopped or killed and started again while a container runs."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from adapter_local.command import WAITS, Command, expect_gone, expect_settled, new_id
from theory_adapter_local.engine.client import Engine, Lost, engine_of
from theory_adapter_local.engine.faults import DockerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IMAGE = "theory-test-tiny:1"
MINUTE = 60.0


class Daemon:
    """An engine of its own, with a network of its own: it would take the other one's bridge down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = f"unix://{folder}/docker"
        containers = ("--root", f"{folder}/c", "--state", f"{folder}/cs", "--config", os.devnull)
        # As a system's service, it outlives the daemon.
        self.containerd = self._begin("containerd", "--address", f"{folder}/containerd", *containers)
        wait_for((folder / "containerd").exists)

    def start(self) -> None:
        """Start it; it answers when this returns."""
        roots = ("--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec")
        network = ("--bridge=none", "--iptables=false", "--ip-forward=false")
        where = ("--host", self.host, "--pidfile", f"{self.folder}/pid")
        self.dockerd = self._begin(
            "dockerd", "--containerd", f"{self.folder}/containerd", *where, *roots, *network
        )
        wait_for(self._answers)

    def stop(self, number: signal.Signals) -> None:
        """Stop it, in one way or the other."""
        self.dockerd.send_signal(number)
        self.dockerd.wait(MINUTE)

    def close(self) -> None:
        """Leave nothing of it."""
        for process in (self.dockerd, self.containerd):
            process.terminate()
            process.wait(MINUTE)
        subprocess.run(["umount", f"{self.folder}/data"], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.folder)

    def _begin(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                ["unshare", "--net", "--", *words], stdout=log, stderr=log, start_new_session=True
            )

    def _answers(self) -> bool:
        assert self.dockerd.poll() is None, (self.folder / "log").read_text()
        try:
            self.engine.call("GET", "/version")
        except (DockerUnavailable, Lost):
            return False
        return True

    @property
    def engine(self) -> Engine:
        """A client for it."""
        return engine_of({"DOCKER_HOST": self.host})


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("needs Linux, and to be root")
    for program in ("dockerd", "containerd", "unshare", "ldd"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    daemon = Daemon(Path(tempfile.mkdtemp(prefix="theory-")))  # short: the path of a socket has 107 bytes
    try:
        daemon.start()
        query = {"fromSrc": "-", "repo": IMAGE.partition(":")[0], "tag": IMAGE.partition(":")[2]}
        with daemon.engine.stream("POST", "/images/create", query=query, body=tiny_image()) as answer:
            assert b"sha256:" in answer.read()
        yield daemon
    finally:
        daemon.close()


def tiny_image() -> bytes:
    """This machine's shell and sleep, and their libraries."""
    programs = ["/bin/sh", "/bin/sleep"]
    told = subprocess.run(["ldd", *programs], check=True, capture_output=True, text=True).stdout
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", dereference=True) as archive:
        for path in {*programs, *re.findall(r"(/\S+) \(0x", told)}:
            archive.add(path, path.lstrip("/"))
    return content.getvalue()


def wait_for(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + MINUTE
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.fixture
def command(daemon: Daemon, tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path, daemon.host)
    command.entry(IMAGE, *WAITS)
    yield command
    command.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_restart_of_the_daemon_in_mid_run_is_told_and_leaves_nothing(
    daemon: Daemon, command: Command, number: signal.Signals
) -> None:
    execution_id = new_id()
    run = command.start("--execution-id", execution_id)
    run.says("up")
    daemon.stop(number)
    daemon.start()
    status, envelope = run.end(MINUTE)
    assert (status, envelope["error"]["code"]) == (75, "ERR_RETRY"), envelope
    assert "the Docker daemon was stopped while the container" in envelope["error"]["message"]
    expect_gone(daemon.engine, execution_id)
    expect_settled(command.plan())


def test_a_caller_that_dies_while_the_daemon_is_down_leaves_nothing(daemon: Daemon, command: Command) -> None:
    execution_id = new_id()
    run = command.start("--execution-id", execution_id)
    run.says("up")
    daemon.stop(signal.SIGKILL)
    run.process.kill()
    daemon.start()
    expect_gone(daemon.engine, execution_id)
    expect_settled(command.plan())
