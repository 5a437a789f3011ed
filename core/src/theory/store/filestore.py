# Paths are text here: making a Path costs more than most of these calls.
"""The store that core brings along: a folder on this machine, ``file:///absolute/folder``.

    format               the layout's version; written last, so it stands for all the rest
    small.db             the blobs of up to 64 KiB and the memo records, in SQLite; with files beside it
    blobs/b3/ab/abcd…    each larger blob, mode 0444: the first two of its 64 hex digits, then all of them
    tmp/                 private files on their way in; what a crash leaves here is nobody's
    in-use               held by all who rely on what is here, see theory.store.inuse
    ledgers/             a mark of each ledger whose executions have their blobs here, see theory.store.users
    trash/, quarantine/  what theory gc took away, and what theory verify --repair did

Order of a write (design 8): every large file is synced, each is moved to its name, each touched folder is
synced, with its parent where this process does not know that its name lasts; then all small ones are
committed at once; then it is relied on. See docs/decisions/0006-small-blobs-in-sqlite.md.
"""

from __future__ import annotations

import io
import os
import re
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from theory.disk import durable
from theory.disk.sqlite import Database, Layout
from theory.errors import ArtifactNotFound, StoreFailed, Usage
from theory.formats.canon import CID
from theory.hookspecs import hookimpl
from theory.store import staged
from theory.store.inuse import InUse
from theory.store.rows import SCHEMA, Rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from theory.types import Staged, Store

VERSION = 2
SMALL_BYTES = 64 * 1024  # what goes into the database: one size alone decides, so a blob is in one place
_FORMAT = f"theory file store {VERSION}\n"
_FORMAT_LINE = re.compile(rb"theory file store ([1-9][0-9]{0,8})\n?")
_DATABASE = "small.db"
_FOLDERS = {"format", "blobs", "tmp", "in-use", "ledgers", "trash", "quarantine", "gc-lock"}
_OURS = _FOLDERS | {_DATABASE + end for end in ("", "-wal", "-shm", "-journal", "-lock")}
_MODE = 0o444
_SHARD = re.compile(r"[0-9a-f]{2}")
_NAME = re.compile(r"[0-9a-f]{64}")
# Not blocking, because a pipe that somebody put there must not hang us.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_PREFIX = len("b3:")
_LOOKS = 3  # for a blob: between a look here and one into the trash, gc may have put it back
LAYOUT = Layout(
    application_id=0x74687373,  # "thss"
    version=1,
    schema=(SCHEMA.format("blobs"), SCHEMA.format("memo")),
    noun="the store's database",
    failed=StoreFailed,
    elsewhere="choose another store with --store",
)
_MEMO_KEY = "a memo key"
_ELSEWHERE = "choose an empty folder, or one that does not exist yet"


