"""A command in a container: what it gets, how its end is told, and that nothing of it stays."""

from __future__ import annotations

import json
import os
import threading
import time
import tracemalloc
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Literal

import pytest

from theory import Outcome, Secrets, errors
from theory.testing.bench import Ran
from theory.testing.channel import RecordingChannel
from theory.types import ImageSource, Runtime
from theory_adapter_local.container.life import Task, name_of, run_container
from theory_adapter_local.engine.client import Engine, Refused
from theory_adapter_local.files.ways import files_for
from theory_adapter_local.guard.watchdog import labels_of
from theory_adapter_local.images.find import ready_image
from theory_adapter_local.options import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from theory import Job
    from theory.testing.bench import Bench

SCRATCH = "/" + "tmp"
GONE = 10.0  # seconds that the engine may take to remove what nobody waits for


def shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


def python(code: str) -> tuple[str, ...]:
    return ("python", "-c", code)


def said(ran: Ran, stream: Literal["stdout", "stderr"] = "stdout") -> str:
    return ran.channel.output(stream).decode()


def inspect(engine: Engine, job: Job) -> Any:
    """What the engine says of a job's container; None where there is none."""
    try:
        return engine.call("GET", f"/containers/{name_of(job)}/json")
    except Refused as refused:
        if refused.status == 404:
            return None
        raise


def assert_gone(engine: Engine, job: Job) -> None:
    until = time.monotonic() + GONE
    while inspect(engine, job) is not None:
        assert time.monotonic() < until, f"{name_of(job)} is still there"
        time.sleep(0.02)


def wait_for_threads() -> None:
    """Wait until none of the adapter's runs."""
    until = time.monotonic() + GONE
    while threads := [thread.name for thread in threading.enumerate() if thread.name.startswith("theory-")]:
        assert time.monotonic() < until, threads
        time.sleep(0.01)


@contextmanager
def running(bench: Bench, job: Job, **more: Any) -> Iterator[tuple[RecordingChannel, Any]]:
    """A job that has said something; it is cancelled at the end."""
    channel = more.setdefault("channel", RecordingChannel())
    later = bench.start(job, **more)
    try:
        channel.wait_for(lambda: "stdout" in channel.heard, 60)
        yield channel, later
    finally:
        channel.cancel()
        later.within(20)


# ---------------------------------------------------------------- what it gets


def test_the_command_is_the_whole_argv_and_the_images_entry_point_is_cleared(
    bench: Bench, image_with: Callable[..., ImageSource]
) -> None:
    own = image_with('ENTRYPOINT ["echo", "entry"]', 'CMD ["point"]')
    bench.image = lambda _: own
    assert said(bench.run(bench.job(command=("echo", "mine  is", "$this")))) == "mine  is $this\n"
    assert said(bench.run(bench.job(command=None))) == "entry point\n"


def test_without_a_command_anywhere_nothing_runs(bench: Bench, engine: Engine) -> None:
    made = {"fromSrc": "-", "repo": "theory-test", "tag": "empty"}
    headers = {"Content-Type": "application/x-tar"}
    with engine.stream("POST", "/images/create", query=made, body=bytes(10240), headers=headers) as answer:
        answer.read()
    bench.image = lambda _: ImageSource(oci="theory-test:empty")
    try:
        with pytest.raises(errors.Unsupported, match=r"steps@1 has no command, and neither has its image"):
            bench.run(bench.job(command=None))
    finally:
        engine.call("DELETE", "/images/theory-test:empty")


SHOW = """
import json, os, socket, sys
print(json.dumps([dict(os.environ), socket.gethostname(), sys.stdin.read()]))
"""


def test_the_environment_is_the_jobs_with_the_images_and_a_scratch_home(bench: Bench) -> None:
    job = bench.job(command=python(SHOW))
    found, host, stdin = json.loads(said(bench.run(job)))
    of_the_image = {name for name in found if name == "PATH" or name.startswith(("PYTHON_", "GPG_", "LANG"))}
    expected = {**job.environment, "HOME": SCRATCH, "TMPDIR": SCRATCH}
    assert {name: found[name] for name in found.keys() - of_the_image} == expected
    assert "PATH" in of_the_image
    assert (host, stdin) == ("theory", "")  # the same in each run


