"""Which plugins are installed, found without importing one of them.

The entry points are read straight from the ``*.dist-info`` and ``*.egg-info`` folders on ``sys.path``. That
is what ``importlib.metadata`` does too, but its import alone costs as much as half of a run
(docs/decisions/0003). Source of the format:
https://packaging.python.org/en/latest/specifications/entry-points/
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

from theory.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


class EntryPoint(Record):
    """One line of a distribution's entry points, and whose it is."""

    group: str
    name: str
    value: str  # "package.module" or "package.module:attribute"
    distribution: str
    version: str


def installed(path: Iterable[str] | None = None) -> Iterator[EntryPoint]:
    """Every entry point of a ``theory.`` group, the first distribution of a name winning as in imports."""
    seen: set[str] = set()
    for folder in dict.fromkeys(sys.path if path is None else path):
        try:
            names = sorted(os.listdir(folder or "."))
        except OSError:
            continue  # sys.path may name archives and folders that are not there
        for name in names:
            if not name.endswith((".dist-info", ".egg-info")):
                continue
            distribution, _, version = name.rpartition(".")[0].partition("-")
            distribution = _normal(distribution)
            if distribution in seen:
                continue
            seen.add(distribution)
            yield from _entry_points(os.path.join(folder, name, "entry_points.txt"), distribution, version)


def allowed(found: Iterable[EntryPoint], environ: Mapping[str, str]) -> Iterator[EntryPoint]:
    """Those that ``THEORY_PLUGINS`` lets in: unset for all, else a list of distributions beside our own."""
    listed = environ.get("THEORY_PLUGINS")
    if listed is None:
        yield from found
        return
    ours = {name for names in published().values() for name in names.values()}
    wanted = ours | {_normal(name.strip()) for name in listed.split(",")}
    yield from (point for point in found if point.distribution in wanted)


def _normal(name: str) -> str:
    """https://packaging.python.org/en/latest/specifications/name-normalization/."""
    return re.sub(r"[-_.]+", "-", name).lower()


def published() -> dict[str, dict[str, str]]:
    """The names that we publish: group, name, distribution."""
    import json  # noqa: PLC0415 - "theory --help" reads nothing else of the kind

    with open(os.path.join(os.path.dirname(__file__), "published.json"), encoding="utf-8") as stream:
        names: dict[str, dict[str, str]] = json.load(stream)
    return names


def _entry_points(file: str, distribution: str, version: str) -> Iterator[EntryPoint]:
    try:
        with open(file, encoding="utf-8") as stream:
            text = stream.read()
    except (OSError, UnicodeDecodeError):
        return
    if "[theory." not in text:
        return
    group = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1].strip()
        elif group.startswith("theory.") and "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            yield EntryPoint(group, name.strip(), value.partition("[")[0].strip(), distribution, version)
