"""Which ledgers have their blobs in a store: ``theory gc`` knows the needs of one, so it refuses any other.

A ledger has an id of its own, in the file ``ledger.id`` beside it, and leaves a mark in each store that it
uses: ``ledgers/<id>-<where>``, which says where the ledger is. A copy of a home has its id too, hence the
second part.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from theory.disk import durable
from theory.errors import StoreFailed
from theory.formats.canon import cid_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ID = "ledger.id"
_ID_DIGITS = 32
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_BESIDE = "beside the store"  # a home that is moved as a whole takes its store along
_MARK_BYTES = 4096


def enroll(root: Path, home: Path) -> None:
    """Leave the mark of this home's ledger in a store that is ready, durably, if it is not there.

    Raises:
        StoreFailed: It cannot be written.
    """
    try:
        id_, where = _id(home), _where(root, home)
        mark = _mark(root, id_, where)
        try:
            found = os.stat(mark).st_size > 0
        except FileNotFoundError:
            found = False
        if not found:
            durable.make_folders(mark.parent, durable.PRIVATE_FOLDER)
            # Through the staging folder: gc knows what a crash leaves there, and here it would be a mark.
            content, through = where.encode(errors="surrogateescape"), root / "tmp"
            durable.write_file(mark, content, mode=durable.PRIVATE_FILE, through=through)
    except OSError as error:
        raise durable.refusal(
            StoreFailed, f"cannot mark the store {root} as used by {home}", error
        ) from error


def is_enrolled(root: Path, home: Path) -> bool:
    """Whether this home's ledger has its mark in the store."""
    try:
        id_ = (home / _ID).read_text("ascii")
    except FileNotFoundError:
        return False
    return _mark(root, id_, _where(root, home)).exists()


def others(root: Path, home: Path) -> Iterator[tuple[Path, str]]:
    """The marks of other ledgers, and where each says that its ledger is; what is surely over is left out.

    A mark with our own id is that of a place from which this home was moved, if nothing is there any more.
    """
    id_ = (home / _ID).read_text("ascii")
    own = _mark(root, id_, _where(root, home))
    for mark in sorted((root / "ledgers").iterdir()):
        if mark.name == own.name or not mark.is_file():  # a folder is none of ours
            continue
        with open(mark, "rb") as file:
            where = os.fsdecode(file.read(_MARK_BYTES))
        moved = mark.name.startswith(f"{id_}-") and where != _BESIDE and not os.path.lexists(where)
        if not moved:
            yield mark, where


def _id(home: Path) -> str:
    """The id of this home's ledger, made once; who dies at it leaves no more than an empty file."""
    path = home / _ID
    with suppress(FileNotFoundError):
        if len(id_ := path.read_text("ascii")) == _ID_DIGITS:
            return id_
    durable.make_folders(home, durable.PRIVATE_FOLDER)
    descriptor = os.open(path, _FLAGS, durable.PRIVATE_FILE)
    try:
        os.fchmod(descriptor, durable.PRIVATE_FILE)  # whatever the umask
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # of two who make one at once, one does
        if os.fstat(descriptor).st_size != _ID_DIGITS:
            os.ftruncate(descriptor, 0)
            durable.write_all(descriptor, os.urandom(_ID_DIGITS // 2).hex().encode())
            durable.sync(descriptor)
            durable.sync_folder(home)
    finally:
        durable.close(descriptor)
    return path.read_text("ascii")


def _where(root: Path, home: Path) -> str:
    if os.path.realpath(root.parent) == os.path.realpath(home):
        return _BESIDE
    return os.path.realpath(home / "ledger.db")


def _mark(root: Path, id_: str, where: str) -> Path:
    return root / "ledgers" / f"{id_}-{cid_of(os.fsencode(where))[3:19]}"
