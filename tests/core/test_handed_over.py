"""Outputs that an adapter hands over in memory are held to the same rules as files in a folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.bed import Fake, done, good, house, read
from core.test_outputs import check, processor
from theory import Failure
from theory.errors import BadOutputPath, DuplicateOutput, OutputLimit, TheoryError
from theory.rooms import collect, outputs
from theory.rooms.redact import Redactor
from theory.store.filestore import FileStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from core.bed import Call
    from theory import Outcome
    from theory.rooms.outputs import Outputs

segments = st.sampled_from(["a", "A", "ﬁ", "fi", "meta.json", "b.json", "x\ny", "%41", "é", "e\u0301"])
paths = st.lists(segments, min_size=1, max_size=3).map("/".join)
contents = st.sampled_from([b"", b"{}", b'{"cost_micro_usd":1}', b"[1,", b"x" * 70_000])


def handed(base: Path, files: Mapping[str, bytes], *secrets: str) -> Outputs:
    return outputs.check_outputs(
        processor(base),
        files,
        "/artifacts/outputs/",
        FileStore(base / "store"),
        Redactor(secrets),
        cancelled=lambda: False,
    )


def left(base: Path, files: Mapping[str, bytes]) -> Outputs:
    out = base / "work" / "out"
    out.mkdir(parents=True)
    for name, data in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    return check(out)


def _is_a_tree(files: Mapping[str, bytes]) -> bool:
    return not any(other.startswith(f"{name}/") for name in files for other in files)


@given(st.dictionaries(paths, contents, max_size=4).filter(_is_a_tree))
def test_files_and_what_is_handed_over_come_to_the_same(files: dict[str, bytes]) -> None:
    def told(how: Any) -> object:
        with tempfile.TemporaryDirectory() as folder:
            try:
                found: Outputs = how(Path(folder), files)
            except TheoryError as error:
                return error.code
            return found.artifacts, found.meta, found.cost_micro_usd, found.warnings

    assert told(handed) == told(left)


@pytest.mark.parametrize(
    "name",
    ["", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a\\b", "a\0b", "\udc80", "a" * 256, "é" * 128],
)
def test_a_path_that_no_file_could_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadOutputPath, match="the output '"):
        handed(tmp_path, {"good": b"", name: b"x"}, "tea-time")
    assert not (tmp_path / "store" / "blobs").exists()


@pytest.mark.parametrize("files", [{"a": b"", "a/b": b""}, {"d/A": b"", "d/a/b": b""}, {"a": b"", "A": b""}])
def test_what_no_folder_could_hold_everywhere_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    with pytest.raises(DuplicateOutput, match="on some systems"):
        handed(tmp_path, files)


def test_there_are_as_many_as_files_at_most_and_no_deeper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(handed(tmp_path, {"d/" * 32 + "a": b"x"}).artifacts) == 1
    with pytest.raises(OutputLimit, match="deeper than 32 folders: 'd/d/"):
        handed(tmp_path, {"d/" * 33 + "a": b"x"})
    monkeypatch.setattr(collect, "MAX_FILES", 3)
    with pytest.raises(OutputLimit, match="more than 3 files"):
        handed(tmp_path, dict.fromkeys("abcd", b""))
    monkeypatch.setattr(collect, "MAX_BYTES", 10)
    with pytest.raises(OutputLimit, match="with 'b', which has 6 bytes"):
        handed(tmp_path, {"a": b"12345", "b": b"123456"})


def test_a_name_with_the_value_of_a_secret_is_refused_and_a_content_told(tmp_path: Path) -> None:
    assert handed(tmp_path, {"a": b"is tea-time"}, "tea-time").warnings
    with pytest.raises(BadOutputPath, match="the value of a secret"):
        handed(tmp_path, {"tea-time": b""}, "tea-time")


def test_an_adapter_without_folders_has_none_made_and_its_outputs_are_kept(tmp_path: Path) -> None:
    states = tmp_path / "home" / "state"
    seen: list[bool] = []

    def act(call: Call) -> Outcome:
        call.channel.started()
        seen.append(states.exists() or call.workspace.root.exists())
        return done(files={"d/a.txt": b"hello\n", "large": b"x" * 100_000})

    with house(tmp_path, Fake(act=act, folders=False)) as runner:
        good(runner.run("test/thing@1", memo="off"))
        assert read(runner, "/artifacts/outputs/d/a.txt") == b"hello\n"
        assert read(runner, "/artifacts/outputs/large") == b"x" * 100_000
        assert os.listdir(runner.store.staging) == []
    assert seen == [False]


@pytest.mark.parametrize("pretends", [False, True])
def test_a_file_that_the_job_would_not_get_is_refused_before_it_runs(tmp_path: Path, pretends: bool) -> None:
    (tmp_path / "in.txt").write_text("x")
    adapter = Fake(act=lambda _: done(files={}), folders=False, pretends=pretends)
    with house(tmp_path, adapter) as runner:
        inputs: Any = {"file": {"$attach": "file"}}
        envelope = runner.run("test/thing@1", inputs, attachments={"file": tmp_path / "in.txt"})
    assert getattr(envelope, "code", "") == ("" if pretends else "ERR_UNSUPPORTED")
    assert len(adapter.calls) == pretends


def test_what_is_handed_over_counts_and_the_folder_does_not(tmp_path: Path) -> None:
    def act(call: Call) -> Outcome:
        call.channel.started()
        call.write({"scratch": "x"})
        return done(files={"a.txt": b"hello\n"})

    with house(tmp_path, Fake(act=act)) as runner:
        names = [output.path for output in good(runner.run("test/thing@1")).outputs]
    assert names == ["/artifacts/outputs/a.txt"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (None, "no files, and has no folder for them"),
        (["a"], "with files of type list"),
        ({b"a": b""}, "with the file b'a'"),
        ({"a": "text"}, "with the file 'a' of type str"),
    ],
)
def test_an_answer_that_cannot_be_is_the_adapters_fault(tmp_path: Path, files: Any, words: str) -> None:
    def act(call: Call) -> Outcome:
        call.channel.started()
        return done(files=files)

    with house(tmp_path, Fake(act=act, folders=False)) as runner:
        envelope = runner.run("test/thing@1")
    assert isinstance(envelope, Failure)
    assert (envelope.code, words in envelope.message) == ("ERR_PLUGIN", True), envelope.message


def test_a_command_that_failed_need_not_hand_over_anything(tmp_path: Path) -> None:
    with house(tmp_path, Fake(act=lambda _: done(3), folders=False)) as runner:
        assert getattr(runner.run("test/thing@1"), "code", None) == "ERR_PROCESSOR"
