"""What is sent to a build: the files that count of an entry, as one archive that is always the same."""

from __future__ import annotations

import os
import tarfile
from typing import TYPE_CHECKING

from theory import errors, files_of, tree_of
from theory_adapter_local.cancelled import Cancelled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from theory import Channel, Processor

# The earliest that a ZIP can have, so that what a build packs with it works; SOURCE_DATE_EPOCH of every job.
_MTIME = 315_532_800
_MOST_BYTES = 8 * 1024**3  # of a context: nobody has meant more
_SHOWN = 3
_PORTION = 1024 * 1024
_BLOCK = 512  # bytes, of a tar


def copy_context(processor: Processor, place: Path, channel: Channel, most_bytes: int = _MOST_BYTES) -> None:
    """Copy what counts of the entry's folder into this new one: exactly what the entry was read as.

    Raises:
        ImageBuildFailed: It is larger than anybody can have meant.
        Retry: The folder was changed since the entry was read.
        Cancelled: The run was cancelled.
    """
    from shutil import copyfile  # noqa: PLC0415 - once a build

    dockerfile = processor.image.dockerfile
    try:
        files = tuple(files_of(processor.folder, dockerfile))
        _check_size(processor, [path for path, *_ in files], most_bytes)
        place.mkdir(mode=0o700, parents=True)
        for path, _, executable in files:
            if channel.wait_cancelled(0):
                raise Cancelled
            target = place / path
            target.parent.mkdir(parents=True, exist_ok=True)
            copyfile(processor.folder / path, target)
            target.chmod(0o700 if executable else 0o600)
        whole = tree_of(place, dockerfile) == processor.tree
    except FileNotFoundError:
        whole = False
    except OSError as error:
        raise errors.StoreFailed(
            f"the build context of {processor.ref} cannot be copied: {error}",
            hint="free some space on the disk of THEORY_HOME",
        ) from error
    if not whole:
        raise errors.Retry(
            f"{processor.folder} was changed while its run began", hint="try again when nobody edits it"
        )


def archive_of(place: Path) -> Iterator[bytes]:
    """The folder as a tar: sorted, of nobody, without times; 755 what may run and folders, 644 the rest."""
    below = ((here, name) for here, folders, files in os.walk(place) for name in (*folders, *files))
    for path in sorted(os.path.relpath(os.path.join(here, name), place) for here, name in below):
        found = os.stat(place / path)
        info = tarfile.TarInfo(path)
        info.mtime = _MTIME
        info.mode = 0o755 if found.st_mode & 0o100 else 0o644
        if os.path.isdir(place / path):
            info.type = tarfile.DIRTYPE
            yield info.tobuf(tarfile.PAX_FORMAT)
            continue
        info.size = found.st_size
        yield info.tobuf(tarfile.PAX_FORMAT)
        with open(place / path, "rb") as stream:
            while data := stream.read(_PORTION):
                yield data
        yield bytes(-info.size % _BLOCK)
    yield bytes(2 * _BLOCK)


def _check_size(processor: Processor, paths: list[str], most_bytes: int) -> None:
    sizes = {path: os.stat(processor.folder / path).st_size for path in paths}
    total = sum(sizes.values())
    if total <= most_bytes:
        return
    largest = sorted(sizes, key=lambda path: -sizes[path])[:_SHOWN]
    shown = ", ".join(f"{path} ({_readable(sizes[path])})" for path in largest)
    raise errors.ImageBuildFailed(
        f"the build context of {processor.ref} has {_readable(total)}, more than {_readable(most_bytes)}:"
        f" {processor.folder} holds {shown}",
        hint=f"name in {processor.folder / '.dockerignore'} what the image does not need",
    )


def _readable(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:  # noqa: PLR2004 - the unit's own
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"
