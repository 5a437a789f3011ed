# Paths are text here: making a Path costs more than most of these calls.
"""The store that core brings along: a folder on this machine, ``file:///absolute/folder``.

    format               the layout's version; written last, so it stands for all the folders
    blobs/b3/ab/abcd…    one blob, mode 0444: the first two of its 64 hex digits, then all of them
    memo/ab/abcd…        one memo record, by its key
    tmp/                 private files on their way in; what a crash leaves here is nobody's

Order of a write (design 8): every file is synced, each is moved to its name, each touched folder is synced,
with its parent where this process does not know that its name lasts; then it is relied on.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from theory import durable
from theory.canon import CID
from theory.errors import ArtifactNotFound, StoreFailed, Usage
from theory.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from theory.types import Staged, Store

VERSION = 1
_FORMAT = f"theory file store {VERSION}\n"
_FORMAT_LINE = re.compile(rb"theory file store ([1-9][0-9]{0,8})\n?")
_OURS = frozenset({"format", "blobs", "memo", "tmp"})
_MODE = 0o444
_SHARD = re.compile(r"[0-9a-f]{2}")
_NAME = re.compile(r"[0-9a-f]{64}")
# Not blocking, because a pipe that somebody put there must not hang us.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_PREFIX = len("b3:")
_ELSEWHERE = "choose an empty folder, or one that does not exist yet"


class FileStore:
    """Blobs and memo records as files below one folder; it is made by the first write.

    A blob that is put again replaces the one that is there: same name, same bytes, so it heals a damaged one.

    Args:
        root: The folder; relative to the working directory of now, if it is relative.

    Raises:
        StoreFailed: The folder has a layout of a newer version, or is something else.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._staging = self.root / "tmp"
        self._blobs = f"{self.root}/blobs/b3"
        self._memo = f"{self.root}/memo"
        self._durable: set[str] = set()  # folders whose name in their parent survives a power failure
        self._has_format = self._read_format()
        self._is_ready = False
        self._broken = ""

    @property
    def url(self) -> str:
        """What ``--store`` takes to reach this store."""
        return self.root.as_uri()

    @property
    def staging(self) -> Path:
        """The folder for files that ``put`` will take; asking for it begins a write, so it makes the store.

        Raises:
            StoreFailed: The store cannot be written.
        """
        self._make_ready()
        return self._staging

    def put(self, blobs: Sequence[Staged]) -> None:
        """Take all of these; they are durable when this returns, those that were here already too.

        When it fails, no file of theirs is left in ``staging``. Blobs that were moved by then stay, whole.

        Raises:
            StoreFailed: A blob is not as it was staged, or the disk refuses.
        """
        self._make_ready()
        try:
            self._commit({self._blob(blob.cid): (str(blob.path), blob.size_bytes) for blob in blobs})
        finally:  # those that failed, and those that another of the same name made needless
            for blob in blobs:
                if blob.path.parent == self._staging:
                    durable.discard(blob.path)

    def open(self, cid: str) -> IO[bytes]:
        """Open a blob; who reads it compares its cid, as ``theory.blobs.read_verified`` does.

        Raises:
            ArtifactNotFound: The blob is not here.
            StoreFailed: It cannot be read.
        """
        descriptor = self._open(self._blob(cid))
        if descriptor is None:
            raise ArtifactNotFound(
                f"blob {cid} is not in {self.url}",
                hint="run what made it again, with --refresh, or set THEORY_STORE to the store that has it",
            )
        return open(descriptor, "rb")

    def has(self, cids: Iterable[str]) -> frozenset[str]:
        """Which of these are here; whether they are whole, reading tells."""
        return frozenset(cid for cid in cids if self._is_file(self._blob(cid)))

    def delete(self, cids: Iterable[str]) -> None:
        """Remove these; one that is not here is none of its business, and neither is what is no file."""
        for path in [self._blob(cid) for cid in cids]:
            self._remove(path)

    def list(self) -> Iterator[tuple[str, int]]:
        """Every blob's cid and size in bytes, in no order; what we did not write is passed over."""
        for entry in self._scan(self._blobs):
            try:
                yield f"b3:{entry.name}", entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:
                continue

    def memo_get(self, key: str) -> bytes | None:
        """The record of this memo key.

        Raises:
            StoreFailed: It cannot be read.
        """
        descriptor = self._open(self._record(key))
        if descriptor is None:
            return None
        with self._worded("read"), open(descriptor, "rb") as record:
            return record.read()

    def memo_set(self, key: str, record: bytes) -> None:
        """Set the record of this memo key, durably; the last one wins, and nobody sees half of it.

        Raises:
            StoreFailed: The disk refuses; the record is the old one, or the new if only the last sync failed.
        """
        path = self._record(key)
        with self._worded("write to"):
            descriptor, temp = durable.create(self.staging)
            try:
                try:
                    durable.write_all(descriptor, record)
                finally:
                    os.close(descriptor)
                self._commit({path: (temp, len(record))})
            except BaseException:
                durable.discard(temp)
                raise

    def memo_delete(self, key: str) -> None:
        """Remove the record of this memo key, if there is one."""
        self._remove(self._record(key))

    def memo_list(self) -> Iterator[str]:
        """Every memo key, in no order."""
        for entry in self._scan(self._memo):
            yield f"b3:{entry.name}"

    # ------------------------------------------------------------ names

    def _blob(self, cid: str) -> str:
        if CID.fullmatch(cid) is None:
            raise StoreFailed(f"{cid[:100]!r} is not a cid", hint="a cid is b3: and 64 hex digits")
        return f"{self._blobs}/{cid[_PREFIX : _PREFIX + 2]}/{cid[_PREFIX:]}"

    def _record(self, key: str) -> str:
        if CID.fullmatch(key) is None:
            raise StoreFailed(f"{key[:100]!r} is not a memo key", hint="a memo key is b3: and 64 hex digits")
        return f"{self._memo}/{key[_PREFIX : _PREFIX + 2]}/{key[_PREFIX:]}"

    # ------------------------------------------------------------ reading

    def _open(self, path: str) -> int | None:
        """A descriptor of a regular file; None where there is none: a link or a pipe is not ours."""
        if not self._is_file(path):
            return None
        with self._worded("read"):
            try:
                return os.open(path, _READ)
            except FileNotFoundError:
                return None

    def _is_file(self, path: str) -> bool:
        with self._worded("read"):
            try:
                return stat.S_ISREG(os.lstat(path).st_mode)
            except (FileNotFoundError, NotADirectoryError):
                return False

    def _scan(self, top: str) -> Iterator[os.DirEntry[str]]:
        with self._worded("list"):
            for shard in _entries(top):
                if _SHARD.fullmatch(shard.name):
                    for entry in _entries(shard.path):
                        ours = _NAME.fullmatch(entry.name) and entry.name.startswith(shard.name)
                        if ours and entry.is_file(follow_symlinks=False):
                            yield entry

    def _read_format(self) -> bool:
        """Whether there is a store of ours at all."""
        with self._worded("open"):
            try:
                with open(f"{self.root}/format", "rb") as file:
                    line = file.read(100)
            except FileNotFoundError:
                return False
        found = _FORMAT_LINE.fullmatch(line)
        if found is None:
            raise StoreFailed(
                f"{self.root} is no store of theory: its file format says otherwise", hint=_ELSEWHERE
            )
        if int(found[1]) > VERSION:
            raise StoreFailed(
                f"the store {self.root} has layout {int(found[1])}, and this theory knows {VERSION} at most",
                hint="pip install --upgrade theory-core, or choose another store with --store",
            )
        return True

    # ------------------------------------------------------------ writing

    def _make_ready(self) -> None:
        """Make the folders, then ``format``; two processes may do it at once."""
        if self._broken:
            raise StoreFailed(
                self._broken, hint="look at the system's log and check the disk, then start again"
            )
        if self._is_ready:
            return
        with self._worded("write to"):
            if not self._has_format:
                self._make_store()
            durable.make_folder(self._staging, durable.PRIVATE_FOLDER)
        self._is_ready = True

    def _make_store(self) -> None:
        """Make the folders and then, when they are durable, ``format``; two processes may do it at once."""
        durable.make_folders(self.root, durable.PRIVATE_FOLDER)
        foreign = sorted(set(os.listdir(self.root)) - _OURS)
        if foreign:
            raise StoreFailed(
                f"{self.root} is no store and not empty: it holds {foreign[0]!r}", hint=_ELSEWHERE
            )
        for name in ("blobs", "blobs/b3", "memo", "tmp"):
            durable.make_folder(self.root / name, durable.PRIVATE_FOLDER)
        for folder in (self.root.parent, self.root / "blobs"):  # the root itself is synced with format
            self._sync_folder(str(folder))
        durable.write_file(self.root / "format", _FORMAT.encode(), mode=_MODE, through=self._staging)

    def _commit(self, moves: dict[str, tuple[str, int]]) -> None:
        """Make files durable at their names, as one batch: by path, the temp and its size in bytes."""
        with self._worded("write to"):
            for temp, size_bytes in moves.values():
                _seal(temp, size_bytes)
            folders = {self._move(temp, path) for path, (temp, _) in moves.items()}
            fresh = folders - self._durable
            for folder in folders | {os.path.dirname(folder) for folder in fresh}:
                self._sync_folder(folder)
            self._durable |= fresh

    def _sync_folder(self, folder: str) -> None:
        try:
            durable.sync_folder(folder)
        except OSError as error:
            if error.filename is None:  # it was opened, and the sync failed
                # The next sync of this folder would succeed, and what this one lost would be relied on.
                self._broken = f"{folder} could not be made durable: {error.strerror}"
            raise

    def _move(self, temp: str, path: str) -> str:
        """Give a file its name; the folder that must be synced for it."""
        folder = os.path.dirname(path)
        try:
            os.replace(temp, path)
        except FileNotFoundError:
            self._durable.discard(folder)
            durable.make_folders(os.path.dirname(folder), durable.PRIVATE_FOLDER)
            durable.make_folder(folder, durable.PRIVATE_FOLDER)
            os.replace(temp, path)
        return folder

    def _remove(self, path: str) -> None:
        if self._is_file(path):
            with self._worded("delete from"):
                try:
                    os.unlink(path)
                except FileNotFoundError:
                    return

    @contextmanager
    def _worded(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise durable.refusal(StoreFailed, f"cannot {doing} the store {self.root}", error) from error


@hookimpl
def open_store(url: str) -> Store | None:
    """The file store for a ``file:`` URL.

    >>> open_store("s3://bucket") is None
    True

    Raises:
        Usage: The URL does not name an absolute folder of this machine.
    """
    if not url.startswith("file:"):
        return None
    from urllib.parse import unquote, urlsplit  # noqa: PLC0415 - only where a URL is given

    parts = urlsplit(url)
    path = unquote(parts.path)
    if (
        parts.netloc not in {"", "localhost"}
        or parts.query
        or parts.fragment
        or not path.startswith("/")
        or "\0" in path
    ):
        raise Usage(f"{url[:200]!r} names no folder of this machine", hint="write file:///absolute/folder")
    return FileStore(Path(path))


def _seal(temp: str, size_bytes: int) -> None:
    """Make a file read-only and durable, if it is what was staged: no link, no second name, no byte more."""
    try:
        descriptor = os.open(temp, _READ)
    except OSError as error:
        raise durable.refusal(StoreFailed, f"cannot take {temp}", error) from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_size != size_bytes:
            raise StoreFailed(
                f"{temp} is not the file of {size_bytes:,} bytes that was staged",
                hint="something else writes to the staging folder",
            )
        os.fchmod(descriptor, _MODE)
        durable.sync(descriptor)
    finally:
        os.close(descriptor)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What a folder holds now; nothing, if it is not there or no folder."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