NETWORK = """
import json, os, socket
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(("localhost", server.getsockname()[1]), timeout=5)
print(json.dumps([os.readlink("/proc/self/ns/net"), os.listdir("/sys/class/net"), open("/etc/hosts").read()]))
"""


@pytest.fixture
def kept(bench: Bench, engine: Engine) -> Iterator[Job]:
    """A job whose container is kept, so that its files are copied; it goes with the test."""
    bench.options = lambda _: Options(keep=True)
    job = bench.job(command=python(NETWORK))
    yield job
    engine.call("DELETE", f"/containers/{name_of(job)}", query={"v": "1", "force": "1"})


def test_without_a_network_there_is_a_loopback_of_its_own_whichever_way_files_go(
    bench: Bench, kept: Job
) -> None:
    copied = json.loads(said(bench.run(kept)))
    bench.options = lambda _: Options()
    mounted = json.loads(said(bench.run(bench.job(command=python(NETWORK)))))
    for namespace, devices, hosts in (copied, mounted):
        assert namespace != os.readlink("/proc/self/ns/net")
        assert devices == ["lo"]
        assert hosts == mounted[2]
    assert "127.0.0.1\tlocalhost\n" in mounted[2]


LIMITS: dict[str, Any] = {
    "Memory": 100 << 20,
    "MemorySwap": 100 << 20,
    "NanoCpus": 500_000_000,
    "PidsLimit": 1024,
    "ShmSize": 50 << 20,
    "Tmpfs": {SCRATCH: f"rw,exec,nosuid,nodev,size={50 << 20},mode=1777"},
    "NetworkMode": "none",
    "Init": True,
    "ReadonlyRootfs": True,
    "CapDrop": ["ALL"],
    "SecurityOpt": ["no-new-privileges"],
    "IpcMode": "private",
    **dict.fromkeys(("Privileged", "AutoRemove", "Binds", "PortBindings", "Devices", "CapAdd"), None),
    "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "1"}},
}


def test_all_limits_reach_the_engine(bench: Bench, engine: Engine) -> None:
    job = bench.job(command=shell("echo up; exec sleep 60"), runtime=Runtime(cpu=0.5, memory=100, timeout=90))
    with running(bench, job):
        found = inspect(engine, job)
    host = found["HostConfig"]
    assert {name: host[name] or None for name in LIMITS} == LIMITS
    limits = {limit["Name"]: limit["Hard"] for limit in host["Ulimits"]}
    assert (limits["core"], limits["fsize"]) == (0, 10 << 30)
    assert 0 < limits["nofile"] <= 65536
    assert host["RestartPolicy"]["Name"] == "no"
    assert found["Config"]["Labels"]["theory.execution"] == job.execution_id
    assert found["Config"]["User"].split(":")[0] != "0"
    assert inspect(engine, job) is None  # at once: the run was cancelled


def test_an_entry_that_wants_more_cores_than_there_are_gets_them_all(bench: Bench) -> None:
    ran = bench.run(bench.job(command=("true",), runtime=Runtime(cpu=1000)))
    assert ran.outcome.exit_code == 0
    assert "cores" in said(ran, "stderr")


def test_an_images_healthcheck_does_not_run_and_its_volumes_are_scratch(
    bench: Bench, engine: Engine, image_with: Callable[..., ImageSource]
) -> None:
    own = image_with("HEALTHCHECK --interval=1s CMD touch /tmp/checked", "VOLUME /data /job")
    bench.image = lambda _: own
    job = bench.job(command=shell("echo a > /data/a; grep -c ' /data tmpfs ' /proc/mounts; exec sleep 60"))
    with running(bench, job) as (channel, _):
        found = inspect(engine, job)
        assert channel.output("stdout") == b"1\n"
    assert [mount for mount in found["Mounts"] if mount["Type"] == "volume"] == []
    assert "Health" not in found["State"]
    assert channel.output("stderr") == b"theory: empty here, as the volumes of every image: /data, /job\n"


# ---------------------------------------------------------------- how its end is told


