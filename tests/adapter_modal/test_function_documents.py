"""The documents that go to a function and come back, and what they may do here."""

from __future__ import annotations

import asyncio
import base64
import copy
import hashlib
import json
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_modal.deployments import FUNCTION, Bench
from theory import Outcome, Secrets, errors
from theory.testing.channel import RecordingChannel
from theory_adapter_modal.function import call as calls
from theory_adapter_modal.function.documents import (
    INLINE_BYTES,
    LIMITS,
    Request,
    digest_of,
    lay_down,
    read_answer,
)
from theory_adapter_modal.function.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


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


# ---------------------------------------------------------------- what this machine does not take


@pytest.mark.parametrize(
    ("outputs", "error", "said"),
    [
        ([file("a/" + "x" * 300)], errors.BadOutputPath, "the output 'a/xxx.*' cannot have this name here"),
        ([file("x" * 5000)], errors.BadOutputPath, "the output 'xxx.*' cannot have this name here"),
        ([{"path": "d/a", "kind": "device"}], errors.BadOutputPath, "the output 'd/a' is a device"),
        (
            [{"path": "a", "kind": "link", "target": "x" * 5000}],
            errors.BadOutputPath,
            "the output 'a' cannot have",
        ),
        (
            [{"path": "a", "kind": "file", "size": 1 << 62}],
            errors.StoreFailed,
            "write the output 'a': File too",
        ),
    ],
    ids=["name", "path", "device", "target", "size"],
)
def test_what_this_machine_does_not_take_is_told_with_the_outputs_name(
    tmp_path: Path, outputs: list[dict[str, Any]], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        laid_down(tmp_path, *outputs)


def test_a_full_disk_is_told_with_the_outputs_name(tmp_path: Path) -> None:
    async def full(*_: object) -> None:
        _write(Path("/dev/full"), b"x")

    large = {"path": "d/big", "kind": "file", "size": 9, "volume": "there", "digest": "d"}
    with pytest.raises(errors.StoreFailed, match="cannot write the output 'd/big': No space left"):
        asyncio.run(lay_down([large], tmp_path, full))


@pytest.mark.parametrize(
    "outputs",
    [
        [file("a" + "/a" * 1500)],
        [file(f"a{number}") for number in range(LIMITS["files"] + 2)],
        [{"path": "a", "kind": "file", "size": -1}],
        [{"path": "a", "kind": "file", "size": 10**30}],
        [{"path": "a", "kind": "file", "size": True}],
        [{"path": "a", "kind": "link", "target": ""}],
        [{"path": "\ud800", "kind": "folder"}],
    ],
    ids=["too deep", "too many", "negative", "huge", "no number", "to nothing", "no text"],
)
def test_outputs_that_no_program_of_ours_lists_are_refused_before_any_is_made(
    tmp_path: Path, outputs: list[dict[str, Any]]
) -> None:
    with pytest.raises(errors.PluginFailed, match="listed outputs that cannot be"):
        laid_down(tmp_path, *outputs)
    assert not os.listdir(tmp_path)


# ---------------------------------------------------------------- answers of any shape

STORED = {"volume": "there", "size": 4, "digest": hashlib.blake2b(b"data", digest_size=32).hexdigest()}
GOOD: dict[str, Any] = {
    "ended": "exit",
    "exit_code": 0,
    "started_at": 1e9,
    "duration_s": 1.5,
    "seconds": 2,
    "attempt": "0190-a.1",
    "image": "im-1",
    "outputs": [
        {"path": "d", "kind": "folder"},
        file("d/a"),
        {"path": "big", "kind": "file", **STORED},
        {"path": "beyond", "kind": "file", "size": 1 << 40, "beyond": True},
        {"path": "l", "kind": "link", "target": "d"},
        {"path": "p", "kind": "pipe"},
    ],
    "log": {"data": base64.b64encode(b'0 b ""\n1 o "on"\n').decode()},
}


@pytest.mark.parametrize(
    "changes",
    [
        {"ended": "well"},
        {"ended": "timeout"},
        {"exit_code": True},
        {"exit_code": -9},
        {"exit_code": 10**30},
        {"started_at": -1},
        {"started_at": float("nan")},
        {"duration_s": float("inf")},
        {"seconds": "2"},
        {"seconds": False},
        {"attempt": 1},
        {"image": "im-1\n"},
        {"outputs": {}},
        {"outputs": ["a"]},
        {"log": []},
        {"log": {"data": "%"}},
        {"log": {"data": "", "volume": 1}},
        {"log": {**STORED, "size": -1}},
    ],
    ids=repr,
)
def test_an_answer_that_is_not_quite_ours_is_refused(changes: dict[str, Any]) -> None:
    assert read_answer(json.dumps(GOOD).encode())
    with pytest.raises(errors.PluginFailed, match="no document of ours"):
        read_answer(json.dumps({**GOOD, **changes}).encode())


class Volume:
    """It has four bytes at one place."""

    def __init__(self) -> None:
        self.read_file = SimpleNamespace(aio=self._read)
        self.remove_file = SimpleNamespace(aio=self._remove)

    async def _read(self, place: str) -> AsyncIterator[bytes]:
        if place != "there":
            raise FileNotFoundError(place)
        yield b"data"

    async def _remove(self, *_: object, **__: object) -> None:
        pass


class Answered(calls.Call):
    """A call whose answer is here."""

    def _transfer(self) -> Transfer:
        return Transfer(cast("Any", Volume()))

    def outcome(self, answer: Any) -> Outcome:
        """What comes of it."""

        async def work() -> Outcome:
            return await self._outcome(answer, asyncio.get_running_loop().create_future())

        return asyncio.run(work())


WORDS = ["", "..", "/", "a/b", "d", "there", "\ud800", "a\0", "file", "link", "pipe", "folder", "exit"]
odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([10**30, 1 << 62, -1, *WORDS]) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["path", "kind", "size"]), inner, max_size=2)
    ),
    max_leaves=3,
)


def fields_of(value: Any) -> list[tuple[Any, Any]]:
    """Each field of a document: what has it, and its name there."""
    if not isinstance(value, (dict, list)):
        return []
    names = list(value) if isinstance(value, dict) else list(range(len(value)))
    return [(value, name) for name in names] + [field for name in names for field in fields_of(value[name])]


@given(st.data())
def test_whatever_an_answer_is_it_is_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    answer = copy.deepcopy(GOOD)
    answer["log"] = data.draw(st.sampled_from([answer["log"], dict(STORED)]))
    for _ in range(data.draw(st.integers(0, 3))):
        owner, name = data.draw(st.sampled_from(fields_of(answer)))
        how = data.draw(st.sampled_from(["drop", "replace", "add"]))
        if how == "drop":
            del owner[name]
        elif how == "replace":
            owner[name] = data.draw(odd)
        elif isinstance(owner, dict):
            owner[data.draw(st.sampled_from(["volume", "data", "size", "digest", "fault"]))] = data.draw(odd)
    bench = Bench(tmp_path_factory.mktemp("answer"))
    job, workspace = bench.job(bench.script("true"))
    session = cast("Any", SimpleNamespace(client=None))
    call = Answered(job, workspace, FUNCTION, Secrets(), RecordingChannel(), session)
    try:
        outcome = call.outcome(read_answer(json.dumps(answer).encode()))
    except errors.TheoryError as error:
        assert error.code != "ERR_INTERNAL"  # noqa: PT017 - one of many that are right
    else:
        assert outcome.ended == answer["ended"]
