"""The program that serves jobs in a container, one after another, without Modal around it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from theory_adapter_modal.function.shipped import shim

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMITS = {"files": 50, "bytes": 1 << 30, "depth": 3}


class Container:
    """A process that serves; its /job, /artifacts and volume are below a folder."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        folder.chmod(0o755)
        self.root = folder / "root"
        self.log = folder / "log"
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("serving.py")), str(self.log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environ},
        )

    def serve(self, *command: str, **document: Any) -> dict[str, Any]:
        """Run a command, with THEORY_ROOT where its /job is."""
        call = {
            "execution": "e1",
            "command": command,
            "environment": {"THEORY_ROOT": str(self.root), "LC_ALL": "C.UTF-8"},
            "secrets": [],
            "timeout": 60,
            "memory": 512,
            "inputs": "{}",
            "files": [],
            "limits": LIMITS,
            "root": str(self.root),
            **document,
        }
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(call).encode() + b"\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def shell(self, script: str, **document: Any) -> dict[str, Any]:
        """Run a script in the folder with job and artifacts."""
        return self.serve("sh", "-c", f"cd $THEORY_ROOT || exit 99; {script}", **document)

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture
def container() -> Iterator[Container]:
    # Not below pytest's own folder, where only its user can go.
    with tempfile.TemporaryDirectory(prefix="theory-shim-") as folder:
        made = Container(Path(folder), {"A_KEY": "hunter22", "MODAL_TOKEN": "no"})
        yield made
        made.close()


def log_of(answer: dict[str, Any]) -> str:
    """What the command wrote, both streams as they came."""
    lines = base64.b64decode(answer["log"]["data"]).decode().splitlines()
    return "".join(json.loads(line.split(" ", 2)[2]) for line in lines)


def outputs_of(answer: dict[str, Any]) -> dict[str, Any]:
    return {
        one["path"]: base64.b64decode(one["data"]) if "data" in one else one["kind"]
        for one in answer["outputs"]
    }


def test_a_command_gets_its_inputs_and_its_outputs_come_back_as_they_are(container: Container) -> None:
    answer = container.shell(
        "cp job/inputs.json job/out/a.json; mkdir job/out/d; ln -s /etc/passwd job/out/l; mkfifo job/out/p",
        inputs='{"a":1}',
    )
    assert (answer["ended"], answer["exit_code"]) == ("exit", 0)
    assert outputs_of(answer) == {"a.json": b'{"a":1}', "d": "folder", "l": "link", "p": "pipe"}
    assert [one["target"] for one in answer["outputs"] if one["kind"] == "link"] == ["/etc/passwd"]


def test_an_attachment_is_where_it_should_be_and_cannot_be_written(container: Container) -> None:
    files = [{"path": "/artifacts/inputs/b3/x.txt", "data": base64.b64encode(b"x").decode()}]
    answer = container.shell(
        "cp artifacts/inputs/b3/x.txt job/out/; : > artifacts/inputs/b3/x.txt", files=files
    )
    assert outputs_of(answer)["x.txt"] == b"x"
    if os.geteuid() == 0:
        assert answer["exit_code"] != 0


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (("sh", "-c", "exit 3"), 3),
        (("sh", "-c", "kill -9 $$"), 137),
        (("no-such-program-here",), 127),
        (("/no/such/program",), 127),
        (("/etc/passwd",), 126),
    ],
    ids=["its own", "a signal", "not found", "no such path", "cannot run"],
)
def test_a_command_ends_as_in_a_shell(container: Container, command: tuple[str, ...], status: int) -> None:
    answer = container.serve(*command)
    assert (answer["ended"], answer["exit_code"]) == ("exit", status)


def test_a_command_that_takes_too_long_is_ended_and_its_log_is_whole(container: Container) -> None:
    answer = container.shell("echo before; sleep 60", timeout=0.5)
    assert (answer["ended"], answer["exit_code"]) == ("timeout", None)
    assert log_of(answer) == "before\n"


