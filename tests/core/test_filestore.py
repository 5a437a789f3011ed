from __future__ import annotations

import errno
import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from theory.disk import durable
from theory.errors import ArtifactNotFound, Damaged, StoreFailed, Usage
from theory.store import blobs
from theory.store.filestore import FileStore, open_store
from theory.testing import StoreContract
from theory.types import Staged

if TYPE_CHECKING:
    from collections.abc import Callable

HELLO = "b3:ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f"  # of b"hello"
LARGE = b"hello" * 20_000  # more than goes into the database
LARGE_CID = "b3:812fb26a6cd883115496362da0ea2999d6fecbb33a53808a7a017b867f2209fd"
LARGE_PATH = "blobs/b3/81/812fb26a6cd883115496362da0ea2999d6fecbb33a53808a7a017b867f2209fd"
KEY = HELLO  # a memo key has the form of a cid


class TestFileStore(StoreContract):
    plugin = "theory.store.filestore"

    @pytest.fixture
    def store(self, tmp_path: Path) -> FileStore:
        return FileStore(tmp_path / "home" / "store")


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "home" / "store")


def put(store: FileStore, *contents: bytes) -> list[str]:
    staged = [blobs.stage(store, content) for content in contents]
    store.put(staged)
    return [blob.cid for blob in staged]


def small_file(store: FileStore, content: bytes) -> Path:
    """A private file in the staging folder."""
    descriptor, path = durable.create(store.staging)
    durable.write_all(descriptor, content)
    os.close(descriptor)
    return Path(path)


def row_of(store: FileStore, content: bytes | None = None) -> bytes:
    """What the only row of the blobs holds, or make it hold something else, as another program would."""
    with closing(sqlite3.connect(store.root / "small.db", isolation_level=None)) as raw:
        if content is not None:
            raw.execute("UPDATE blobs SET data = ?", (content,))
        ((data,),) = raw.execute("SELECT data FROM blobs")
        return bytes(data)


def tree(root: Path) -> dict[str, str]:
    """Every path below a folder, with its type and mode as ``ls -l`` prints them."""
    return {str(path.relative_to(root)): stat.filemode(path.lstat().st_mode) for path in root.rglob("*")}


def content(root: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")
    }


def run(script: str, *arguments: object, wrapper: tuple[str, ...] = ()) -> str:
    """Run a script in a process of its own; what it prints."""
    command = [*wrapper, sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


# ---------------------------------------------------------------- what is on the disk


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777], ids=oct)
def test_the_layout_is_this_and_does_not_depend_on_the_umask(store: FileStore, umask: int) -> None:
    old = os.umask(umask)
    try:
        put(store, b"hello", LARGE)
        store.memo_set(KEY, b"{}")
        found = tree(store.root.parent)
    finally:
        os.umask(old)
    assert found == {
        "store": "drwx------",
        "store/format": "-r--r--r--",
        "store/small.db": "-rw-------",
        "store/small.db-wal": "-rw-------",
        "store/small.db-shm": "-rw-------",
        "store/small.db-lock": "-rw-------",
        "store/blobs": "drwx------",
        "store/blobs/b3": "drwx------",
        "store/blobs/b3/81": "drwx------",
        f"store/{LARGE_PATH}": "-r--r--r--",
        "store/tmp": "drwx------",
    }


def test_a_store_of_this_layout_is_read(tmp_path: Path) -> None:
    (tmp_path / LARGE_PATH).parent.mkdir(parents=True)
    (tmp_path / LARGE_PATH).write_bytes(LARGE)
    (tmp_path / "format").write_bytes(b"theory file store 2\n")
    with closing(sqlite3.connect(tmp_path / "small.db", isolation_level=None)) as raw:
        for table, data in (("blobs", b"hello"), ("memo", b"{}")):
            raw.execute(f"CREATE TABLE {table} (name BLOB PRIMARY KEY NOT NULL, data BLOB NOT NULL)")
            raw.execute(f"INSERT INTO {table} VALUES (?, ?)", (bytes.fromhex(HELLO[3:]), data))  # noqa: S608 - our words
        raw.execute("PRAGMA application_id=0x74687373")
        raw.execute("PRAGMA user_version=1")
    store = FileStore(tmp_path)
    assert blobs.verify(store, HELLO) == 5
    assert sorted(store.list()) == [(LARGE_CID, 100_000), (HELLO, 5)]
    assert (list(store.memo_list()), store.memo_get(KEY)) == ([KEY], b"{}")


