"""Images from a Dockerfile: what is sent, what comes back, and every way in which it fails."""

from __future__ import annotations

import io
import os
import tarfile
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from adapter_local.imagery import PATIENCE_S, Studio
from adapter_local.registry import Registry
from theory import errors
from theory.testing.channel import RecordingChannel
from theory_adapter_local.cancelled import Cancelled
from theory_adapter_local.images.build import Log
from theory_adapter_local.images.context import archive_of, copy_context
from theory_adapter_local.images.here import platform_of
from theory_adapter_local.images.lock import locked
from theory_adapter_local.images.source import source_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from theory_adapter_local.engine.client import Engine

DIGEST = "sha256:" + "a1" * 32


@pytest.fixture
def studio(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    made = Studio(engine, tmp_path)
    yield made
    made.close()


@pytest.fixture
def registry() -> Iterator[Registry]:
    made = Registry()
    yield made
    made.close()


# ---------------------------------------------------------------- what is sent


def test_the_same_files_make_the_same_archive(tmp_path: Path) -> None:
    names = ["b/c.txt", "a.txt", "b-d.txt", "é.txt"]
    archives = []
    for turn, order in enumerate((names, names[::-1])):
        folder = tmp_path / str(turn)
        for number, name in enumerate(order):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(name.encode() * 1000)
            (folder / name).chmod((0o600, 0o664)[turn])
            os.utime(folder / name, (number, turn * 10**9))
        archives.append(b"".join(archive_of(folder)))
    assert archives[0] == archives[1]
    with tarfile.open(fileobj=io.BytesIO(archives[0])) as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == ["a.txt", "b", "b-d.txt", "b/c.txt", "é.txt"]
        assert {(member.uid, member.gid, member.uname, member.mtime) for member in members} == {
            (0, 0, "", 315532800)
        }
        assert [member.mode for member in members] == [0o644, 0o755, 0o644, 0o644, 0o644]
        assert archive.extractfile("b/c.txt").read() == b"b/c.txt" * 1000  # type: ignore[union-attr]  # is a file


def test_a_build_sees_the_files_that_count_and_no_others(studio: Studio) -> None:
    files = {
        ".dockerignore": b"secret.txt\n*.log\n!keep.log\n",
        "secret.txt": b"s",
        "a.log": b"l",
        "keep.log": studio.name.encode(),
        "processor.yaml": b"ref: x/y@1\n",
        "__pycache__/a.pyc": b"p",
        "deep/run.sh": b"#!/bin/sh\n",
    }
    processor = studio.entry("FROM scratch\nCOPY . /context/\n", files)
    (processor.folder / "deep" / "run.sh").chmod(0o755)
    processor = studio.reread(processor)
    sent = files_in(studio, studio.ready(processor).ready.id, "/context")
    assert {name: mode for name, mode in sent.items() if mode} == {
        "context/": 0o755,
        "context/.dockerignore": 0o644,
        "context/Dockerfile": 0o644,
        "context/deep/": 0o755,
        "context/deep/run.sh": 0o755,
        "context/keep.log": 0o644,
    }


def files_in(studio: Studio, image: str, path: str) -> dict[str, int]:
    """Names and modes of what is in an image, without running it."""
    container = studio.engine.call("POST", "/containers/create", body={"Image": image, "Cmd": ["/none"]})[
        "Id"
    ]
    try:
        with studio.engine.stream("GET", f"/containers/{container}/archive", query={"path": path}) as answer:
            data = b""
            while portion := answer.read(65536):
                data += portion
    finally:
        studio.engine.call("DELETE", f"/containers/{container}")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name + "/" * member.isdir(): member.mode & 0o777 for member in archive}


def test_a_folder_that_was_changed_since_is_not_built(studio: Studio) -> None:
    processor = studio.entry("FROM scratch\nCOPY a /a\n", {"a": b"before"})
    (processor.folder / "a").write_bytes(b"after")
    with pytest.raises(errors.Retry, match="was changed while its run began"):
        studio.ready(processor)
    assert not list(studio.cache.glob("builds/*/"))


