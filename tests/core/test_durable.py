from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from theory.disk import durable
from theory.errors import SaveFailed, StoreFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is synced and renamed, in order, by inode: names change, inodes stay."""
    seen: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def recording_fsync(descriptor: int) -> None:
        fsync(descriptor)
        seen.append(("sync", os.fstat(descriptor).st_ino))

    def recording_replace(source: str, dest: str) -> None:
        seen.append(("rename", os.lstat(source).st_ino))
        replace(source, dest)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    return seen


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777], ids=["no umask", "022", "077", "777"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    old = os.umask(request.param)
    yield request.param
    os.umask(old)


def test_a_file_is_synced_then_renamed_then_its_folder_is_synced(
    tmp_path: Path, events: list[tuple[str, int]]
) -> None:
    path = tmp_path / "a"
    durable.write_file(path, b"new", mode=0o644)
    inode = path.stat().st_ino
    assert events == [("sync", inode), ("rename", inode), ("sync", tmp_path.stat().st_ino)]


def test_a_made_folder_has_its_name_synced_in_each_parent(
    tmp_path: Path, events: list[tuple[str, int]]
) -> None:
    durable.make_folders(tmp_path / "a" / "b" / "c")
    parents = [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert events == [("sync", folder.stat().st_ino) for folder in parents]


def test_folders_that_are_there_cost_no_sync(tmp_path: Path, events: list[tuple[str, int]]) -> None:
    durable.make_folders(tmp_path)
    assert events == []


def test_writing_replaces_the_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"a long old content")
    durable.write_file(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_over_a_link_replaces_the_link_and_not_its_target(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"mine")
    link.symlink_to(target)
    durable.write_file(link, b"new", mode=0o600)
    assert (target.read_bytes(), link.read_bytes(), link.is_symlink()) == (b"mine", b"new", False)


@pytest.mark.usefixtures("umask")
def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    durable.make_folders(tmp_path / "a" / "b", 0o700)
    durable.write_file(tmp_path / "a" / "b" / "c", b"", mode=0o444)
    descriptor, temp = durable.create(tmp_path)
    os.close(descriptor)
    assert [mode(tmp_path / name) for name in ("a", "a/b", "a/b/c", temp)] == [0o700, 0o700, 0o444, 0o600]


def test_without_a_mode_a_folder_is_as_the_umask_has_it(tmp_path: Path, umask: int) -> None:
    durable.make_folder(tmp_path / "a")
    assert mode(tmp_path / "a") == 0o777 & ~umask


def test_temps_are_exclusive_and_never_named_alike(tmp_path: Path) -> None:
    assert len({durable.temporary(tmp_path) for _ in range(1000)}) == 1000


def test_a_temp_never_opens_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "target").write_bytes(b"mine")
    (tmp_path / "guessed").symlink_to(tmp_path / "target")
    monkeypatch.setattr(durable, "temporary", lambda folder: f"{folder}/guessed")
    with pytest.raises(FileExistsError, match="guessed"):
        durable.create(tmp_path)
    assert (tmp_path / "target").read_bytes() == b"mine"


def test_a_failed_sync_keeps_the_old_file_and_leaves_no_temp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    calls: list[int] = []

    def failing(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="Input/output error"):
        durable.write_file(path, b"new", mode=0o600)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    assert len(calls) == 1  # not tried again


def test_a_write_that_takes_a_part_is_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data)[:7]))
    durable.write_file(tmp_path / "a", bytes(range(256)), mode=0o600)
    assert (tmp_path / "a").read_bytes() == bytes(range(256))


def test_replacing_from_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"mine")
    (tmp_path / "temp").symlink_to("target")
    with pytest.raises(OSError, match="symbolic links"):
        durable.replace(tmp_path / "temp", tmp_path / "a")
    assert (tmp_path / "target").read_bytes() == b"mine"
    assert not (tmp_path / "a").exists()


def test_a_folder_is_not_made_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="Not a directory"):
        durable.make_folders(tmp_path / "a")
    with pytest.raises(NotADirectoryError, match="Not a directory"):
        durable.make_folders(tmp_path / "a" / "b")


@pytest.mark.parametrize("kind", [StoreFailed, SaveFailed])
@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "make it writable"),
        (errno.EACCES, "make it writable"),
        (errno.ENOENT, "is its volume mounted"),
        (errno.EIO, "nothing of this is relied on"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENOLCK, "lock files"),
        (errno.ELOOP, "theory doctor"),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_a_refusal_says_what_why_and_what_helps(kind: type[StoreFailed], number: int, hint: str) -> None:
    error = durable.refusal(kind, "cannot write to /mnt/x", OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert error.message == f"cannot write to /mnt/x: {os.strerror(number)}"
    assert hint in error.hint


def test_a_folder_whose_name_could_not_be_made_durable_is_not_left_for_others_to_rely_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(descriptor: int) -> None:
        del descriptor
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match="Input/output error"):
            durable.make_folders(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    durable.make_folders(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_close_that_fails_is_a_failure_of_what_was_not_synced_and_of_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = os.close

    def failing(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", failing)
        durable.sync_folder(tmp_path)
        with pytest.raises(OSError, match="Disk quota exceeded"):
            durable.write_file(tmp_path / "a", b"new", mode=0o600)
    assert list(tmp_path.iterdir()) == []


def test_only_what_refuses_anybody_has_a_remedy_of_its_own() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert "free some space" in durable.remedy(full, "check it")
    for error in (FileNotFoundError(errno.ENOENT, "No such file"), ValueError("boom")):
        assert durable.remedy(error, "check it") == "check it"
