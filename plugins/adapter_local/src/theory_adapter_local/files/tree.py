"""The files that a processor makes, looked at from outside: never through a link, and within bounds."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from theory import errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Source: theory.rooms.collect, which refuses at the end what has more; a test compares.
MAX_FILES = 20_000
MAX_BYTES = 64 * 1024**3
MAX_DEPTH = 32

FLOOR_BYTES = 512 * 1024**2  # free space that a disk keeps whatever a run writes: the host lives on it, too
PACK = "pack them into an archive, or write less"
MIB = 1024**2
_BLOCK_BYTES = 512  # what st_blocks counts, whatever the file system's own are (stat(2))
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Sum:
    """Counts what is found, up to the limits of core's own check and the adapter's ``output_size``."""

    def __init__(self, output_size: int) -> None:
        """Begin with nothing; ``output_size`` in MiB."""
        self._limit = output_size * MIB
        self.size_bytes = self._files = self._folders = 0

    def add(self, name: str, size_bytes: int, *, is_folder: bool = False) -> None:
        """Count one file or folder, by its path below ``out``.

        Raises:
            OutputLimit: That is one too many, too large or too deep.
        """
        self.size_bytes += size_bytes
        if is_folder:
            self._folders += 1
            if name.count("/") >= MAX_DEPTH:
                raise errors.OutputLimit(
                    f"the outputs are nested deeper than {MAX_DEPTH} folders: {shown(name)}", hint=PACK
                )
            if self._folders > MAX_FILES:
                raise errors.OutputLimit(f"the outputs are in more than {MAX_FILES:,} folders", hint=PACK)
        else:
            self._files += 1
            if self._files > MAX_FILES:
                raise errors.OutputLimit(f"the outputs are more than {MAX_FILES:,} files", hint=PACK)
        if self.size_bytes > min(self._limit, MAX_BYTES):
            raise errors.OutputLimit(
                f"the outputs are larger than {min(self._limit, MAX_BYTES) // MIB:,} MiB with {shown(name)}",
                hint="write less (in the end a sparse file counts in full), or allow more: -o output_size=…",
            )


def taken(out: Path, output_size: int) -> int:
    """The bytes that a tree takes on its disk now, while somebody may be writing to it.

    Raises:
        OutputLimit: It has more than it may, or leaves its disk too little.
    """
    count = Sum(output_size)
    for _, name, found in below(out):
        count.add(name, found.st_blocks * _BLOCK_BYTES, is_folder=stat.S_ISDIR(found.st_mode))
    check_room(out, count.size_bytes)
    return count.size_bytes


def check_room(out: Path, size_bytes: int, *, to_come: int = 0, floor: int = FLOOR_BYTES) -> None:
    """See that outputs of this size, some of them to come, leave their disk what others need.

    Raises:
        OutputLimit: They do not, and without them there would be enough.
    """
    disk = os.statvfs(out)
    missing = floor + to_come - disk.f_bavail * disk.f_frsize
    if 0 < missing <= size_bytes:
        raise errors.OutputLimit(
            f"the outputs leave less than {floor // MIB} MiB on the disk of {out}",
            hint="free some space on it, or write less",
        )


def check_sizes(out: Path, output_size: int) -> None:
    """Compare what is left at the end with its limits, as the sizes say; what we own becomes readable for us.

    Raises:
        OutputLimit: It has more than it may.
    """
    count = Sum(output_size)
    for folder, name, found in below(out):
        is_folder = stat.S_ISDIR(found.st_mode)
        if stat.S_ISREG(found.st_mode) and not found.st_mode & stat.S_IRUSR:
            allow(folder, name.rpartition("/")[2], 0o600)
        count.add(name, found.st_size if stat.S_ISREG(found.st_mode) else 0, is_folder=is_folder)


def below(top: Path) -> Iterator[tuple[int, str, os.stat_result]]:
    """All that is below a folder: the open folder that it is in, its path, its status.

    It may change meanwhile: what vanishes is left out, and no link is followed, in no part of a path. A
    folder of ours that its maker closed is opened again.
    """
    todo = [""]
    try:
        root = os.open(top, _FOLDER)
    except PermissionError:
        os.chmod(top, 0o700)  # in a private folder of ours, and a mount point inside: never a link
        root = os.open(top, _FOLDER)
    try:
        while todo:
            prefix = todo.pop()
            try:
                folder = _opened(root, prefix)
            except OSError as error:
                if error.errno not in _NOT_THERE:
                    raise
                continue
            try:
                yield from _entries(folder, prefix, todo)
            finally:
                os.close(folder)
    finally:
        os.close(root)


def _entries(folder: int, prefix: str, todo: list[str]) -> Iterator[tuple[int, str, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(found.st_mode):
                todo.append(f"{prefix}{entry.name}/")
            yield folder, prefix + entry.name, found


def _opened(root: int, prefix: str) -> int:
    """Open a folder below another by its path, which ends with a slash."""
    here = os.dup(root)
    for name in prefix.split("/")[:-1]:
        above = here
        try:
            try:
                here = os.open(name, _FOLDER, dir_fd=above)
            except PermissionError:
                allow(above, name, 0o700)
                here = os.open(name, _FOLDER, dir_fd=above)
        finally:
            os.close(above)
    return here


def allow(folder: int, name: str, mode: int) -> None:
    """Set the mode of something of ours, and of nothing that a link in its place leads to."""
    with suppress(PermissionError, FileNotFoundError):
        if os.chmod in os.supports_follow_symlinks:
            os.chmod(name, mode, dir_fd=folder, follow_symlinks=False)
            return
        # Linux has no such call before 6.6; but a descriptor of the thing itself, without opening it.
        held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            if not stat.S_ISLNK(os.fstat(held).st_mode):
                os.chmod(f"/proc/self/fd/{held}", mode)
        finally:
            os.close(held)


def shown(name: str) -> str:
    """A name of a processor's making, safe to print."""
    return repr(name if len(name) <= 200 else name[:200] + "…")  # noqa: PLR2004 - enough to find it by
