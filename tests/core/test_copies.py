"""What the kernel copies is what was taken, whatever the file looks like and whatever happens to it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.store import copies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1024 * 1024
LARGE = bytes(range(251)) * (20 * MIB // 251)
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: elsewhere all is read and written")


class Pair:
    """A source and an empty file, both open."""

    def __init__(self, folder: Path, content: bytes = b"") -> None:
        (folder / "source").write_bytes(content)
        self.source = os.open(folder / "source", os.O_RDWR)
        self.path = folder / "copy"
        self.dest = os.open(self.path, os.O_RDWR | os.O_CREAT)
        self.taken = bytearray()

    def follow(self, take: Callable[[memoryview], object] | None = None) -> None:
        copies.follow(self.source, self.dest, take or self.take)

    def take(self, block: memoryview) -> None:
        self.taken += block

    def stands(self) -> tuple[int, int]:
        return os.lseek(self.source, 0, os.SEEK_CUR), os.lseek(self.dest, 0, os.SEEK_CUR)

    def close(self) -> None:
        os.close(self.source)
        os.close(self.dest)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.close()


@linux
@settings(max_examples=20)  # each writes some 20 MiB
@given(
    size=st.sampled_from([copies.LARGE_BYTES, copies.LARGE_BYTES + 1, 24 * MIB + 4097]),
    data=st.lists(st.tuples(st.integers(0, 25 * MIB), st.sampled_from([1, 4096, 3 * MIB])), max_size=4),
    start=st.sampled_from([0, 0, 1, 4096]),
)
def test_holes_and_data_are_copied_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, size: int, data: list[tuple[int, int]], start: int
) -> None:
    folder = tmp_path_factory.mktemp("pair")
    pair = Pair(folder)
    for offset, count in data:
        os.pwrite(pair.source, b"x" * count, offset)
    os.truncate(pair.source, size + start)
    os.lseek(pair.source, start, os.SEEK_SET)
    pair.follow()
    assert pair.stands() == (size + start, size)
    pair.close()
    content = (folder / "source").read_bytes()[start:]
    assert pair.taken == content
    assert (folder / "copy").read_bytes() == content
    for name in ("source", "copy"):
        (folder / name).unlink()


@linux
def test_a_large_file_without_holes_is_copied_and_taken(tmp_path: Path) -> None:
    pair = Pair(tmp_path, LARGE)
    pair.follow()
    pair.close()
    assert pair.taken == LARGE
    assert pair.path.read_bytes() == LARGE


@linux
def test_a_hole_takes_no_room_in_the_copy(pair: Pair) -> None:
    os.truncate(pair.source, 256 * MIB)
    os.pwrite(pair.source, b"x", 100 * MIB)
    if os.fstat(pair.source).st_blocks * 512 > MIB:
        pytest.skip("the file system has no holes")
    sizes: list[int] = []
    pair.follow(lambda block: sizes.append(len(block)))
    assert sum(sizes) == 256 * MIB
    assert os.fstat(pair.dest).st_size == 256 * MIB
    assert os.fstat(pair.dest).st_blocks * 512 < MIB


@linux
def test_what_is_taken_is_the_copy_when_the_source_is_written_to_meanwhile(tmp_path: Path) -> None:
    pair = Pair(tmp_path, LARGE)

    def take(block: memoryview) -> None:
        if not pair.taken:
            os.pwrite(pair.source, bytes(len(LARGE)), 0)
        pair.taken += block

    pair.follow(take)
    pair.close()
    assert pair.path.read_bytes() == pair.taken
    assert pair.taken[: 2 * MIB] == LARGE[: 2 * MIB]


@linux
@pytest.mark.parametrize("left", [0, 10 * MIB + 1], ids=["emptied", "cut"])
def test_a_source_that_becomes_shorter_leaves_what_was_taken(tmp_path: Path, left: int) -> None:
    pair = Pair(tmp_path, LARGE)

    def take(block: memoryview) -> None:
        if not pair.taken:
            os.truncate(pair.source, left)
        pair.taken += block

    pair.follow(take)
    assert pair.stands() == (len(pair.taken), len(pair.taken))
    pair.close()
    assert pair.path.read_bytes() == pair.taken


@pytest.mark.parametrize("content", [b"", b"small"])
def test_a_small_file_is_left_to_who_calls(tmp_path: Path, content: bytes) -> None:
    pair = Pair(tmp_path, content)
    if copies.reflink(pair.source, pair.dest):
        pytest.skip("the file system shares blocks, so it copies everything")
    pair.follow()
    assert (pair.stands(), bytes(pair.taken), os.fstat(pair.dest).st_size) == ((0, 0), b"", 0)
    pair.close()


def test_a_pipe_is_left_to_who_calls(pair: Pair) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"x")
    copies.follow(reading, pair.dest, pair.take)
    assert (os.read(reading, 9), bytes(pair.taken)) == (b"x", b"")
    os.close(reading)
    os.close(writing)


@linux
def test_what_the_kernel_does_not_copy_is_left_to_who_calls(tmp_path: Path) -> None:
    pair = Pair(tmp_path, LARGE)
    os.close(pair.dest)
    pair.dest = os.open(pair.path, os.O_RDWR | os.O_APPEND)  # sendfile refuses it: EINVAL
    pair.follow()
    assert (pair.stands(), bytes(pair.taken), os.fstat(pair.dest).st_size) == ((0, 0), b"", 0)
    pair.close()


class Stop(Exception):
    """What ends a copy."""


@linux
def test_what_take_raises_ends_the_copy_and_its_thread(tmp_path: Path) -> None:
    pair = Pair(tmp_path, LARGE)
    before = threading.active_count()

    def take(_: memoryview) -> None:
        raise Stop("enough")

    with pytest.raises(Stop, match="enough"):
        pair.follow(take)
    assert threading.active_count() == before
    pair.close()


@linux
def test_without_a_thread_all_is_left_to_who_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)  # root has no limit that could be reached here
    pair = Pair(tmp_path, LARGE)
    pair.follow()
    assert os.lseek(pair.source, 0, os.SEEK_CUR) == 0
    assert not pair.taken
    assert pair.path.read_bytes() == b""
    pair.close()


@linux
def test_a_copy_that_somebody_cuts_short_is_an_error(tmp_path: Path) -> None:
    pair = Pair(tmp_path, LARGE)

    def take(_: memoryview) -> None:
        os.truncate(pair.path, 0)

    with pytest.raises(OSError, match="cut the copy short"):
        pair.follow(take)
    pair.close()


LIMITED = """
import os, resource, sys
from theory.store import copies
source = os.open(sys.argv[1], os.O_RDONLY)
dest = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    copies.follow(source, dest, lambda block: None)
except OSError as error:
    print(error.strerror, os.fstat(dest).st_size)
"""


@linux
@pytest.mark.parametrize("sparse", [False, True], ids=["data", "a hole"])
def test_too_little_room_is_known_before_anything_is_copied(tmp_path: Path, sparse: bool) -> None:
    with (tmp_path / "source").open("wb") as file:
        if sparse:
            file.truncate(32 * MIB)
        else:
            file.write(LARGE)
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "source"), str(tmp_path / "copy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "File too large 0\n"
