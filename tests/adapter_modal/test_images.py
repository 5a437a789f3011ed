"""Which image an entry means on Modal, what is sent for it, and how a build fails."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import modal
import pytest
from modal.exception import ImageBuildError

from adapter_modal.deployments import Bench
from theory import errors, tree_of
from theory.testing.channel import RecordingChannel
from theory.types import ImageSource
from theory_adapter_local.images.source import source_of
from theory_adapter_local.options import Options as LocalOptions
from theory_adapter_modal.account import client
from theory_adapter_modal.images import build, identify_image, image_for, image_that_ran
from theory_adapter_modal.options import Options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from modal_emulator.handle import Handle
    from theory import Processor

DIGEST = "sha256:" + "a1" * 32
PINNED = f"FROM python@{DIGEST}\nCOPY . /app\n"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def dockerfile(bench: Bench, text: str, **files: str) -> Processor:
    """An entry whose image is built."""
    made = bench.script("true", image=ImageSource(dockerfile="Dockerfile"))
    for name, content in {"Dockerfile": text, **files}.items():
        (made.folder / name.replace("__", ".")).write_text(content)
    return replace(made, tree=tree_of(made.folder, "Dockerfile"))


# ---------------------------------------------------------------- which


def test_a_pinned_image_is_its_digest_and_a_pinned_build_what_it_is_built_from(bench: Bench) -> None:
    pulled = identify_image(bench.script("true", image=ImageSource(oci=f"acme/tool:1@{DIGEST}")), Options())
    assert (pulled.id, pulled.digest, pulled.platform) == (DIGEST, DIGEST, "linux/amd64")
    built = identify_image(dockerfile(bench, PINNED), Options())
    assert built.id.startswith("build:b3:")
    assert built.digest is None


@pytest.mark.parametrize("text", [PINNED, "FROM scratch\nCOPY a /a\n"], ids=["by digest", "scratch"])
def test_a_pinned_build_has_the_id_that_docker_gives_it_too(bench: Bench, text: str) -> None:
    entry = dockerfile(bench, text)
    assert identify_image(entry, Options()).id == source_of(entry, LocalOptions()).pinned_id("linux/amd64")


def test_what_nothing_pins_is_another_image_each_time_until_modal_says_which_ran(bench: Bench) -> None:
    for entry in (bench.script("true"), dockerfile(bench, "FROM python:3.11\n")):
        images = [identify_image(entry, Options()) for _ in range(2)]
        assert images[0].is_passing
        assert images[0].id != images[1].id
        assert image_that_ran(images[0], "im-1").id == "modal:im-1"
    pinned = identify_image(dockerfile(bench, PINNED), Options())
    assert image_that_ran(pinned, "im-1") == pinned


def test_a_build_that_is_asked_for_is_of_one_run_alone(bench: Bench) -> None:
    assert identify_image(dockerfile(bench, PINNED), Options(build=True)).is_passing


def test_an_image_without_a_proper_name_is_refused(bench: Bench) -> None:
    with pytest.raises(errors.RegistryFault, match="'Not A Name' is no name of an image"):
        identify_image(bench.script("true", image=ImageSource(oci="Not A Name")), Options())


# ---------------------------------------------------------------- what is sent


def built(entry: Processor, options: Options | None = None) -> str:
    async def work() -> str:
        app = await modal.App.lookup.aio("images", create_if_missing=True, client=answering)
        return await build(image_for(entry, options or Options(), answering), entry, app, RecordingChannel())

    answering = client()
    return asyncio.run(work())


@pytest.fixture
def enabled(emulator: Handle, monkeypatch: pytest.MonkeyPatch) -> Handle:
    monkeypatch.setenv("MODAL_ENABLED", "True")
    return emulator


def test_a_name_goes_out_as_it_stands_with_the_login_and_without_the_images_entry_point(
    enabled: Handle, bench: Bench
) -> None:
    modal.Secret.objects.create(
        "login", {"REGISTRY_USERNAME": "u", "REGISTRY_PASSWORD": "p"}, client=client()
    )
    name = f"ghcr.io/acme/tool:1@{DIGEST}"
    image_id = built(
        bench.script("true", image=ImageSource(oci=name)),
        Options(registry_secret="login", build=True),  # noqa: S106
    )
    assert image_id.startswith("im-")
    requests = [line["request"] for line in enabled.requests("ImageGetOrCreate")]
    commands = [request["image"]["dockerfile_commands"] for request in requests]
    assert commands == [[f"FROM {name}"], ["FROM base", "ENTRYPOINT []"]]
    assert requests[0]["force_build"] is True
    assert requests[0]["image"]["image_registry_config"]["secret_id"].startswith("st-")


def test_the_context_of_a_build_is_what_counts_of_the_entrys_folder(enabled: Handle, bench: Bench) -> None:
    entry = dockerfile(
        bench,
        "FROM python:3.11-slim\nCOPY . /app\n",
        main__py="1",
        other__txt="no",
        processor__yaml="ref: x",
        __dockerignore="other.txt\n",
    )
    entry = replace(entry, tree=tree_of(entry.folder, "Dockerfile"))
    built(entry)
    (mount,) = [
        line["request"] for line in enabled.requests("MountGetOrCreate") if line["request"].get("files")
    ]
    names = {one["filename"].lstrip("/") for one in mount["files"]}
    assert names == {"main.py", "Dockerfile", ".dockerignore"}


def test_a_folder_that_is_edited_meanwhile_is_not_built_as_what_it_was(enabled: Handle, bench: Bench) -> None:
    entry = dockerfile(bench, "FROM python:3.11-slim\nCOPY . /app\n")
    (entry.folder / "more").write_text("x")
    with pytest.raises(errors.Retry, match="was changed while its run began"):
        built(entry)
    assert not enabled.requests("ImageGetOrCreate")


# ---------------------------------------------------------------- how it fails


class Broken:
    """An image whose build fails, with a log."""

    object_id = "im-none"

    def __init__(self, words: str, log: str) -> None:
        self.words, self.text = words, log

    @property
    def build(self) -> Any:
        async def fail(_: object) -> None:
            raise ImageBuildError(self.words, "im-none")

        return type("Method", (), {"aio": staticmethod(fail)})

    @property
    def logs(self) -> Any:
        async def tail(_: int) -> AsyncIterator[Any]:
            for line in self.text.splitlines(keepends=True):
                yield type("Entry", (), {"message": line})

        return type("Logs", (), {"tail": type("Method", (), {"aio": staticmethod(tail)})})


def failed(entry: Processor, words: str, log: str) -> tuple[errors.TheoryError, bytes]:
    channel = RecordingChannel()
    with pytest.raises(errors.TheoryError, match=r"^") as raised:
        asyncio.run(build(Broken(words, log), entry, None, channel))  # type: ignore[arg-type]  # as far as it is asked
    return raised.value, channel.output("stderr")


def test_a_failed_step_is_named_with_its_last_lines_and_its_log_is_shown(bench: Bench) -> None:
    log = "=> Step 0: FROM base\n=> Step 1: RUN make\n\x1b[31mno rule\x1b[0m\nmake failed\n"
    error, shown = failed(
        dockerfile(bench, PINNED), "Image build for im-1 failed.\nView the build logs:", log
    )
    assert isinstance(error, errors.ImageBuildFailed)
    assert error.message == (
        "the image of acme/tool@1 could not be built: Step 1: RUN make failed\nno rule\nmake failed"
    )
    assert error.hint.endswith("Dockerfile")
    assert b"make failed\n" in shown


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        (lambda bench: bench.script("true", image=ImageSource(oci="acme/none:1")), "docker.io/acme/none:1"),
        (lambda bench: dockerfile(bench, "FROM a:1\nCOPY --from=acme/none:2 /a /a\n"), "acme/none:2"),
    ],
    ids=["pulled", "a base"],
)
def test_an_image_that_no_registry_gives_is_named_in_the_words_of_the_requirements(
    bench: Bench, entry: Any, name: str
) -> None:
    error, _ = failed(entry(bench), "failed", "manifest unknown: acme/none:2 is not there\n")
    assert isinstance(error, errors.ImageNotFound)
    assert error.message == f"Unable to find image '{name}'"
    assert "registry_secret" in error.hint


def test_a_build_that_modal_gave_up_may_be_tried_again(bench: Bench) -> None:
    error, _ = failed(
        dockerfile(bench, PINNED), "terminated due to external shut-down. Please try again.", ""
    )
    assert isinstance(error, errors.Retry)


def test_describing_imports_no_modal() -> None:
    program = (
        "import sys, theory_adapter_modal.images, theory_adapter_modal.adapter as adapter;"
        "adapter.describe_adapter(); sys.exit('modal' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 0