def test_a_command_that_takes_too_much_memory_is_ended(container: Container) -> None:
    answer = container.shell("head -c 200m /dev/zero | tail | sleep 60", memory=100)
    assert answer["ended"] == "oom"


def test_secrets_reach_the_command_and_are_masked_in_its_log_over_the_edges_of_portions(
    container: Container,
) -> None:
    script = "printf 'key: hunt'; sleep 0.1; printf 'er22\\n'; env | grep -c MODAL_; echo hunt"
    answer = container.shell(script, secrets=["A_KEY", "B_KEY"])
    assert log_of(answer) == "key: ***\n0\nhunt\n"
    assert "hunter22" not in container.log.read_text()


def test_every_piece_of_the_log_is_shown_while_it_runs_with_its_number(container: Container) -> None:
    answer = container.shell("echo one; echo two >&2; sleep 0.1; echo three")
    shown = [line.split(" ", 2) for line in container.log.read_text().splitlines()]
    assert {(name, attempt) for name, attempt, _ in shown} == {("theory-log", answer["attempt"])}
    assert [piece for *_, piece in shown] == base64.b64decode(answer["log"]["data"]).decode().splitlines()


def test_the_next_job_sees_no_process_of_the_last_one(container: Container) -> None:
    pids = log_of(
        container.shell(
            "sleep 60 & echo $!; setsid sleep 60 & echo $!; (setsid sleep 60 & echo $! ; exit) & wait $!"
        )
    ).split()
    assert len(pids) == 3
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as containers on Modal are")
def test_the_next_job_sees_no_file_of_the_last_one(container: Container) -> None:
    mark = os.urandom(6).hex()
    places = ("/tmp", "/var/tmp", "/dev/shm", "$HOME", "$THEORY_ROOT/job/out", "/")  # noqa: S108 - on purpose
    container.shell("; ".join(f"echo {mark} > {place}/{mark}" for place in places))
    assert not container.root.joinpath("job", "out").exists()
    answer = container.shell("; ".join(f"ls -a {place}" for place in places))
    assert mark not in log_of(answer)
    assert not [place for place in places if not place.startswith("$") and Path(place, mark).exists()]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as containers on Modal are")
def test_each_job_runs_as_somebody_else_who_is_not_root(container: Container) -> None:
    users = {log_of(container.shell("id -u")) for _ in range(3)}
    assert len(users) == 3
    assert "0\n" not in users


def test_outputs_beyond_the_limits_are_listed_so_far_and_not_read(container: Container) -> None:
    answer = container.shell("for i in $(seq 60); do : > job/out/$i; done")
    assert len(answer["outputs"]) == LIMITS["files"] + 1
    assert not [one for one in answer["outputs"] if "data" in one]
    sparse = container.shell("truncate -s 2G job/out/sparse")
    assert [(one["path"], one["size"]) for one in sparse["outputs"]] == [("sparse", 2 << 30)]
    deep = container.shell("mkdir -p job/out/a/b/c/d/e/f")
    assert [one["path"] for one in deep["outputs"]] == ["a", "a/b", "a/b/c", "a/b/c/d"]


def test_a_document_that_is_wrong_is_answered_in_words(container: Container) -> None:
    assert container.serve("true", files=[{"path": "/artifacts/x", "data": "%"}])["fault"].startswith("Error")
    assert container.serve("true")["exit_code"] == 0


def test_what_brings_modal_into_the_container_does_not_reach_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shim()
    box = sys.modules["theory_box"]
    own = str(Path(json.__file__).parent.parent)
    monkeypatch.setenv("PYTHONPATH", f"{own}:/opt/of-the-image")
    monkeypatch.setenv("MODAL_TASK_ID", "ta-1")
    variables = box.image_variables()
    assert variables["PYTHONPATH"] == "/opt/of-the-image"
    assert not [name for name in variables if name.startswith("MODAL_")]
