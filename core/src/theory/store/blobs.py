"""Bytes on their way into a store and out of it: named once going in, compared with their name coming out.

It serves every store alike: a store moves bytes, this module names and checks them. An ``OSError`` of the
other side (the source that is staged, the file that is made) passes unchanged: who chose that file words it.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

from theory.disk import durable
from theory.errors import Damaged, Interrupted, StoreFailed
from theory.formats.canon import Hasher, cid_of
from theory.store import copies
from theory.types import Staged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from theory.types import Store

BLOCK_BYTES = 1024 * 1024  # read, hashed and written at a time: all the memory that a file of any size takes
MEMORY_BYTES = 64 * 1024  # what is staged in memory at most; a file costs more than so few bytes
HELD_BYTES = 16 * 1024 * 1024  # of many such in one batch, before they are put
_BUFFER_BYTES = 64 * 1024  # the first block, and what a reader holds for those who ask for less at a time
_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def stage(
    store: Store, source: bytes | IO[bytes] | int, *, cancelled: Callable[[], bool] | None = None
) -> Staged:
    """Name the bytes for ``Store.put``, in one pass over the source: up to 64 KiB in memory, more in a file.

    Args:
        store: Where the bytes will go; a file is made in its staging folder.
        source: The bytes themselves; or a stream or a descriptor, read from where it stands to its end.
        cancelled: Asked before each block of 1 MiB.

    Raises:
        StoreFailed: The staging folder does not take it; nothing of it is left there.
        Interrupted: ``cancelled`` said so; nothing of it is left there.
    """
    head = source if isinstance(source, bytes) else _head(source, cancelled)
    if len(head) <= MEMORY_BYTES:
        data = bytes(head)
        return Staged(cid_of(data), len(data), data=data)
    folder = store.staging
    writing = f"cannot write to {folder}"
    hasher = Hasher()
    with _worded(writing):
        descriptor, path = durable.create(folder)

    def take(block: memoryview | bytes) -> None:
        _stop_if(cancelled, hasher.size_bytes)
        hasher.update(block)

    try:
        try:
            if isinstance(source, int) and _rewind(source, len(head)):
                head = b""
                with _worded(writing):
                    copies.follow(source, descriptor, take, durably=True)
            begun = hasher.size_bytes  # so far the disk has been told to write
            for block in chain((head,), () if isinstance(source, bytes) else _blocks(source)):
                take(block)
                with _worded(writing):
                    durable.write_all(descriptor, block)
                    if hasher.size_bytes - begun >= copies.LARGE_BYTES:
                        copies.begin_sync(descriptor, begun, hasher.size_bytes - begun)
                        begun = hasher.size_bytes
        finally:
            with _worded(writing):
                os.close(descriptor)
    except BaseException:
        durable.discard(path)
        raise
    return Staged(hasher.cid, hasher.size_bytes, Path(path))


class Batch:
    """What is staged and waits for one ``put``; past 16 MiB in memory it does not wait.

    What an early put took is unlisted and harmless if the rest fails. Leaving the ``with`` block removes the
    files that no put took.
    """

    def __init__(self, store: Store, staged: Iterable[Staged] = ()) -> None:
        self._store = store
        self._held = 0
        self.staged = list(staged)

    def __enter__(self) -> Batch:  # noqa: PYI034 - typing.Self is newer than our oldest Python
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def add(self, blob: Staged) -> Staged:
        """Take one more; it can be read until the next is added.

        Raises:
            StoreFailed: The store refused what had to be put first.
        """
        if self._held > HELD_BYTES:
            self.put()
        self.staged.append(blob)
        if blob.data is not None:
            self._held += len(blob.data)
        return blob

    def put(self) -> None:
        """Put all that waits.

        Raises:
            StoreFailed: The store refused.
        """
        if self.staged:
            try:
                self._store.put(self.staged)
            finally:
                self.discard()

    def discard(self) -> None:
        """Forget what waits, and remove its files."""
        for blob in self.staged:
            if blob.path is not None:
                durable.discard(blob.path)
        self.staged.clear()
        self._held = 0


def content(blob: Staged) -> bytes:
    """All bytes of what is staged and not put yet."""
    return (blob.data or b"") if blob.path is None else blob.path.read_bytes()


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


def verify(store: Store, cid: str, *, cancelled: Callable[[], bool] | None = None) -> int:
    """Read a whole blob for nothing but its cid; its size in bytes.

    Errors as for ``read_verified``; and Interrupted, when ``cancelled``, asked before each block, says so.
    """
    stream = store.open(cid)
    if isinstance(stream, io.BytesIO):  # all of it is here
        _stop_if(cancelled, 0)
        data = stream.getvalue()
        _prove(cid_of(data), cid, store.url)
        return len(data)
    with VerifiedReader(stream, cid, store.url, cancelled) as blob:
        return sum(map(len, _blocks(blob)))


def copy_verified(
    store: Store, cid: str, dest: IO[bytes], *, cancelled: Callable[[], bool] | None = None
) -> int:
    """Write a blob to a stream; its size in bytes.

    Errors as for ``verify``: when it is found damaged, the stream has it all.
    """
    with _opened(store, cid, cancelled) as blob:
        for block in _blocks(blob):
            written = dest.write(block)
            while written < len(block):  # a stream without a buffer may take less
                written += dest.write(block[written:])
        return blob.size_bytes


def clone(
    store: Store,
    cid: str,
    dest: Path | str,
    *,
    mode: int | None = None,
    dir_fd: int | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> int:
    """Make a new file of a blob: sharing its extents (a reflink) if the disk can, else copied; no hard link.

    It has its mode only when it is whole and its content has been compared. It is not synced.

    Args:
        store: Where the blob is.
        cid: Which blob.
        dest: The file to make; whatever is there already, a dangling link too, is FileExistsError.
        mode: Exactly this one; None: 0666 less the umask.
        dir_fd: An open folder to which ``dest`` is relative, for those who distrust the way there.
        cancelled: Asked before each block of 1 MiB.

    Returns:
        The size in bytes.

    Raises:
        ArtifactNotFound: The blob is not in the store.
        Damaged: The content is not what the cid names; the file is gone again.
        StoreFailed: The store cannot read it; the file is gone again.
        Interrupted: ``cancelled`` said so; the file is gone again.
    """
    with _opened(store, cid, cancelled) as blob:
        descriptor = os.open(dest, _NEW, 0o666 if mode is None else durable.PRIVATE_FILE, dir_fd=dir_fd)
        try:
            try:
                if (source := _file(blob.stream)) is not None:
                    copies.follow(source, descriptor, blob.take)  # the copy is what must be proved
                for block in _blocks(blob):
                    durable.write_all(descriptor, block)
                if mode is not None:
                    os.fchmod(descriptor, mode)
            finally:
                os.close(descriptor)
        except BaseException:
            durable.discard(dest, dir_fd=dir_fd)
            raise
        return blob.size_bytes


def link(store: Store, cid: str, dest: Path | str, *, cancelled: Callable[[], bool] | None = None) -> bool:
    """Give a blob that is a read-only file of this disk one more name, its content compared; False elsewhere.

    Whoever writes through this name changes the store's blob, so it is for those who cannot.

    Raises:
        ArtifactNotFound, Damaged, StoreFailed, Interrupted: As for ``clone``; there is no such name then.
    """
    with _opened(store, cid, cancelled) as blob:
        source = _file(blob.stream)
        if source is None or stat.S_IMODE(os.fstat(source).st_mode) & _WRITABLE:
            return False
        for _ in _blocks(blob):
            pass
        try:
            # An absolute path needs no folder, but only with one does os.link have the kernel follow links.
            os.link(f"/proc/self/fd/{source}", dest, src_dir_fd=source)
        except OSError:  # another disk, a file of somebody else, no /proc
            return False
        return True


class VerifiedReader(io.RawIOBase):
    """A stream that compares all it has delivered with a cid when it meets the end.

    Args:
        stream: What to read; closing the reader closes it.
        cid: What the content should be.
        place: The store's URL, for the words of an error.
        cancelled: Asked before each block that is read.
    """

    def __init__(
        self, stream: IO[bytes], cid: str, place: str, cancelled: Callable[[], bool] | None = None
    ) -> None:
        super().__init__()
        self.stream = stream
        self._cid = cid
        self._place = place
        self._cancelled = cancelled
        self._hasher = Hasher()
        self._reading = f"cannot read blob {cid} in {place}"

    @property
    def size_bytes(self) -> int:
        """How much was delivered."""
        return self._hasher.size_bytes

    def readable(self) -> bool:
        """Always."""
        return True

    def take(self, block: memoryview | bytes) -> None:
        """Count bytes as delivered that came another way.

        Raises:
            Interrupted: ``cancelled`` said so.
        """
        _stop_if(self._cancelled, self.size_bytes)
        self._hasher.update(block)

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
            self.take(view[:count])
        elif len(view):
            _prove(self._hasher.cid, self._cid, self._place)
        return count

    def readall(self) -> bytes:
        """Everything up to the end, proved. Errors as for ``readinto``."""
        with _worded(self._reading):
            rest = self.stream.read()
        self.take(rest)
        _prove(self._hasher.cid, self._cid, self._place)
        return rest

    def close(self) -> None:
        """Close the stream as well."""
        self.stream.close()
        super().close()


def _stop_if(cancelled: Callable[[], bool] | None, size_bytes: int) -> None:
    if cancelled is not None and cancelled():
        raise Interrupted(f"cancelled after {size_bytes:,} bytes")


def _prove(found: str, cid: str, place: str) -> None:
    if found != cid:
        raise Damaged(
            f"blob {cid} in {place} is damaged: its content is {found}",
            hint="the run that made it heals it with --refresh",
        )


def _opened(store: Store, cid: str, cancelled: Callable[[], bool] | None = None) -> VerifiedReader:
    return VerifiedReader(store.open(cid), cid, store.url, cancelled)


def _file(stream: IO[bytes]) -> int | None:
    """The descriptor of what is plainly a file: other streams have a fileno too."""
    raw = stream.raw if isinstance(stream, io.BufferedReader) else stream
    return raw.fileno() if isinstance(raw, io.FileIO) else None


def _rewind(descriptor: int, size_bytes: int) -> bool:
    """Go back by so many bytes; not in a pipe."""
    try:
        os.lseek(descriptor, -size_bytes, os.SEEK_CUR)
    except OSError:
        return False
    return True


def _head(source: IO[bytes] | int, cancelled: Callable[[], bool] | None) -> memoryview:
    """The first bytes of a source: all of them, unless they are more than ``MEMORY_BYTES``."""
    buffer = memoryview(bytearray(MEMORY_BYTES + 1))
    size_bytes = 0
    while size_bytes < len(buffer):
        _stop_if(cancelled, size_bytes)
        count = _readinto(source, buffer[size_bytes:])
        if not count:
            break
        size_bytes += count
    return buffer[:size_bytes]


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
