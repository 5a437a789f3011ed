"""An archive that a sandbox made is unpacked as it comes, and trusted in nothing."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import errors
from theory.rooms import collect
from theory_adapter_modal.sandbox import sums
from theory_adapter_modal.sandbox.tarball import Broken, Reader, unpack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=60
).filter(lambda name: name not in {".", ".."} and len(name.encode()) <= 255)
FILES = st.dictionaries(NAMES, st.binary(max_size=2000), max_size=5)


def member(
    name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(data), link
    return info, data


def archive(
    *members: tuple[tarfile.TarInfo, bytes], style: int = tarfile.GNU_FORMAT, top: str = "out"
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=style, errors="surrogateescape") as made:
        made.addfile(member(top, tarfile.DIRTYPE)[0])
        for info, data in members:
            made.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


async def portions(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def unpacked(data: bytes, out: Path, size: int = 1000) -> None:
    asyncio.run(unpack(Reader(portions(data, size)), out))


@pytest.mark.parametrize("style", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
@given(files=FILES, size=st.integers(1, 3000))
@settings(max_examples=40)
def test_files_arrive_whatever_their_names_and_the_portions(
    style: int, files: dict[str, bytes], size: int
) -> None:
    data = archive(*(member(f"out/{name}", data=content) for name, content in files.items()), style=style)
    with tempfile.TemporaryDirectory() as folder:
        unpacked(data, Path(folder), size)
        found = {
            os.fsdecode(name): (Path(folder) / os.fsdecode(name)).read_bytes() for name in os.listdir(folder)
        }
    assert found == files


@given(data=st.binary(max_size=3000), at=st.integers(0, 4000))
@settings(max_examples=100)
def test_damage_is_refused_and_nothing_is_written_elsewhere(data: bytes, at: int) -> None:
    good = archive(
        member("out/a", data=b"a" * 700), member("out/deep", tarfile.DIRTYPE), member("out/deep/b", data=b"b")
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "inner" / "out"
        out.mkdir(parents=True)
        with contextlib.suppress(Broken, errors.TheoryError):
            unpacked(good[:at] + data + good[at + len(data) :], out)
        assert os.listdir(folder) == ["inner"]
        assert os.listdir(out.parent) == ["out"]


@pytest.mark.parametrize(
    "bad",
    [
        member("out/../evil", data=b"x"),
        member("/etc/evil", data=b"x"),
        member("other/evil", data=b"x"),
        member("out/link/evil", data=b"x"),
        member("out/a", tarfile.LNKTYPE, link="out/../../etc/passwd"),
        member("out/a", tarfile.LNKTYPE, link="etc/passwd"),
    ],
    ids=["parent", "absolute", "other folder", "through a link", "link upwards", "link elsewhere"],
)
def test_a_member_that_leads_elsewhere_is_no_part_of_an_archive(
    tmp_path: Path, bad: tuple[tarfile.TarInfo, bytes]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(Broken, match=r"it has a member|comes before its folder|a second name"):
        unpacked(archive(member("out/link", tarfile.SYMTYPE, link="/etc"), bad), out)
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE], ids=["character", "block"])
def test_a_device_is_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(errors.BadOutputPath, match="the output 'null' is a device"):
        unpacked(archive(member("out/null", kind)), tmp_path)


def test_another_thing_in_the_place_of_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.BadOutputPath, match="was replaced or removed"):
        unpacked(archive(top="job"), tmp_path)


@pytest.mark.parametrize("cut", [1, 511, 600, 1100])
def test_an_archive_that_ends_too_early_is_no_whole_one(tmp_path: Path, cut: int) -> None:
    with pytest.raises(Broken, match="ends too early"):
        unpacked(archive(member("out/a", data=b"a" * 700))[:cut], tmp_path)


def test_limits_are_those_of_core() -> None:
    assert (sums.MAX_FILES, sums.MAX_BYTES, sums.MAX_DEPTH) == (
        collect.MAX_FILES,
        collect.MAX_BYTES,
        collect.MAX_DEPTH,
    )


def test_too_many_files_are_refused_while_they_come() -> None:
    count = sums.Sum()
    for number in range(sums.MAX_FILES):
        count.add(str(number), 0)
    with pytest.raises(errors.OutputLimit, match="more than 20,000 files"):
        count.add("one more", 0)


def test_a_size_beyond_the_limit_is_refused_before_a_byte_of_it_comes(tmp_path: Path) -> None:
    info, _ = member("out/large")
    info.size = sums.MAX_BYTES + 1
    head = archive()[:512] + info.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(errors.OutputLimit, match="larger than 64 GiB with 'large'"):
        unpacked(head, tmp_path)


@given(
    names=st.lists(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name)),
    size=st.integers(1, 50),
)
def test_names_before_an_archive_are_read_to_their_end(names: list[bytes], size: int) -> None:
    data = b"".join(name + b"\0" for name in names) + b"\0rest"

    async def read() -> tuple[list[bytes], bytes]:
        reader = Reader(portions(data, size))
        return [os.fsencode(name) for name in await reader.names()], await reader.exactly(4)

    assert asyncio.run(read()) == (names, b"rest")