def test_the_database_takes_up_to_64_kib(store: FileStore) -> None:
    put(store, b"x" * 65536, b"x" * 65537)
    files = [path for path in (store.root / "blobs").rglob("*") if path.is_file()]
    assert [path.stat().st_size for path in files] == [65537]
    assert len(row_of(store)) == 65536


def test_a_store_whose_database_is_gone_has_lost_the_small_blobs_alone(store: FileStore) -> None:
    put(store, b"hello", LARGE)
    again = FileStore(store.root)
    store.close()
    for path in again.root.glob("small.db*"):
        path.unlink()
    assert list(again.list()) == [(LARGE_CID, 100_000)]
    put(again, b"hello")
    assert blobs.verify(again, HELLO) == 5


def test_reading_makes_nothing(store: FileStore) -> None:
    assert (list(store.list()), list(store.memo_list()), store.memo_get(KEY)) == ([], [], None)
    assert store.has([HELLO]) == frozenset()
    store.delete([HELLO])
    store.memo_delete(KEY)
    with pytest.raises(ArtifactNotFound, match=f"blob {HELLO} is not in file:///.*/store"):
        store.open(HELLO)
    assert not store.root.parent.exists()


def test_a_relative_root_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = FileStore(Path("store"))
    monkeypatch.chdir("/")
    put(store, b"hello", LARGE)
    assert (tmp_path / "store" / LARGE_PATH).exists()
    assert (tmp_path / "store" / "small.db").exists()