def test_a_context_that_nobody_can_have_meant_is_refused(studio: Studio, tmp_path: Path) -> None:
    processor = studio.entry("FROM scratch\n", {"model.bin": b"x" * 5000, "small": b"x"})
    with pytest.raises(
        errors.ImageBuildFailed, match=r"more than 4 KiB: .* holds model.bin \(4.883 KiB\), "
    ) as raised:
        copy_context(processor, tmp_path / "copy", RecordingChannel(), most_bytes=4096)
    assert raised.value.hint == f"name in {processor.folder}/.dockerignore what the image does not need"


# ---------------------------------------------------------------- what comes back


def test_an_image_is_built_once_and_found_again(studio: Studio) -> None:
    processor = studio.entry(
        "FROM scratch\nCOPY a /a\nENV PYTHON_VERSION=3.13.0\nUSER 7\nVOLUME /v\n", {"a": studio.name.encode()}
    )
    assert studio.identify(replace(processor, tree="b3:" + "1" * 64)).python is None
    made = studio.ready(processor)
    assert "Step 1/" in made.log
    assert made.ready.image == studio.identify(processor)
    assert (made.ready.user, made.ready.image.python) == ("7", "3.13")
    assert made.ready.volumes == ("/v",)
    assert made.ready.image.digest == made.ready.id
    assert studio.ready(processor).log == ""


def test_pinned_bases_make_an_id_that_is_known_before_the_build(studio: Studio, registry: Registry) -> None:
    digest = registry.add("acme/base", "1", [{"a": b"a"}])
    studio.remove_later(f"{registry.host}/acme/base@{digest}")
    processor = studio.entry(f"FROM {registry.host}/acme/base@{digest}\nCOPY a /b\n", {"a": b"1"})
    before = studio.identify(processor)
    ready = studio.ready(processor).ready
    assert before.id.startswith("build:b3:")
    assert before.digest is None
    assert ready.image.id == before.id == studio.identify(processor).id
    assert ready.image.digest == ready.id


def test_an_id_of_a_pinned_build_depends_on_tree_and_platform(studio: Studio) -> None:
    processor = studio.tiny()
    ids = [
        studio.identify(processor).id,
        studio.identify(replace(processor, tree="b3:" + "1" * 64)).id,
        studio.identify(processor, platform="linux/riscv64").id,
    ]
    assert len(set(ids)) == 3


def test_an_unpinned_base_makes_an_id_of_this_machine_alone(studio: Studio, base_image: str) -> None:
    processor = studio.entry(f"FROM {base_image}\nENV A=1\n")
    assert studio.identify(processor).id.startswith("once:")
    ready = studio.ready(processor).ready
    assert ready.image.id == studio.identify(processor).id == f"local:{ready.id}"
    assert ready.image.python == "3.11"


@pytest.mark.parametrize(
    "dockerfile",
    [f"FROM a@{DIGEST} AS one\nFROM b:1\nCOPY --from=one /x /\n", "FROM scratch\nCOPY --from=b:1 /x /\n"],
    ids=["FROM", "COPY --from"],
)
def test_one_base_that_is_not_pinned_is_enough(studio: Studio, dockerfile: str) -> None:
    assert studio.identify(studio.entry(dockerfile)).id.startswith("once:")


def test_other_content_is_another_image(studio: Studio) -> None:
    processor = studio.tiny()
    first = studio.ready(processor).ready
    (processor.folder / "a").write_bytes(studio.name.encode() + b"2")
    assert studio.ready(studio.reread(processor)).ready.id != first.id
    assert studio.ready(processor).log == ""  # the former one is still there


def test_a_build_can_be_forced(studio: Studio) -> None:
    processor = studio.tiny()
    former = studio.ready(processor).ready
    assert studio.identify(processor, build=True).id.startswith("once:")
    made = studio.ready(processor, build=True)
    assert "Step 1/" in made.log
    assert made.ready.image.id == former.image.id


