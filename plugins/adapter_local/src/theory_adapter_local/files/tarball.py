"""Tar streams to and from an engine: read strictly, and never more of a file in memory than a portion."""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING, NamedTuple

from theory import errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PORTION_BYTES = 1024**2
_HEADERS_BYTES = 64 * 1024  # read ahead; what is larger goes straight to where it belongs
_MOST_HEADER_BYTES = 1024**2  # of one record of PAX: names have at most 4 KiB, attributes 64 KiB
_EPOCH = 315532800  # the same times in each container; as SOURCE_DATE_EPOCH
_LONG = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


class Packed(NamedTuple):
    """Something to be sent."""

    name: str
    mode: int
    ids: tuple[int, int]
    content: bytes | str | None  # or the path of a file; None: a folder


def pack(things: Iterable[Packed]) -> Iterator[bytes]:
    """The archive of these, in portions of about 1 MiB.

    Raises:
        StoreFailed: A file cannot be read, or becomes shorter meanwhile.
    """
    ready = bytearray()
    for thing in things:
        if isinstance(thing.content, str):
            yield from _file(thing, thing.content, ready)
        else:
            content = thing.content or b""
            ready += _header(thing, len(content)) + content + bytes(-len(content) % tarfile.BLOCKSIZE)
        if len(ready) >= PORTION_BYTES:
            yield bytes(ready)
            ready.clear()
    yield bytes(ready) + bytes(2 * tarfile.BLOCKSIZE)


def _file(thing: Packed, path: str, ready: bytearray) -> Iterator[bytes]:
    """Yield the portions that are full; the rest is in ``ready``."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb", buffering=0) as file:
            left = size = os.fstat(file.fileno()).st_size
            ready += _header(thing, size)
            while left:
                block = file.read(min(left, PORTION_BYTES))
                if not block:
                    raise errors.StoreFailed(f"{path} became shorter while it was sent")
                left -= len(block)
                if len(block) < PORTION_BYTES:
                    ready += block
                    continue
                if ready:
                    yield bytes(ready)
                    ready.clear()
                yield block  # as it is: what is large is copied once
    except OSError as error:
        raise errors.StoreFailed(f"cannot read {path}: {error.strerror}") from error
    ready += bytes(-size % tarfile.BLOCKSIZE)


def _header(thing: Packed, size: int) -> bytes:
    info = tarfile.TarInfo(thing.name)
    info.type = tarfile.DIRTYPE if thing.content is None else tarfile.REGTYPE
    info.mode, info.size, info.mtime = thing.mode, size, _EPOCH
    info.uid, info.gid = thing.ids
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


class Broken(Exception):
    """What came is no tar archive, or not all of one."""


class Member(NamedTuple):
    """Something that came."""

    name: str  # bytes that are not UTF-8 as lone surrogates
    kind: bytes  # as tarfile spells it; a regular file is always REGTYPE
    size_bytes: int
    link: str


class Unpacked:
    """Reads an archive as it comes, member by member.

    Python's own reader takes an archive that breaks off between two members for a whole one.
    """

    def __init__(self, stream: io.RawIOBase) -> None:
        """Read nothing yet."""
        self._stream = io.BufferedReader(stream, _HEADERS_BYTES)
        self._left = self._padding = 0  # of the latest member's content

    def __iter__(self) -> Iterator[Member]:
        """Its members; content that nobody reads is skipped.

        Raises:
            Broken: The archive is damaged, or ends too early.
        """
        told: dict[str, str] = {}
        while True:
            self._skip()
            block = self._exactly(tarfile.BLOCKSIZE)
            if block == bytes(tarfile.BLOCKSIZE):
                if self._exactly(tarfile.BLOCKSIZE) != block:
                    raise Broken("an empty block where a header should be")
                return
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise Broken(str(error)) from None
            if info.type == tarfile.XHDTYPE:
                told.update(_records(self._record(info.size)))
            elif info.type in _LONG:
                text = self._record(info.size).partition(b"\0")[0]
                told[_LONG[info.type]] = text.decode("utf-8", "surrogateescape")
            elif info.type == tarfile.XGLTYPE:
                self._record(info.size)
            else:
                yield self._member(info, told)
                told = {}

    def _member(self, info: tarfile.TarInfo, told: dict[str, str]) -> Member:
        kind = tarfile.REGTYPE if info.type in _REGULAR else info.type
        size = told.get("size", str(info.size))
        if any(key.startswith("GNU.sparse") for key in told) or not (size.isascii() and size.isdigit()):
            raise Broken(f"a header of a kind that no engine writes: {info.name!r}")
        if kind == tarfile.REGTYPE:
            self._left = int(size)
            self._padding = -self._left % tarfile.BLOCKSIZE
        elif info.size:
            raise Broken(f"content where there can be none: {info.name!r}")
        name = told.get("path", info.name).rstrip("/")  # which only a folder's has
        return Member(name, kind, self._left, told.get("linkpath", info.linkname))

    def copy_to(self, file: int) -> None:
        """Write the latest member's content to a descriptor.

        Raises:
            Broken: The archive ends before it does.
        """
        room = memoryview(bytearray(min(PORTION_BYTES, self._left)))
        while self._left:
            got = self._stream.readinto(room[: min(len(room), self._left)])
            if not got:
                raise Broken("it ends in the middle of a file")
            self._left -= got
            done = 0
            while done < got:
                done += os.write(file, room[done:got])

    def _skip(self) -> None:
        self._left, left = 0, self._left + self._padding
        self._padding = 0
        while left:
            left -= len(self._exactly(min(left, PORTION_BYTES)))

    def _record(self, size: int) -> bytes:
        if size > _MOST_HEADER_BYTES:
            raise Broken("a header of more than 1 MiB")
        return self._exactly(size + -size % tarfile.BLOCKSIZE)[:size]

    def _exactly(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) != size:
            raise Broken("it ends too early")
        return data


def _records(data: bytes) -> dict[str, str]:
    """What a PAX header tells: lines of ``length key=value``, the length that of the line in bytes."""
    told = {}
    while data:
        digits, _, _ = data.partition(b" ")
        if not digits.isdigit() or len(digits) > 7:  # noqa: PLR2004 - of at most 1 MiB
            raise Broken("a PAX header without lengths")
        line, data = data[len(digits) + 1 : int(digits)], data[int(digits) :]
        key, equals, value = line[:-1].partition(b"=")
        if not equals or line[-1:] != b"\n" or b"\0" in value:
            raise Broken("a PAX header that is none")
        told[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
    return told
