from __future__ import annotations

import io
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.errors import ArtifactNotFound, Damaged, Interrupted, StoreFailed
from theory.formats.canon import cid_of, cid_of_stream
from theory.store import blobs
from theory.store.filestore import FileStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from theory.types import Staged

ABSENT = "b3:" + "00" * 32
BIG = bytes(range(251)) * (3 * 1024 * 1024 // 251 + 1)  # over three blocks
LARGE = BIG * 7  # what two threads copy
SIZES = st.sampled_from(
    [0, 1, 4095, 65535, 65536, 65537, 1024 * 1024 - 1, 1024 * 1024 + 65536, 2 * 1024 * 1024]
)


class ReadOnlyStream:
    """A stream with ``read`` and nothing else, which gives less than it is asked for."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def read(self, size: int) -> bytes:
        count = min(size, 70_001)
        block, self.rest = self.rest[:count], self.rest[count:]
        return block


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "store")


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> FileStore:
    return FileStore(tmp_path_factory.mktemp("laws") / "store")


def put(store: FileStore, content: bytes) -> str:
    blob = blobs.stage(store, content)
    store.put([blob])
    return blob.cid


def path_of(store: FileStore, cid: str) -> Path:
    return store.root / "blobs" / "b3" / cid[3:5] / cid[3:]


def damage(store: FileStore, cid: str, content: bytes) -> None:
    path = path_of(store, cid)
    if path.exists():
        path.chmod(0o600)
        path.write_bytes(content)
    else:  # a small one
        with closing(sqlite3.connect(store.root / "small.db", isolation_level=None)) as raw:
            raw.execute("UPDATE blobs SET data = ? WHERE name = ?", (content, bytes.fromhex(cid[3:])))
            assert raw.execute("SELECT changes()").fetchone() == (1,)


# ---------------------------------------------------------------- in


def from_bytes(store: FileStore, data: bytes) -> Staged:
    return blobs.stage(store, data)


def from_stream(store: FileStore, data: bytes) -> Staged:
    return blobs.stage(store, io.BytesIO(data))


def from_reader(store: FileStore, data: bytes) -> Staged:
    stream: IO[bytes] = ReadOnlyStream(data)  # type: ignore[assignment]  # all that some libraries give
    return blobs.stage(store, stream)


def from_descriptor(store: FileStore, data: bytes) -> Staged:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        return blobs.stage(store, file.fileno())


@pytest.mark.parametrize("stage", [from_bytes, from_stream, from_reader, from_descriptor])
@settings(max_examples=30)  # each writes and syncs
@given(size=SIZES)
def test_what_is_staged_is_named_and_written_alike_from_every_source(
    shared_store: FileStore, stage: Callable[[FileStore, bytes], Staged], size: int
) -> None:
    data = BIG[:size]
    blob = stage(shared_store, data)
    assert (blob.cid, blob.size_bytes, blobs.content(blob)) == (cid_of(data), len(data), data)
    assert (blob.path is None) == (size <= 65536)
    if blob.path is None:
        assert blob.data == data
    else:
        assert blob.path.parent == shared_store.staging
        assert stat.S_IMODE(blob.path.stat().st_mode) == 0o600
        blob.path.unlink()
    assert not shared_store.staging.exists() or list(shared_store.staging.iterdir()) == []


def test_what_is_staged_in_memory_makes_no_store(store: FileStore) -> None:
    blobs.stage(store, b"small")
    assert not store.root.exists()


def test_a_stream_is_read_from_where_it_stands(store: FileStore) -> None:
    stream = io.BytesIO(b"header body")
    stream.seek(7)
    assert blobs.stage(store, stream).data == b"body"


def test_a_pipe_is_read_to_its_end(store: FileStore) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"one")
    os.write(write_end, b"two")
    os.close(write_end)
    assert blobs.stage(store, read_end).data == b"onetwo"
    os.close(read_end)


def test_a_cancelled_stage_stops_at_the_next_block_and_leaves_nothing(store: FileStore) -> None:
    stream = io.BytesIO(bytes(8 * 1024 * 1024))
    answers = iter([False, False, True])
    with pytest.raises(Interrupted, match="cancelled after"):
        blobs.stage(store, stream, cancelled=lambda: next(answers))
    assert stream.tell() < 4 * 1024 * 1024
    assert list(store.staging.iterdir()) == []


def test_a_source_that_fails_passes_its_own_error_and_leaves_nothing(
    store: FileStore, tmp_path: Path
) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(IsADirectoryError, match="Is a directory"):
        blobs.stage(store, folder)
    os.close(folder)
    assert list(store.staging.iterdir()) == []


def test_a_source_that_has_nothing_yet_is_not_taken_for_its_end(store: FileStore) -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.write(write_end, b"half")
    with (
        os.fdopen(read_end, "rb", buffering=0) as stream,
        pytest.raises(BlockingIOError, match="nothing yet"),
    ):
        blobs.stage(store, stream)
    os.close(write_end)
    assert list(store.staging.iterdir()) == []


def test_ctrl_c_leaves_nothing(store: FileStore) -> None:
    def pressed() -> bool:
        raise KeyboardInterrupt("pressed")

    with pytest.raises(KeyboardInterrupt, match="pressed"):
        blobs.stage(store, BIG, cancelled=pressed)
    assert list(store.staging.iterdir()) == []


@pytest.mark.parametrize("start", [0, 1, 5_000_000])
def test_a_large_file_is_staged_from_where_it_stands(store: FileStore, tmp_path: Path, start: int) -> None:
    (tmp_path / "large").write_bytes(LARGE)
    with (tmp_path / "large").open("rb", buffering=0) as file:
        file.seek(start)
        blob = blobs.stage(store, file.fileno())
        assert file.tell() == len(LARGE)
    assert (blob.cid, blob.size_bytes) == (cid_of(LARGE[start:]), len(LARGE) - start)
    assert blobs.content(blob) == LARGE[start:]


def test_a_large_file_that_grows_while_it_is_staged_is_named_by_what_was_read(
    store: FileStore, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(LARGE)
    asked: list[None] = []

    def grow() -> bool:
        if len(asked) == 3:
            with (tmp_path / "large").open("ab") as file:
                file.write(BIG)
        asked.append(None)
        return False

    with (tmp_path / "large").open("rb", buffering=0) as file:
        blob = blobs.stage(store, file.fileno(), cancelled=grow)
    assert (blob.cid, blobs.content(blob)) == (cid_of(LARGE + BIG), LARGE + BIG)


def test_a_large_file_that_is_cancelled_leaves_neither_a_file_nor_a_thread(
    store: FileStore, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(LARGE)
    before = threading.active_count()
    with (tmp_path / "large").open("rb") as file, pytest.raises(Interrupted, match="cancelled after"):
        blobs.stage(store, file.fileno(), cancelled=cancelled_after(3))
    assert list(store.staging.iterdir()) == []
    assert threading.active_count() == before


LIMITED = """
import os, resource, sys
from pathlib import Path
from theory.store import blobs
from theory.errors import StoreFailed
from theory.store.filestore import FileStore
store = FileStore(Path(sys.argv[1]))
store.staging
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    blobs.stage(store, 0)
except StoreFailed as error:
    print(error.message, error.hint, os.listdir(store.staging))
"""


@pytest.mark.parametrize("kind", ["a file", "a file of nothing but a hole", "a pipe"])
def test_a_source_for_which_there_is_no_room_is_the_stores_failure(tmp_path: Path, kind: str) -> None:
    (tmp_path / "large").write_bytes(b"" if "hole" in kind else LARGE)
    os.truncate(tmp_path / "large", len(LARGE))
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "store")]
    if kind == "a pipe":
        done = subprocess.run(command, input=LARGE, capture_output=True, check=True)
    else:
        with (tmp_path / "large").open("rb") as file:
            done = subprocess.run(command, stdin=file, capture_output=True, check=True)
    assert done.stdout.decode() == (
        f"cannot write to {tmp_path}/store/tmp: File too large"
        " raise the limit on the size of files (ulimit -f), or choose another one []\n"
    )


STAGED = """
import os, sys
from pathlib import Path
from theory.store import blobs
from theory.store.filestore import FileStore
blobs.stage(FileStore(Path(sys.argv[1])), os.open(sys.argv[2], os.O_RDONLY))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: elsewhere all is read and written")
def test_a_large_file_is_copied_by_the_kernel_and_on_its_way_to_the_disk_before_it_is_put(
    tmp_path: Path,
) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    (tmp_path / "large").write_bytes(LARGE)
    calls = "trace=fallocate,sendfile,sync_file_range,write"
    strace = ["strace", "-f", "-qq", "-e", calls, "-e", "signal=none", "-o", str(tmp_path / "trace")]
    command = [sys.executable, "-c", STAGED, str(tmp_path / "store"), str(tmp_path / "large")]
    subprocess.run([*strace, *command], check=True)
    seen = [line.split()[1].partition("(")[0] for line in (tmp_path / "trace").read_text().splitlines()]
    assert seen.count("fallocate") == 1
    assert seen.count("sendfile") >= 3
    assert seen.count("sync_file_range") == 3  # 21 MiB in windows of 8 MiB
    assert seen.count("write") < 10  # the store's own files


THROUGH = """
import os, sys
from pathlib import Path
from theory.store import blobs
from theory.store.filestore import FileStore

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

def through(source, folder):
    descriptor = os.open(source, os.O_RDONLY)
    staged = blobs.stage(store, descriptor)
    os.close(descriptor)
    store.put([staged])
    blobs.verify(store, staged.cid)
    blobs.clone(store, staged.cid, folder / "clone")
    with open(os.devnull, "wb") as null:
        blobs.copy_verified(store, staged.cid, null)
    os.unlink(folder / "clone")
    return staged.cid

folder = Path(sys.argv[1])
store = FileStore(folder / "store")
through(folder / "small", folder)
before = peak()
print(through(folder / "large", folder), peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: /proc")
def test_a_large_file_takes_little_memory_on_all_its_ways(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(BIG)
    with (tmp_path / "large").open("wb") as file:
        file.write(LARGE)  # with data as well as a hole
        file.truncate(256 * 1024 * 1024)
    command = [sys.executable, "-c", THROUGH, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    cid, grown = done.stdout.split()
    with (tmp_path / "large").open("rb") as stream:
        assert cid == cid_of_stream(stream)[0]
    assert int(grown) < 16 * 1024 * 1024


class Taken:
    """A store that counts what each put takes."""

    def __init__(self, staging: Path) -> None:
        self.staging = staging
        self.puts: list[int] = []

    def put(self, staged: list[Staged]) -> None:
        self.puts.append(len(staged))


def test_many_small_blobs_are_put_once_they_hold_more_than_16_mib(tmp_path: Path) -> None:
    taken: Any = Taken(tmp_path)
    with blobs.Batch(taken) as batch:
        for number in range(700):
            data = b"%4d" % number * 16384  # 64 KiB
            assert blobs.content(batch.add(blobs.stage(taken, data))) == data
            assert sum(len(blob.data or b"") for blob in batch.staged) <= 16 * 1024 * 1024 + 65536
        batch.put()
    assert (taken.puts, batch.staged) == ([257, 257, 186], [])


def test_leaving_a_batch_removes_what_no_put_took(tmp_path: Path) -> None:
    taken: Any = Taken(tmp_path)
    with pytest.raises(RuntimeError, match="pressed"), blobs.Batch(taken) as batch:  # noqa: PT012 - the batch is the test
        batch.add(blobs.stage(taken, BIG))
        batch.add(blobs.stage(taken, b"small"))
        assert len(list(tmp_path.iterdir())) == 1
        raise RuntimeError("pressed")
    assert (taken.puts, list(tmp_path.iterdir())) == ([], [])


# ---------------------------------------------------------------- out


def read_all(store: FileStore, cid: str) -> bytes:
    with blobs.read_verified(store, cid) as stream:
        return stream.read()


def read_in_portions(store: FileStore, cid: str) -> bytes:
    with blobs.read_verified(store, cid) as stream:
        return b"".join(iter(lambda: stream.read(70_001), b""))


def read_in_lines(store: FileStore, cid: str) -> bytes:
    with blobs.read_verified(store, cid) as stream:
        return b"".join(stream)


def read_as_text(store: FileStore, cid: str) -> bytes:
    with io.TextIOWrapper(blobs.read_verified(store, cid), encoding="latin-1", newline="") as stream:
        return stream.read().encode("latin-1")


def read_by_copying(store: FileStore, cid: str) -> bytes:
    dest = io.BytesIO()
    assert blobs.copy_verified(store, cid, dest) == len(dest.getvalue())
    return dest.getvalue()


def read_by_cloning(store: FileStore, cid: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        dest = Path(folder) / "clone"
        assert blobs.clone(store, cid, dest) == dest.stat().st_size
        return dest.read_bytes()


WAYS = [read_all, read_in_portions, read_in_lines, read_as_text, read_by_copying, read_by_cloning]


def only_verify(store: FileStore, cid: str) -> bytes:
    blobs.verify(store, cid)
    return b""


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=30)  # each writes and syncs
@given(size=SIZES)
def test_a_whole_blob_is_read_whole(
    shared_store: FileStore, way: Callable[[FileStore, str], bytes], size: int
) -> None:
    data = BIG[:size]
    assert way(shared_store, put(shared_store, data)) == data


@pytest.mark.parametrize("way", [*WAYS, only_verify])
@settings(max_examples=30)  # each writes and syncs
@given(data=st.data(), size=SIZES.filter(bool))
def test_one_flipped_bit_anywhere_is_found(
    shared_store: FileStore, way: Callable[[FileStore, str], bytes], data: st.DataObject, size: int
) -> None:
    content = bytearray(BIG[:size])
    cid = put(shared_store, bytes(content))
    content[data.draw(st.integers(0, size - 1))] ^= 1 << data.draw(st.integers(0, 7))
    damage(shared_store, cid, bytes(content))
    with pytest.raises(Damaged, match=f"{cid} in file:///.* is damaged") as caught:
        way(shared_store, cid)
    assert "--refresh" in caught.value.hint


@pytest.mark.parametrize("way", [*WAYS, only_verify])
@pytest.mark.parametrize(
    "found",
    [b"", b"conten", b"content.", b"content" * 200_000],
    ids=["empty", "cut", "longer", "much longer"],
)
def test_another_length_is_found(
    store: FileStore, way: Callable[[FileStore, str], bytes], found: bytes
) -> None:
    cid = put(store, b"content")
    damage(store, cid, found)
    with pytest.raises(Damaged, match=cid):
        way(store, cid)


@pytest.mark.parametrize("way", [*WAYS, only_verify])
def test_an_absent_blob_is_not_found(store: FileStore, way: Callable[[FileStore, str], bytes]) -> None:
    with pytest.raises(ArtifactNotFound, match=ABSENT):
        way(store, ABSENT)


def test_verify_answers_the_size(store: FileStore) -> None:
    assert blobs.verify(store, put(store, BIG)) == len(BIG)


def test_a_stream_that_fails_to_read_is_the_stores_failure() -> None:
    class Failing(io.RawIOBase):
        def readinto(self, _: object) -> int:
            raise OSError(5, "Input/output error")

        def read(self, _: int = -1) -> bytes:
            raise OSError(5, "Input/output error")

    uses: tuple[Callable[[io.RawIOBase], object], ...] = (
        lambda reader: reader.read(),
        lambda reader: reader.readinto(bytearray(1)),
    )
    for use in uses:
        stream: IO[bytes] = Failing()  # type: ignore[assignment]  # a stream as a store may give it
        with pytest.raises(StoreFailed, match=r"cannot read blob .* in s3://bucket: Input/output error"):
            use(blobs.VerifiedReader(stream, ABSENT, "s3://bucket"))


class Reluctant(io.RawIOBase):
    """A stream without a buffer that takes less than it is given, as a pipe may."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def write(self, data: Any) -> int:
        self.taken += data[:70_001]
        return min(len(data), 70_001)


def test_a_stream_that_takes_less_gets_the_rest(store: FileStore) -> None:
    dest: Any = Reluctant()
    assert blobs.copy_verified(store, put(store, BIG), dest) == len(BIG)
    assert dest.taken == BIG


def cancelled_after(blocks: int) -> Callable[[], bool]:
    answers = iter([False] * blocks)
    return lambda: next(answers, True)


@pytest.mark.parametrize("size", [1000, len(BIG), len(LARGE)], ids=["small", "several blocks", "large"])
@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_a_cancelled_way_out_stops_at_the_next_block(
    store: FileStore, tmp_path: Path, size: int, blocks: int
) -> None:
    cid = put(store, LARGE[:size])
    if size <= 65536:
        blocks = 0
    dest = io.BytesIO()
    ways: tuple[Callable[[Callable[[], bool]], object], ...] = (
        lambda cancelled: blobs.verify(store, cid, cancelled=cancelled),
        lambda cancelled: blobs.copy_verified(store, cid, dest, cancelled=cancelled),
        lambda cancelled: blobs.clone(store, cid, tmp_path / "clone", cancelled=cancelled),
    )
    for way in ways:
        with pytest.raises(Interrupted, match="cancelled after"):
            way(cancelled_after(blocks))
    assert len(dest.getvalue()) <= blocks * 1024 * 1024
    assert not (tmp_path / "clone").exists()


def test_closing_a_reader_closes_the_stream_below() -> None:
    below = io.BytesIO(b"")
    blobs.VerifiedReader(below, ABSENT, "s3://bucket").close()
    assert below.closed


# ---------------------------------------------------------------- clones


@pytest.fixture(params=["a file's stream", "another stream"])
def source(request: pytest.FixtureRequest, store: FileStore, monkeypatch: pytest.MonkeyPatch) -> FileStore:
    """A store whose streams are files, and one whose streams are not."""
    if request.param == "another stream":
        monkeypatch.setattr(store, "open", lambda cid: io.BytesIO(path_of(store, cid).read_bytes()))
    return store


def test_a_clone_is_a_file_of_its_own(store: FileStore, tmp_path: Path) -> None:
    cid = put(store, BIG)
    blobs.clone(store, cid, tmp_path / "clone")
    blob, clone = path_of(store, cid), tmp_path / "clone"
    assert not blob.samefile(clone)
    assert (blob.stat().st_nlink, clone.stat().st_nlink) == (1, 1)
    clone.write_bytes(b"edited in place")
    assert read_all(store, cid) == BIG


def test_a_link_is_one_more_name_of_a_large_blob(store: FileStore, tmp_path: Path) -> None:
    cid = put(store, BIG)
    assert blobs.link(store, cid, tmp_path / "link")
    assert path_of(store, cid).samefile(tmp_path / "link")
    assert stat.S_IMODE((tmp_path / "link").stat().st_mode) == 0o444


def test_what_is_no_read_only_file_of_this_disk_is_not_linked(store: FileStore, tmp_path: Path) -> None:
    small, large = put(store, b"small"), put(store, BIG)
    assert not blobs.link(store, small, tmp_path / "link")
    path_of(store, large).chmod(0o644)
    assert not blobs.link(store, large, tmp_path / "link")
    path_of(store, large).chmod(0o444)
    assert not blobs.link(store, large, "/proc/link")
    assert not (tmp_path / "link").exists()


def test_a_damaged_blob_gets_no_second_name(store: FileStore, tmp_path: Path) -> None:
    cid = put(store, BIG)
    path_of(store, cid).chmod(0o644)
    path_of(store, cid).write_bytes(BIG[:-1] + b"!")
    path_of(store, cid).chmod(0o444)
    with pytest.raises(Damaged, match="is damaged"):
        blobs.link(store, cid, tmp_path / "link")
    assert not (tmp_path / "link").exists()


@pytest.mark.parametrize("mode", [0o444, 0o600, 0o755])
def test_a_clone_has_the_mode_that_is_asked_for(store: FileStore, tmp_path: Path, mode: int) -> None:
    old = os.umask(0o077)
    try:
        blobs.clone(store, put(store, b"x"), tmp_path / "clone", mode=mode)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "clone").stat().st_mode) == mode