# ---------------------------------------------------------------- the order of a write


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is synced and renamed, in order, by inode: names change, inodes stay."""
    seen: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def recording_fsync(descriptor: int) -> None:
        fsync(descriptor)
        seen.append(("sync", os.fstat(descriptor).st_ino))

    def recording_replace(source: str, dest: str) -> None:
        replace(source, dest)
        seen.append(("rename", os.lstat(dest).st_ino))

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    return seen


def inode(*paths: Path) -> set[int]:
    return {path.stat().st_ino for path in paths}


def test_all_files_are_synced_then_all_renamed_then_each_folder_synced_once(
    store: FileStore, events: list[tuple[str, int]]
) -> None:
    staged = [blobs.stage(store, b"%4d" % number * 20_000) for number in range(60)]
    events.clear()
    store.put(staged)
    files = [path for path in (store.root / "blobs/b3").rglob("*") if path.is_file()]
    folders = {path.parent for path in files} | {store.root / "blobs/b3"}
    assert len(files) == 60
    assert len(folders) < 61, "two files of one folder are the point"
    assert {("sync", number) for number in inode(*files)} == set(events[:60])
    assert {("rename", number) for number in inode(*files)} == set(events[60:120])
    assert sorted(events[120:]) == sorted(("sync", number) for number in inode(*folders))


def test_small_blobs_touch_no_file_of_their_own(store: FileStore, events: list[tuple[str, int]]) -> None:
    put(store, b"hello")
    events.clear()
    put(store, *(b"%d" % number for number in range(600)))
    store.memo_set(KEY, b"{}")
    assert events == []
    assert list((store.root / "blobs/b3").iterdir()) == []


def test_large_blobs_are_durable_before_small_ones_which_may_list_them(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.memo_set(KEY, b"{}")
    seen: list[bool] = []
    sync = durable.sync_folder

    def looking(folder: str) -> None:
        sync(folder)
        seen.append(bool(store.has([HELLO])))

    monkeypatch.setattr(durable, "sync_folder", looking)
    put(store, b"hello", LARGE)
    assert (seen, store.has([HELLO])) == ([False, False], frozenset({HELLO}))


def test_a_folder_that_is_known_to_last_costs_its_parent_no_sync(
    store: FileStore, events: list[tuple[str, int]]
) -> None:
    put(store, LARGE)
    events.clear()
    put(store, LARGE)
    blob = store.root / LARGE_PATH
    assert [kind for kind, _ in events] == ["sync", "rename", "sync"]
    assert events[-1] == ("sync", blob.parent.stat().st_ino)


def test_a_folder_that_another_process_made_has_its_name_synced_too(
    store: FileStore, events: list[tuple[str, int]]
) -> None:
    put(store, LARGE)
    other = FileStore(store.root)
    events.clear()
    put(other, LARGE)
    blob = store.root / LARGE_PATH
    assert {number for kind, number in events[2:] if kind == "sync"} == inode(blob.parent, blob.parent.parent)


def test_a_blob_that_is_there_is_made_durable_before_it_is_relied_on(
    store: FileStore, events: list[tuple[str, int]]
) -> None:
    """It may be there and not durable: written by a process that died before its sync."""
    put(store, b"other")
    path = store.root / LARGE_PATH
    path.parent.mkdir()
    path.write_bytes(LARGE)
    events.clear()
    put(store, LARGE)
    assert ("sync", path.stat().st_ino) in events
    assert ("sync", path.parent.stat().st_ino) in events


@pytest.mark.parametrize("there", [False, True], ids=["no folder yet", "an empty folder"])
def test_a_new_store_is_durable_before_it_says_so(
    store: FileStore, events: list[tuple[str, int]], there: bool
) -> None:
    if there:
        store.root.mkdir(parents=True)
    assert store.staging.is_dir()
    root = store.root
    renamed = events.index(("rename", (root / "format").stat().st_ino))
    before = {number for kind, number in events[:renamed] if kind == "sync"}
    assert (root / "small.db").stat().st_size > 0  # SQLite syncs it by itself
    assert before >= inode(root.parent, root / "blobs", root / "format")
    assert events[renamed + 1 :] == [("sync", root.stat().st_ino)]


def test_a_folder_that_somebody_removed_is_made_again(
    store: FileStore, events: list[tuple[str, int]]
) -> None:
    put(store, LARGE)
    store.delete([LARGE_CID])
    for folder in ("blobs/b3/81", "blobs/b3", "blobs"):
        (store.root / folder).rmdir()
    events.clear()
    put(store, LARGE)
    assert blobs.verify(store, LARGE_CID) == 100_000
    synced = {number for kind, number in events if kind == "sync"}
    assert synced >= inode(
        store.root, *(store.root / folder for folder in ("blobs", "blobs/b3", "blobs/b3/81"))
    )


# ---------------------------------------------------------------- healing, and what is not ours


@pytest.mark.parametrize("found", [LARGE[::-1], b"", LARGE + b"!"], ids=["same size", "empty", "longer"])
def test_putting_a_damaged_blob_again_heals_it(store: FileStore, found: bytes) -> None:
    put(store, LARGE)
    (store.root / LARGE_PATH).chmod(0o600)
    (store.root / LARGE_PATH).write_bytes(found)
    put(store, LARGE)
    assert blobs.verify(store, LARGE_CID) == 100_000
    assert stat.S_IMODE((store.root / LARGE_PATH).stat().st_mode) == 0o444


def test_a_link_in_the_place_of_a_blob_is_no_blob_and_a_put_replaces_it(
    store: FileStore, tmp_path: Path
) -> None:
    put(store, LARGE)
    (tmp_path / "mine").write_bytes(LARGE)
    (store.root / LARGE_PATH).unlink()
    (store.root / LARGE_PATH).symlink_to(tmp_path / "mine")
    assert (store.has([LARGE_CID]), list(store.list())) == (frozenset(), [])
    with pytest.raises(ArtifactNotFound, match=LARGE_CID):
        store.open(LARGE_CID)
    store.delete([LARGE_CID])
    assert (store.root / LARGE_PATH).is_symlink()
    put(store, LARGE)
    assert not (store.root / LARGE_PATH).is_symlink()
    assert (tmp_path / "mine").stat().st_mode & 0o777 != 0o444


def test_a_pipe_in_the_place_of_a_blob_hangs_nobody(store: FileStore) -> None:
    put(store, LARGE)
    (store.root / LARGE_PATH).unlink()
    os.mkfifo(store.root / LARGE_PATH)
    with pytest.raises(ArtifactNotFound, match=LARGE_CID):
        store.open(LARGE_CID)


def test_foreign_files_are_neither_listed_nor_deleted(store: FileStore) -> None:
    put(store, LARGE)
    shard = store.root / "blobs/b3/81"
    for foreign in (
        store.root / "blobs/README",
        store.root / "blobs/sha256",
        store.root / "blobs/b3/README",
        shard / "notes.txt",
        shard / ("ab" + "0" * 62),  # a cid's name in another's folder
        shard / ("81" + "0" * 61),
    ):
        foreign.write_bytes(b"mine")
    (shard / ("81" + "1" * 62)).mkdir()
    before = content(store.root)
    assert list(store.list()) == [(LARGE_CID, 100_000)]
    store.delete([name for name, _ in store.list()] + ["b3:81" + "1" * 62, "b3:ab" + "0" * 62])
    assert before.keys() - content(store.root).keys() == {LARGE_PATH}


@pytest.mark.parametrize("found", [b"hellO", b"", b"hello, world"], ids=["same size", "empty", "longer"])
def test_putting_a_damaged_small_blob_again_heals_it(store: FileStore, found: bytes) -> None:
    put(store, b"hello")
    assert row_of(store, found) == found
    with pytest.raises(Damaged, match=HELLO):
        blobs.verify(store, HELLO)
    put(store, b"hello")
    assert (row_of(store), list(store.list())) == (b"hello", [(HELLO, 5)])


def test_what_is_there_already_is_not_written_again(store: FileStore) -> None:
    def size_bytes() -> int:
        return sum(path.stat().st_size for path in store.root.glob("small.db*"))

    put(store, b"hello")
    store.memo_set(KEY, b"{}")
    before = size_bytes()
    for _ in range(3):
        put(store, b"hello")
        store.memo_set(KEY, b"{}")
    assert size_bytes() == before
    put(store, b"other")
    assert size_bytes() > before


def test_more_small_blobs_than_one_question_can_name_are_found_listed_and_deleted(store: FileStore) -> None:
    cids = put(store, *(b"%d" % number for number in range(1201)))
    assert store.has(cids) == frozenset(cids)
    assert sorted(cid for cid, _ in store.list()) == sorted(cids)
    store.delete(cids[1:])
    assert list(store.list()) == [(cids[0], 1)]


def test_rows_that_are_not_ours_are_passed_over(store: FileStore) -> None:
    put(store, b"hello")
    with closing(sqlite3.connect(store.root / "small.db", isolation_level=None)) as raw:
        raw.execute("INSERT INTO blobs VALUES (x'00ff', x'00')")
    assert list(store.list()) == [(HELLO, 5)]


def test_what_a_crash_left_in_tmp_is_harmless(store: FileStore) -> None:
    staged = small_file(store, b"never put")
    (store.staging / "half.tmp").write_bytes(b"ha")
    again = FileStore(store.root)
    put(again, b"hello")
    assert list(again.list()) == [(HELLO, 5)]
    assert sorted(path.name for path in again.staging.iterdir()) == sorted(["half.tmp", staged.name])


# ---------------------------------------------------------------- what is refused


def test_a_store_of_a_newer_layout_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "format").write_bytes(b"theory file store 3\n")
    with pytest.raises(StoreFailed, match="has layout 3, and this theory knows 2") as caught:
        FileStore(tmp_path)
    assert "pip install --upgrade theory-core" in caught.value.hint
    assert content(tmp_path) == {"format": b"theory file store 3\n"}


def test_a_store_of_the_layout_that_was_never_published_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "format").write_bytes(b"theory file store 1\n")
    with pytest.raises(StoreFailed, match="has layout 1, and this theory knows 2") as caught:
        FileStore(tmp_path)
    assert "move it away" in caught.value.hint
    assert content(tmp_path) == {"format": b"theory file store 1\n"}


def test_a_damaged_database_is_named_with_the_next_step(store: FileStore) -> None:
    put(store, b"hello", LARGE)
    root = store.root
    store.close()
    with (root / "small.db").open("r+b") as file:
        size_bytes = file.seek(0, os.SEEK_END)
        file.seek(100)
        file.write(b"\xff" * (size_bytes - 100))
    for path in root.glob("small.db-*"):
        path.unlink()
    again = FileStore(root)
    calls: list[Callable[[], object]] = [
        lambda: again.open(HELLO),
        lambda: again.has([HELLO]),
        lambda: list(again.list()),
        lambda: again.memo_get(KEY),
        lambda: put(again, b"hello"),
        lambda: again.memo_set(KEY, b"{}"),
    ]
    for call in calls:
        with pytest.raises(
            StoreFailed, match=r"the store's database .*/small\.db cannot be used: "
        ) as caught:
            call()
        assert caught.value.hint.startswith("move the file away")


def test_a_file_that_is_no_database_is_named(store: FileStore) -> None:
    assert store.staging.is_dir()
    root = store.root
    store.close()
    (root / "small.db").write_bytes(b"shopping list\n" * 100)
    with pytest.raises(StoreFailed, match=r"small\.db cannot be used: file is not a database"):
        put(FileStore(root), b"hello")
    assert (root / "small.db").read_bytes() == b"shopping list\n" * 100


@pytest.mark.parametrize(
    "line", [b"", b"1\n", b"theory file store 0\n", b"theory file store 2\n\n", b"\xff" * 1000]
)
def test_a_format_that_is_not_ours_is_refused(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "format").write_bytes(line)
    with pytest.raises(StoreFailed, match="is no store of theory"):
        FileStore(tmp_path)


def test_a_folder_full_of_other_things_is_never_made_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_bytes(b"mine")
    store = FileStore(tmp_path)
    with pytest.raises(StoreFailed, match=r"no store and not empty: it holds 'thesis.tex'") as caught:
        put(store, b"hello")
    assert "choose an empty folder" in caught.value.hint
    assert content(tmp_path) == {"thesis.tex": b"mine"}


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(StoreFailed, match=r"cannot open the store .*/file: Not a directory"):
        FileStore(tmp_path / "file")


def test_a_staged_file_on_another_file_system_is_refused_and_left(store: FileStore) -> None:
    elsewhere = Path("/dev/shm")  # noqa: S108 - any other file system would do
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == store.staging.stat().st_dev:
        pytest.skip("the file system is the only one here")
    path = elsewhere / f"theory-test-{os.getpid()}"
    path.write_bytes(LARGE)
    try:
        with pytest.raises(
            StoreFailed, match=r"cannot write to the store .*: Invalid cross-device link"
        ) as caught:
            store.put([Staged(LARGE_CID, len(LARGE), path)])
        assert "same file system" in caught.value.hint
        assert path.read_bytes() == LARGE
    finally:
        path.unlink()
    assert list(store.list()) == []


def test_a_staged_file_with_a_second_name_is_refused(store: FileStore, tmp_path: Path) -> None:
    """Who holds the other name could change the blob."""
    for cid, data in ((HELLO, b"hello"), (LARGE_CID, LARGE)):
        path = small_file(store, data)
        os.link(path, tmp_path / f"second name {cid}")
        with pytest.raises(StoreFailed, match=f"is not the file of {len(data):,} bytes that was staged"):
            store.put([Staged(cid, len(data), path)])
        assert (list(store.list()), list(store.staging.iterdir())) == ([], [])


def test_a_staged_link_is_refused(store: FileStore, tmp_path: Path) -> None:
    for cid, data in ((HELLO, b"hello"), (LARGE_CID, LARGE)):
        (tmp_path / "mine").write_bytes(data)
        link = store.staging / "link"
        link.symlink_to(tmp_path / "mine")
        with pytest.raises(StoreFailed, match=r"cannot take .*/link: Too many levels of symbolic links"):
            store.put([Staged(cid, len(data), link)])
        assert (list(store.list()), list(store.staging.iterdir())) == ([], [])
        assert (tmp_path / "mine").read_bytes() == data


def test_a_staged_pipe_is_refused(store: FileStore) -> None:
    for size_bytes in (0, 100_000):
        os.mkfifo(store.staging / "pipe")
        with pytest.raises(
            StoreFailed, match=f"pipe is not the file of {size_bytes:,} bytes that was staged"
        ):
            store.put([Staged(HELLO, size_bytes, store.staging / "pipe")])
        assert (list(store.list()), list(store.staging.iterdir())) == ([], [])


def test_what_is_staged_in_memory_has_the_size_that_it_says(store: FileStore) -> None:
    for blob in (Staged(HELLO, 4, data=b"hello"), Staged(LARGE_CID, 99_999, data=LARGE), Staged(HELLO, 5)):
        with pytest.raises(
            StoreFailed, match=f"is not the file of {blob.size_bytes:,} bytes that was staged"
        ):
            store.put([blob])
        assert (list(store.list()), list(store.staging.iterdir())) == ([], [])


# ---------------------------------------------------------------- when the disk refuses


def failing_sync(is_it: Callable[[int], bool]) -> Callable[[int], None]:
    fsync = os.fsync

    def sync(descriptor: int) -> None:
        if is_it(descriptor):
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    return sync


def is_folder(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


def test_a_failed_file_sync_shows_nothing_and_leaves_no_temp(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = [blobs.stage(store, data) for data in (b"one" * 30_000, b"other" * 30_000, b"third")]
    assert staged[1].path is not None
    second = staged[1].path.stat().st_ino
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing_sync(lambda descriptor: os.fstat(descriptor).st_ino == second))
        with pytest.raises(StoreFailed, match=r"cannot write to the store .*: Input/output error") as caught:
            store.put(staged)
    assert "nothing of this is relied on" in caught.value.hint
    assert (list(store.list()), list(store.staging.iterdir())) == ([], [])
    with pytest.raises(StoreFailed, match="cannot take"):
        store.put(staged)  # its files are gone: nobody can retry the sync and be told that it worked


def test_after_a_failed_folder_sync_nothing_more_is_promised(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, LARGE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing_sync(is_folder))
        with pytest.raises(StoreFailed, match="Input/output error"):
            put(store, LARGE)
    for write in (lambda: put(store, LARGE), lambda: store.memo_set(KEY, b"{}"), lambda: store.put([])):
        with pytest.raises(
            StoreFailed, match="blobs/b3/81 could not be made durable: Input/output error"
        ) as caught:
            write()
    assert "check the disk" in caught.value.hint
    assert blobs.verify(store, LARGE_CID) == 100_000  # reading goes on


def test_a_folder_that_could_not_be_opened_can_be_synced_later(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, LARGE)
    opened = os.open

    def too_many(path: str, flags: int, *rest: int, **more: int) -> int:
        if flags & os.O_DIRECTORY:
            raise OSError(errno.EMFILE, "Too many open files", path)
        return opened(path, flags, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", too_many)
        with pytest.raises(StoreFailed, match="Too many open files"):
            put(store, LARGE)
    put(store, LARGE)


FILL = """
import json, resource, sys
from pathlib import Path
from theory.store import blobs
from theory.errors import StoreFailed
from theory.store.filestore import FileStore

