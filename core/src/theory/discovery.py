"""Which plugins are installed, found without importing one of them.

The entry points are read straight from the ``*.dist-info`` and ``*.egg-info`` folders on ``sys.path``. That
is what ``importlib.metadata`` does too, but its import alone costs as much as half of a run
(docs/decisions/0003). Source of the format:
https://packaging.python.org/en/latest/specifications/entry-points/
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


@dataclass(frozen=True, slots=True)
class EntryPoint:
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


def allowed(
    found: Iterable[EntryPoint], environ: Mapping[str, str], ours: frozenset[str]
) -> Iterator[EntryPoint]:
    """Those that ``THEORY_PLUGINS`` lets in: unset for all, else a list of distributions beside our own."""
    listed = environ.get("THEORY_PLUGINS")
    wanted = {_normal(name.strip()) for name in (listed or "").split(",")} | ours
    return (point for point in found if listed is None or point.distribution in wanted)


def _normal(name: str) -> str:
    """https://packaging.python.org/en/latest/specifications/name-normalization/."""
    return re.sub(r"[-_.]+", "-", name).lower()


def published() -> dict[str, dict[str, str]]:
    """The names that we publish: group, name, distribution."""
    names: dict[str, dict[str, str]] = json.loads(
        Path(__file__).with_name("published.json").read_text("utf-8")
    )
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