def test_a_clone_without_a_mode_is_as_the_umask_has_it(store: FileStore, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        blobs.clone(store, put(store, b"x"), tmp_path / "clone")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "clone").stat().st_mode) == 0o640


@pytest.mark.parametrize("target", ["target", "nowhere"], ids=["a link", "a dangling link"])
def test_a_clone_never_follows_a_link(store: FileStore, tmp_path: Path, target: str) -> None:
    (tmp_path / "target").write_bytes(b"mine")
    (tmp_path / "dest").symlink_to(target)
    cid = put(store, b"x")
    with pytest.raises(FileExistsError, match="dest"):
        blobs.clone(store, cid, tmp_path / "dest")
    assert (tmp_path / "target").read_bytes() == b"mine"
    assert (tmp_path / "dest").is_symlink()
    assert not (tmp_path / "nowhere").exists()


def test_a_clone_never_overwrites(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "dest").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="dest"):
        blobs.clone(store, put(store, b"x"), tmp_path / "dest")
    assert (tmp_path / "dest").read_bytes() == b"mine"


def test_a_clone_of_a_damaged_blob_is_gone_again(source: FileStore, tmp_path: Path) -> None:
    cid = put(source, BIG)
    damage(source, cid, BIG[:-1] + b"?")
    with pytest.raises(Damaged, match=cid):
        blobs.clone(source, cid, tmp_path / "dest", mode=0o644)
    assert not (tmp_path / "dest").exists()


