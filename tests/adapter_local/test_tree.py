"""The outputs are looked at while they grow: within bounds, and through no link."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from theory.errors import OutputLimit
from theory.rooms import collect
from theory_adapter_local.files import tree

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_they_may_take_what_is_allowed(out: Path) -> None:
    (out / "a").write_bytes(bytes(900_000))
    assert 900_000 <= tree.taken(out, 1) < 1024**2


def test_a_byte_too_many_is_refused_by_name(out: Path) -> None:
    (out / "d").mkdir()
    (out / "d" / "big").write_bytes(bytes(1_100_000))
    with pytest.raises(OutputLimit, match=r"larger than 1 MiB with 'd/big'"):
        tree.taken(out, 1)


def test_a_sparse_file_counts_as_it_is_while_it_runs_and_in_full_at_the_end(out: Path) -> None:
    os.truncate(os.open(out / "s", os.O_CREAT | os.O_WRONLY), 2 * 1024**2)
    assert tree.taken(out, 1) < 1024**2
    with pytest.raises(OutputLimit, match=r"larger than 1 MiB with 's'"):
        tree.check_sizes(out, 1)


def test_limits_are_those_of_core() -> None:
    assert (tree.MAX_FILES, tree.MAX_BYTES, tree.MAX_DEPTH) == (
        collect.MAX_FILES,
        collect.MAX_BYTES,
        collect.MAX_DEPTH,
    )


@pytest.mark.parametrize("is_folder", [True, False], ids=["folders", "files"])
def test_a_file_or_folder_too_many_is_refused(*, is_folder: bool) -> None:
    count = tree.Sum(1)
    for _ in range(tree.MAX_FILES):
        count.add("a", 0, is_folder=is_folder)
    with pytest.raises(OutputLimit, match=r"more than 20,000 f(iles|olders)"):
        count.add("b", 0, is_folder=is_folder)


def test_32_folders_are_deep_enough(out: Path) -> None:
    (out / "/".join("d" * tree.MAX_DEPTH)).mkdir(parents=True)
    tree.taken(out, 1)
    (out / "/".join("d" * (tree.MAX_DEPTH + 1))).mkdir()
    with pytest.raises(OutputLimit, match="nested deeper than 32 folders"):
        tree.taken(out, 1)


def test_no_link_is_followed(out: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "big").write_bytes(bytes(2_000_000))
    (out / "folder").symlink_to(tmp_path / "elsewhere")
    (out / "file").symlink_to(tmp_path / "elsewhere" / "big")
    (out / "up").symlink_to("..")
    (out / "round").symlink_to(out)
    assert tree.taken(out, 1) < 1024**2
    tree.check_sizes(out, 1)


def test_a_link_that_takes_the_place_of_a_file_opens_nothing(out: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").touch(0o000)
    (out / "link").symlink_to(tmp_path / "closed")
    (out / "mine").touch(0o000)
    here = os.open(out, os.O_RDONLY)
    for name in ("link", "mine", "gone"):
        tree.allow(here, name, 0o600)
    os.close(here)
    assert (tmp_path / "closed").stat().st_mode & 0o777 == 0
    assert (out / "mine").stat().st_mode & 0o777 == 0o600


def test_what_vanishes_while_it_is_looked_at_is_left_out(out: Path) -> None:
    (out / "a").mkdir()
    (out / "a" / "x").write_bytes(b"x")
    (out / "b").mkdir()
    (out / "b" / "y").write_bytes(b"y")
    seen = []
    for _, name, _ in tree.below(out):
        seen.append(name)
        if len(seen) == 2:  # both folders are known, and none is open
            shutil.rmtree(out / "a")
            (out / "b" / "y").unlink()
            (out / "b").rmdir()
            (out / "b").symlink_to("/")
    assert sorted(seen) == ["a", "b"]


def test_a_disk_keeps_what_its_host_needs(out: Path) -> None:
    disk = os.statvfs(out)
    free = disk.f_bavail * disk.f_frsize
    tree.check_room(out, 10**9, floor=free // 2)
    with pytest.raises(OutputLimit, match=r"leave less than \d+ MiB on the disk of"):
        tree.check_room(out, free, floor=free + free // 2)
    with pytest.raises(OutputLimit, match=r"leave less than \d+ MiB on the disk of"):
        tree.check_room(out, 2 * free, to_come=2 * free)


def test_a_disk_that_others_filled_is_not_the_run_s_fault(out: Path) -> None:
    disk = os.statvfs(out)
    tree.check_room(out, 1024, floor=2 * disk.f_blocks * disk.f_frsize)
