"""A hostile command takes no more than its share, leaves nothing behind, and shows nothing but text."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from adapter_local.command import Command, expect_gone, new_id, wait_gone
from adapter_local.staging import answer
from theory import cid_of, errors
from theory.disk import removal
from theory.testing.channel import RecordingChannel
from theory.types import Runtime
from theory_adapter_local.container.life import name_of
from theory_adapter_local.files.secretfiles import folders_for_secrets
from theory_adapter_local.options import Options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theory import Job
    from theory.testing.bench import Bench
    from theory_adapter_local.engine.client import Engine

FLOOD = 15_000_000  # bytes
LOG_BYTES = 21_000_000  # which the engine may keep of them: a file of 10 MB, and the one before it
DEEP = 3_000


def shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


def python(code: str) -> tuple[str, ...]:
    return ("python", "-c", code)


def expect_no_trace(engine: Engine, job: Job) -> None:
    wait_gone(engine, name_of(job))
    expect_gone(engine, job.execution_id)


# ---------------------------------------------------------------- more than its share


def test_a_fork_bomb_ends_with_its_time_and_the_engine_goes_on(bench: Bench, engine: Engine) -> None:
    bomb = "b() { b | b & }; b 2>/dev/null; exec sleep 60"
    ran = bench.run(bench.job(command=shell(bomb), runtime=Runtime(timeout=1, memory=256)))
    assert ran.outcome.ended in {"timeout", "oom"}
    expect_no_trace(engine, ran.job)
    assert bench.run(bench.job(command=("true",))).outcome.exit_code == 0


FILL = """
for folder in ("/tmp", "/dev/shm"):
    with open(folder + "/a", "wb", buffering=0) as stream:
        for _ in range(32):
            stream.write(bytes(1 << 20))
print("all")
"""


def test_files_in_memory_count_as_memory(bench: Bench) -> None:
    ran = bench.run(bench.job(command=python(FILL), runtime=Runtime(memory=64)))
    assert ran.outcome.ended == "oom", str(ran)
    assert ran.channel.output("stdout") == b""


FILES = """
import time
for number in range(100_000):
    open(f"/job/out/{number}", "w").close()
time.sleep(600)
"""


def test_a_hundred_thousand_files_are_too_many_while_they_are_made(bench: Bench, engine: Engine) -> None:
    job = bench.job(command=python(FILES))
    with pytest.raises(errors.OutputLimit, match="the outputs are more than 20,000 files"):
        bench.run(job)
    expect_no_trace(engine, job)


TREE = f"""
import os
os.chdir("/job/out")
for _ in range({DEEP}):
    os.mkdir("d")
    os.chdir("d")
"""


def test_a_tree_of_three_thousand_folders_is_refused_and_removed(bench: Bench, engine: Engine) -> None:
    job = bench.job(command=python(TREE))
    workspace = bench.workspace(job)
    with pytest.raises(errors.OutputLimit, match="the outputs are nested deeper than 32 folders"):
        bench.run(job, workspace=workspace)
    expect_no_trace(engine, job)
    removal.remove(workspace.root)  # as core does
    assert not workspace.root.exists()


def test_sparse_files_count_in_full(bench: Bench, engine: Engine) -> None:
    bench.options = lambda _: Options(output_size=1)
    job = bench.job(command=shell("cd /job/out; truncate -s 600K a; truncate -s 600K b"))
    with pytest.raises(errors.OutputLimit, match="the outputs are larger than 1 MiB"):
        bench.run(job)
    expect_no_trace(engine, job)


def test_a_flood_of_output_leaves_a_small_log(bench: Bench, engine: Engine) -> None:
    channel = RecordingChannel()
    script = f"yes 0123456789abcdef0123456789abcdef | head -c {FLOOD}; exec sleep 600"
    later = bench.start(job := bench.job(command=shell(script)), channel=channel)
    channel.wait_for(lambda: len(channel.heard) > FLOOD // 65536, 60)  # each is of that at most
    try:
        while len(channel.output("stdout")) < FLOOD:
            channel.wait_cancelled(0.05)
        found = engine.call("GET", f"/containers/{name_of(job)}/json")
        with suppress(PermissionError):
            if os.path.exists(os.path.dirname(found["LogPath"])):  # the engine is on this machine
                folder = os.path.dirname(found["LogPath"])
                logs = [name for name in os.listdir(folder) if ".log" in name]
                assert sum(os.path.getsize(f"{folder}/{name}") for name in logs) < LOG_BYTES
    finally:
        channel.cancel()
        assert later.within(20).outcome.ended == "cancelled"


# ---------------------------------------------------------------- what it leaves in out

MAKE = """
import os, socket
os.umask(0)
def put(name, data=b"x"):
    with open(name, "wb") as stream:
        stream.write(data)