def test_a_clone_is_private_until_it_is_proved(
    source: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cid, dest, modes = put(source, BIG), tmp_path / "dest", set()
    readinto = blobs.VerifiedReader.readinto

    def watching(reader: blobs.VerifiedReader, buffer: bytearray) -> int:
        modes.add(stat.S_IMODE(dest.stat().st_mode))
        return readinto(reader, buffer)

    monkeypatch.setattr(blobs.VerifiedReader, "readinto", watching)
    blobs.clone(source, cid, dest, mode=0o644)
    assert (modes, stat.S_IMODE(dest.stat().st_mode)) == ({0o600}, 0o644)


def test_a_clone_can_be_made_below_an_open_folder(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    folder = os.open(tmp_path / "folder", os.O_RDONLY)
    (tmp_path / "folder").rename(tmp_path / "moved")
    cid = put(store, b"x")
    blobs.clone(store, cid, "dest", dir_fd=folder)
    assert (tmp_path / "moved" / "dest").read_bytes() == b"x"
    (tmp_path / "moved" / "dest").unlink()
    damage(store, cid, b"y")
    with pytest.raises(Damaged, match=cid):
        blobs.clone(store, cid, "dest", dir_fd=folder)
    os.close(folder)
    assert list((tmp_path / "moved").iterdir()) == []


def test_a_reflink_is_proved_by_the_bytes_of_the_copy(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few file systems share extents, so the ioctl's effect is played; what is proved must be the copy."""
    import fcntl

    if os.uname().sysname != "Linux":
        pytest.skip("needs Linux")
    cid = put(store, BIG)
    monkeypatch.setattr(fcntl, "ioctl", lambda dest, _request, _source: os.pwrite(dest, BIG, 0))
    assert blobs.clone(store, cid, tmp_path / "whole") == len(BIG)
    assert (tmp_path / "whole").read_bytes() == BIG
    monkeypatch.setattr(fcntl, "ioctl", lambda dest, _request, _source: os.pwrite(dest, b"?" + BIG[1:], 0))
    with pytest.raises(Damaged, match=cid):
        blobs.clone(store, cid, tmp_path / "damaged")
    assert not (tmp_path / "damaged").exists()
