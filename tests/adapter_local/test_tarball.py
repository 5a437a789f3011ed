"""Archives are read strictly: what is damaged, cut or leads elsewhere does nothing."""

from __future__ import annotations

import io
import os
import tarfile
import tracemalloc
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from theory.errors import BadOutputPath, DuplicateOutput, OutputLimit, StoreFailed, TheoryError
from theory_adapter_local.files.archives import unpack
from theory_adapter_local.files.tarball import Broken, Packed, Unpacked, pack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LARGE = 1024  # MiB


def stream(data: bytes) -> Any:
    return io.BytesIO(data)  # read as the raw stream of an answer is


def archive(*members: tuple[str, bytes, Any]) -> bytes:
    """What an engine might send: names, kinds, and contents or targets of links; ``out`` comes first."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        for name, kind, what in (("out", tarfile.DIRTYPE, b""), *members):
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(what)
                tar.addfile(info, io.BytesIO(what))
            else:
                info.linkname = what if isinstance(what, str) else ""
                tar.addfile(info)
    return whole.getvalue()


def file(name: str, content: bytes = b"") -> tuple[str, bytes, bytes]:
    return (name, tarfile.REGTYPE, content)


def folder(name: str) -> tuple[str, bytes, bytes]:
    return (name, tarfile.DIRTYPE, b"")


# ------------------------------------------------------------------ the format

NAMES = st.text(st.characters(exclude_characters="\0/"), min_size=1, max_size=300) | st.builds(
    lambda raw: raw.decode("utf-8", "surrogateescape"),
    st.binary(min_size=1, max_size=255).filter(lambda raw: not {0, 47} & set(raw)),
)
NAMES = NAMES.filter(lambda name: name not in {".", ".."} and _is_bytes(name))


def _is_bytes(name: str) -> bool:
    try:
        return len(name.encode("utf-8", "surrogateescape")) <= 255
    except UnicodeEncodeError:
        return False


@given(things=st.dictionaries(NAMES, st.none() | st.binary(max_size=2000), max_size=6))
def test_what_is_packed_is_unpacked_again(things: dict[str, bytes | None]) -> None:
    sent = b"".join(pack(Packed(name, 0o444, (1, 2), content) for name, content in things.items()))
    found: dict[str, bytes | None] = {}
    unpacked = Unpacked(stream(sent))
    read, write = os.pipe()
    with open(read, "rb", buffering=0) as ours:
        for member in unpacked:
            if member.kind == tarfile.DIRTYPE:
                found[member.name] = None
                continue
            unpacked.copy_to(write)
            found[member.name] = ours.read(member.size_bytes) if member.size_bytes else b""
    os.close(write)
    assert found == things


WHOLE = b"".join(
    pack(
        [
            Packed("out", 0o700, (0, 0), None),
            Packed("out/" + "d" * 120, 0o700, (0, 0), None),
            Packed("out/zeros", 0o600, (0, 0), bytes(1024)),
        ]
    )
)


@given(cut=st.integers(0, len(WHOLE) - 1))
def test_an_archive_that_breaks_off_anywhere_is_refused(cut: int) -> None:
    """Python's own reader takes many of these for whole."""
    assert len(list(Unpacked(stream(WHOLE)))) == 3
    with pytest.raises(Broken, match="it ends too early"):
        list(Unpacked(stream(WHOLE[:cut])))


def test_a_file_that_breaks_off_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(Broken, match="it ends in the middle of a file"):
        unpack(stream(archive(file("out/a", b"x" * 3000))[:3000]), tmp_path / "out", LARGE)


