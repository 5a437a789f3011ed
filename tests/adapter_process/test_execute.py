"""What the command sees, and how its end is told."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

import theory_adapter_process.adapter as process
from theory import errors
from theory.testing.channel import RecordingChannel
from theory.types import Runtime, Secrets
from theory_adapter_process.adapter import Options

if TYPE_CHECKING:
    from theory.testing.bench import Bench

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def python(code: str) -> tuple[str, ...]:
    return ("python", "-c", code)


def shell(code: str) -> tuple[str, ...]:
    return ("sh", "-c", code)


def seen_by(bench: Bench, expression: str, secrets: Secrets | None = None) -> object:
    """The value of a Python expression inside a command, as JSON."""
    code = f"import json, os, sys; print(json.dumps({expression}))"
    ran = bench.run(bench.job(command=python(code)), secrets=secrets)
    assert ran.outcome.exit_code == 0, str(ran)
    return json.loads(ran.channel.output("stdout"))


# ---------------------------------------------------------------- what the command sees


def test_the_environment_is_closed_and_complete(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CANARY", "PYTHONSTARTUP", "PYTHONPATH", "LD_LIBRARY_PATH", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, "/tweet")
    job = bench.job(command=python("import json, os; print(json.dumps(dict(os.environ)))"))
    ran = bench.run(job)
    seen = json.loads(ran.channel.output("stdout"))
    root = str(ran.workspace.root)
    (home,) = (ran.workspace.cache / "environments").glob("*/bin")
    assert seen == {
        **job.environment,
        "THEORY_ROOT": root,
        "HOME": root + "/tmp",  # noqa: S108 - below the workspace
        "TMPDIR": root + "/tmp",  # noqa: S108 - as above
        "PATH": f"{home}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def test_a_secret_is_in_its_variable_and_in_nobody_elses_command_line(bench: Bench) -> None:
    found = seen_by(
        bench,
        "[os.environ['KEY'], os.popen(f'ps -ww -o args= -p {os.getppid()}').read()]",
        Secrets({"KEY": "s3cret"}),
    )
    assert isinstance(found, list)
    assert found[0] == "s3cret"
    assert "s3cret" not in found[1]


def test_a_secret_cannot_take_the_place_of_what_the_adapter_sets(bench: Bench) -> None:
    assert seen_by(bench, "os.environ['PATH']", Secrets({"PATH": "/tweet"})) != "/tweet"


def test_the_working_directory_is_the_entrys_folder(bench: Bench) -> None:
    assert seen_by(bench, "os.path.realpath('.')") == os.path.realpath(bench.folder / "entry")


def test_inputs_and_outputs_are_below_theory_root(bench: Bench) -> None:
    code = """