root, limit = Path(sys.argv[1]), int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
store, said = FileStore(root), []
(store.staging / "mine").write_bytes(b"still")
for write in (
    lambda: store.put([blobs.stage(store, b"small"), blobs.stage(store, bytes(range(256)) * 8192)]),
    lambda: store.memo_set("b3:" + "0" * 64, b"x" * 2**21),
):
    try:
        write()
    except StoreFailed as error:
        said.append([error.message, error.hint])
store.put([blobs.stage(store, b"still")])
tmp = [path.stat().st_size for path in store.staging.iterdir()]
print(json.dumps([said, [blobs.verify(store, cid) for cid, _ in store.list()], list(store.memo_list()), tmp]))
"""


def test_a_full_disk_is_named_and_leaves_nothing_half_visible(tmp_path: Path) -> None:
    mount = tmp_path / "disk"
    mount.mkdir()
    script = 'mount -t tmpfs -o size=1m none "$0" && exec "$@"'
    wrapper = ("unshare", "-rm", "sh", "-c", script, str(mount))
    if subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode:
        pytest.skip("the file system of a fixed size cannot be mounted here")
    said, sizes, memo, tmp = json.loads(run(FILL, mount / "store", 0, wrapper=wrapper))
    assert [message for message, _ in said] == [
        f"cannot write to {mount}/store/tmp: No space left on device",
        f"the store's database {mount}/store/small.db cannot be used: database or disk is full",
    ]
    assert all("free some space" in hint for _, hint in said)
    assert (sizes, memo, tmp) == ([5], [], [5])  # what was staged before, and never put, is its stager's


def test_a_limit_on_file_sizes_is_named_and_leaves_nothing_half_visible(tmp_path: Path) -> None:
    said, sizes, memo, tmp = json.loads(run(FILL, tmp_path / "store", 2**20))
    assert [message for message, _ in said] == [
        f"cannot write to {tmp_path}/store/tmp: File too large",
        f"the store's database {tmp_path}/store/small.db cannot be used: disk I/O error",
    ]
    assert (sizes, memo, tmp) == ([5], [], [5])


FILLED = """
import os, sys
from pathlib import Path
from theory.store import blobs
from theory.store.filestore import FileStore

