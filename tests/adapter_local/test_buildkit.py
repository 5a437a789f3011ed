"""Builds through Docker's own command line, as BuildKit does them."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from adapter_local.imagery import PATIENCE_S, Studio
from theory import errors
from theory.testing.channel import RecordingChannel, Stream
from theory_adapter_local.cancelled import Cancelled
from theory_adapter_local.images.buildkit import has_buildx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theory_adapter_local.engine.client import Engine


@pytest.fixture
def studio(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    """With a ``docker`` on the PATH that has buildx, whether or not one is installed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command(folder, f'exec "{sys.executable}" -I "{Path(__file__).with_name("buildx.py")}" "$@"')
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    made = Studio(engine, tmp_path)
    yield made
    made.close()


def command(folder: Path, script: str) -> None:
    (folder / "docker").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "docker").chmod(0o755)


@pytest.mark.parametrize(
    ("script", "has"),
    [
        ("echo github.com/docker/buildx v0.14.1 59582a8", True),
        ("echo buildah 1.33.7", False),  # Podman's docker
        ("echo docker: unknown command: docker buildx; exit 1", False),
        ("exit 127", False),
    ],
    ids=["buildx", "podman", "no plugin", "no docker"],
)
def test_buildx_is_told_from_what_is_none(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, has: bool
) -> None:
    command(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert has_buildx(engine) is has


def test_without_a_docker_command_there_is_no_buildx(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not has_buildx(engine)


def test_buildkit_builds_what_the_classic_builder_cannot(studio: Studio, base_image: str) -> None:
    text = f"FROM {base_image}\nRUN --mount=type=cache,target=/c echo one line\nCOPY a /a\nENV A=1\n"
    processor = studio.entry(text, {"a": b"1"})
    made = studio.ready(processor)
    assert "one line" in made.log
    assert "A=1" in made.ready.environment
    assert made.ready.image == studio.identify(processor)
    assert studio.ready(processor).log == ""


def test_a_step_of_buildkit_that_fails_is_named_with_its_last_lines(studio: Studio, base_image: str) -> None:
    step = "for n in $(seq 30); do echo line $n; done; exit 3"
    processor = studio.entry(f"FROM {base_image}\nRUN {step}\n")
    with pytest.raises(errors.ImageBuildFailed, match="could not be built") as raised:
        studio.ready(processor)
    first, *tail = raised.value.message.splitlines()
    assert (
        first == f"the image of {processor.ref} could not be built: [2/2] RUN {step} ended with exit status 3"
    )
    assert tail == [f"line {number}" for number in range(19, 31)]


@pytest.mark.parametrize(
    ("dockerfile", "message"),
    [
        ("FROM scratch\nRUNN x\n", "/Dockerfile, line 2: unknown instruction: RUNN$"),
        ("FROM scratch\nCOPY missing /\n", '"/missing" not found'),
        ("", "the Dockerfile cannot be empty|file with no instructions"),
    ],
    ids=["syntax", "missing file", "empty"],
)
def test_what_is_wrong_in_a_dockerfile_for_buildkit_is_told(
    studio: Studio, dockerfile: str, message: str
) -> None:
    with pytest.raises(errors.ImageBuildFailed, match=f"^the image of .* could not be built: .*({message})"):
        studio.ready(studio.entry(dockerfile))


def test_a_base_that_buildkit_cannot_have_is_the_image_that_is_not_found(studio: Studio) -> None:
    with pytest.raises(
        errors.ImageNotFound, match=r"^Unable to find image '127\.0\.0\.1:1/acme/base:1'$"
    ) as raised:
        studio.ready(studio.entry("FROM 127.0.0.1:1/acme/base:1\n"))
    assert raised.value.hint.startswith("the engine cannot reach 127.0.0.1:1")


def test_buildkit_is_not_asked_for_a_base_where_pulling_is_forbidden(studio: Studio) -> None:
    with pytest.raises(errors.ImageNotFound, match="Unable to find image") as raised:
        studio.ready(studio.entry("FROM 127.0.0.1:1/acme/base:1\n"), pull="never")
    assert raised.value.hint.startswith("pull=never: ")


def test_a_build_by_buildkit_can_be_cancelled(studio: Studio, base_image: str) -> None:
    # BuildKit does the same step of two builds once, and a former run's may still be on its way out.
    processor = studio.entry(f"FROM {base_image}\nRUN echo begun; exec sleep 1000 # {uuid.uuid4()}\n")
    channel = RecordingChannel()
    build = studio.start(processor, channel)
    channel.wait_for(lambda: b" begun\n" in channel.output("stderr"), PATIENCE_S)
    channel.cancel()
    with pytest.raises(Cancelled):
        build.within(10)


def test_a_reader_of_the_log_that_fails_ends_the_build(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(RecordingChannel):
        def write(self, stream: Stream, data: bytes) -> None:
            super().write(stream, data)
            if data == b"flood\n":
                raise ValueError("the reader is gone")

    folder = tmp_path / "bin"
    folder.mkdir()
    command(folder, '[ "$2" = version ] && exec echo github.com/docker/buildx; exec yes flood >&2')
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    studio = Studio(engine, tmp_path)
    build = studio.start(studio.tiny(), Broken())
    with pytest.raises(ValueError, match="the reader is gone"):
        build.within(10)
    studio.close()
