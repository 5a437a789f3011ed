"""What was staged, taken as it was staged: a store trusts its staging folder no further."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from theory.disk import durable
from theory.errors import StoreFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theory.types import Staged

_MODE = 0o444
# Not blocking, because a pipe that somebody put there must not hang us.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def content(blob: Staged) -> bytes:
    """All bytes of what was staged, and not one more."""
    if blob.path is None:
        data = blob.data or b""
    else:
        with _taken(str(blob.path), blob.size_bytes) as descriptor:
            try:
                data = os.read(descriptor, blob.size_bytes + 1)
            except OSError as error:
                raise durable.refusal(StoreFailed, f"cannot read {blob.path}", error) from error
    if len(data) != blob.size_bytes:
        raise _changed(blob.cid, blob.size_bytes)
    return data


@contextmanager
def _taken(temp: str, size_bytes: int) -> Iterator[int]:
    """Open a file, if it is what was staged: no link, no second name, no byte more."""
    try:
        descriptor = os.open(temp, _READ)
    except OSError as error:
        raise durable.refusal(StoreFailed, f"cannot take {temp}", error) from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_size != size_bytes:
            raise _changed(temp, size_bytes)
        yield descriptor
    finally:
        durable.close(descriptor)


def _changed(what: str, size_bytes: int) -> StoreFailed:
    return StoreFailed(
        f"{what} is not the file of {size_bytes:,} bytes that was staged",
        hint="something else writes to the staging folder",
    )


def seal(temp: str, size_bytes: int) -> None:
    """Make a staged file read-only and durable."""
    with _taken(temp, size_bytes) as descriptor:
        os.fchmod(descriptor, _MODE)
        durable.sync(descriptor)
