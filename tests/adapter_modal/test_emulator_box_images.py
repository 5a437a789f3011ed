"""Images of the emulator: built by the engine, or written down where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import modal
import modal.exception
import pytest

from adapter_local.registry import Registry
from adapter_modal.box import BASE, app, image, made, said, sandbox
from modal_emulator import handle
from modal_emulator.handle import running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from modal_emulator.handle import Handle


@pytest.fixture(scope="module")
def docker(base_image: str) -> Iterator[Handle]:
    """An emulator whose containers are those of the engine."""
    assert base_image == BASE
    with running("--runner", "docker") as emulator:
        yield emulator
        unknown, bugs = emulator.unknown(), [line for line in emulator.requests() if line["status"] == "BUG"]
    assert not unknown, f"the emulator does not answer {unknown}"
    assert not bugs, bugs


@pytest.fixture(scope="module")
def there(docker: Handle) -> modal.App:
    """An app there. Its client is one of its own: that of the environment is kept for the whole process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in docker.environ.items():
            patch.setenv(name, value)
        client = modal.Client.from_credentials(handle.TOKEN_ID, handle.TOKEN_SECRET)
        return modal.App.lookup("box", client=client, create_if_missing=True)


def test_a_dockerfile_is_built_with_the_files_beside_it(there: modal.App, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM python:3.11-slim\nENV GREETING=hello\nWORKDIR /work\nCOPY said.txt /said.txt\n"
        "RUN cat /said.txt >/twice.txt && cat /said.txt >>/twice.txt\nENTRYPOINT []\n",
        encoding="utf-8",
    )
    (tmp_path / "said.txt").write_text("once ", encoding="utf-8")
    built = modal.Image.from_dockerfile(tmp_path / "Dockerfile", context_dir=tmp_path)
    one = made("sh", "-c", "echo $GREETING $(cat /twice.txt) $(pwd)", app=there, image=built)
    one.wait()
    assert one.stdout.read() == "hello once once /work\n"


def test_the_log_of_a_build_is_followed_and_its_failure_told(
    there: modal.App, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = image().run_commands("echo on the way", "exit 3")
    with (
        modal.enable_output(),
        pytest.raises(modal.exception.ImageBuildError, match="returned a non-zero code: 3"),
    ):
        wrong.build(there)
    assert "on the way" in capfd.readouterr().out


def test_an_image_that_is_nowhere_is_a_failure_and_is_not_looked_for_beyond_this_machine(
    there: modal.App,
) -> None:
    for name in ("registry.invalid/none:1", "theory/never-built:1", "localhost:1/none:1"):
        with pytest.raises(modal.exception.ImageBuildError, match=r"not found|refused"):
            modal.Image.from_registry(name).build(there)


def test_an_image_is_taken_from_a_registry_by_its_digest_with_a_login(
    there: modal.App, docker: Handle
) -> None:
    registry = Registry()
    registry.login = ("me", "secret-word")
    try:
        digest = registry.add("some/thing", "1", [{"greeting": b"hello"}])
        name = f"{registry.host}/some/thing@{digest}"
        with pytest.raises(modal.exception.ImageBuildError, match="no basic auth credentials"):
            modal.Image.from_registry(name).build(there)
        secret = modal.Secret.from_dict({"REGISTRY_USERNAME": "me", "REGISTRY_PASSWORD": "secret-word"})
        built = modal.Image.from_registry(name, secret=secret).entrypoint([]).cmd([])
        one = made(app=there, image=built)  # its image has no program: nothing runs in it
        assert one.filesystem.read_text("/greeting") == "hello"
        one.terminate()
    finally:
        registry.close()
    assert "secret-word" not in str(docker.requests())


def test_what_needs_more_memory_than_its_limit_is_killed_for_that(there: modal.App, docker: Handle) -> None:
    hungry = ("python", "-c", "x = b'x' * (300 << 20)")
    one = made(*hungry, app=there, memory=(64, 64))
    one.wait()
    assert one.returncode == 137
    assert "OOM" in docker.shown("sandboxes")[-1]["status"]
    with sandbox(app=there, memory=(64, 64)) as other:
        assert said(other, *hungry)[0] == 137


def test_a_sandbox_without_network_has_none(there: modal.App) -> None:
    show = ("sh", "-c", "ls /sys/class/net")
    with sandbox(app=there, block_network=True) as one:
        assert said(one, "sh", "-c", "tail -n +3 /proc/net/dev | cut -d: -f1")[1].split() == ["lo"]
    with sandbox(app=there) as one:
        assert "lo" in said(one, *show)[1].split()


@pytest.mark.usefixtures("emulator")
def test_without_an_engine_only_variables_and_the_work_folder_of_an_image_are_kept() -> None:
    layered = image().env({"GREETING": "hello"}).env({"MORE": "there"}).workdir("/some/where")
    one = made("sh", "-c", "echo $GREETING $MORE; pwd", image=layered)
    one.wait()
    assert one.stdout.read() == "hello there\n/some/where\n"
    with pytest.raises(modal.exception.ImageBuildError, match="not found"):
        modal.Image.from_registry("registry.invalid/none:1").build(app())


def test_an_image_is_built_once(emulator: Handle) -> None:
    first = image().run_commands("echo once").build(app()).object_id
    known = len(emulator.shown("images"))
    assert image().run_commands("echo once").build(app()).object_id == first
    assert len(emulator.shown("images")) == known
