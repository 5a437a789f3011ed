"""What a machine does to a run: full or damaged disks, readers that do not read, no more processes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from house.command import EntryMaker, Theory

HEAD = "import json, os, sys\nos.chdir(os.environ['THEORY_ROOT'] + '/job/out')\n"
HELLO = HEAD + "open('a.txt', 'w').write('hello')\n"
LARGE = HEAD + "open('a.bin', 'wb').write(b'abcd' * 250_000)\n"
LOUD = HEAD + "open('a.txt', 'w').write('hello')\nfor n in range(40_000): print('x' * 50, file=sys.stderr)\n"
SOON = 30  # seconds


def run(root: Path, *options: str | Path) -> tuple[str | Path, ...]:
    return ("run", "test/thing@1", "--adapter", "process", "--registry", root, *options)


def held(theory: Theory) -> Any:
    """What runs hold on the plan, in micro-USD."""
    return theory("plan", "show", "default").ok().json["reserved_micro_usd"]


# ---------------------------------------------------------------- who reads, and who does not


@pytest.mark.parametrize("end", ["timeout", "Ctrl-C"])
def test_a_reader_of_stderr_that_does_not_read_does_not_hold_up_the_end(
    theory: Theory, entry: EntryMaker, end: str
) -> None:
    program = LOUD + ("" if end == "timeout" else "import signal\nsignal.pause()\n")
    root = entry("test/thing@1", program, cost={"reserve_micro_usd": 20}, runtime={"timeout": 2})
    process = theory.start(*run(root, "--json", *(("--timeout", "600") if end == "Ctrl-C" else ())))
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stderr.read(1) == b"x"  # the command runs, and soon all pipes are full
    if end == "Ctrl-C":
        process.send_signal(signal.SIGINT)
    line = process.stdout.readline()  # the answer is there, though nobody reads stderr
    code = {"timeout": "ERR_TIMEOUT", "Ctrl-C": "ERR_INTERRUPTED"}[end]
    assert json.loads(line)["error"]["code"] == code
    assert held(theory) == 0
    process.communicate(timeout=SOON)


def test_a_standard_stream_that_is_closed_or_full_changes_no_verdict(
    theory: Theory, entry: EntryMaker
) -> None:
    command = [theory.command, *map(str, run(entry("test/thing@1", HELLO + "print('said')\n"), "--stream"))]
    for redirection, status in {
        ">&-": 0,
        "2>&-": 0,
        ">&- 2>&-": 0,
        "2>/dev/full": 0,
        ">/dev/full": 3,  # the answer could not be written, and stderr says so
    }.items():
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {redirection}', "sh", *command],
            capture_output=True,
            env=theory.environment,
            cwd=theory.cwd,
            timeout=SOON,
            check=False,
        )
        assert done.returncode == status, (redirection, done)
        assert b"Traceback" not in done.stderr
        if redirection.startswith("2"):
            assert json.loads(done.stdout)["status"] == "success"
    assert theory("ls").ok().stdout.count("success") == 5


# ---------------------------------------------------------------- disks


def test_a_store_that_takes_no_more_is_told_and_nothing_is_left_in_it(theory: Theory) -> None:
    (theory.cwd / "text.txt").write_bytes(b"word " * 200_000)
    inputs = '{"file":{"$attach":"text"}}'
    command = ("run", "text/wordcount@1", "--adapter", "mock", "--json", "--attach", "text=text.txt")
    process = theory.start(
        *command,
        *("--inputs-json", inputs),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY)),
    )
    stdout, stderr = process.communicate(timeout=SOON)
    error = json.loads(stdout)["error"]
    assert (error["code"], process.returncode) == ("ERR_STORE", 3), stderr
    assert str(theory.home) in error["message"]
    assert error["hint"]
    assert [file for file in (theory.home / "store").rglob("*") if file.stat().st_size > 100_000] == []
    theory(*command, "--inputs-json", inputs).ok()


def test_a_home_that_cannot_be_written_is_told(theory: Theory) -> None:
    closed = theory.cwd / "closed"
    closed.mkdir(mode=0o500)
    home = closed if os.geteuid() else "/proc"  # where even root makes no folder
    result = theory.with_environ(THEORY_HOME=f"{home}/home").hello("--json")
    error = result.line["error"]
    assert error["code"] in {"ERR_LEDGER", "ERR_STORE"}
    assert f"{home}/home" in error["message"]
    assert error["hint"]


def test_a_blob_that_is_damaged_is_served_by_nothing(theory: Theory, entry: EntryMaker) -> None:
    root = entry("test/thing@1", LARGE, determinism="pure")
    output = theory(*run(root, "--json")).ok().line["outputs"][0]
    (blob,) = [file for file in theory.home.rglob("*") if file.is_file() and file.stat().st_size == 1_000_000]
    blob.chmod(0o600)
    with blob.open("r+b") as file:
        file.seek(500_000)
        file.write(b"!")
    cat = theory("cat", output["path"])
    assert (cat.code, "ERR" in cat.stdout) == (3, False)
    assert "damaged" in cat.stderr
    (theory.cwd / "copies").mkdir()
    got = theory("get", output["path"], "--to", "copies")
    assert got.code == 3
    assert not list((theory.cwd / "copies").rglob("a.bin"))
    again = theory(*run(root, "--json", "--save-dir", "saved")).ok().line
    assert again["meta"]["memo"] == "miss"  # it ran again, and healed the blob
    assert (theory.cwd / "saved" / output["path"][1:]).read_bytes() == b"abcd" * 250_000
    assert theory("cat", output["path"]).ok().stdout == "abcd" * 250_000


# ---------------------------------------------------------------- processes


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: strace")
def test_where_no_process_can_be_made_a_later_try_is_advised(theory: Theory, entry: EntryMaker) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    root = entry("test/thing@1", HELLO, cost={"reserve_micro_usd": 20})
    done = subprocess.run(
        [
            *(strace, "-f", "-o", os.devnull, "-e", "trace=clone,clone3,vfork,fork"),
            *("-e", "inject=clone,clone3,vfork,fork:error=EAGAIN"),
            *(theory.command, *map(str, run(root, "--json"))),
        ],
        capture_output=True,
        env=theory.environment,
        cwd=theory.cwd,
        timeout=SOON,
        check=False,
    )
    if b"ptrace" in done.stderr:
        pytest.skip("strace is not installed")  # … such that it may trace
    error = json.loads(done.stdout)["error"]
    assert (error["code"], done.returncode) == ("ERR_RETRY", 75), done
    assert "no room for another" in error["message"]
    assert "ulimit -u" in error["hint"]
    assert held(theory) == 0


# ---------------------------------------------------------------- at once


def test_runs_of_the_same_everything_at_once_are_each_whole(theory: Theory, entry: EntryMaker) -> None:
    root = entry("test/thing@1", LARGE, determinism="pure")
    options = ("--json", "--save-dir", "saved", "--save-first", "first.bin")
    processes = [theory.start(*run(root, *options)) for _ in range(4)]
    answers = [json.loads(process.communicate(timeout=SOON)[0]) for process in processes]
    assert [answer["status"] for answer in answers] == ["success"] * 4
    assert len({answer["outputs"][0]["cid"] for answer in answers}) == 1
    assert len({answer["execution_id"] for answer in answers}) == 4
    assert (theory.cwd / "saved" / "artifacts" / "outputs" / "a.bin").read_bytes() == b"abcd" * 250_000
    assert sorted(os.listdir(theory.cwd)) == ["first.bin", "saved"]


def test_runs_of_one_execution_at_once_run_it_once(theory: Theory, entry: EntryMaker) -> None:
    root = entry("test/thing@1", HELLO, determinism="pure", cost={"reserve_micro_usd": 20})
    options = ("--json", "--execution-id", "01890000-0000-7000-8000-00000000abcd")
    processes = [theory.start(*run(root, *options)) for _ in range(4)]
    ended = [(process.communicate(timeout=SOON)[0], process.returncode) for process in processes]
    codes = {json.loads(stdout).get("error", {}).get("code", "success") for stdout, _ in ended}
    assert "success" in codes
    assert codes <= {"success", "ERR_BUSY"}
    first, *others = [json.loads(stdout) for stdout, status in ended if status == 0]
    assert others == [first] * len(others)
    assert {status for _, status in ended} <= {0, 5}
    assert held(theory) == 0