import os
root = os.environ["THEORY_ROOT"]
open(root + "/job/out/copy", "wb").write(open(root + "/job/inputs.json", "rb").read())
"""
    ran = bench.run(bench.job(["put", "a", "b"], command=python(code)))
    assert ran.outputs() == {"copy": b'{"steps":[["put","a","b"]]}'}, str(ran)


def test_a_second_run_in_the_same_workspace_is_no_error(bench: Bench) -> None:
    job = bench.job(command=python("pass"))
    place = bench.workspace(job)
    assert [bench.run(job, workspace=place).outcome.exit_code for _ in range(2)] == [0, 0]


def test_python_finds_nothing_of_theory(bench: Bench) -> None:
    code = (
        "from importlib.util import find_spec as f; print([n for n in ('theory', 'pluggy', 'pip') if f(n)])"
    )
    assert bench.run(bench.job(command=python(code))).channel.output("stdout") == b"[]\n"


def test_nothing_is_written_into_the_entrys_folder(bench: Bench) -> None:
    folder = bench.folder / "entry"
    folder.mkdir()
    (folder / "beside.py").write_text("", encoding="utf-8")
    (folder / "import_it.py").write_text("import beside", encoding="utf-8")
    job = bench.job(command=("python", "import_it.py"))
    before = sorted(folder.rglob("*"))
    assert bench.run(job).outcome.exit_code == 0
    assert sorted(folder.rglob("*")) == before


def test_stdin_is_empty(bench: Bench) -> None:
    assert seen_by(bench, "sys.stdin.read()") == ""


def test_the_command_inherits_its_three_streams_and_nothing_else(bench: Bench) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)  # noqa: FBT003 - its only argument
    try:
        # the fourth is the one that lists the folder
        assert seen_by(bench, "sorted(int(fd) for fd in os.listdir('/dev/fd'))[:-1]") == [0, 1, 2]
    finally:
        os.close(read)
        os.close(write)


def test_the_command_is_in_no_group_or_session_of_the_caller(bench: Bench) -> None:
    found = seen_by(bench, "[os.getpgid(0) == os.getpid(), os.getsid(0)]")
    assert isinstance(found, list)
    assert found[0] is True
    assert found[1] != os.getsid(0)


def test_a_broken_pipe_ends_a_command_as_it_does_under_a_shell(bench: Bench) -> None:
    ran = bench.run(bench.job(command=shell("yes | head -n 1")))
    assert ran.channel.output("stdout") == b"y\n"
    assert ran.channel.output("stderr") == b""  # not "yes: standard output: Broken pipe"


# ---------------------------------------------------------------- how the end is told


@pytest.mark.parametrize("status", [0, 1, 3, 255])
def test_an_exit_status_is_told_as_it_is(bench: Bench, status: int) -> None:
    outcome = bench.run(bench.job(command=shell(f"exit {status}"))).outcome
    assert (outcome.ended, outcome.exit_code, outcome.message) == ("exit", status, "")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGSEGV", "SIGHUP", "SIGINT"])
def test_an_end_by_signal_n_is_told_as_128_and_n(bench: Bench, name: str) -> None:
    outcome = bench.run(bench.job(command=shell(f"kill -{name[3:]} $$"))).outcome
    assert (outcome.ended, outcome.exit_code) == ("exit", 128 + signal.Signals[name])
    assert bool(outcome.message) == (name == "SIGKILL")  # the others core names itself


@pytest.mark.parametrize(
    ("program", "status", "reason"),
    [
        ("./none", 127, "No such file or directory"),
        ("./plain.txt", 126, "Permission denied"),
        ("./no-interpreter", 127, "No such file or directory"),
        ("./noise", 126, "Exec format error"),
    ],
)
def test_a_command_that_cannot_start_ends_as_under_a_shell(
    bench: Bench, program: str, status: int, reason: str
) -> None:
    folder = bench.folder / "entry"
    folder.mkdir()
    (folder / "plain.txt").touch()
    for name, content in {"no-interpreter": "#!/none\n", "noise": "\x00\x01"}.items():
        (folder / name).write_text(content, encoding="utf-8")
        (folder / name).chmod(0o755)
    ran = bench.run(bench.job(command=(program,)))
    assert (ran.outcome.ended, ran.outcome.exit_code) == ("exit", status), str(ran)
    assert ran.channel.output("stderr").decode() == f"theory: cannot run {program}: {reason}\n"


def test_the_duration_is_that_of_the_command(bench: Bench) -> None:
    outcome = bench.run(bench.job(command=("sleep", "0.3"))).outcome
    assert 0.29 < outcome.duration_s < 2


def test_the_timeout_counts_from_the_start(bench: Bench) -> None:
    ran = bench.run(bench.job(command=("sleep", "60"), runtime=Runtime(timeout=0.5)))
    assert (ran.outcome.ended, ran.outcome.exit_code) == ("timeout", None)
    assert 0.45 < ran.outcome.duration_s < 2.5


def test_a_run_that_was_cancelled_before_starts_nothing(bench: Bench) -> None:
    channel = RecordingChannel()
    channel.cancel()
    ran = bench.start(bench.job(command=shell("touch $THEORY_ROOT/job/out/ran")), channel=channel).within(10)
    assert ran.outcome.ended == "cancelled"
    assert "started" not in channel.heard
    assert ran.outputs() == {}


# ---------------------------------------------------------------- output


class Counting(RecordingChannel):
    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.largest = 0

    def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:  # noqa: ARG002 - any stream counts
        self.bytes += len(data)
        self.largest = max(self.largest, len(data))


def test_output_of_any_length_takes_bounded_memory(bench: Bench) -> None:
    channel = Counting()
    job = bench.job(command=("head", "-c", "200000000", "/dev/zero"))
    tracemalloc.start()
    try:
        bench.start(job, channel=channel).within(60)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert channel.bytes == 200_000_000
    assert channel.largest <= 65536
    assert peak < 4_000_000


class Stuck(RecordingChannel):
    """A reader that does not read."""

    def __init__(self, timeout: float) -> None:
        super().__init__(timeout)
        self.called = threading.Event()
        self.freed = threading.Event()

    def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:  # noqa: ARG002 - as above
        self.called.set()
        self.freed.wait(60)


def test_a_reader_that_is_stuck_delays_neither_deadline_nor_cancellation(bench: Bench) -> None:
    for channel in (Stuck(0.3), Stuck(300)):
        later = bench.start(bench.job(command=("cat", "/dev/zero")), channel=channel)
        assert channel.called.wait(10)
        if channel.timeout > 1:
            channel.cancel()
        assert later.within(8).outcome.ended == ("timeout" if channel.timeout < 1 else "cancelled")
        channel.freed.set()


class Failing(RecordingChannel):
    def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:  # noqa: ARG002 - as above
        raise BrokenPipeError("nobody reads this")


def test_a_failing_channel_ends_the_command_and_is_told(bench: Bench) -> None:
    later = bench.start(bench.job(command=shell("echo; exec sleep 60")), channel=Failing())
    with pytest.raises(BrokenPipeError, match="nobody reads this"):
        later.within(10)


# ---------------------------------------------------------------- what the machine refuses


@linux
def test_where_no_more_files_can_be_opened_a_later_try_is_advised_and_none_stays_open(bench: Bench) -> None:
    import resource

    job = bench.job(command=shell("exit 0"))
    bench.run(job)  # the environment is there
    workspace = bench.workspace(job)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    try:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 30, limits[1])
        )
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(10):  # each has one more to spend than the one before, and needs about 14
            with pytest.raises(errors.Retry, match="Too many open files") as caught:
                process.execute(job, workspace, Options(), Secrets(), RecordingChannel())
            assert "ulimit -n" in caught.value.hint
            os.close(taken.pop())  # were one left open, the next would have less to spend
        for _ in range(10):
            os.close(taken.pop())
        outcome = process.execute(job, workspace, Options(), Secrets(), RecordingChannel())
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert outcome.exit_code == 0


def test_a_cache_that_cannot_be_written_is_told(bench: Bench) -> None:
    if os.geteuid() == 0:
        pytest.skip("runs as root, which no permission stops")
    bench.cache.mkdir(exist_ok=True)
    bench.cache.chmod(0o500)
    with pytest.raises(errors.StoreFailed, match=r"cannot write to .*cache.*: Permission denied"):
        bench.run(bench.job(command=shell("exit 0")))


@linux
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOLCK], ids=errno.errorcode.get)
@pytest.mark.parametrize("part", ["running", "environments"])
def test_a_lock_that_the_disk_refuses_is_told_by_its_path(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int, part: str
) -> None:
    def refuse(descriptor: int, how: int) -> None:
        if part in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        flock(descriptor, how)

    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", refuse)
    words = rf"^cannot write to /.*{part}.*\.lock: {os.strerror(number)}$"
    with pytest.raises(errors.StoreFailed, match=words) as caught:
        bench.run(bench.job(command=shell("exit 0")))
    assert "THEORY_HOME" in caught.value.hint


@pytest.mark.parametrize("how", [fcntl.LOCK_UN, fcntl.LOCK_EX], ids=["letting go", "control: taking"])
def test_a_lock_that_cannot_be_let_go_costs_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, how: int
) -> None:
    def refuse(descriptor: int, wanted: int) -> None:
        if wanted & how:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        flock(descriptor, wanted)

    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", refuse)
    if how == fcntl.LOCK_EX:
        with pytest.raises(errors.StoreFailed, match="No locks available"):
            bench.run(bench.job(command=shell("exit 0")))
        return
    for _ in range(2):  # the second takes the same locks
        assert bench.run(bench.job(command=shell("exit 0"))).outcome.exit_code == 0


# ---------------------------------------------------------------- limits


@linux
def test_memory_is_limited_for_one_process(bench: Bench) -> None:
    job = bench.job(command=python("x = bytearray(300 << 20)"), runtime=Runtime(memory=128))
    ran = bench.run(job)
    assert b"MemoryError" in ran.channel.output("stderr")
    assert (ran.outcome.ended, ran.outcome.exit_code) == ("oom", None)
    assert ran.outcome.message == "it was refused more, and ended with: MemoryError"


@linux
@pytest.mark.parametrize(
    ("script", "ended"),
    [
        ("echo numpy._core._exceptions._ArrayMemoryError: Unable to allocate 8 GiB >&2; exit 1", "oom"),
        ("echo 'what():  std::bad_alloc' >&2; kill -ABRT $$", "oom"),
        ("echo 'memory allocation of 8 bytes failed' >&2; exit 134", "oom"),
        ("echo 'fork: Cannot allocate memory' >&2; exit 2", "oom"),
        ("echo MemoryError >&2; exit 0", "exit"),
        ("echo MemoryError >&2; echo 'tried it with less: wrong input' >&2; exit 1", "exit"),
        ("echo MemoryError; exit 1", "exit"),
        ("echo 'ValueError: not a MemoryError' >&2; exit 1", "exit"),
    ],
    ids=["NumPy", "C++", "Rust", "strerror", "a success", "not the last word", "stdout", "another error"],
)
def test_a_failure_whose_last_word_is_a_want_of_memory_is_one(bench: Bench, script: str, ended: str) -> None:
    assert bench.run(bench.job(command=shell(script))).outcome.ended == ended


@linux
def test_address_space_that_is_only_reserved_does_not_count(bench: Bench) -> None:
    code = """
