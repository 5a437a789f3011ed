from __future__ import annotations

import io
import os
import stat
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import blobs
from theory.canon import cid_of
from theory.errors import ArtifactNotFound, Damaged, Interrupted, StoreFailed
from theory.filestore import FileStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from theory.types import Staged

ABSENT = "b3:" + "00" * 32
BIG = bytes(range(251)) * (3 * 1024 * 1024 // 251 + 1)  # over three blocks
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
    path.chmod(0o600)
    path.write_bytes(content)


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
    assert (blob.cid, blob.size_bytes, blob.path.read_bytes()) == (cid_of(data), len(data), data)
    assert blob.path.parent == shared_store.staging
    assert stat.S_IMODE(blob.path.stat().st_mode) == 0o600
    blob.path.unlink()


def test_a_stream_is_read_from_where_it_stands(store: FileStore) -> None:
    stream = io.BytesIO(b"header body")
    stream.seek(7)
    assert blobs.stage(store, stream).path.read_bytes() == b"body"


def test_a_pipe_is_read_to_its_end(store: FileStore) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"one")
    os.write(write_end, b"two")
    os.close(write_end)
    assert blobs.stage(store, read_end).path.read_bytes() == b"onetwo"
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
        blobs.stage(store, b"x", cancelled=pressed)
    assert list(store.staging.iterdir()) == []


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
