"""Outputs as plain files where the user asked for them: all or none, never outside the target, never through a link."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from theory import blobs
from theory.errors import SaveFailed, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from theory.types import Artifact, Store

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o644


def check_folder(folder: Path) -> None:
    """Refuse, before anything is spent, a folder that can never be saved to.

    Raises:
        Usage: Something else has its name.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise Usage(f"--save-dir {folder} is not a folder", hint="name a folder; it is made if it is not there")


def check_file(file: Path) -> None:
    """Refuse, before anything is spent, a file that can never be saved.

    Raises:
        Usage: It is a folder, or its folder is not there.
    """
    if file.is_dir():
        raise Usage(f"--save-first {file} is a folder", hint="name a file in it, or use --save-dir")
    if not file.parent.is_dir():
        raise Usage(f"the folder of --save-first {file} is not there", hint=f"mkdir -p {file.parent}")


def save_all(store: Store, artifacts: Iterable[Artifact], folder: Path) -> None:
    """Mirror artifacts by their world paths below a folder, which is made if need be.

    Every file is complete in a private folder before the first one gets its name. A file that is there is replaced; a
    link in the way is refused if it stands for a folder and replaced if it stands for a file.

    Raises:
        SaveFailed: Which file, and why; files that were there before are as they were.
        Damaged, StoreFailed: By the store.
    """
    artifacts = tuple(artifacts)
    with _worded(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    with _private(folder) as private:
        for number, artifact in enumerate(artifacts):
            with _worded(artifact.path):
                blobs.clone(store, artifact.cid, private / str(number), mode=_MODE)
        targets = [_Target(folder, artifact.path.lstrip("/")) for artifact in artifacts]
        try:
            for target in targets:
                target.open()
            for number, target in enumerate(targets):
                target.take(private / str(number))
        finally:
            for target in targets:
                target.close()


def save_one(store: Store, artifact: Artifact, file: Path) -> None:
    """Write one artifact to one file, atomically; a link in its place is replaced, not followed.

    Raises:
        SaveFailed: Why not; a file that was there before is as it was.
        Damaged, StoreFailed: By the store.
    """
    with _private(file.parent) as private, _worded(str(file)):
        blobs.clone(store, artifact.cid, private / "0", mode=_MODE)
        os.replace(private / "0", file)


class _Target:
    """Where one file goes, its folder held open so that nobody can put a link there in between."""

    def __init__(self, root: Path, relative: str) -> None:
        self._root = root
        self._relative = relative
        *self._folders, self._name = relative.split("/")
        self._descriptor = -1

    def open(self) -> None:
        with _worded(f"{self._root}/{self._relative}"):
            self._descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for name in self._folders:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o777, dir_fd=self._descriptor)
                below = os.open(name, _FOLDER, dir_fd=self._descriptor)
                os.close(self._descriptor)
                self._descriptor = below
            with suppress(FileNotFoundError):
                if os.stat(self._name, dir_fd=self._descriptor, follow_symlinks=False).st_mode & 0o170000 == 0o040000:
                    raise IsADirectoryError(21, "a folder has this name")

    def take(self, file: Path) -> None:
        with _worded(f"{self._root}/{self._relative}"):
            os.replace(file, self._name, dst_dir_fd=self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


@contextmanager
def _private(folder: Path) -> Iterator[Path]:
    path = folder / f".theory-{os.urandom(8).hex()}"
    with _worded(str(folder)):
        path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        for name in os.listdir(path):
            (path / name).unlink()
        path.rmdir()


@contextmanager
def _worded(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SaveFailed(
            f"cannot save {what}: {error.strerror or error}",
            hint="the execution is closed and kept: theory get copies its artifacts elsewhere",
        ) from error
