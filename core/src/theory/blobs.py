"""Bytes on their way into a store and out of it: named once going in, compared with their name coming out.

It serves every store alike: a store moves bytes, this module names and checks them. An ``OSError`` of the
other side (the source that is staged, the file that is made) passes unchanged: who chose that file words it.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from theory import durable
from theory.canon import Hasher
from theory.errors import Damaged, Interrupted, StoreFailed
from theory.types import Staged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from theory.types import Store

BLOCK_BYTES = 1024 * 1024  # read, hashed and written at a time: all the memory that a file of any size takes
_BUFFER_BYTES = 64 * 1024  # the first block, and what a reader holds for those who ask for less at a time
_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def stage(
    store: Store, source: bytes | IO[bytes] | int, *, cancelled: Callable[[], bool] | None = None
) -> Staged:
    """Write a private file for ``Store.put`` and name it, in one pass over the source.

    Args:
        store: Where the bytes will go; the file is made in its staging folder.
        source: The bytes themselves; or a stream or a descriptor, read from where it stands to its end.
        cancelled: Asked before each block of 1 MiB.

    Raises:
        StoreFailed: The staging folder does not take it; nothing of it is left there.
        Interrupted: ``cancelled`` said so; nothing of it is left there.
    """
    folder = store.staging
    writing = f"cannot write to {folder}"
    hasher = Hasher()
    with _worded(writing):
        descriptor, path = durable.create(folder)
    try:
        try:
            for block in (source,) if isinstance(source, bytes) else _blocks(source):
                if cancelled is not None and cancelled():
                    raise Interrupted(f"cancelled after {hasher.size_bytes:,} bytes")
                hasher.update(block)
                with _worded(writing):
                    durable.write_all(descriptor, block)
        finally:
            with _worded(writing):
                os.close(descriptor)
    except BaseException:
        durable.discard(path)
        raise
    return Staged(hasher.cid, hasher.size_bytes, Path(path))


def read_verified(store: Store, cid: str) -> IO[bytes]:
    """Open a blob for reading; the read that meets its end compares the content with the cid.

    So read to the end, and believe nothing before it::

        with read_verified(store, cid) as stream:
            data = stream.read()

    Raises:
        ArtifactNotFound: The blob is not in the store.
        Damaged: By the last read: the content is not what the cid names.
        StoreFailed: By any read: the store cannot read it.
    """
    return io.BufferedReader(_opened(store, cid), _BUFFER_BYTES)


def verify(store: Store, cid: str) -> int:
    """Read a whole blob for nothing but its cid; its size in bytes. Errors as for ``read_verified``."""
    with _opened(store, cid) as blob:
        return sum(map(len, _blocks(blob)))


def copy_verified(store: Store, cid: str, dest: IO[bytes]) -> int:
    """Write a blob to a stream; its size in bytes.

    Errors as for ``read_verified``: when it is found damaged, the stream has it all.
    """
    with _opened(store, cid) as blob:
        size_bytes = 0
        for block in _blocks(blob):
            dest.write(block)
            size_bytes += len(block)
        return size_bytes


def clone(
    store: Store, cid: str, dest: Path | str, *, mode: int | None = None, dir_fd: int | None = None
) -> int:
    """Make a new file of a blob: sharing its extents (a reflink) if the disk can, else copied; no hard link.

    It has its mode only when it is whole and its content has been compared. It is not synced.

    Args:
        store: Where the blob is.
        cid: Which blob.
        dest: The file to make; whatever is there already, a dangling link too, is FileExistsError.
        mode: Exactly this one; None: 0666 less the umask.
        dir_fd: An open folder to which ``dest`` is relative, for those who distrust the way there.

    Returns:
        The size in bytes.

    Raises:
        ArtifactNotFound: The blob is not in the store.
        Damaged: The content is not what the cid names; the file is gone again.
        StoreFailed: The store cannot read it; the file is gone again.
    """
    with _opened(store, cid) as blob:
        descriptor = os.open(dest, _NEW, 0o666 if mode is None else durable.PRIVATE_FILE, dir_fd=dir_fd)
        try:
            try:
                size_bytes = _fill(descriptor, blob)
                if mode is not None:
                    os.fchmod(descriptor, mode)
            finally:
                os.close(descriptor)
        except BaseException:
            durable.discard(dest, dir_fd=dir_fd)
            raise
        return size_bytes


class VerifiedReader(io.RawIOBase):
    """A stream that compares all it has delivered with a cid when it meets the end.

    Args:
        stream: What to read; closing the reader closes it.
        cid: What the content should be.
        place: The store's URL, for the words of an error.
    """

    def __init__(self, stream: IO[bytes], cid: str, place: str) -> None:
        super().__init__()
        self.stream = stream
        self._cid = cid
        self._place = place
        self._hasher = Hasher()
        self._reading = f"cannot read blob {cid} in {place}"

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # what io hands over
        """Fill the buffer as far as the stream does; 0 at the end, once the content is proved.

        Raises:
            Damaged: It is not.
            StoreFailed: The stream cannot be read.
        """
        view = memoryview(buffer).cast("B")
        with _worded(self._reading):
            count = _readinto(self.stream, view)
        if count:
            self._hasher.update(view[:count])
        elif len(view):
            self._prove()
        return count

    def readall(self) -> bytes:
        """Everything up to the end, proved. Errors as for ``readinto``."""
        with _worded(self._reading):
            rest = self.stream.read()
        self._hasher.update(rest)
        self._prove()
        return rest

    def close(self) -> None:
        """Close the stream as well."""
        self.stream.close()
        super().close()

    def _prove(self) -> None:
        if self._hasher.cid != self._cid:
            raise Damaged(
                f"blob {self._cid} in {self._place} is damaged: its content is {self._hasher.cid}",
                hint="the run that made it heals it with --refresh",
            )


def _opened(store: Store, cid: str) -> VerifiedReader:
    return VerifiedReader(store.open(cid), cid, store.url)


def _fill(descriptor: int, blob: VerifiedReader) -> int:
    if _reflink(blob.stream, descriptor):
        # The copy is what must be proved: the blob's own bytes are not looked at.
        blob.stream.close()
        blob.stream = open(os.dup(descriptor), "rb", buffering=0)  # noqa: SIM115 - blob closes it
        return sum(map(len, _blocks(blob)))
    size_bytes = 0
    for block in _blocks(blob):
        durable.write_all(descriptor, block)
        size_bytes += len(block)
    return size_bytes


def _reflink(source: IO[bytes], descriptor: int) -> bool:
    """Share the extents of a whole file; only of what is plainly a file: other streams have a fileno too."""
    raw = source.raw if isinstance(source, io.BufferedReader) else source
    if sys.platform != "linux" or not isinstance(raw, io.FileIO):
        return False
    import fcntl  # noqa: PLC0415 - most runs clone nothing

    try:
        fcntl.ioctl(descriptor, _FICLONE, raw.fileno())
    except OSError:  # another file system, or one that cannot share: the copy will say what is really wrong
        return False
    return True


def _blocks(source: IO[bytes] | io.RawIOBase | int) -> Iterator[memoryview]:
    """The rest of a stream or descriptor, each block good until the next is asked for."""
    buffer = memoryview(
        bytearray(_BUFFER_BYTES)
    )  # most files are small: fresh memory costs more than they do
    while count := _readinto(source, buffer):
        yield buffer[:count]
        if count == len(buffer) < BLOCK_BYTES:
            buffer = memoryview(bytearray(BLOCK_BYTES))


def _readinto(source: IO[bytes] | io.RawIOBase | int, buffer: memoryview) -> int:
    if isinstance(source, int):
        return os.readv(source, [buffer])
    readinto = getattr(source, "readinto", None)
    if readinto is not None:
        count: int | None = readinto(buffer)
    else:
        block = source.read(len(buffer))
        count = None if block is None else len(block)
        buffer[: count or 0] = block or b""
    if count is None:  # not the end: taking it for one would cut the content short
        raise BlockingIOError(errno.EAGAIN, "a stream that does not block gave nothing yet")
    return count


@contextmanager
def _worded(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise durable.refusal(StoreFailed, doing, error) from error
