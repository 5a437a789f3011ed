"""An archive that a sandbox made of its outputs, unpacked as it comes: nothing trusted, nothing followed.

Python's ``tarfile`` wants a file to read from; what comes here is a stream that others run beside. So the
headers are its (``TarInfo.frombuf``), the walk from one to the next is ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tarfile
from typing import TYPE_CHECKING, NamedTuple

from theory import errors
from theory_adapter_modal.sandbox.sums import MAX_FILES, Sum, shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_BLOCK = 512
_MOST_HEADER_BYTES = 64 * 1024  # of an extended one; a path has 4,096 at most
REPLACED = "the folder for outputs was replaced or removed while the processor ran"
_LONG = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_PAX_RECORD = re.compile(rb"(\d{1,10}) ([^=]{1,100})=")
_NO_NAME = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


class Broken(Exception):
    """What came is no whole archive."""


class _Member(NamedTuple):
    name: str  # undecodable bytes as surrogates
    kind: bytes
    size_bytes: int
    link: str


class Reader:
    """Exact numbers of bytes from a stream that comes in portions of its own."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream, self._held = stream, b""

    async def upto(self, size: int) -> bytes:
        """Some bytes, at most so many."""
        while not self._held:
            try:
                self._held = await self._stream.__anext__()
            except StopAsyncIteration:
                raise Broken("it ends too early") from None
        data, self._held = self._held[:size], self._held[size:]
        return data

    async def names(self) -> list[str]:
        """Names that end with a zero byte each, up to an empty one; they come before the archive."""
        found, name = list[str](), b""
        while True:
            before, zero, self._held = (await self.upto(_BLOCK) + self._held).partition(b"\0")
            name += before
            if len(name) > _MOST_HEADER_BYTES or len(found) > MAX_FILES:
                raise Broken("it begins with too many names")
            if zero:
                if not name:
                    return found
                found.append(name.decode("utf-8", "surrogateescape"))
                name = b""

    async def exactly(self, size: int) -> bytes:
        """So many bytes."""
        parts = []
        while size:
            parts.append(await self.upto(size))
            size -= len(parts[-1])
        return b"".join(parts)

    async def rest(self) -> None:
        """Let the stream run out: an archive's last record is filled up."""
        async for _ in self._stream:
            pass


async def unpack(reader: Reader, out: Path) -> None:
    """Make what an archive of ``out`` holds, in an empty folder of ours: private files, else as they were.

    Links and special files are made as such: core refuses them, in the same words for all adapters.

    Raises:
        OutputLimit, BadOutputPath, DuplicateOutput: What the command left cannot be taken.
        StoreFailed: It cannot be written here.
        Broken: It is no whole archive of one folder.
    """
    count = Sum()
    top = await _next(reader)
    if top is None or top.kind != tarfile.DIRTYPE or top.name.rstrip("/") != "out":
        raise errors.BadOutputPath(REPLACED, hint="leave /job/out where it is")
    folders, files = {""}, set[str]()
    while (member := await _next(reader)) is not None:
        name = _relative(member.name)
        if name.rpartition("/")[0] not in folders:
            raise Broken(f"{shown(name)} comes before its folder")
        is_folder = member.kind == tarfile.DIRTYPE
        count.add(name, member.size_bytes, is_folder=is_folder)
        try:
            if member.kind in _FILES:
                await _write(reader, member.size_bytes, _path(out, name))
                files.add(name)
            else:
                _make(member, out, name, files)
        except OSError as error:
            raise refused(error, name) from error
        if is_folder:
            folders.add(name)
    await reader.rest()


async def _next(reader: Reader) -> _Member | None:
    """The next member; None at the end of the archive."""
    told: dict[str, str] = {}
    while True:
        block = await reader.exactly(_BLOCK)
        if not block.strip(b"\0"):
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise Broken(f"it has a damaged header: {error}") from error
        if info.size < 0:
            raise Broken("it has a member of less than no bytes")
        if info.type in _LONG:
            told[_LONG[info.type]] = (
                (await _header(reader, info.size)).split(b"\0")[0].decode("utf-8", "surrogateescape")
            )
        elif info.type == tarfile.XHDTYPE:
            told.update(_pax(await _header(reader, info.size)))
        elif info.type == tarfile.XGLTYPE:
            await _header(reader, info.size)
        elif info.type == tarfile.GNUTYPE_SPARSE:
            raise Broken("it has a sparse file")  # nobody asked for any
        else:
            size = int(told.get("size", info.size)) if info.type in _FILES else 0
            return _Member(told.get("path", info.name), info.type, size, told.get("linkpath", info.linkname))


