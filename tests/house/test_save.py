"""`--save-dir` and `--save-first`: copies for the user, atomic, and never beyond their target."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from house.command import Theory


def test_save_dir_mirrors_the_world_paths_below_the_folder(theory: Theory) -> None:
    envelope = theory.hello("--save-dir", "./outputs", "--json").ok().line
    saved = sorted(
        path.relative_to(theory.cwd) for path in (theory.cwd / "outputs").rglob("*") if path.is_file()
    )
    expected = sorted(output["path"].removeprefix("/") for output in envelope["outputs"])
    assert [str(path) for path in saved] == [f"outputs/{path}" for path in expected]
    for output in envelope["outputs"]:
        assert (theory.cwd / "outputs" / output["path"][1:]).stat().st_size == output["size_bytes"]


def test_save_first_writes_the_first_output_and_only_that(theory: Theory) -> None:
    envelope = theory.hello("--save-first", "./first-output.txt", "--json").ok().line
    assert sorted(path.name for path in theory.cwd.iterdir()) == ["first-output.txt"]
    shown = theory("cat", envelope["outputs"][0]["path"]).ok().stdout
    assert (theory.cwd / "first-output.txt").read_text() == shown
    assert len(shown.encode()) == 26


def test_saving_twice_replaces(theory: Theory) -> None:
    (theory.cwd / "first.txt").write_text("older and longer than twenty-six bytes, surely")
    theory.hello("--save-first", "first.txt").ok()
    assert (theory.cwd / "first.txt").stat().st_size == 26
    theory.hello("--save-dir", "outputs").ok()
    theory.hello("--save-dir", "outputs").ok()


def test_save_dir_does_not_follow_a_link_out_of_the_folder(theory: Theory) -> None:
    outside = theory.cwd / "outside"
    outside.mkdir()
    (theory.cwd / "outputs").mkdir()
    (theory.cwd / "outputs" / "artifacts").symlink_to(outside)
    result = theory.hello("--save-dir", "outputs", "--json")
    assert list(outside.iterdir()) == []
    assert (result.line["error"]["code"], result.code) == ("ERR_USAGE", 2)


def test_a_saved_file_takes_the_place_of_a_link_instead_of_following_it(theory: Theory) -> None:
    outside = theory.cwd / "precious.txt"
    outside.write_text("precious")
    (theory.cwd / "first.txt").symlink_to(outside)
    theory.hello("--save-first", "first.txt")
    assert outside.read_text() == "precious"


def test_a_target_that_is_no_folder_is_refused_before_anything_runs(theory: Theory) -> None:
    (theory.cwd / "file").write_text("no folder")
    result = theory.hello("--save-dir", "file", "--json")
    assert (result.line["error"]["code"], result.code) == ("ERR_USAGE", 2)
    assert "file" in result.line["error"]["message"]
    assert theory("ls").ok().stdout == ""


@pytest.mark.parametrize("option", ["--save-dir", "--save-first"])
def test_a_target_that_cannot_be_written_is_refused_before_anything_runs(theory: Theory, option: str) -> None:
    closed = theory.cwd / "closed"
    closed.mkdir(mode=0o500)
    target = closed if os.geteuid() else "/proc"  # where even root makes no folder
    result = theory.hello(option, f"{target}/new", "--json")
    assert (result.line["error"]["code"], result.code) == ("ERR_USAGE", 2)
    assert f"{option} {target}/new cannot be written" in result.line["error"]["message"]
    assert theory("ls").ok().stdout == ""


def test_what_is_in_the_way_of_the_outputs_is_refused_before_anything_runs(theory: Theory) -> None:
    (theory.cwd / "outputs" / "artifacts").mkdir(parents=True)
    (theory.cwd / "outputs" / "artifacts" / "outputs").write_text("in the way")
    result = theory.hello("--save-dir", "outputs", "--json")
    assert (result.line["error"]["code"], result.code) == ("ERR_USAGE", 2)
    assert "outputs/artifacts/outputs is no folder" in result.line["error"]["message"]
    assert theory("ls").ok().stdout == ""


def test_an_execution_whose_outputs_cannot_be_saved_is_kept(theory: Theory) -> None:
    (theory.cwd / "outputs" / "artifacts" / "outputs" / "text" / "response.txt").mkdir(parents=True)
    result = theory.hello("--save-dir", "outputs", "--json")
    assert (result.line["error"]["code"], result.code) == ("ERR_SAVE", 3)
    assert result.line["meta"]["adapter"] == "mock"
    assert result.line["meta"]["cost_micro_usd"] == 0
    assert theory("show", result.line["execution_id"]).ok().json["envelope"]["status"] == "success"


def test_an_edit_of_a_saved_file_leaves_the_store_whole(theory: Theory) -> None:
    envelope = theory.hello("--save-first", "first.txt", "--json").ok().line
    saved = theory.cwd / "first.txt"
    saved.chmod(0o644)
    with saved.open("r+b") as stream:
        stream.write(b"overwritten in place")
    assert not theory("cat", envelope["outputs"][0]["path"]).ok().stdout.startswith("overwritten")
