"""What a user may ask of the adapter ``local``, and what it makes of that."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory import Secrets, errors
from theory.options import describe_options, options_of
from theory.testing.channel import RecordingChannel
from theory.types import Runtime
from theory_adapter_local.container.hardening import create_config
from theory_adapter_local.container.mounts import TAKEN, check_sources, read_mounts
from theory_adapter_local.engine.client import Engine
from theory_adapter_local.files.ways import files_for
from theory_adapter_local.images.find import ready_image
from theory_adapter_local.options import Options

if TYPE_CHECKING:
    from pathlib import Path

    from theory.testing.bench import Bench


def config(bench: Bench, engine: Engine, options: Options, **runtime: Any) -> Any:
    """What the engine would be asked for."""
    job, channel = bench.job(command=("true",), runtime=Runtime(**runtime)), RecordingChannel()
    workspace = bench.workspace(job)
    ready = ready_image(engine, job, options, workspace.cache, channel)
    files = files_for(engine, ready, job, workspace, options, Secrets())
    try:
        return create_config(job, options, engine, ready, files, {})["HostConfig"]
    finally:
        files.close()


def test_every_option_has_a_line_of_help() -> None:
    assert all(option.help for option in describe_options(Options))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"output_size": 0}, "output_size is not between 1 and 2"),
        ({"platform": "arm64"}, "'arm64' is not of the form linux/amd64"),
        ({"network": ""}, "network is ''"),
        ({"user": "me\n"}, r"user is 'me\\n'"),
        ({"pull": "often"}, "pull .*takes"),
        ({"mounts": "/a"}, "the mount '/a' is not of the form"),
        ({"mounts": "a:/b"}, "the mount 'a:/b' is not of the form"),
        ({"mounts": "/a/../b:/b"}, "is not of the form"),
        ({"mounts": "/a:/b:rw"}, "asks for 'rw', and mounts are read-only"),
        ({"mounts": "/a:/b,"}, "the mount '' is not of the form"),
    ],
)
def test_what_no_container_could_be_made_of_is_refused(wanted: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.BadAdapterOptions, match=words):
        options_of("local", Options, wanted)


NAMES = st.text("abz_. é-", min_size=1, max_size=5).filter(lambda name: name not in {".", ".."})
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))


@given(st.lists(st.tuples(PATHS, PATHS.map(lambda path: "/data" + path)), min_size=1))
def test_mounts_are_read_as_they_are_written(mounts: list[tuple[str, str]]) -> None:
    assert read_mounts(",".join(f"{source}:{target}" for source, target in mounts)) == tuple(mounts)


@pytest.mark.parametrize("target", ["/", "/run", "/run/secrets/x", *TAKEN, *(f"{path}/x" for path in TAKEN)])
def test_nothing_is_mounted_over_what_each_container_has(target: str) -> None:
    with pytest.raises(ValueError, match="nothing can be mounted at"):
        read_mounts(f"/srv:{target}")


CONTROLS = [
    "/",
    "/run",
    "/var/run/docker.sock",
    "/run/../run/docker.sock",
    "/var/lib",
    "/var/lib/docker/x",
    "/proc/1",
    "/dev",
]


@pytest.mark.parametrize("source", CONTROLS)
def test_nothing_that_controls_the_machine_is_mounted(engine: Engine, source: str) -> None:
    with pytest.raises(errors.BadAdapterOptions, match=r"Docker is controlled by|belongs to the kernel"):
        check_sources(((source, "/x"),), engine)


def test_a_mount_is_refused_before_an_image_is_built_for_it(bench: Bench) -> None:
    bench.options = lambda _: Options(mounts="/var/run/docker.sock:/x")
    with pytest.raises(errors.BadAdapterOptions, match="Docker is controlled by"):
        bench.identify(bench.processor())


def test_neither_by_a_link_nor_any_other_socket(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "innocent").symlink_to("/run")
    with pytest.raises(
        errors.BadAdapterOptions, match="innocent has to do with what Docker is controlled by"
    ):
        check_sources(((f"{tmp_path}/innocent", "/x"),), engine)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/s")
        with pytest.raises(errors.BadAdapterOptions, match="s is neither a folder nor a file"):
            check_sources(((f"{tmp_path}/s", "/x"),), engine)


def test_a_mount_is_seen_and_cannot_be_written(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("here\n", encoding="utf-8")
    bench.options = lambda _: Options(mounts=f"{tmp_path}/data:/opt/data")
    ran = bench.run(bench.job(command=("sh", "-c", "cat /opt/data/a.txt; echo > /opt/data/b")))
    assert ran.channel.output("stdout") == b"here\n", str(ran)
    assert b"Read-only file system" in ran.channel.output("stderr")
    assert ran.outcome.image is not None
    first = ran.outcome.image.id
    assert bench.job(command=("true",)).image.id != first  # its content is in no memo key


def test_only_an_entry_that_asks_for_a_network_gets_one(bench: Bench, engine: Engine) -> None:
    given = Options(network="host")
    assert config(bench, engine, given)["NetworkMode"] == "none"
    assert config(bench, engine, given, network=True)["NetworkMode"] == "host"
    assert config(bench, engine, Options(), network=True)["NetworkMode"] == "bridge"


@pytest.mark.parametrize(("gpu", "count"), [(1, 1), (2, 2), ("all", -1), ("3", 3), ("a100", 1)])
def test_gpus_are_asked_for_by_number(bench: Bench, engine: Engine, gpu: str | int, count: int) -> None:
    asked = config(bench, engine, Options(), gpu=gpu)["DeviceRequests"]
    assert asked == [{"Driver": "", "Count": count, "Capabilities": [["gpu"]]}]


def test_a_gpu_is_refused_where_podman_would_ignore_the_wish(bench: Bench, engine: Engine) -> None:
    with closing(Engine(engine.endpoint)) as podman:
        podman.is_podman = True
        with pytest.raises(errors.Unsupported, match="needs a gpu, which Podman does not give"):
            config(bench, podman, Options(), gpu=1)


def test_the_runtime_and_the_size_of_files_reach_the_engine(bench: Bench, engine: Engine) -> None:
    asked = config(bench, engine, Options(runtime="runsc", output_size=3))
    assert asked["Runtime"] == "runsc"
    assert {"Name": "fsize", "Soft": 3 << 20, "Hard": 3 << 20} in asked["Ulimits"]


def test_a_file_beyond_its_size_ends_the_command(bench: Bench) -> None:
    bench.options = lambda _: Options(output_size=1)
    outcome = bench.run(bench.job(command=("head", "-c", "3000000", "/dev/zero"))).outcome
    assert outcome.exit_code == 0  # stdout is no file
    job = bench.job(command=("sh", "-c", "exec head -c 3000000 /dev/zero > /job/out/big"))
    outcome = bench.run(job).outcome
    assert (outcome.ended, outcome.exit_code) == ("exit", 153)
    assert outcome.message == "it wrote a larger file than -o output_size=MIB allows"


def test_outputs_beyond_their_size_end_the_command(bench: Bench) -> None:
    bench.options = lambda _: Options(output_size=1)
    script = "for i in 1 2 3 4; do head -c 500000 /dev/zero > /job/out/$i; done; sleep 60"
    with pytest.raises(errors.OutputLimit, match="1 MiB"):
        bench.run(bench.job(command=("sh", "-c", script)))
