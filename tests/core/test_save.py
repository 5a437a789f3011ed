"""What is saved is whole, below the target, and never through a link."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from theory.errors import ArtifactNotFound, Damaged, Interrupted, SaveFailed, Usage
from theory.formats import canon
from theory.rooms.save import check_file, check_folder, save_all, save_one
from theory.store import blobs
from theory.store.filestore import FileStore
from theory.types import Artifact

BAD = b"bad" * 30_000


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "store")


def artifact(store: FileStore, path: str, content: bytes) -> Artifact:
    staged = blobs.stage(store, content)
    store.put([staged])
    return Artifact(path, staged.cid, staged.size_bytes, "text/plain")


def blob(store: FileStore, content: bytes) -> Path:
    """The file of one that is large enough to have its own."""
    digits = canon.cid_of(content).removeprefix("b3:")
    return store.root / "blobs" / "b3" / digits[:2] / digits


def tree(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_all_are_mirrored_by_world_path_and_nothing_else_is_left(store: FileStore, tmp_path: Path) -> None:
    made = [artifact(store, "/artifacts/o/a", b"1"), artifact(store, "/artifacts/o/d/b", b"2")]
    save_all(store, made, tmp_path / "new" / "folder")
    assert tree(tmp_path / "new") == {"folder/artifacts/o/a": b"1", "folder/artifacts/o/d/b": b"2"}
    assert os.listdir(tmp_path / "new" / "folder") == ["artifacts"]


def test_no_outputs_are_saved_as_none(store: FileStore, tmp_path: Path) -> None:
    save_all(store, [], tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


def test_more_outputs_than_files_can_be_open_are_saved(store: FileStore, tmp_path: Path) -> None:
    import resource

    one = artifact(store, "/artifacts/0", b"1")
    many = [Artifact(f"/artifacts/{number}", one.cid, 1, "x") for number in range(300)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        save_all(store, many, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(tree(tmp_path / "out")) == 300


def test_files_that_are_there_are_replaced(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "out" / "artifacts").mkdir(parents=True)
    (tmp_path / "out" / "artifacts" / "a").write_text("old, and longer")
    save_all(store, [artifact(store, "/artifacts/a", b"new")], tmp_path / "out")
    assert tree(tmp_path / "out") == {"artifacts/a": b"new"}


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_a_link_that_stands_for_a_folder_is_refused(store: FileStore, tmp_path: Path, where: str) -> None:
    out = tmp_path / "out"
    (out / "real").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (out / "artifacts").symlink_to(out / "real" if where == "inside" else tmp_path / "elsewhere")
    with pytest.raises(SaveFailed, match=r"cannot save .*/artifacts/a"):
        save_all(store, [artifact(store, "/artifacts/a", b"x")], out)
    assert os.listdir(out / "real") == os.listdir(tmp_path / "elsewhere") == []
    assert sorted(os.listdir(out)) == ["artifacts", "real"]


def test_a_link_at_the_file_is_replaced_and_its_target_untouched(store: FileStore, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    (tmp_path / "out" / "artifacts").mkdir(parents=True)
    (tmp_path / "out" / "artifacts" / "a").symlink_to(target)
    (tmp_path / "one").symlink_to(target)
    made = artifact(store, "/artifacts/a", b"x")
    save_all(store, [made], tmp_path / "out")
    save_one(store, made, tmp_path / "one")
    assert target.read_text() == "precious"
    for saved in (tmp_path / "out" / "artifacts" / "a", tmp_path / "one"):
        assert not saved.is_symlink()
        assert saved.read_bytes() == b"x"


def test_a_folder_at_the_files_name_is_refused_before_anything_is_replaced(
    store: FileStore, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "artifacts" / "b").mkdir(parents=True)
    (out / "artifacts" / "a").write_text("old")
    made = [artifact(store, "/artifacts/a", b"new"), artifact(store, "/artifacts/b", b"x")]
    with pytest.raises(SaveFailed, match="a folder has this name"):
        save_all(store, made, out)
    assert tree(out) == {"artifacts/a": b"old"}
    assert os.listdir(out) == ["artifacts"]


@pytest.mark.parametrize("how", ["damaged", "gone"])
def test_a_blob_that_is_not_whole_replaces_nothing(store: FileStore, tmp_path: Path, how: str) -> None:
    made = [artifact(store, "/artifacts/a", b"new"), artifact(store, "/artifacts/b", BAD)]
    if how == "gone":
        blob(store, BAD).unlink()
    else:
        blob(store, BAD).chmod(0o644)
        blob(store, BAD).write_bytes(BAD.upper())
    (tmp_path / "out" / "artifacts").mkdir(parents=True)
    (tmp_path / "out" / "artifacts" / "a").write_text("old")
    (tmp_path / "one").write_text("old")
    kind = ArtifactNotFound if how == "gone" else Damaged
    with pytest.raises(kind, match="b3:"):
        save_all(store, made, tmp_path / "out")
    with pytest.raises(kind, match="b3:"):
        save_one(store, made[1], tmp_path / "one")
    assert tree(tmp_path / "out") == {"artifacts/a": b"old"}
    assert (tmp_path / "one").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["one", "out", "store"]


def test_what_is_saved_is_a_copy_with_the_modes_of_the_user(store: FileStore, tmp_path: Path) -> None:
    made = artifact(store, "/artifacts/a", BAD)
    before = os.umask(0o077)
    try:
        save_one(store, made, tmp_path / "one")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o600
    (tmp_path / "one").write_text("edited")
    assert blob(store, BAD).read_bytes() == BAD


def test_a_target_that_can_never_be_saved_to_is_refused_early(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Usage, match="is not a folder"):
        check_folder(tmp_path / "file")
    with pytest.raises(Usage, match="is a folder"):
        check_file(tmp_path)
    with pytest.raises(Usage, match="is not there"):
        check_file(tmp_path / "none" / "file")
    for special in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(Usage, match="is no regular file"):
            check_file(special)
    check_folder(tmp_path / "new" / "deep")
    check_file(tmp_path / "new")
    check_file(tmp_path / "file")


def test_what_is_in_the_way_below_the_folder_is_found_early(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "artifacts").mkdir(parents=True)
    (out / "artifacts" / "mine").write_text("in the way")
    (out / "artifacts" / "linked").symlink_to(tmp_path)
    for prefix in ("/artifacts/mine/", "/artifacts/linked/x/", "/artifacts/mine/{execution_id}/"):
        with pytest.raises(
            Usage, match=r"--save-dir .* cannot take the outputs: .*/artifacts/(mine|linked) is"
        ):
            check_folder(out, prefix)
    check_folder(out, "/artifacts/outputs/")
    check_folder(out, "/artifacts/mine{execution_id}/")
    assert sorted(os.listdir(out)) == ["artifacts"]


def test_a_folder_that_cannot_be_written_is_found_early(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.geteuid() == 0:
        closed = Path("/proc")  # where even root makes no folder
        if not closed.is_dir():
            pytest.skip("needs Linux: /proc")
    for folder in (closed, closed / "new" / "deep"):
        with pytest.raises(Usage, match=rf"--save-dir {folder} cannot be written: {closed}: "):
            check_folder(folder)
    with pytest.raises(Usage, match=rf"--save-first {closed}/file cannot be written: {closed}: "):
        check_file(closed / "file")


def test_a_cancellation_while_files_are_saved_leaves_those_that_were_there(
    store: FileStore, tmp_path: Path
) -> None:
    made = [artifact(store, f"/artifacts/{name}", name.encode() * 2_000_000) for name in "ab"]
    (tmp_path / "out" / "artifacts").mkdir(parents=True)
    (tmp_path / "out" / "artifacts" / "a").write_text("old")
    (tmp_path / "one").write_text("old")
    blocks = []

    def at_the_fourth() -> bool:
        blocks.append(1)
        return len(blocks) >= 4

    with pytest.raises(Interrupted, match=r"cancelled while /artifacts/b was saved; the execution is closed"):
        save_all(store, made, tmp_path / "out", cancelled=at_the_fourth)
    with pytest.raises(Interrupted, match=r"cancelled while .*/one was saved"):
        save_one(store, made[0], tmp_path / "one", cancelled=at_the_fourth)
    assert tree(tmp_path / "out") == {"artifacts/a": b"old"}
    assert (tmp_path / "one").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["one", "out", "store"]