def test_somebody_elses_image_with_our_tag_is_not_run(studio: Studio, base_image: str) -> None:
    processor = studio.tiny()
    tag = source_of(processor, studio.options()).reference
    studio.engine.call("POST", f"/images/{base_image}/tag", query={"repo": tag.name, "tag": tag.tag})
    made = studio.ready(processor)
    assert made.ready.id != studio.inspected(base_image)["Id"]
    assert "Step 1/" in made.log


def test_two_names_of_a_dockerfile_make_two_images(studio: Studio) -> None:
    text = f"FROM scratch\nENV TEST={studio.name} A=1\n"
    one = studio.entry(text, {"other.txt": text.replace("A=1", "A=2").encode()})
    two = replace(one, image=replace(one.image, dockerfile="other.txt"))
    assert "A=1" in studio.ready(one).ready.environment
    assert "A=2" in studio.ready(two).ready.environment


def test_of_many_that_need_an_image_one_builds_it(studio: Studio) -> None:
    processor = studio.tiny()
    channels = [RecordingChannel() for _ in range(6)]
    runs = [studio.start(processor, channel) for channel in channels]
    assert len({run.within(PATIENCE_S).id for run in runs}) == 1
    assert [b"Step 1/" in channel.output("stderr") for channel in channels].count(True) == 1


# ---------------------------------------------------------------- a build that is not wanted any more


def test_a_build_can_be_cancelled_and_leaves_no_container(studio: Studio, base_image: str) -> None:
    processor = studio.entry(f"FROM {base_image}\nRUN echo {studio.name}; exec sleep 1000\n")
    channel = RecordingChannel()
    build = studio.start(processor, channel)
    channel.wait_for(lambda: b"Running in" in channel.output("stderr"), PATIENCE_S)
    channel.cancel()
    with pytest.raises(Cancelled):
        build.within(10)
    until = time.monotonic() + 10  # the engine ends it when it notices, which nothing tells
    while any(studio.name in container["Command"] for container in containers(studio.engine)):
        assert time.monotonic() < until, "the step's container is still there"
        time.sleep(0.05)
    assert not list(studio.cache.glob("builds/*/"))


def containers(engine: Engine) -> list[dict[str, str]]:
    return list(engine.call("GET", "/containers/json", query={"all": "1"}))


def test_who_waits_for_somebody_elses_build_can_be_cancelled(studio: Studio) -> None:
    processor = studio.tiny()
    tag = source_of(processor, studio.options()).reference.tag
    channel = RecordingChannel()
    with locked(studio.cache / "builds" / f"{tag}.lock", RecordingChannel()):
        waiting = studio.start(processor, channel)
        channel.cancel()
        with pytest.raises(Cancelled):
            waiting.within(10)


# ---------------------------------------------------------------- a build that fails


def test_a_step_that_fails_is_named_with_its_last_lines(studio: Studio, base_image: str) -> None:
    step = "for n in $(seq 30); do echo line $n; done; echo the reason >&2; exit 3"
    processor = studio.entry(f"FROM {base_image}\nRUN {step}\n")
    with pytest.raises(errors.ImageBuildFailed, match="could not be built") as raised:
        studio.ready(processor)
    first, *tail = raised.value.message.splitlines()
    assert (
        first
        == f"the image of {processor.ref} could not be built: Step 2/3 : RUN {step} ended with exit status 3"
    )
    assert sorted(tail[-2:]) == ["line 30", "the reason"] or tail[-1] == "line 30"  # two pipes, in no order
    assert len(tail) == 12
    assert raised.value.hint == f"mend {processor.folder}/Dockerfile"


def test_only_the_lines_of_the_latest_step_are_kept() -> None:
    channel = RecordingChannel()
    log = Log(channel)
    for text in (
        "Step 1/2 : RUN one",
        "\n ---> Running in 0123\nof the former\nStep 2/2 : RU",
        "N two\n\x1b[91mlast",
        " words\x1b[0m\n",
    ):
        log.hear({"stream": text})
    assert (log.step, log.tail()) == ("Step 2/2 : RUN two", "last words")
    assert channel.output("stderr").endswith(b"RUN two\nlast words\n")