async def _header(reader: Reader, size: int) -> bytes:
    if size > _MOST_HEADER_BYTES:
        raise Broken(f"it has a header of {size} bytes")
    data = await reader.exactly(size)
    await reader.exactly(-size % _BLOCK)
    return data


def _pax(data: bytes) -> dict[str, str]:
    """The records of an extended header (POSIX.1-2001, pax): ``length key=value`` and a line end."""
    found, at = {}, 0
    while at < len(data):
        record = _PAX_RECORD.match(data, at)
        if record is None or not record.end() < (end := at + int(record[1])) <= len(data):
            raise Broken("it has a damaged extended header")
        found[record[2].decode("utf-8", "replace")] = data[record.end() : end - 1].decode(
            "utf-8", "surrogateescape"
        )
        at = end
    if not re.fullmatch(r"\d{1,18}", found.get("size", "0")):
        raise Broken("it has a damaged size")
    return found


async def _write(reader: Reader, size: int, path: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        left = size
        while left:
            data = await reader.upto(left)
            left -= len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(file, view) :]
    finally:
        os.close(file)
    await reader.exactly(-size % _BLOCK)


def _make(member: _Member, out: Path, name: str, files: set[str]) -> None:
    path = _path(out, name)
    if member.kind == tarfile.DIRTYPE:
        os.mkdir(path, 0o700)
    elif member.kind == tarfile.LNKTYPE:
        if (other := _relative(member.link)) not in files:
            raise Broken(f"{shown(name)} is a second name of what is not there")
        os.link(_path(out, other), path, follow_symlinks=False)
        files.add(name)
    elif member.kind == tarfile.SYMTYPE:
        os.symlink(os.fsencode(member.link), path)
    elif member.kind == tarfile.FIFOTYPE:
        os.mkfifo(path, 0o600)
    else:
        raise special(
            name, "a device" if member.kind in {tarfile.CHRTYPE, tarfile.BLKTYPE} else "a special file"
        )


def special(name: str, what: str) -> errors.BadOutputPath:
    """The refusal of an output that cannot even be made here."""
    return errors.BadOutputPath(
        f"the output {shown(name)} is {what}", hint="write a regular file in its place"
    )


def refused(error: OSError, name: str) -> errors.TheoryError:
    """What it means that this machine does not take an output of this name."""
    if error.errno == errno.EEXIST:
        return errors.DuplicateOutput(
            f"the output {shown(name)} and another one are one file on this system", hint="rename one of them"
        )
    if error.errno in _NO_NAME:
        return errors.BadOutputPath(
            f"the output {shown(name)} cannot have this name here: {error.strerror}",
            hint="write it under another name",
        )
    return errors.StoreFailed(
        f"cannot write the output {shown(name)}: {error.strerror}",
        hint="free some space on its disk, or choose another one: THEORY_HOME",
    )


def _relative(name: str) -> str:
    """A member's path below ``out``.

    Raises:
        Broken: It is not below it.
    """
    parts = name.rstrip("/").split("/")
    if parts[0] != "out" or len(parts) < 2 or any(part in {"", ".", ".."} for part in parts) or "\0" in name:  # noqa: PLR2004 - out and a name
        raise Broken(f"it has a member {shown(name)}")
    return "/".join(parts[1:])


def _path(out: Path, name: str) -> bytes:
    # Bytes, since the names are UTF-8 whatever the locale says.
    with contextlib.suppress(UnicodeEncodeError):
        return os.fsencode(out) + b"/" + name.encode("utf-8", "surrogateescape")
    raise OSError(errno.EILSEQ, os.strerror(errno.EILSEQ))
