"""Outputs as plain files where the user asked for them, never outside the target or through a link."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from theory.disk import durable
from theory.errors import Interrupted, SaveFailed, Usage
from theory.store import blobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from theory.types import Artifact, Store

_KEPT = "the execution is closed and kept: theory get PATH --to DIR copies an artifact elsewhere"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def check_folder(folder: Path, prefix: str = "") -> None:
    """Refuse, before anything is spent, a folder that cannot be saved to; nothing is left in it.

    Args:
        folder: What ``save_all`` will be given.
        prefix: The write prefix: where in the folder the files will be.

    Raises:
        Usage: Something else has its name, or is in the way below it, or it cannot be written.
    """
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise Usage(
            f"--save-dir {folder} is not a folder", hint="name a folder; it is made if it is not there"
        )
    below = folder
    for part in prefix.partition("{")[0].split("/")[1:-1]:
        below = below / part
        if os.path.lexists(below) and (os.path.islink(below) or not os.path.isdir(below)):
            raise Usage(
                f"--save-dir {folder} cannot take the outputs: {below} is no folder",
                hint="remove it, or name another folder",
            )
    _try(_there(folder), f"--save-dir {folder}")


def check_file(file: Path) -> None:
    """Refuse, before anything is spent, a file that cannot be saved.

    Raises:
        Usage: It is a folder or a device, or its folder is not there or cannot be written.
    """
    if os.path.isdir(file):
        raise Usage(f"--save-first {file} is a folder", hint="name a file in it, or use --save-dir")
    if os.path.exists(file) and not os.path.isfile(file):
        raise Usage(
            f"--save-first {file} is no regular file", hint="theory cat writes an artifact to standard output"
        )
    if not os.path.isdir(file.parent):
        raise Usage(f"the folder of --save-first {file} is not there", hint=f"mkdir -p {file.parent}")
    _try(file.parent, f"--save-first {file}")


def _there(folder: Path) -> Path:
    """The folder, or the next one above it that is there."""
    here = Path(os.path.abspath(folder))
    while not os.path.isdir(here):
        here = here.parent
    return here


def _try(folder: Path, what: str) -> None:
    """Make something in the folder; asking for permissions would not find a read-only disk or a quota."""
    probe = folder / f".theory-{os.urandom(8).hex()}"
    try:
        probe.mkdir(mode=0o700)
        probe.rmdir()
    except OSError as error:
        raise Usage(
            f"{what} cannot be written: {folder}: {error.strerror}",
            hint=durable.remedy(error, "make it writable for you, or name another one"),
        ) from None


def save_all(
    store: Store,
    artifacts: Iterable[Artifact],
    folder: Path,
    *,
    cancelled: Callable[[], bool] | None = None,
) -> None:
    """Mirror artifacts by their world paths below a folder, which is made if need be.

    Every file is complete in a private folder, and every place is looked at, before the first one gets its
    name. A file that is there is replaced; a link in the way is refused if it stands for a folder and
    replaced if it stands for a file.

    Args:
        store: Where the bytes are.
        artifacts: What to save.
        folder: Where to.
        cancelled: Asked before each block of 1 MiB, until the first file gets its name.

    Raises:
        SaveFailed: Which file, and why; files that were there before are as they were.
        Interrupted: ``cancelled`` said so; the same holds.
        Damaged, StoreFailed: By the store.
    """
    artifacts = tuple(artifacts)
    with _worded(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    with _private(folder) as private:
        for number, artifact in enumerate(artifacts):
            with _worded(artifact.path):
                blobs.clone(store, artifact.cid, private / str(number), cancelled=cancelled)
        for artifact in artifacts:
            with _place(folder, artifact) as (name, descriptor):
                _refuse_folder(name, descriptor)
        for number, artifact in enumerate(artifacts):
            with _place(folder, artifact) as (name, descriptor):
                os.replace(private / str(number), name, dst_dir_fd=descriptor)


def save_one(
    store: Store, artifact: Artifact, file: Path, *, cancelled: Callable[[], bool] | None = None
) -> None:
    """Write one artifact to one file, atomically; a link in its place is replaced, not followed.

    Raises:
        SaveFailed: Why not; a file that was there before is as it was.
        Interrupted: ``cancelled`` said so; the same holds.
        Damaged, StoreFailed: By the store.
    """
    with _private(file.parent) as private, _worded(str(file)):
        blobs.clone(store, artifact.cid, private / "0", cancelled=cancelled)
        os.replace(private / "0", file)


@contextmanager
def _place(root: Path, artifact: Artifact) -> Iterator[tuple[str, int]]:
    """The name of a file and its folder, held open so that nobody can put a link there in between."""
    *folders, name = artifact.path.lstrip("/").split("/")
    with _worded(f"{root}{artifact.path}"):
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for folder in folders:
                with suppress(FileExistsError):
                    os.mkdir(folder, dir_fd=descriptor)
                below = os.open(folder, _FOLDER, dir_fd=descriptor)
                durable.close(descriptor)
                descriptor = below
            yield name, descriptor
        finally:
            durable.close(descriptor)


def _refuse_folder(name: str, descriptor: int) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
            raise IsADirectoryError(errno.EISDIR, "a folder has this name")


@contextmanager
def _private(folder: Path) -> Iterator[Path]:
    path = folder / f".theory-{os.urandom(8).hex()}"
    with _worded(str(folder)):
        path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        with suppress(OSError):  # whoever removed it did our work
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
            hint=_KEPT,
        ) from error
    except Interrupted as error:
        raise Interrupted(f"cancelled while {what} was saved; the execution is closed and kept") from error