@pytest.mark.parametrize(
    ("dockerfile", "message", "hint"),
    [
        ("FROM scratch\nRUNN x\n", "/Dockerfile, line 2: unknown instruction: RUNN", "mend "),
        ("FROM scratch\nCOPY missing /\n", "Step 2/3 : COPY missing / failed: .*missing", "mend "),
        ("FROM $NONE\n", "base name .* should not be blank", "mend "),
        ("FROM Not:A:Name\n", "Step 1/2 : FROM Not:A:Name failed: .*must be lowercase", "mend "),
        ("RUN true\n", "no build stage", "mend "),
        ("", "(cannot be empty|no instructions)", "mend "),
        (
            "FROM scratch\nRUN <<EOF\necho 1\nEOF\n",
            "unknown instruction",
            "the Dockerfile needs BuildKit: install",
        ),
        (
            "FROM scratch\nRUN --mount=type=cache,target=/c x\n",
            "requires BuildKit",
            "the Dockerfile needs BuildKit",
        ),
    ],
    ids=["syntax", "missing file", "empty name", "no name", "no base", "empty", "here-document", "mount"],
)
def test_what_is_wrong_in_a_dockerfile_is_told(
    studio: Studio, dockerfile: str, message: str, hint: str
) -> None:
    with pytest.raises(
        errors.ImageBuildFailed, match=f"^the image of .* could not be built: .*{message}"
    ) as raised:
        studio.ready(studio.entry(dockerfile))
    assert raised.value.hint.startswith(hint)


def test_a_base_that_cannot_be_had_is_the_image_that_is_not_found(studio: Studio, registry: Registry) -> None:
    registry.close()
    name = f"{registry.host}/acme/base:1"
    with pytest.raises(errors.ImageNotFound, match=f"^Unable to find image '{name}'$") as raised:
        studio.ready(studio.entry(f"FROM {name}\n"))
    assert raised.value.hint.startswith(f"the engine cannot reach {registry.host}")


def test_a_base_is_not_pulled_where_pulling_is_forbidden(studio: Studio, registry: Registry) -> None:
    registry.add("acme/base", "1", [{"a": b"a"}])
    name = f"{registry.host}/acme/base:1"
    with pytest.raises(errors.ImageNotFound, match=f"^Unable to find image '{name}'$") as raised:
        studio.ready(studio.entry(f"FROM {name}\n"), pull="never")
    assert raised.value.hint.startswith("pull=never: ")
    assert not registry.asked


def test_pull_always_builds_on_the_newest_base(studio: Studio, registry: Registry) -> None:
    registry.add("acme/base", "1", [{"a": b"a"}], environment=["A=1"])
    studio.remove_later(f"{registry.host}/acme/base:1")
    processor = studio.entry(f"FROM {registry.host}/acme/base:1\nENV B=1\n")
    assert "A=1" in studio.ready(processor).ready.environment
    registry.add("acme/base", "1", [{"a": b"a"}], environment=["A=2"])
    assert studio.ready(processor).log == ""
    assert "A=2" in studio.ready(processor, pull="always").ready.environment


def test_a_base_for_another_platform_is_not_built_on(studio: Studio, registry: Registry) -> None:
    own = platform_of(studio.engine)
    foreign = "arm64" if own != "linux/arm64" else "amd64"
    name = f"{registry.host}/acme/base:1"
    both = {
        kind: registry.add("acme/base", kind, [{"a": b"a"}], architecture=kind) for kind in (own[6:], foreign)
    }
    registry.add_index("acme/base", "1", both)
    assert studio.ready(studio.pulled(name), platform=f"linux/{foreign}").ready.id
    assert studio.ready(studio.entry(f"FROM {name}\nENV A=1\n")).ready.image.platform == own


def test_a_dockerfile_that_is_not_there_is_the_entrys_fault(studio: Studio) -> None:
    processor = studio.entry("FROM scratch\n")
    (processor.folder / "Dockerfile").unlink()
    with pytest.raises(errors.RegistryFault, match="Dockerfile cannot be read"):
        studio.identify(processor)