import mmap
NORESERVE = 0x4000  # of Linux
mmap.mmap(-1, 8 << 30, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE | NORESERVE)
print("ok")
"""
    ran = bench.run(bench.job(command=python(code), runtime=Runtime(memory=128)))
    assert ran.channel.output("stdout") == b"ok\n", str(ran)


@linux
def test_memory_is_limited_for_all_processes_together(bench: Bench) -> None:
    code = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        x = bytearray(os.urandom(1 << 20)) * 100
        time.sleep(60)
time.sleep(60)
"""
    outcome = bench.run(bench.job(command=python(code), runtime=Runtime(memory=200))).outcome
    assert (outcome.ended, outcome.exit_code) == ("oom", None)
    assert outcome.message == "the command and its children held more than 200 MiB together"


@linux
def test_pages_that_forks_share_count_once(bench: Bench) -> None:
    code = """
import os, time
x = bytearray(b'x' * (100 << 20))
children = [os.fork() for _ in range(3)]
if 0 in children:
    time.sleep(0.8)
    os._exit(0)
for _ in children:
    os.wait()
"""
    ran = bench.run(bench.job(command=python(code), runtime=Runtime(memory=300)))
    assert (ran.outcome.ended, ran.outcome.exit_code) == ("exit", 0), str(ran)