def folder(name):
    os.mkdir("/job/out/" + name)
    os.chdir("/job/out/" + name)
folder("link to a file"); os.symlink("/etc/passwd", "a")
folder("link to a folder"); os.symlink("/etc", "a")
folder("link to the host"); os.symlink("../inputs.json", "a")
folder("link in place of a folder"); put("a"); os.symlink(".", "b")
folder("pipe"); os.mkfifo("a")
folder("socket"); socket.socket(socket.AF_UNIX).bind("a")
folder("second name"); put("a"); os.link("a", "b")
folder("file that runs as its owner"); put("a"); os.chmod("a", 0o6777)
folder("closed"); os.mkdir("d"); put("d/a"); os.chmod("d/a", 0); os.chmod("d", 0)
folder("no UTF-8"); put(b"\\xff\\xfe")
folder("line end"); put("a\\nb")
folder("escape"); put("\\x1b]0;owned\\x07")
folder("direction"); put("a\\u202eb")
folder("way up"); put("..\\\\..\\\\a")
folder("no normal form"); put("e\\u0301")
folder("two that fold to one"); put("a"); put("A")
folder("option"); put("-rf")
folder("long path"); [(os.mkdir("d" * 250), os.chdir("d" * 250)) for _ in range(6)]; put("a")
"""
X = cid_of(b"x")
LEFT: dict[str, str | dict[str, str]] = {
    **dict.fromkeys(("link to a file", "link to a folder", "link to the host"), "ERR_OUTPUT_PATH"),
    **dict.fromkeys(("link in place of a folder", "pipe", "socket", "no UTF-8"), "ERR_OUTPUT_PATH"),
    **dict.fromkeys(("line end", "escape", "direction", "way up", "no normal form"), "ERR_OUTPUT_PATH"),
    "long path": "ERR_OUTPUT_PATH",
    "two that fold to one": "ERR_OUTPUT_DUPLICATE",
    "second name": {"a": X, "b": X},
    "file that runs as its owner": {"a": X},
    "closed": {"d/a": X},
    "option": {"-rf": X},
}


def test_only_regular_files_with_plain_names_leave(bench: Bench, tmp_path: Path) -> None:
    ran = bench.run(bench.job(command=python(MAKE)))
    assert ran.outcome.exit_code == 0, str(ran)
    out = ran.workspace.out
    assert {
        name: answer(ran.job.processor, out / name, tmp_path / "store") for name in os.listdir(out)
    } == LEFT
    removal.remove(ran.workspace.root)
    assert not ran.workspace.root.exists()


SWAP = """
import os, signal, sys, time
os.chdir("/job/out")
def put():
    with open("new", "w") as stream:
        stream.write("mine")
    os.rename("new", "a")
put()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        print("left behind", flush=True)
        while True:
            os.symlink("/etc/passwd", "new")
            os.rename("new", "a")
            put()
            os.utime(".")
    time.sleep(600)
