"""An entry's folder as one address: which files belong to it, and the cid of each.

``.dockerignore`` follows Docker's rules: https://docs.docker.com/build/concepts/context/#dockerignore-files
"""

from __future__ import annotations

import os
import re
import time
from functools import lru_cache
from typing import TYPE_CHECKING

from theory.disk.durable import remedy
from theory.errors import RegistryFault
from theory.formats.canon import cid_of_stream, tree_cid
from theory.formats.paths import SURROGATE, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from theory.types import Processor

ENTRY = "processor.yaml"  # its parts are in the memo key by themselves
IGNORE = ".dockerignore"
# A file is read once as long as its stamp stays, if the stamp is older than this: a clock that ticks coarsely
# may give two contents one stamp. https://git-scm.com/docs/racy-git
_SETTLED_NS = 2 * 10**9
_MAX_KNOWN = 10_000
_known: dict[tuple[int, ...], str] = {}  # cid by stamp
_MAX_IGNORE_BYTES = 64 * 1024  # of .dockerignore
_MAX_IGNORE_LINES = 1_000  # each of them takes some time for each file
_PART = re.compile(r"\*\*/?|\[\^?(?:\\.|[^\]\\])+\]|\\.|.", re.DOTALL)  # of a pattern, each a step of its own


def files_of(folder: Path, dockerfile: str | None = None) -> Iterator[tuple[str, str, bool]]:
    """Every file that counts: relative path, cid, whether it is executable.

    Args:
        folder: The entry's folder.
        dockerfile: Counts whatever ``.dockerignore`` says, since Docker reads it in any case.

    Raises:
        RegistryFault: A link or a special file, which mean something else elsewhere.
    """
    ignored = _ignored(folder / IGNORE)
    kept = {IGNORE} if dockerfile is None else {IGNORE, os.path.normpath(dockerfile)}
    for path, entry in _walk(str(folder), ""):
        if path == ENTRY or path.endswith(".pyc") or (path not in kept and ignored(path)):
            continue
        if SURROGATE.search(path):
            raise RegistryFault(
                f"{printable(entry.path)} has a name that is not UTF-8", hint="rename the file"
            )
        if not entry.is_file(follow_symlinks=False):
            raise RegistryFault(
                f"{printable(entry.path)} is a link or a special file", hint="put a regular file in its place"
            )
        found = entry.stat(follow_symlinks=False)
        yield path, _cid(entry.path, found), bool(found.st_mode & 0o100)


def tree_of(folder: Path, dockerfile: str | None = None) -> str:
    """The address of the folder without ``processor.yaml``; arguments and errors as in ``files_of``."""
    try:
        return tree_cid(files_of(folder, dockerfile))
    except OSError as error:
        raise RegistryFault(
            f"{folder} cannot be read: {error}",
            hint=remedy(error, "check its files and permissions"),
        ) from error


def changed(processor: Processor) -> bool:
    """Whether the folder is no longer what it was when the entry was resolved."""
    try:
        return tree_of(processor.folder, processor.image.dockerfile) != processor.tree
    except RegistryFault:
        return True


class Seen:
    """A folder as it was before it was read; to ask whether it still is costs a stat for each file."""

    def __init__(self, folder: Path) -> None:
        self._paths = tuple(_paths(str(folder)))
        now = time.time_ns()
        self._stamps = self._look()
        newest = max((ctime for *_, ctime in self._stamps), default=now)
        self._is_settled = now - newest > _SETTLED_NS

    def holds(self) -> bool:
        """Whether nothing was added, removed or changed since; False also where it is too fresh to tell."""
        return self._is_settled and self._look() == self._stamps

    def _look(self) -> tuple[tuple[int, ...], ...]:
        try:
            return tuple(_stamp(os.lstat(path)) for path in self._paths)
        except OSError:
            return ()


def _paths(folder: str) -> Iterator[str]:
    """The folder and all below it, but what Python makes of its files and never counts."""
    yield folder
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (f"{here}/{name}" for name in (*folders, *files) if not name.endswith(".pyc"))


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _cid(path: str, found: os.stat_result) -> str:
    stamp = _stamp(found)
    cid = _known.get(stamp)
    if cid is None:
        now = time.time_ns()
        with open(path, "rb") as stream:
            cid, _ = cid_of_stream(stream)
        if now - found.st_ctime_ns > _SETTLED_NS:
            if len(_known) >= _MAX_KNOWN:
                _known.clear()
            _known[stamp] = cid
    return cid


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__":
                    yield from _walk(entry.path, path + "/")
            else:
                yield path, entry


class _BadPattern(ValueError):
    """The number of the line."""


def _ignored(file: Path) -> Callable[[str], bool]:
    try:
        with open(file, "rb") as stream:
            data = stream.read(_MAX_IGNORE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        return lambda _: False
    except UnicodeDecodeError:
        raise RegistryFault(f"{file} is not UTF-8", hint="save it as UTF-8") from None
    if len(data) > _MAX_IGNORE_BYTES or text.count("\n") > _MAX_IGNORE_LINES:
        raise RegistryFault(
            f"{file} has more than {_MAX_IGNORE_BYTES >> 10} KiB, or {_MAX_IGNORE_LINES:,} lines",
            hint="name folders rather than each file",
        )
    try:
        rules = _rules(text)
    except _BadPattern as error:
        raise RegistryFault(f"{file}:{error}: not a pattern", hint="close its bracket") from None

    def ignored(path: str) -> bool:
        verdict = False
        for excludes, matches in rules:
            if matches(path):
                verdict = excludes
        return verdict

    return ignored


@lru_cache
def _rules(text: str) -> tuple[tuple[bool, Callable[[str], object]], ...]:
    rules: list[tuple[bool, Callable[[str], object]]] = []
    for number, line in enumerate(text.split("\n"), 1):
        excludes = not line.strip().startswith("!")
        pattern = line.strip().removeprefix("!").strip("/ \t")
        if not pattern or line.startswith("#"):
            continue
        try:
            rules.append((excludes, _matcher(os.path.normpath(pattern))))
        except re.error:
            raise _BadPattern(number) from None
    return tuple(rules)


def _matcher(pattern: str) -> Callable[[str], object]:
    """Whether a path matches, in linear time.

    Python's own engine would go back and forth between two wildcards: ``*a*a*a*a*a*a*b`` and a name of 40
    letters keep it busy for years.
    """
    text = _regex(pattern)
    fullmatch = re.compile(text, re.DOTALL).fullmatch  # refuses what is no pattern
    if sum(part.startswith("*") for part in _PART.findall(pattern)) <= 1:
        return fullmatch
    from jsonschema_rs import Draft202012Validator, RegexOptions  # noqa: PLC0415 - few patterns have two

    engine = Draft202012Validator({"pattern": f"(?s)^(?:{text})$"}, pattern_options=RegexOptions())
    # A name that is not UTF-8 is refused, if it is not ignored.
    return lambda path: engine.is_valid(SURROGATE.sub("?", path))


def _regex(pattern: str) -> str:
    """Go's filepath.Match with ``**``; what matches a folder matches all below it."""

    def translated(match: re.Match[str]) -> str:
        part = match[0]
        if part.startswith("**"):
            return ".*" if match.end() == len(pattern) else "(?:.*/)?"
        if part.startswith("[") and len(part) > 1:
            return re.sub(
                r"\\(.)|(?<!^)([\[&|~]|(?<=-)-)", lambda inner: re.escape(inner[1] or inner[2]), part
            )
        if part == "[":
            raise re.error("an open bracket")
        return {"*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part.removeprefix("\\")))

    return _PART.sub(translated, pattern) + "(?:/.*)?"