store = FileStore(Path(sys.argv[1]))
store.put([blobs.stage(store, b"hello"), blobs.stage(store, b"hello" * 20_000)])
"""

REFUSED = """
import json, os, sys
from pathlib import Path
from theory.store import blobs
from theory.errors import StoreFailed
from theory.store.filestore import FileStore

root, user = Path(sys.argv[1]), int(sys.argv[2])
if user:
    os.setuid(user)
store, said = FileStore(root), []
hello = "b3:ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f"
for write in (
    lambda: blobs.stage(store, bytes(100_000)),
    lambda: store.put([blobs.stage(store, b"other")]),
    lambda: store.memo_set(hello, b"{}"),
    lambda: store.delete([hello]),
    lambda: store.delete([cid for cid, size in store.list() if size > 65536]),
):
    try:
        write()
    except StoreFailed as error:
        said.append([error.message, error.hint])
print(json.dumps([said, sorted(blobs.verify(store, cid) for cid, _ in store.list())]))
"""


@pytest.mark.parametrize("left", [True, False], ids=["a WAL is left there", "no WAL"])
def test_a_store_on_a_read_only_disk_can_be_read_and_says_why_it_cannot_be_written(
    tmp_path: Path, left: bool
) -> None:
    root = tmp_path / "store"
    run(FILLED + ("os._exit(0)" if left else ""), root)
    assert (root / "small.db-wal").exists() == left
    bind = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    wrapper = ("unshare", "-rm", "sh", "-c", bind, str(root))
    if subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode:
        pytest.skip("the file system cannot be mounted read-only here")
    said, sizes = json.loads(run(REFUSED, root, 0, wrapper=wrapper))
    reason = "Read-only file system" if left else "attempt to write a readonly database"
    assert [message.replace(str(root), "STORE") for message, _ in said] == [
        "cannot write to STORE/tmp: Read-only file system",
        "the store's database STORE/small.db cannot be used: " + reason,
        "the store's database STORE/small.db cannot be used: " + reason,
        "the store's database STORE/small.db cannot be used: " + reason,
        "cannot delete from the store STORE: Read-only file system",
    ]
    assert all("writable" in hint for _, hint in said)
    assert sizes == [5, 100_000]


@pytest.fixture
def open_to_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a user without rights reaches, below those that pytest made private."""
    folder = tmp_path_factory.mktemp("open")
    for path in [folder, *folder.parents]:
        if path.stat().st_uid == os.getuid() and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    return folder