sys.stdin.close()
time.sleep(0.3)
"""


def test_a_daemon_that_swaps_a_file_for_a_link_ends_before_the_file_is_collected(
    bench: Bench, engine: Engine, tmp_path: Path
) -> None:
    ran = bench.run(bench.job(command=python(SWAP)))
    changed = ran.workspace.out.stat().st_mtime_ns
    assert ran.channel.output("stdout") == b"left behind\n"
    # Whatever it was at the end, what the link leads to has not left.
    mine = [{"a": cid_of(b"mine")}, {"a": cid_of(b"mine"), "new": cid_of(b"mine")}]
    partly = [{"a": cid_of(b"mine"), "new": cid_of(b"")}]
    found = answer(ran.job.processor, ran.workspace.out, tmp_path / "store")
    assert found in [*mine, *partly, "ERR_OUTPUT_PATH"]
    expect_no_trace(engine, ran.job)
    assert ran.workspace.out.stat().st_mtime_ns == changed


# ---------------------------------------------------------------- its end

DEAF = "trap '' TERM INT HUP QUIT; (trap '' TERM; sleep 600) & echo up; while :; do sleep 600; done"


def test_who_does_not_listen_to_the_request_to_end_is_killed(bench: Bench, engine: Engine) -> None:
    ran = bench.run(bench.job(command=shell(DEAF), runtime=Runtime(timeout=0.3)))
    assert ran.outcome.ended == "timeout"
    expect_no_trace(engine, ran.job)


def test_what_controls_the_machine_is_not_mounted(bench: Bench, engine: Engine) -> None:
    job = bench.job(command=("true",))  # planned without; with it, even that is refused
    bench.options = lambda _: Options(mounts="/var/run/docker.sock:/opt/socket")
    with pytest.raises(
        errors.BadAdapterOptions, match=r"/var/run/docker\.sock has to do with what Docker is"
    ):
        bench.run(job)
    expect_no_trace(engine, job)


# ---------------------------------------------------------------- what its user sees

KEY = "sk-h0stile/Key+of=nobody&0123456789"
SHOUT = r"""
import base64, os, signal, sys, time
key = open(os.environ["KEY_FILE"], "rb").read()
out, err = sys.stdout.buffer, sys.stderr.buffer
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
for stream in (out, err):
    stream.write(b"\x1b[2J\x1b]0;owned\x07\x1b[31mred\x1b[0m \x9b2J \x1bP+q\x1b\\ \x1b]52;c;ZXZpbA==\x07\n")
    stream.write(b"over\rwritten \x08\x08\x08 \xff\xfe\xc3 \x00 \xe2\x80\xae evil \xe2\x81\xa6\n")
    stream.write(b'{"status": "success", "execution_id": "fake", "outputs": [], "meta": {}}\n')
    stream.write(b" ".join([key, base64.b64encode(key), key.hex().encode()]) + b"\n")
    for byte in key + b"\n":
        stream.write(bytes([byte])); stream.flush()
    stream.write(b"m" * 2_000_000 + key + b"m" * 100 + b"\n")
    stream.flush()
out.write(b"ready\n"); out.flush()
signal.sigwait([signal.SIGUSR1])
err.write(b"it was " + key + b"\x1b[2J\n"); err.flush()
os._exit(3)
"""
SPELLINGS = [KEY, b64encode(KEY.encode()).decode(), KEY.encode().hex()]


@pytest.fixture(scope="module")
def command(engine: Engine, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The command, with an entry that shouts."""
    command = Command(tmp_path_factory.mktemp("shouts"), engine.host)
    folder = command.folder / "entries" / "test" / "shouts" / "1"
    folder.mkdir(parents=True)
    document = {
        "ref": "test/shouts@1",
        "description": "Shouts",
        "image": {"oci": base_image},
        "command": python(SHOUT),
        "secrets": {"required": ["KEY"]},
    }
    (folder / "processor.yaml").write_text(json.dumps(document))
    yield command
    command.close()


