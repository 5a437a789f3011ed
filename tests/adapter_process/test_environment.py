"""Environments: what is in them, built once, healed, and honest about failures."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from theory import errors
from theory.testing.channel import RecordingChannel
from theory.types import SecretNeeds, Secrets
from theory_adapter_process.adapter import Options
from theory_adapter_process.environment import find_interpreter, pip_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theory.testing.bench import Bench
    from theory.types import Job

BUILT = b"installing the requirements of contract/steps@1, this once\n"
USE_TINY = ("python", "-c", "import tiny; print(tiny.ANSWER)")


def environments(bench: Bench) -> list[Path]:
    return [path for path in (bench.cache / "environments").iterdir() if path.is_dir()]


# ---------------------------------------------------------------- what is in them


def test_requirements_are_installed_and_their_programs_are_on_the_path(
    bench: Bench, locked_tiny: dict[str, Any]
) -> None:
    ran = bench.run(bench.job(command=USE_TINY, **locked_tiny))
    *progress, answer = ran.channel.output("stdout").splitlines()
    assert answer == b"42", str(ran)
    assert {"event": "progress", "message": "Successfully installed tiny-1.0"} in map(json.loads, progress)
    assert ran.channel.output("stderr") == BUILT
    again = bench.run(bench.job(command=("tiny",), **locked_tiny))
    assert again.outcome.exit_code == 6, str(again)  # (42).bit_length()
    assert BUILT not in again.channel.output("stderr")


def test_requirements_are_installed_where_no_pip_is_beside_theory(
    bench: Bench, locked_tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("theory_adapter_process.environment.own_pip", lambda: (0, 0))
    ran = bench.run(bench.job(command=USE_TINY, **locked_tiny))
    assert answer(ran.channel.output("stdout")) == b"42", str(ran)


def test_entries_without_requirements_share_one_environment(bench: Bench) -> None:
    for word in ("a", "b"):
        assert bench.run(bench.job(command=("python", "-c", f"print({word!r})"))).outcome.exit_code == 0
    assert len(environments(bench)) == 1


def test_other_requirements_are_another_image_and_another_environment(
    bench: Bench, locked_tiny: dict[str, Any]
) -> None:
    first = bench.job(command=USE_TINY, **locked_tiny)
    bench.run(first)
    lock = bench.folder / "entry" / "requirements.lock"
    lock.write_bytes(b"# another\n" + lock.read_bytes())
    second = bench.job(command=USE_TINY, **locked_tiny)
    bench.run(second)
    assert first.image.id != second.image.id
    assert len(environments(bench)) == 2


def test_a_hash_that_does_not_match_is_refused(bench: Bench, locked_tiny: dict[str, Any]) -> None:
    lock = bench.folder / "entry" / "requirements.lock"
    lock.write_text("tiny==1.0 --hash=sha256:" + "0" * 64, encoding="utf-8")
    job = bench.job(command=USE_TINY, **locked_tiny)
    with pytest.raises(errors.ImageBuildFailed, match="DO NOT MATCH THE HASHES"):
        bench.run(job)


@pytest.mark.parametrize("version", ["3.10", "3.12", "3.13"])
def test_the_user_may_choose_the_interpreter(bench: Bench, version: str) -> None:
    found = _pythons(version)
    if not found:
        pytest.skip(f"python{version} is not installed")
    bench.options = lambda _: Options(python=found[0])
    job = bench.job(command=("python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"))
    assert job.image.python == version
    assert bench.run(job).channel.output("stdout").decode() == f"{version}\n"


def test_an_interpreter_inside_a_virtual_environment_is_taken_without_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    assert find_interpreter(str(tmp_path / "venv/bin/python")) == find_interpreter(None)


# ---------------------------------------------------------------- built once


def test_ten_first_runs_at_once_build_once(bench: Bench, locked_tiny: dict[str, Any]) -> None:
    adapter = json.dumps(locked_tiny["adapter"])
    job = bench.job(command=USE_TINY, **locked_tiny)
    channels = [RecordingChannel() for _ in range(6)]
    threads = [bench.start(job_of(bench, locked_tiny), channel=channel) for channel in channels]
    callers = [call(bench, adapter, bench.folder.parent / f"caller-{number}") for number in range(4)]
    said = [caller.communicate(timeout=60) for caller in callers]
    answers = [later.within(60).channel.output("stdout") for later in threads] + [out for out, _ in said]
    assert list(map(answer, answers)) == [b"42"] * 10, said
    logs = [channel.output("stderr") for channel in channels] + [log for _, log in said]
    assert sum(log.count(BUILT) for log in logs) == 1
    assert job.image.id.startswith("process:b3:")


def test_waiting_for_somebody_elses_build_can_be_cancelled(
    bench: Bench, locked_tiny: dict[str, Any], silent_index: SilentIndex
) -> None:
    builder, waiter = RecordingChannel(), RecordingChannel()
    building = bench.start(job_of(bench, locked_tiny), channel=builder)
    silent_index.accept()
    waiting = bench.start(job_of(bench, locked_tiny), channel=waiter)
    waiter.cancel()
    assert waiting.within(5).outcome.ended == "cancelled"
    builder.cancel()
    assert building.within(10).outcome.ended == "cancelled"


# ---------------------------------------------------------------- half built


def test_an_environment_without_its_mark_is_built_again(bench: Bench, locked_tiny: dict[str, Any]) -> None:
    job = bench.job(command=USE_TINY, **locked_tiny)
    bench.run(job)
    (place,) = environments(bench)
    (place / "complete").unlink()
    for module in place.rglob("tiny.py"):
        module.unlink()
    assert answer(bench.run(job).channel.output("stdout")) == b"42"


def test_an_environment_whose_interpreter_is_gone_is_built_again(bench: Bench) -> None:
    job = bench.job(command=("python", "-c", "print(1)"))
    bench.run(job)
    (place,) = environments(bench)
    (place / "bin" / "python").unlink()
    (place / "bin" / "python").symlink_to("/none/python")
    assert bench.run(job).channel.output("stdout") == b"1\n"


def test_kill_9_of_a_building_caller_ends_pip_and_the_next_run_heals(
    bench: Bench, locked_tiny: dict[str, Any], silent_index: SilentIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = call(bench, json.dumps(locked_tiny["adapter"]), bench.folder)
    connection = silent_index.accept()
    caller.kill()
    caller.communicate(timeout=10)
    silent_index.wait_for_the_end_of(connection)
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(bench.folder.parent / "wheels"))
    ran = bench.run(job_of(bench, locked_tiny))
    assert answer(ran.channel.output("stdout")) == b"42", str(ran)


def test_a_cancelled_build_ends_pip_and_leaves_nothing_that_counts(
    bench: Bench, locked_tiny: dict[str, Any], silent_index: SilentIndex
) -> None:
    channel = RecordingChannel()
    later = bench.start(job_of(bench, locked_tiny), channel=channel)
    connection = silent_index.accept()
    channel.cancel()
    ran = later.within(10)
    assert (ran.outcome.ended, ran.outcome.exit_code) == ("cancelled", None)
    assert "started" not in channel.heard
    silent_index.wait_for_the_end_of(connection)
    assert not list(bench.cache.rglob("complete"))


# ---------------------------------------------------------------- failures


def test_a_build_that_fails_says_what_pip_said(bench: Bench, locked_tiny: dict[str, Any]) -> None:
    lock = bench.folder / "entry" / "requirements.lock"
    lock.write_text("no-such-package==1.0\n", encoding="utf-8")
    job = bench.job(command=USE_TINY, **locked_tiny)
    channel = RecordingChannel()
    later = bench.start(job, channel=channel)
    with pytest.raises(
        errors.ImageBuildFailed,
        match=r"(?s)^the environment of contract/steps@1 could not be built: pip ended with 1\n.*no-such",
    ):
        later.within(30)
    assert channel.output("stderr") == BUILT
    assert "started" not in channel.heard


def test_a_lock_with_hashes_that_misses_a_dependency_is_refused_by_the_build(
    bench: Bench, locked_leaning: dict[str, Any]
) -> None:
    with pytest.raises(errors.ImageBuildFailed, match=r"(?s)In --require-hashes mode.*tiny from .*leaning"):
        bench.run(bench.job(command=USE_TINY, **locked_leaning))


def test_pip_gets_the_way_to_its_index_and_nothing_else() -> None:
    way = {
        "PIP_INDEX_URL": "https://index/",
        "PIP_CERT": "cert.pem",
        "https_proxy": "proxy",
        "NO_PROXY": "host",
        "SSL_CERT_FILE": "cert.pem",
        "HOME": "/home/me",
        "PATH": "/bin",
    }
    elsewhere = ("PIP_TARGET", "PIP_USER", "PIP_NO_DEPS", "PIP_CONSTRAINT", "PIP_UPGRADE_STRATEGY")
    others = ("PYTHONPATH", "AWS_SECRET_ACCESS_KEY", "PIP_TOKEN", "VIRTUAL_ENV", "LD_PRELOAD")
    caller = {**way, **dict.fromkeys((*elsewhere, *others), "x")}
    assert pip_environment(caller, ["PIP_TOKEN"]) == {**way, "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1"}


def test_a_secret_does_not_reach_the_build(
    bench: Bench, locked_tiny: dict[str, Any], silent_index: SilentIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = os.environ["PIP_INDEX_URL"]
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{url}secret/")
    channel = RecordingChannel()
    job = bench.job(command=USE_TINY, secrets=SecretNeeds(("PIP_EXTRA_INDEX_URL",)), **locked_tiny)
    later = bench.start(job, channel=channel, secrets=Secrets({"PIP_EXTRA_INDEX_URL": "s3cret"}))
    silent_index.accept()
    channel.cancel()
    later.within(10)
    assert b"secret" not in channel.output("stderr") + channel.output("stdout")


# ---------------------------------------------------------------- tools


def answer(stdout: bytes) -> bytes:
    """What the command itself said, after the progress of a build."""
    return stdout.splitlines()[-1]


class SilentIndex:
    """A package index that takes a connection and never answers."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(30)
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}/"
        self._connections: list[socket.socket] = []

    def accept(self) -> socket.socket:
        """Wait until pip has asked."""
        connection, _ = self._server.accept()
        connection.settimeout(10)
        self._connections.append(connection)
        return connection

    def wait_for_the_end_of(self, connection: socket.socket) -> None:
        """Return once the process at the other end is gone; TimeoutError if it is not."""
        while connection.recv(4096):
            pass

    def close(self) -> None:
        for one in (self._server, *self._connections):
            one.close()


@pytest.fixture
def silent_index(monkeypatch: pytest.MonkeyPatch) -> Iterator[SilentIndex]:
    index = SilentIndex()
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield index
    index.close()


def job_of(bench: Bench, changes: dict[str, Any]) -> Job:
    return bench.job(command=USE_TINY, **changes)


def call(bench: Bench, adapter: str, folder: Path) -> subprocess.Popen[bytes]:
    """A program of its own that runs the same entry, with the same cache."""
    if folder != bench.folder:
        shutil.copytree(bench.folder / "entry", folder / "entry")
    return subprocess.Popen(
        [
            sys.executable,
            str(Path(__file__).with_name("caller.py")),
            str(folder),
            json.dumps(USE_TINY),
            adapter,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def _pythons(version: str) -> list[str]:
    """Where this machine has another Python: on PATH, or beside our own as pyenv has them."""
    beside = Path(find_interpreter(None).path).parents[2].glob(f"{version}.*/bin/python{version}")
    on_path = shutil.which(f"python{version}")
    working = [str(path) for path in beside] + ([on_path] if on_path else [])
    return [
        path
        for path in working
        if subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0
    ]