def test_open_files_are_limited(bench: Bench) -> None:
    bench.options = lambda _: Options(open_files=32)
    code = """
files = []
try:
    while True:
        files.append(open('/dev/null'))
except OSError as error:
    print(len(files), error.strerror)
"""
    ran = bench.run(bench.job(command=python(code)))
    assert ran.channel.output("stdout") == b"29 Too many open files\n", str(ran)


def test_the_size_of_a_file_is_limited(bench: Bench) -> None:
    bench.options = lambda _: Options(file_size=1)
    ran = bench.run(bench.job(command=shell("exec head -c 3000000 /dev/zero > $THEORY_ROOT/job/out/big")))
    assert len(ran.outputs()["big"]) == 1 << 20
    assert ran.outcome.exit_code == 128 + signal.SIGXFSZ
    assert ran.outcome.message == "wrote a file of more than 1 MiB"


def test_processor_time_is_limited(bench: Bench) -> None:
    job = bench.job(command=python("while True: pass"), runtime=Runtime(timeout=60, cpu=0.01))
    outcome = bench.run(job).outcome
    assert (outcome.ended, outcome.exit_code) == ("exit", 128 + signal.SIGXCPU)
    assert outcome.message == "used more than its 2 s of processor time"


def test_no_core_is_dumped(bench: Bench) -> None:
    assert seen_by(bench, "__import__('resource').getrlimit(4)") == [0, 0]


# ---------------------------------------------------------------- a retry


def test_a_former_try_that_still_runs_is_ended_before_the_next(bench: Bench) -> None:
    code = """
import fcntl, os, time
alone = open("alone", "w")
fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("in", flush=True)
time.sleep(60)
"""
    job = bench.job(command=python(code))
    first = RecordingChannel()
    former = bench.start(job, channel=first)
    first.wait_for(lambda: first.output("stdout") == b"in\n", 20)
    second = RecordingChannel()
    later = bench.start(job, channel=second)
    outcome = former.within(10).outcome
    assert (outcome.ended, outcome.exit_code) == ("exit", 128 + signal.SIGKILL)
    second.wait_for(lambda: second.output("stdout") == b"in\n", 20)
    second.cancel()
    assert later.within(10).outcome.ended == "cancelled"


def test_a_former_try_that_cannot_be_ended_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr("theory_adapter_process.adapter._FORMER_S", 0.1)
    job = bench.job(command=python("pass"))
    place = bench.workspace(job)
    with (place.state / "running.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(errors.Busy, match=re.escape("a former try of this execution is still running")):
            bench.run(job, workspace=place)


def test_a_run_leaves_no_descriptor_and_no_thread(bench: Bench) -> None:
    def held() -> tuple[int, int]:
        return len(list(Path("/dev/fd").iterdir())), threading.active_count()

    job = bench.job(command=python("print('x' * 100000)"))
    bench.run(job)
    before = held()
    for _ in range(5):
        bench.run(job)
    until = time.monotonic() + 5
    while held() != before and time.monotonic() < until:
        time.sleep(0.01)
    assert held() == before
