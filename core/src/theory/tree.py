"""An entry's folder as one address: which files belong to it, and the cid of each.

``.dockerignore`` follows Docker's rules: https://docs.docker.com/build/concepts/context/#dockerignore-files
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from theory.canon import cid_of_stream, tree_cid
from theory.errors import RegistryFault
from theory.paths import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ENTRY = "processor.yaml"  # its parts are in the memo key by themselves


def files_of(folder: Path) -> Iterator[tuple[str, str, bool]]:
    """Every file that counts: relative path, cid, whether it is executable.

    Raises:
        RegistryFault: A link or a special file, which mean something else elsewhere.
    """
    ignored = _ignored(folder)
    for path, entry in _walk(str(folder), ""):
        if path == ENTRY or path.endswith(".pyc") or ignored(path):
            continue
        if not entry.is_file(follow_symlinks=False):
            raise RegistryFault(
                f"{printable(entry.path)} is a link or a special file", hint="put a regular file in its place"
            )
        with open(entry.path, "rb") as stream:
            cid, _ = cid_of_stream(stream)
        yield path, cid, bool(entry.stat().st_mode & 0o100)


def tree_of(folder: Path) -> str:
    """The address of the folder without ``processor.yaml``."""
    try:
        return tree_cid(files_of(folder))
    except (OSError, UnicodeEncodeError) as error:
        raise RegistryFault(f"{folder} cannot be read: {error}", hint="check its files and permissions") from error


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__":
                    yield from _walk(entry.path, path + "/")
            else:
                yield path, entry


def _ignored(folder: Path) -> Callable[[str], bool]:
    try:
        text = (folder / ".dockerignore").read_text("utf-8")
    except FileNotFoundError:
        return lambda _: False
    rules: list[tuple[bool, re.Pattern[str]]] = []
    for line in map(str.strip, text.splitlines()):
        pattern = line.removeprefix("!").strip("/ ")
        if pattern and not line.startswith("#"):
            rules.append((not line.startswith("!"), _regex(os.path.normpath(pattern))))

    def ignored(path: str) -> bool:
        verdict = False
        for excludes, rule in rules:
            if rule.match(path):
                verdict = excludes
        return verdict and path != ".dockerignore"

    return ignored


def _regex(pattern: str) -> re.Pattern[str]:
    """Go's filepath.Match with ``**``; what matches a folder matches all below it."""
    out, at = "", 0
    while at < len(pattern):
        if pattern.startswith("**", at):
            at += 2
            out += "(?:.*/)?" if pattern.startswith("/", at) else ".*"
            at += pattern.startswith("/", at)
            continue
        char = pattern[at]
        if char == "[" and "]" in pattern[at:]:
            end = pattern.index("]", at)
            choice = re.escape(pattern[at + 1 : end]).replace("\\-", "-").replace("\\^", "^")
            out += f"[{choice}]"
            at = end + 1
            continue
        out += {"*": "[^/]*", "?": "[^/]"}.get(char, re.escape(char))
        at += 1
    return re.compile(f"{out}(?:/.*)?$", re.DOTALL)