def test_a_folder_without_rights_is_named(open_to_all: Path) -> None:
    folder = open_to_all / "locked"
    folder.mkdir(mode=0o555)
    nobody = 65534 if os.getuid() == 0 else 0
    said, sizes = json.loads(run(REFUSED, folder / "home" / "store", nobody))
    assert [message for message, _ in said] == [
        f"cannot write to the store {folder}/home/store: Permission denied"
    ] * 3
    assert all("make it writable" in hint for _, hint in said)
    assert sizes == []


# ---------------------------------------------------------------- sudden death

DIE_AT_EVERY_STEP = """
import os, signal, sys
from pathlib import Path
from theory.store import blobs
from theory.store.filestore import FileStore

KEY = "b3:" + "0" * 64
CONTENTS = [b"", b"hello", bytes(range(256)) * 1000]

def write(store):
    store.put([blobs.stage(store, content) for content in CONTENTS])
    store.memo_set(KEY, b"record")

def die_before(step):
    seen = 0
    for name in ("open", "write", "fsync", "replace", "close", "mkdir", "fchmod", "chmod", "unlink"):
        def call(*args, _real=getattr(os, name), **more):
            nonlocal seen
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return _real(*args, **more)
        setattr(os, name, call)

step, killed = 0, True
while killed:
    step += 1
    root = Path(sys.argv[1]) / str(step)
    child = os.fork()
    if not child:
        die_before(step)
        write(FileStore(root))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    killed = os.WIFSIGNALED(status)
    assert killed or status == 0, status
    store = FileStore(root)
    found = [cid for cid, _ in store.list()]
    sizes = [blobs.verify(store, cid) for cid in found]
    assert store.memo_get(KEY) in ((None, b"record") if killed else (b"record",))
    assert store.memo_get(KEY) is None or len(found) == 3
    write(store)
    assert sorted(blobs.verify(store, cid) for cid, _ in store.list()) == [0, 5, 256000]
    assert store.memo_get(KEY) == b"record"
print(step - 1)
"""


