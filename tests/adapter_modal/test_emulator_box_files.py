"""Files in sandboxes of the emulator, through the real client."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import modal
import modal.exception
import pytest

from adapter_modal.box import said, sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from modal_emulator.handle import Handle


@pytest.fixture(scope="module")
def one(modal_server: Handle) -> Iterator[modal.Sandbox]:
    """One sandbox for all tests here: each has a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in modal_server.environ.items():
            patch.setenv(name, value)
        modal_server.reset()
        with sandbox() as one:
            yield one
        unknown, bugs = (
            modal_server.unknown(),
            [line for line in modal_server.requests() if line["status"] == "BUG"],
        )
        modal_server.reset()
    assert not unknown, f"the emulator does not answer {unknown}"
    assert not bugs, bugs


def test_a_file_comes_back_as_it_went(one: modal.Sandbox, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(3_000_001))
    one.filesystem.copy_from_local(source, "/job/deep/er/file")
    one.filesystem.copy_to_local("/job/deep/er/file", back)
    assert back.read_bytes() == source.read_bytes()
    one.filesystem.write_bytes(b"", "/job/deep/er/file")
    assert one.filesystem.read_bytes("/job/deep/er/file") == b""


def test_what_is_in_a_folder_is_told_and_links_are_told_as_links(one: modal.Sandbox) -> None:
    said(
        one,
        "sh",
        "-c",
        "mkdir -p /job/l/d; printf abc >/job/l/f; ln -s /etc/passwd /job/l/s; mkfifo /job/l/p",
    )
    entries = {entry.name: entry for entry in one.filesystem.list_files("/job/l")}
    assert {name: entry.type.value for name, entry in entries.items()} == {
        "d": "directory",
        "f": "file",
        "p": "file",
        "s": "symlink",
    }
    assert (entries["f"].size, entries["f"].permissions, entries["f"].owner) == (3, "-rw-r--r--", "root")
    assert entries["p"].permissions[0] == "p"
    assert one.filesystem.stat("/job/l/s").symlink_target == "/etc/passwd"


def test_a_link_means_a_place_in_the_sandbox(one: modal.Sandbox, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("of this machine", encoding="utf-8")
    said(one, "sh", "-c", f"mkdir -p /job/k; ln -s {tmp_path}/here /job/k/s; ln -s / /job/k/top")
    with pytest.raises(modal.exception.SandboxFilesystemNotFoundError):
        one.filesystem.read_text("/job/k/s")
    with pytest.raises(modal.exception.SandboxFilesystemNotFoundError):
        one.filesystem.read_text(f"/job/k/top/../..{tmp_path}/here")


def test_every_refusal_has_its_error(one: modal.Sandbox) -> None:
    files, errors = one.filesystem, modal.exception
    said(one, "sh", "-c", "mkdir -p /job/e/full; touch /job/e/full/file")
    with pytest.raises(errors.SandboxFilesystemNotFoundError, match="/job/e/none"):
        files.read_bytes("/job/e/none")
    with pytest.raises(errors.SandboxFilesystemIsADirectoryError, match="/job/e/full"):
        files.read_bytes("/job/e/full")
    with pytest.raises(errors.SandboxFilesystemNotADirectoryError, match="/job/e/full/file/x"):
        files.write_bytes(b"x", "/job/e/full/file/x")
    with pytest.raises(errors.SandboxFilesystemIsADirectoryError, match="/job/e/full"):
        files.write_bytes(b"x", "/job/e/full")
    with pytest.raises(errors.SandboxFilesystemNotADirectoryError, match="/job/e/full/file"):
        files.list_files("/job/e/full/file")
    with pytest.raises(errors.SandboxFilesystemPathAlreadyExistsError, match="/job/e/full"):
        files.make_directory("/job/e/full", create_parents=False)
    with pytest.raises(errors.SandboxFilesystemDirectoryNotEmptyError, match="/job/e/full"):
        files.remove("/job/e/full")
    files.remove("/job/e/full", recursive=True)
    with pytest.raises(errors.SandboxFilesystemNotFoundError, match="/job/e/full"):
        files.stat("/job/e/full")


def test_an_upload_that_breaks_goes_on_where_it_was(one: modal.Sandbox, modal_server: Handle) -> None:
    data = os.urandom(4 << 20)
    modal_server.fault("TaskExecStdinWriteStream", "status", status="UNAVAILABLE", times=1)
    one.filesystem.write_bytes(data, "/job/cut")
    modal_server.fault("TaskExecStdioRead", "cut", after_bytes=1_500_000, times=2)
    assert one.filesystem.read_bytes("/job/cut") == data
    assert modal_server.requests("TaskExecStdinStatus")