@given(at=st.integers(0, 511), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_header_is_found(at: int, bit: int) -> None:
    whole = bytearray(archive(file("out/a", b"x")))
    whole[512 + at] ^= 1 << bit
    try:
        members = list(Unpacked(stream(bytes(whole))))
    except Broken:
        return
    assert [member.name for member in members] == ["out", "out/a"], "only its checksum's own spelling is free"


def test_a_size_of_many_gigabytes_is_read() -> None:
    info = tarfile.TarInfo("out/a")
    info.size = 2**40
    header = info.tobuf(tarfile.PAX_FORMAT)
    first = next(iter(Unpacked(stream(header))))
    assert first.size_bytes == 2**40


def test_an_input_that_becomes_shorter_is_refused(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(bytes(3 * 1024**2))
    portions = pack([Packed("big", 0o444, (0, 0), str(big))])
    next(portions)
    os.truncate(big, 10)
    with pytest.raises(StoreFailed, match="big became shorter while it was sent"):
        list(portions)


def test_a_large_file_takes_no_memory(tmp_path: Path) -> None:
    """Both ways at once: what is packed is unpacked as it comes."""
    big, out = tmp_path / "big", tmp_path / "out"
    out.mkdir()
    os.truncate(os.open(big, os.O_CREAT | os.O_WRONLY), 64 * 1024**2)

    class Portions(io.RawIOBase):
        def __init__(self, portions: Iterator[bytes]) -> None:
            self.portions, self.left = portions, b""

        def readable(self) -> bool:
            return True

        def readinto(self, target: Any) -> int:
            if not self.left:
                self.left = next(self.portions, b"")
            count = min(len(target), len(self.left))
            target[:count], self.left = self.left[:count], self.left[count:]
            return count

    things = [Packed("out", 0o700, (0, 0), None), Packed("out/big", 0o600, (0, 0), str(big))]
    tracemalloc.start()
    try:
        unpack(Portions(pack(things)), out, LARGE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (out / "big").stat().st_size == 64 * 1024**2
    assert peak < 12 * 1024**2


# ------------------------------------------------------------------ archives that no engine should send


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "work" / "out").mkdir(parents=True)
    return tmp_path / "work" / "out"


@pytest.mark.parametrize(
    "member",
    [
        file("out/../escaped", b"x"),
        file("escaped", b"x"),
        file("/escaped", b"x"),
        file("out/./a"),
        file("out//a"),
        file("outside/a"),
        folder("out/.."),
        file("out/missing/a"),
        ("out/l", tarfile.LNKTYPE, "out/missing"),
        ("out/l", tarfile.LNKTYPE, "/etc/passwd"),
        ("out/l", tarfile.LNKTYPE, "out/../../etc/passwd"),
    ],
    ids=lambda member: f"{member[0]} {member[2]!r}",
)
def test_a_member_that_leads_elsewhere_is_refused(out: Path, member: tuple[str, bytes, Any]) -> None:
    with pytest.raises(Broken, match=r"is not below out|comes before its folder|is not there"):
        unpack(stream(archive(member)), out, LARGE)
    assert not list(out.iterdir())
    assert not (out.parent / "escaped").exists()


def test_nothing_is_written_through_a_link(out: Path, tmp_path: Path) -> None:
    (tmp_path / "canary").mkdir()
    link = ("out/a", tarfile.SYMTYPE, str(tmp_path / "canary"))
    with pytest.raises(Broken, match="comes before its folder"):
        unpack(stream(archive(link, file("out/a/b", b"x"))), out, LARGE)
    assert not list((tmp_path / "canary").iterdir())


def test_a_second_file_of_one_name_does_not_change_the_first(out: Path, tmp_path: Path) -> None:
    (tmp_path / "canary").write_bytes(b"old")
    link = ("out/a", tarfile.SYMTYPE, str(tmp_path / "canary"))
    with pytest.raises(DuplicateOutput, match="'a' and another one are one file"):
        unpack(stream(archive(link, file("out/a", b"new"))), out, LARGE)
    assert (tmp_path / "canary").read_bytes() == b"old"


def test_a_terabyte_is_refused_before_it_is_read(out: Path) -> None:
    info = tarfile.TarInfo("out/sparse")
    info.size = 2**40
    with pytest.raises(OutputLimit, match=r"larger than 65,536 MiB with 'sparse'"):
        unpack(stream(archive()[:512] + info.tobuf(tarfile.PAX_FORMAT)), out, 2**30)
    assert not list(out.iterdir())


@pytest.mark.parametrize("first", [[], [file("out")], [("out", tarfile.SYMTYPE, "/etc")], [folder("etc")]])
def test_out_that_is_no_folder_is_refused(out: Path, first: list[tuple[str, bytes, Any]]) -> None:
    whole = archive(*first)[512:]
    with pytest.raises(BadOutputPath, match="the folder for outputs was replaced or removed"):
        unpack(stream(whole), out, LARGE)


PARTS = st.sampled_from(["out", "a", "b", "..", ".", "", "canary", "é", "\udcff"])
PATHS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
KINDS = st.sampled_from(
    [
        tarfile.REGTYPE,
        tarfile.DIRTYPE,
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        b"S",
        b"D",
    ]
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members=st.lists(st.tuples(PATHS.map("out/".__add__) | PATHS, KINDS, PATHS), max_size=6))
def test_whatever_comes_nothing_outside_is_touched(
    tmp_path: Path, members: list[tuple[str, bytes, str]]
) -> None:
    work = tmp_path / os.urandom(4).hex()
    (work / "out").mkdir(parents=True)
    (work / "canary").mkdir()
    (work / "canary" / "a").write_bytes(b"old")
    made = [(name, kind, b"new" if kind == tarfile.REGTYPE else target) for name, kind, target in members]
    with suppress(Broken, TheoryError):
        unpack(stream(archive(*made)), work / "out", LARGE)
    assert sorted(os.listdir(work)) == ["canary", "out"]
    assert os.listdir(work / "canary") == ["a"]
    assert (work / "canary" / "a").read_bytes() == b"old"