def test_a_death_before_any_system_call_of_a_write_leaves_a_sound_store(tmp_path: Path) -> None:
    assert int(run(DIE_AT_EVERY_STEP, tmp_path)) > 30


DIE_AT_RANDOM = """
import os, random, signal, sys
from pathlib import Path
from theory.store import blobs
from theory.store.filestore import FileStore

root, acknowledged = Path(sys.argv[1]), set()
chance = random.Random(7)

def put_until_killed(name, write_end):
    store, number = FileStore(root), 0
    while True:
        contents = [b"%s.%d.%d" % (name, number, each) * (1 + 4000 * each) for each in range(4)]
        staged = [blobs.stage(store, content) for content in contents]
        os.write(write_end, b".")
        store.put(staged)
        os.write(write_end, "".join(f"\\n{blob.cid}\\n" for blob in staged).encode())
        number += 1

for death in range(12):
    read_end, write_end = os.pipe()
    children = []
    for sibling in range(3):
        children.append(os.fork())
        if not children[-1]:
            put_until_killed(b"%d of %d" % (sibling, death), write_end)
    os.close(write_end)
    with open(read_end, "rb", buffering=0) as pipe:
        said = b""
        for child in children:  # one by one: the others go on
            for _ in range(chance.randrange(1, 12)):
                said += pipe.read(chance.randrange(1, 400))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        said += pipe.read()
    acknowledged |= {line.decode() for line in said.split() if len(line) == 67}
store = FileStore(root)
listed = {cid for cid, _ in store.list()}
assert listed >= acknowledged, acknowledged - listed
print(len(acknowledged), sum(1 for cid in listed if blobs.verify(store, cid)) == len(listed))
"""