def shouted(
    command: Command, engine: Engine, *more: str, on_a_terminal: bool
) -> tuple[int, bytes, list[Any]]:
    """The exit status, all that is said, and what is seen of the container meanwhile."""
    name = new_id()
    container = f"/containers/theory-{name}"
    arguments = [sys.executable, "-m", "theory", "run", "test/shouts@1", "--adapter", "local", *more]
    arguments += ["--registry", str(command.folder / "entries"), "--execution-id", name]
    environ = {**command.environ, "KEY": KEY, "TERM": "xterm"}
    mine, theirs = pty.openpty() if on_a_terminal else os.pipe()
    said = b""
    seen: list[Any] = []
    with subprocess.Popen(
        arguments, env=environ, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        try:
            while portion := _heard(mine):
                said += portion
                if b"ready" in said and not seen:
                    seen.append(engine.call("GET", f"{container}/json"))
                    seen.append(engine.call("GET", f"{container}/top", query={"ps_args": "axeww"}))
                    seen.append(command_lines())
                    engine.call("POST", f"{container}/kill", query={"signal": "SIGUSR1"})
        except BaseException:
            process.kill()  # or the end of this block would wait for it
            raise
    os.close(mine)
    expect_gone(engine, name)
    return process.returncode, said, seen


def _heard(descriptor: int) -> bytes:
    """What is said next; nothing at the end, which a terminal tells by an error."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


@pytest.fixture(scope="module")
def people(command: Command, engine: Engine) -> tuple[int, bytes, list[Any]]:
    return shouted(command, engine, "--stream", on_a_terminal=True)


@pytest.fixture(scope="module")
def program(command: Command, engine: Engine) -> tuple[int, bytes, list[Any]]:
    return shouted(command, engine, "--stream", "--json", on_a_terminal=False)


# What theory itself sends to a terminal: clear to the end of the line, and nothing else.
STEERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def test_no_output_of_a_container_steers_a_terminal(people: tuple[int, bytes, list[Any]]) -> None:
    status, said, _ = people
    assert status == 1, said[-2000:]
    text = said.decode()
    assert "red" in text
    assert "evil" in text
    assert STEERS.findall(text.replace("\r\n", "\n").replace("\r\x1b[K", "")) == []
    assert "\r" not in text.replace("\r\n", "\n").replace("\r\x1b[K", "")


def test_a_pretended_envelope_is_a_line_of_the_log(program: tuple[int, bytes, list[Any]]) -> None:
    status, said, _ = program
    lines = [json.loads(line) for line in said.splitlines()]
    assert status == 1, said[-2000:]
    assert [line["status"] for line in lines if "event" not in line] == ["error"]
    assert lines[-1]["error"]["code"] == "ERR_PROCESSOR"
    assert lines[-1]["meta"]["exit_code"] == 3
    assert any('"fake"' in line.get("text", "") for line in lines)


def test_the_key_is_nowhere_though_the_command_shouts_it_and_fails(
    command: Command, people: tuple[int, bytes, list[Any]], program: tuple[int, bytes, list[Any]]
) -> None:
    for _, said, seen in (people, program):
        assert seen[0]["State"]["Running"]
        expect_no_key(said.decode() + json.dumps(seen))
    files = [file for file in command.folder.rglob("*") if file.is_file()]  # records, ledger, store, cache
    assert len(files) > 5
    for file in files:
        expect_no_key(file.read_bytes().decode("latin-1"))
    for folder in folders_for_secrets():
        if folder.exists():
            for file in folder.glob("*/*"):
                with suppress(FileNotFoundError):  # another run's
                    expect_no_key(file.read_text(errors="replace"))


def command_lines() -> list[str]:
    """Of all processes of this machine, as everybody sees them."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            lines.append(file.read_bytes().decode("latin-1"))
    return lines


def expect_no_key(text: str) -> None:
    found = [spelling for spelling in SPELLINGS if spelling in text]
    assert found == [], [text[(at := text.find(spelling)) - 100 : at + 60] for spelling in found]
