"""Volumes of the emulator, through the real client."""

from __future__ import annotations

import io
import os

import modal
import pytest

from adapter_modal.box import made


@pytest.mark.usefixtures("emulator")
@pytest.mark.parametrize("version", [1, 2])
def test_a_volume_keeps_what_clients_and_sandboxes_put_there(version: int) -> None:
    volume = modal.Volume.from_name("files", create_if_missing=True, version=version)
    large = os.urandom(9 << 20) + bytes(1 << 20)
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"hello"), "/a/b.txt")
        batch.put_file(io.BytesIO(large), "/large")
    with pytest.raises(FileExistsError, match=r"a/b\.txt"), volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"other"), "/a/b.txt")
    one = made("sh", "-c", "cat /v/a/b.txt; echo new >/v/new", volumes={"/v": volume})
    one.wait()
    assert one.stdout.read() == "hello"
    assert b"".join(volume.read_file("new")) == b"new\n"
    assert b"".join(volume.read_file("large")) == large
    volume.copy_files(["a/b.txt"], "c.txt")
    volume.remove_file("a", recursive=True)
    assert sorted(entry.path for entry in volume.listdir("/", recursive=True)) == ["c.txt", "large", "new"]
    with pytest.raises(FileNotFoundError, match="none"):
        list(volume.read_file("none"))
    read_only = made("touch", "/v/x", volumes={"/v": volume.with_mount_options(read_only=True)})
    read_only.wait()
    assert read_only.returncode != 0