def test_processes_killed_while_they_put_side_by_side_lose_and_damage_nothing(tmp_path: Path) -> None:
    acknowledged, all_whole = run(DIE_AT_RANDOM, tmp_path / "store").split()
    assert (int(acknowledged) > 40, all_whole) == (True, "True")
    with closing(sqlite3.connect(tmp_path / "store" / "small.db")) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# ---------------------------------------------------------------- urls


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("file:///srv/store", "/srv/store"),
        ("file:/srv/store", "/srv/store"),
        ("file://localhost/srv/store", "/srv/store"),
        ("file:///srv/my%20store", "/srv/my store"),
        ("file:///srv/%C3%A9", "/srv/é"),
        ("file:///srv/100%25", "/srv/100%"),
    ],
)
def test_a_file_url_opens_the_store_of_its_folder(url: str, root: str) -> None:
    store = open_store(url)
    assert isinstance(store, FileStore)
    assert store.root == Path(root)
    assert open_store(store.url).root == Path(root)  # type: ignore[union-attr]  # its own url is a file url


@pytest.mark.parametrize(
    "url",
    [
        "file:store",
        "file:./store",
        "file://server/share",
        "file://",
        "file:///a?b=c",
        "file:///a#b",
        "file:///a%00b",
    ],
)
def test_a_file_url_that_names_no_folder_here_is_refused(url: str) -> None:
    with pytest.raises(Usage, match="names no folder of this machine") as caught:
        open_store(url)
    assert "file:///absolute/folder" in caught.value.hint


@pytest.mark.parametrize("url", ["s3://bucket/prefix", "/srv/store", "", "FILE", "filestore:///x"])
def test_another_url_is_not_ours(url: str) -> None:
    assert open_store(url) is None


@pytest.mark.parametrize("name", ["", "b3:..", "../../etc/passwd", "b3:" + "A" * 64])
def test_a_name_of_another_form_is_refused_in_words(tmp_path: Path, name: str) -> None:
    store = FileStore(tmp_path / "store")
    with pytest.raises(StoreFailed, match=f"^{re.escape(repr(name))} is not a cid$"):
        store.open(name)
    with pytest.raises(StoreFailed, match=f"^{re.escape(repr(name))} is not a memo key$"):
        store.memo_get(name)