@pytest.mark.parametrize(("script", "status"), [("exit 3", 3), ("exit 255", 255), ("kill -SEGV $$", 139)])
def test_an_exit_status_and_a_signal_are_told_as_a_shell_does(bench: Bench, script: str, status: int) -> None:
    outcome = bench.run(bench.job(command=shell(script))).outcome
    assert (outcome.ended, outcome.exit_code, outcome.message) == ("exit", status, "")


def test_a_kill_from_within_is_no_want_of_memory_for_sure(bench: Bench) -> None:
    outcome = bench.run(bench.job(command=shell("kill -KILL $$"))).outcome
    assert (outcome.ended, outcome.exit_code) == ("exit", 137)
    assert outcome.message == "killed by somebody, or by the system for want of memory: it had 512 MiB"


def test_a_command_beyond_its_memory_is_told_as_such(bench: Bench) -> None:
    job = bench.job(command=python("x = bytearray(300 << 20)"), runtime=Runtime(memory=64))
    outcome = bench.run(job).outcome
    assert (outcome.ended, outcome.exit_code) == ("oom", None)


def test_a_child_beyond_the_memory_is_told_even_where_the_command_copes(bench: Bench) -> None:
    script = "python -c 'x = bytearray(300 << 20)'; echo went on"
    ran = bench.run(bench.job(command=shell(script), runtime=Runtime(memory=64)))
    assert (ran.outcome.ended, ran.outcome.exit_code) == ("exit", 0)
    assert "one of its processes was killed: together they had 64 MiB of memory\n" in said(ran, "stderr")


@pytest.mark.parametrize(
    ("program", "status", "reason"),
    [("nosuch", 127, "No such file or directory"), ("/etc/hostname", 126, "Permission denied")],
)
def test_a_command_that_cannot_run_ends_as_under_a_shell(
    bench: Bench, program: str, status: int, reason: str
) -> None:
    outcome = bench.run(bench.job(command=(program, "x"))).outcome
    assert (outcome.ended, outcome.exit_code) == ("exit", status)
    assert outcome.message == f"cannot run {program}: {reason}"


def test_at_its_deadline_it_is_asked_to_end_before_it_is_killed(bench: Bench) -> None:
    script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    ran = bench.run(bench.job(command=shell(script), runtime=Runtime(timeout=0.5)))
    assert (ran.outcome.ended, ran.outcome.exit_code) == ("timeout", None)
    assert said(ran) == "up\nbye\n"
    assert 0.45 < ran.outcome.duration_s < 2.5


def test_a_run_that_was_cancelled_before_makes_no_container(bench: Bench, engine: Engine) -> None:
    channel, job = RecordingChannel(), bench.job(command=shell("echo ran"))
    channel.cancel()
    ran = bench.start(job, channel=channel).within(10)
    assert ran.outcome.ended == "cancelled"
    assert "started" not in channel.heard
    assert inspect(engine, job) is None


def test_the_image_that_ran_is_told(bench: Bench, engine: Engine, base_image: str) -> None:
    outcome = bench.run(bench.job(command=("true",))).outcome
    found = engine.call("GET", f"/images/{base_image}/json")
    assert outcome.image is not None
    assert found["Id"] in outcome.image.id or found["RepoDigests"]
    assert outcome.platform == outcome.image.platform == f"{found['Os']}/{found['Architecture']}"
    assert outcome.image_digest is not None


# ---------------------------------------------------------------- output


class Counting(RecordingChannel):
    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:  # noqa: ARG002 - any stream counts
        self.bytes += len(data)


def test_output_of_any_length_takes_bounded_memory(bench: Bench) -> None:
    bench.run(bench.job(command=("true",)))  # what is imported and kept once
    channel, job = Counting(), bench.job(command=("head", "-c", "20000000", "/dev/zero"))
    tracemalloc.start()
    try:
        ran = bench.start(job, channel=channel).within(60)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert ran.outcome.exit_code == 0
    assert channel.bytes == 20_000_000
    assert peak < 4_000_000


class Stuck(RecordingChannel):
    """A reader that does not read."""

    def __init__(self) -> None:
        super().__init__(timeout=0.5)
        self.called = threading.Event()
        self.freed = threading.Event()

    def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:  # noqa: ARG002 - as above
        self.called.set()
        self.freed.wait(60)


