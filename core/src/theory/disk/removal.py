"""Folders are removed through no link, whatever a processor did to them."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

GONE = ".gone"  # the end of a folder's name once its owner is done with it


def remove(folder: Path) -> None:
    """Remove a folder and all below it, following no link; also what a processor made hard to remove."""
    if os.path.islink(folder):
        os.unlink(folder)
        return
    with suppress(OSError, RecursionError):
        _empty(str(folder))
        os.rmdir(folder)
    if os.path.lexists(folder):
        with suppress(OSError):  # no open file or process to be had: it stays for a sweep
            import subprocess  # noqa: PLC0415 - for folders without permissions or deeper than a path may be

            # What rm can remove comes first: an input may be a link of a blob, whose mode must not change.
            for command in (["rm", "-rf"], ["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
                subprocess.run([*command, "--", str(folder)], check=False, stderr=subprocess.DEVNULL)  # noqa: S603 - no shell


def _empty(folder: str) -> None:
    with os.scandir(folder) as entries:
        listed = list(entries)
    for entry in listed:
        with suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                _empty(entry.path)
                os.rmdir(entry.path)
            else:
                os.unlink(entry.path)


def discard(folder: Path) -> None:
    """Remove the folder whose lock we hold: it loses its name at once, so the next owner makes one anew."""
    gone = folder.with_name(f"{folder.name}.{os.urandom(8).hex()}{GONE}")
    with suppress(OSError):  # it stays for a sweep
        os.rename(folder, gone)
        remove(gone)
