"""The folder that a command runs in: what counts of its entry, and no more.

A file that ``.dockerignore`` names is no part of the memo key, because no image has it, so the program must
not find it here either. Copies are kept in the adapter's cache, named by their content, as environments are.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from theory import cid_of, errors
from theory_adapter_process.lock import locked

if TYPE_CHECKING:
    from pathlib import Path

    from theory import Channel, Processor

_COMPLETE = "complete"
_ENTRY = "processor.yaml"  # its parts are in the memo key by themselves


def program_folder(processor: Processor, cache: Path, channel: Channel) -> Path:
    """The entry's folder, or where ``.dockerignore`` may hide some of it, a copy of the rest.

    Args:
        processor: The entry.
        cache: Where the copies are kept.
        channel: Asked for cancellation while somebody else makes the same copy.

    Raises:
        Retry: The folder was changed since the entry was read.
        Cancelled: The run was cancelled.
    """
    if not os.path.lexists(processor.folder / ".dockerignore"):
        return processor.folder
    place = cache / cid_of(f"{processor.tree}\0{processor.cid}".encode())[3:35]
    if not (place / _COMPLETE).exists():
        with locked(place.with_suffix(".lock"), channel):
            if not (place / _COMPLETE).exists():
                _copy(processor, place)
    return place / "entry"


def _copy(processor: Processor, place: Path) -> None:
    from shutil import copyfile, rmtree  # noqa: PLC0415 - once an entry

    from theory import files_of, tree_of  # noqa: PLC0415 - as above

    if place.exists():
        rmtree(place)
    dockerfile = processor.image.dockerfile
    try:
        for path, _, executable in files_of(processor.folder, dockerfile):
            target = place / "entry" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            copyfile(processor.folder / path, target)
            target.chmod(0o555 if executable else 0o444)
        copyfile(processor.folder / _ENTRY, place / "entry" / _ENTRY)
        whole = tree_of(place / "entry", dockerfile) == processor.tree
    except FileNotFoundError:
        whole = False
    if not whole:
        raise errors.Retry(
            f"{processor.folder} was changed while its run began", hint="try again when nobody edits it"
        )
    (place / _COMPLETE).touch()
