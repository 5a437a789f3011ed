"""The documents that go to a function and come back, and what they may do here."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from adapter_modal.deployments import Bench
from theory import errors
from theory_adapter_modal.function.documents import INLINE_BYTES, Request, digest_of, lay_down, read_answer

if TYPE_CHECKING:
    from pathlib import Path


def laid_down(out: Path, *outputs: dict[str, Any]) -> list[tuple[str, int, str]]:
    fetched: list[tuple[str, int, str]] = []

    async def fetch(place: str, here: Path, size: int, digest: str) -> None:
        fetched.append((place, size, digest))
        _write(here, b"x" * size)

    asyncio.run(lay_down(outputs, out, fetch))
    return fetched


def _write(here: Path, data: bytes) -> None:
    here.write_bytes(data)


def file(path: str, data: bytes = b"x") -> dict[str, Any]:
    return {"path": path, "kind": "file", "size": len(data), "data": base64.b64encode(data).decode()}


def test_outputs_are_laid_down_as_they_were(tmp_path: Path) -> None:
    fetched = laid_down(
        tmp_path,
        {"path": "link", "kind": "link", "target": "/etc/passwd"},
        {"path": "socket", "kind": "socket"},
        {"path": "empty", "kind": "folder"},
        file("d/e/a.txt", b"small"),
        {"path": "big", "kind": "file", "size": 9, "volume": "there", "digest": "d"},
    )
    assert tmp_path.joinpath("d/e/a.txt").read_bytes() == b"small"
    assert os.readlink(tmp_path / "link") == "/etc/passwd"
    assert stat.S_ISSOCK(tmp_path.joinpath("socket").lstat().st_mode)
    assert tmp_path.joinpath("empty").is_dir()
    assert fetched == [("there", 9, "d")]


def test_a_file_beyond_the_limits_is_as_large_as_it_was_and_takes_no_room(tmp_path: Path) -> None:
    laid_down(tmp_path, {"path": "a", "kind": "file", "size": 1 << 40, "beyond": True})
    found = tmp_path.joinpath("a").stat()
    assert (found.st_size, found.st_blocks) == (1 << 40, 0)


@pytest.mark.parametrize(
    "outputs",
    [
        [file("../a")],
        [file("/a")],
        [file("a//b")],
        [file("")],
        [file("a\0b")],
        [{"path": "l", "kind": "link", "target": "/"}, file("l/a")],
        [{"path": "l", "kind": "link", "target": "/"}, {"path": "l", "kind": "link", "target": "/"}],
        [file("a"), file("a/b")],
        [{"kind": "file"}],
        [{"path": "a", "kind": "file", "data": "%"}],
    ],
    ids=[
        "up",
        "absolute",
        "empty part",
        "empty",
        "nul",
        "through a link",
        "twice",
        "below a file",
        "no path",
        "no data",
    ],
)
def test_outputs_that_cannot_be_are_refused_and_nothing_leaves_the_folder(
    tmp_path: Path, outputs: list[dict[str, Any]]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(errors.PluginFailed, match="listed outputs that cannot be"):
        laid_down(out, *outputs)
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("data", [None, "text", b"", b"[]", b"{", b"[" * 100_000], ids=repr)
def test_an_answer_that_is_no_document_of_ours_is_refused(data: object) -> None:
    with pytest.raises(errors.PluginFailed, match="no document of ours"):
        read_answer(data)


def test_a_fault_of_the_program_that_serves_is_told() -> None:
    with pytest.raises(
        errors.PluginFailed, match="the program that serves on Modal failed: OSError: no room"
    ):
        read_answer(json.dumps({"fault": "OSError: no room"}).encode())


def test_small_attachments_stand_in_the_document_and_large_ones_are_uploaded(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    large = b"x" * (INLINE_BYTES + 1)
    job, workspace = bench.job(bench.script("true"), files={"large": large, "small": b"s"})
    request = asyncio.run(Request.of(job, workspace, "v", None))
    document = json.loads(request.data())
    small, big = document["files"]
    assert base64.b64decode(small["data"]) == b"s"
    ((here, place),) = request.uploads
    assert here.read_bytes() == large
    assert (big["volume"], big["size"], big["digest"]) == (place, len(large), asyncio.run(digest_of(here)))
    assert place.startswith(f"{job.execution_id}/")


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with pytest.raises(errors.PluginFailed, match="listed outputs that cannot be"):
        laid_down(
            tmp_path,
            {"path": "a", "kind": "link", "target": str(outside)},
            {"path": "a/b", "kind": "link", "target": "x"},
        )
    assert list(outside.iterdir()) == []