def test_a_reader_that_is_stuck_does_not_delay_the_deadline(bench: Bench) -> None:
    channel = Stuck()
    later = bench.start(bench.job(command=("cat", "/dev/zero")), channel=channel)
    assert channel.called.wait(60)
    assert later.within(15).outcome.ended == "timeout"
    channel.freed.set()


class Slow(RecordingChannel):
    """A reader that begins to read only when it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.freed = threading.Event()

    def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        self.freed.wait(60)
        super().write(stream, data)


def test_a_slow_reader_gets_all_though_the_command_has_ended(
    bench: Bench, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the engine; the reader is slower.
    monkeypatch.setattr("theory_adapter_local.container.drain._SILENCE_S", 0.1)
    channel, job = Slow(), bench.job(command=("head", "-c", "100000", "/dev/zero"))
    later = bench.start(job, channel=channel)
    until = time.monotonic() + 60
    while (found := inspect(engine, job)) is None or found["State"]["Status"] != "exited":
        assert time.monotonic() < until
        time.sleep(0.02)
    with pytest.raises(TimeoutError, match="did not return"):
        later.within(0.5)
    channel.freed.set()
    assert later.within(20).outcome.exit_code == 0
    assert len(channel.output("stdout")) == 100_000


class Failing(RecordingChannel):
    def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:  # noqa: ARG002 - as above
        raise BrokenPipeError("nobody reads this")


def test_a_failing_channel_ends_the_command_and_is_told(bench: Bench, engine: Engine) -> None:
    job = bench.job(command=shell("echo; exec sleep 60"))
    with pytest.raises(BrokenPipeError, match="nobody reads this"):
        bench.start(job, channel=Failing()).within(20)
    assert inspect(engine, job) is None


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "runtime", "kind", "words"),
    [
        ({"user": "nosuch"}, Runtime(), errors.BadAdapterOptions, "has no such user: .*nosuch"),
        ({"runtime": "nosuch"}, Runtime(), errors.BadAdapterOptions, "no runtime 'nosuch'"),
        ({"network": "nosuch"}, Runtime(network=True), errors.BadAdapterOptions, "cannot use 'nosuch'"),
        ({"mounts": "/nosuch:/x"}, Runtime(), errors.BadAdapterOptions, "/nosuch cannot be mounted"),
    ],
    ids=["user", "runtime", "network", "mount"],
)
def test_what_the_engine_does_not_have_is_named_and_nothing_is_left(
    bench: Bench, engine: Engine, options: dict[str, Any], runtime: Runtime, kind: type[Exception], words: str
) -> None:
    job = bench.job(command=("true",), runtime=runtime)
    bench.options = lambda _: Options(**options)
    with pytest.raises(kind, match=words):
        bench.run(job)
    assert inspect(engine, job) is None


def test_a_gpu_that_the_engine_does_not_have_is_named(bench: Bench, engine: Engine) -> None:
    if "nvidia" in json.dumps(engine.info()):
        return  # then it has what this is about
    job = bench.job(command=("true",), runtime=Runtime(gpu="a100"))
    with pytest.raises(errors.Unsupported, match="needs a gpu, and the Docker engine has none"):
        bench.run(job)
    assert inspect(engine, job) is None


def run_on(engine: Engine, bench: Bench, *command: str) -> Ran:
    """Run a command on an engine that is not quite the real one."""
    job, channel, options = bench.job(command=command), RecordingChannel(), Options()
    workspace = bench.workspace(job)
    ready = ready_image(engine, job, options, workspace.cache, channel)
    files = files_for(engine, ready, job, workspace, options, Secrets())
    ended = run_container(engine, Task(job, options, ready, labels_of(job, 60)), files, channel)
    outcome = Outcome(ended.ended, ended.status, ended.started_at, ended.duration_s)
    wait_for_threads()
    assert inspect(engine, job) is None
    return Ran(job, workspace, channel, outcome, 0, 0, 0)


class Discarding(Engine):
    """An engine that takes no limits."""

    def call(self, method: str, path: str, **how: Any) -> Any:
        answer = super().call(method, path, **how)
        if path == "/containers/create":
            answer["Warnings"] = [
                "Your kernel does not support pids limit capabilities. PIDs limit discarded.",
                "Your kernel does not support swap limit capabilities. Memory limited without swap.",
            ]
        return answer


def test_a_limit_that_the_engine_discards_is_told(bench: Bench, engine: Engine) -> None:
    with closing(Discarding(engine.endpoint)) as discarding:
        ran = run_on(discarding, bench, "true")
    warned = "the engine warns: Your kernel does not support pids limit capabilities. PIDs limit discarded."
    assert (ran.outcome.exit_code, said(ran, "stderr")) == (0, f"theory: {warned}\n")


class Elsewhere(Engine):
    """An engine that does not see our files any more, though it did before."""

    def call(self, method: str, path: str, **how: Any) -> Any:
        if path == "/containers/create":
            for mount in how["body"]["HostConfig"]["Mounts"]:
                if mount["Type"] == "bind":
                    raise Refused(400, f"bind source path does not exist: {mount['Source']}")
        return super().call(method, path, **how)


def test_files_are_copied_where_the_engine_does_not_see_them_after_all(bench: Bench, engine: Engine) -> None:
    bench.run(bench.job(command=("true",)))  # it is found out how, and remembered
    with closing(Elsewhere(engine.endpoint)) as elsewhere:
        ran = run_on(elsewhere, bench, *shell("cp /job/inputs.json /job/out/copy"))
    assert ran.outputs() == {"copy": b'{"steps":[]}'}, str(ran)


# ---------------------------------------------------------------- what is left, or was


def test_a_good_run_leaves_no_container_thread_or_descriptor(bench: Bench, engine: Engine) -> None:
    most = 0
    for run in range(5):
        assert_gone(engine, bench.run(bench.job(command=("true",))).job)
        wait_for_threads()
        held = len(os.listdir("/dev/fd"))
        most = held if run < 2 else most  # the connections that are kept for the next
    assert held <= most


def test_a_container_that_is_kept_has_its_files(bench: Bench, engine: Engine) -> None:
    bench.options = lambda _: Options(keep=True)
    job = bench.job(command=shell("echo here > /job/out/a.txt"))
    ran = bench.run(job)
    try:
        assert ran.outputs() == {"a.txt": b"here\n"}
        assert f"theory: the container {name_of(job)} is kept" in said(ran, "stderr")
        found = inspect(engine, job)
        assert found["State"]["Status"] == "exited"
        assert found["Config"]["Labels"]["theory.keep"] == "true"
        path = {"path": "/job/out/a.txt"}
        with engine.stream("GET", f"/containers/{name_of(job)}/archive", query=path) as answer:
            assert b"here\n" in b"".join(iter(lambda: answer.read(65536), b""))
    finally:
        engine.call("DELETE", f"/containers/{name_of(job)}", query={"v": "1", "force": "1"})


def test_what_a_former_try_left_is_removed_before_the_next(
    bench: Bench, engine: Engine, base_image: str
) -> None:
    job = bench.job(command=("echo", "second"))
    dead = {"theory.owner": labels_of(job, 60)["theory.owner"].rsplit(":", 2)[0] + ":1:1"}
    body: Any = {"Image": base_image, "Labels": dead, "Entrypoint": ["sleep", "60"]}
    former = engine.call("POST", "/containers/create", query={"name": name_of(job)}, body=body)["Id"]
    assert said(bench.run(job)) == "second\n"
    with pytest.raises(Refused, match="No such container"):
        engine.call("GET", f"/containers/{former}/json")


def test_a_container_that_somebody_else_removes_is_told(bench: Bench, engine: Engine) -> None:
    channel, job = RecordingChannel(), bench.job(command=shell("echo up; exec sleep 60"))
    later = bench.start(job, channel=channel)
    channel.wait_for(lambda: "stdout" in channel.heard, 60)
    engine.call("DELETE", f"/containers/{name_of(job)}", query={"force": "1"})
    with pytest.raises(errors.Retry, match="was removed by somebody else"):
        later.within(20)
