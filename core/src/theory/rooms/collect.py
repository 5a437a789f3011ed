"""The way into room 8: what a job left, in the folder ``out`` or in its adapter's memory, bounded and staged.

Only regular files leave a folder, hashed from the same descriptor that is copied; nothing follows a link,
``out`` itself included.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from theory.disk import durable
from theory.errors import BadOutputPath, OutputLimit, Retry, StoreFailed
from theory.formats import paths
from theory.store import blobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from theory.types import Staged, Store

MAX_FILES = 20_000
MAX_BYTES = 64 * 1024**3  # of all outputs together, as their sizes say, so that a sparse file counts in full
MAX_DEPTH = 32  # folders below out

_NO_MORE_FILES = (errno.EMFILE, errno.ENFILE)
_OF_THE_DISK = (errno.EIO, errno.ENOSPC, errno.EDQUOT)  # it refuses, whatever the processor did
_PACK = "pack them into an archive, or write less"
_READABLE = "the processor leaves its outputs readable for the user who runs it"
_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Memory:
    """Outputs that the adapter hands over, by path.

    Args:
        files: The content of each.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def names(self) -> list[str]:
        """Every path, in no order.

        Raises:
            OutputLimit, BadOutputPath: There are too many, or one that no file could have.
        """
        count = _Count()
        for name, data in self._files.items():
            if name.count("/") > MAX_DEPTH:
                raise _too_deep(name)
            for segment in name.split("/"):
                _check_segment(segment, name)
            count.add(name, len(data))
        return list(self._files)

    def staged(self, name: str, store: Store, cancelled: Callable[[], bool]) -> Staged:
        """One of them, on its way into the store; errors as for ``theory.store.blobs.stage``."""
        return blobs.stage(store, self._files[name], cancelled=cancelled)

    def close(self) -> None:
        """Nothing is open."""


class Folder:
    """The files below ``out``.

    Args:
        out: The folder.

    Raises:
        BadOutputPath, Retry, StoreFailed: By any method too: something of it cannot be opened or read, and
            whose fault that is.
    """

    def __init__(self, out: Path) -> None:
        hint = "the processor writes into THEORY_ROOT/job/out and leaves it there"
        with _worded("the folder for outputs", hint):
            self._root = os.open(out, _FOLDER)

    def names(self) -> list[str]:
        """Every file, by path below the folder; bounded before a byte is read.

        Raises:
            OutputLimit: They are too many, too large or too deep.
        """
        names: list[str] = []
        count, folders = _Count(), 0
        todo = [""]
        while todo:
            prefix = todo.pop()
            if prefix.count("/") > MAX_DEPTH:
                raise _too_deep(prefix[:-1])
            for entry, found in self._entries(prefix):
                name = prefix + entry
                _check_segment(entry, name)
                if stat.S_ISDIR(found.st_mode):
                    todo.append(name + "/")
                    folders += 1
                    if folders > MAX_FILES:
                        raise OutputLimit(f"the outputs are in more than {MAX_FILES:,} folders", hint=_PACK)
                    continue
                if not stat.S_ISREG(found.st_mode):
                    raise _not_regular(name, found.st_mode)
                names.append(name)
                count.add(name, found.st_size)
        return names

    def staged(self, name: str, store: Store, cancelled: Callable[[], bool]) -> Staged:
        """One of them, on its way into the store.

        Raises:
            Interrupted: ``cancelled``, asked before each block, said so.
        """
        with _worded(f"the output {paths.quoted(name)}", _READABLE):
            descriptor = self._opened(name, _FILE)
            try:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise _not_regular(name, found.st_mode)

                def stopped() -> bool:
                    if os.fstat(descriptor).st_size != found.st_size:  # it might grow for ever
                        raise _changed(name)
                    return cancelled()

                blob = blobs.stage(store, descriptor, cancelled=stopped)
            finally:
                durable.close(descriptor)
        if blob.size_bytes != found.st_size:
            raise _changed(name)
        return blob

    def close(self) -> None:
        """Let go of the folder."""
        durable.close(self._root)

    def _entries(self, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
        """What is in one folder below ``out``, or in ``out`` itself."""
        with _worded(f"the folder {paths.quoted(prefix)} of the outputs", _READABLE):
            folder = self._opened(prefix.rstrip("/"), _FOLDER) if prefix else os.dup(self._root)
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        yield entry.name, entry.stat(follow_symlinks=False)
            finally:
                durable.close(folder)

    def _opened(self, name: str, flags: int) -> int:
        """Open something below the folder without following a link in any part of its path."""
        *folders, last = name.split("/")
        here = os.dup(self._root)
        try:
            for folder in folders:
                below = os.open(folder, _FOLDER, dir_fd=here)
                durable.close(here)
                here = below
            return os.open(last, flags, dir_fd=here)
        finally:
            durable.close(here)


class _Count:
    """How much there is so far."""

    def __init__(self) -> None:
        self._files = self._bytes = 0

    def add(self, name: str, size_bytes: int) -> None:
        self._files += 1
        self._bytes += size_bytes
        if self._files > MAX_FILES:
            raise OutputLimit(f"the outputs are more than {MAX_FILES:,} files", hint=_PACK)
        if self._bytes > MAX_BYTES:
            raise OutputLimit(
                f"the outputs are larger than {MAX_BYTES // 1024**3} GiB"
                f" with {paths.quoted(name)}, which has {size_bytes:,} bytes",
                hint="write less; a sparse file counts in full",
            )


def _check_segment(segment: str, name: str) -> None:
    if fault := paths.fault_of_segment(segment):
        raise BadOutputPath(f"the output {paths.quoted(name)} {fault}", hint="write it under another name")


def _too_deep(name: str) -> OutputLimit:
    return OutputLimit(
        f"the outputs are nested deeper than {MAX_DEPTH} folders: {paths.quoted(name)}", hint=_PACK
    )


def _changed(name: str) -> BadOutputPath:
    return BadOutputPath(
        f"the output {paths.quoted(name)} was changed while it was collected",
        hint="the processor must end what writes it before it ends itself",
    )


@contextmanager
def _worded(what: str, hint: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _OF_THE_DISK:
            raise durable.refusal(StoreFailed, f"{what} cannot be read", error) from error
        if error.errno in _NO_MORE_FILES:
            raise Retry(
                f"{what} cannot be opened: {error.strerror}", hint="allow more open files: ulimit -n 1024"
            ) from error
        if error.errno in {errno.ELOOP, errno.ENOTDIR, errno.ENOENT}:
            raise BadOutputPath(
                f"{what} was replaced or removed while the processor ran", hint=hint
            ) from None
        raise BadOutputPath(f"{what} cannot be read: {error.strerror}", hint=hint) from None


def _not_regular(name: str, mode: int) -> BadOutputPath:
    kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
    return BadOutputPath(
        f"the output {paths.quoted(name)} is {kind}", hint="write a regular file in its place"
    )