class FileStore:
    """Blobs and memo records below one folder; it is made by the first write.

    A blob that is put again replaces what is there, unless it is the same: so it heals a damaged one.

    What ``theory verify`` and ``gc`` need is public; ``in_use`` is for those who rely on what is here.

    Args:
        root: The folder; relative to the working directory of now, if it is relative.

    Raises:
        StoreFailed: The folder has a layout of a newer version, or is something else.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._staging = self.root / "tmp"
        self._blobs = f"{self.root}/blobs/b3"
        self.database = Database(self.root / _DATABASE, LAYOUT)
        self.in_use = InUse(f"{self.root}/in-use")
        self.small, self.memo = Rows(self.database, "blobs"), Rows(self.database, "memo")
        self._durable: set[str] = set()  # folders whose name in their parent survives a power failure
        self._has_format = self._read_format()
        self._is_ready = False
        self._broken = self._url = ""

    @property
    def url(self) -> str:
        """What ``--store`` takes to reach this store."""
        if not self._url:  # asked for with each blob that is read
            self._url = self.root.as_uri()
        return self._url

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

        When it fails, no file of theirs is left in ``staging``; large blobs that were moved by then stay.

        Raises:
            StoreFailed: A blob is not as it was staged, or the disk refuses.
            Retry: Another process has kept the database locked for 30 s.
        """
        self._make_ready()
        try:
            small = {_key(blob.cid): blob for blob in blobs if blob.size_bytes <= SMALL_BYTES}
            large = {self.path(blob.cid): blob for blob in blobs if blob.size_bytes > SMALL_BYTES}
            if large:
                self._put_files(large)
            if small:
                self.small.set(lambda: ((name, staged.content(blob)) for name, blob in small.items()))
        finally:
            for blob in blobs:
                if blob.path is not None and blob.path.parent == self._staging:
                    durable.discard(blob.path)

    def open(self, cid: str) -> IO[bytes]:
        """Open a blob; who reads it compares its cid, as ``theory.store.blobs.read_verified`` does.

        Raises:
            ArtifactNotFound: The blob is not here.
            StoreFailed: It cannot be read.
        """
        for _ in range(_LOOKS):
            data = self.small.get(_key(cid))
            if data is not None:
                return io.BytesIO(data)
            descriptor = self._open(self.path(cid))
            if descriptor is not None:
                return open(descriptor, "rb")
            from theory.store.trash import Trash  # noqa: PLC0415 - only for a blob that is not where it should be

            stream = Trash(self).open(cid)
            if stream is not None:
                return stream
        raise ArtifactNotFound(
            f"blob {cid} is not in {self.url}",
            hint="run what made it again, with --refresh, or set THEORY_STORE to the store that has it",
        )

    def has(self, cids: Iterable[str]) -> frozenset[str]:
        """Which of these are here; whether they are whole, reading tells."""
        return self.in_use.found(frozenset(cids), self._found)

    def _found(self, cids: frozenset[str]) -> frozenset[str]:
        names = {_key(cid): cid for cid in cids}
        small = self.small.found(names)
        return frozenset(cid for name, cid in names.items() if name in small or self._is_file(self.path(cid)))

    def delete(self, cids: Iterable[str]) -> None:
        """Remove these; one that is not here is none of its business, and neither is what is no file."""
        names = {_key(cid): cid for cid in cids}
        self.in_use.lose(names.values())
        self.small.delete(names)
        for cid in names.values():
            path = self.path(cid)
            if self._is_file(path):
                with self._worded("delete from"), suppress(FileNotFoundError):
                    os.unlink(path)

    def list(self) -> Iterator[tuple[str, int]]:
        """Every blob's cid and size in bytes, in no order; what we did not write is passed over."""
        for name, size_bytes in self.small.list():
            yield f"b3:{name.hex()}", size_bytes
        for name, size_bytes in self.files():
            yield f"b3:{name.hex()}", size_bytes

    def memo_get(self, key: str) -> bytes | None:
        """The record of this memo key.

        Raises:
            StoreFailed: It cannot be read.
        """
        return self.memo.get(_key(key, _MEMO_KEY))

    def memo_set(self, key: str, record: bytes) -> None:
        """Set the record of this memo key, durably; the last one wins, and nobody sees half of it.

        Raises:
            StoreFailed: The disk refuses; the record is the old one.
            Retry: Another process has kept the database locked for 30 s.
        """
        name = _key(key, _MEMO_KEY)
        self._make_ready()
        self.memo.set(lambda: [(name, record)])

    def memo_delete(self, key: str) -> None:
        """Remove the record of this memo key, if there is one."""
        self.memo.delete([_key(key, _MEMO_KEY)])

    def memo_list(self) -> Iterator[str]:
        """Every memo key, in no order."""
        for name, _ in self.memo.list():
            yield f"b3:{name.hex()}"

    def close(self) -> None:
        """Close the database, as the end of the process would; a later use opens it again."""
        self.database.close()
        self.in_use.close()

    # ------------------------------------------------------------ large ones: files

    def path(self, cid: str) -> str:
        """The file that a large blob has, or would have."""
        name = _key(cid).hex()
        return f"{self._blobs}/{name[:2]}/{name}"

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

    def files(self) -> Iterator[tuple[bytes, int]]:
        """The digest and size in bytes of every blob that is a file, in no order."""
        with self._worded("list"):
            for shard in _entries(self._blobs):
                if _SHARD.fullmatch(shard.name):
                    for entry in _entries(shard.path):
                        ours = _NAME.fullmatch(entry.name) and entry.name.startswith(shard.name)
                        if ours and entry.is_file(follow_symlinks=False):
                            with suppress(FileNotFoundError):  # deleted meanwhile
                                yield bytes.fromhex(entry.name), entry.stat(follow_symlinks=False).st_size

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
        version = int(found[1])
        if version != VERSION:
            raise StoreFailed(
                f"the store {self.root} has layout {version}, and this theory knows {VERSION}",
                hint="pip install --upgrade theory-core, or choose another store with --store"
                if version > VERSION
                else "move it away, or choose another store with --store",
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
        for name in ("blobs", "blobs/b3", "tmp"):
            durable.make_folder(self.root / name, durable.PRIVATE_FOLDER)
        for folder in (self.root.parent, self.root / "blobs"):  # the root itself is synced with format
            self._sync_folder(str(folder))
        self.database.open()
        durable.write_file(self.root / "format", _FORMAT.encode(), mode=_MODE, through=self._staging)

    def _put_files(self, blobs: dict[str, Staged]) -> None:
        """Make files durable at these paths, as one batch."""
        temps: dict[str, str] = {}
        try:
            with self._worded("write to"):
                for path, blob in blobs.items():
                    temps[path] = self._written(blob) if blob.path is None else str(blob.path)
                    staged.seal(temps[path], blob.size_bytes)
                folders = {self._move(temp, path) for path, temp in temps.items()}
                fresh = folders - self._durable
                for folder in folders | {os.path.dirname(folder) for folder in fresh}:
                    self._sync_folder(folder)
                self._durable |= fresh
        finally:
            for path, temp in temps.items():
                if blobs[path].path is None:
                    durable.discard(temp)

    def _written(self, blob: Staged) -> str:
        descriptor, temp = durable.create(self._staging)
        try:
            durable.write_all(descriptor, blob.data or b"")
        except BaseException:
            durable.discard(temp)
            raise
        finally:
            os.close(descriptor)
        return temp

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


def _key(text: str, what: str = "a cid") -> bytes:
    """The name of a row: the digest itself."""
    if CID.fullmatch(text) is None:
        raise StoreFailed(f"{text[:100]!r} is not {what}", hint=f"{what} is b3: and 64 hex digits")
    return bytes.fromhex(text[_PREFIX:])


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What a folder holds now; nothing, if it is not there or no folder."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
