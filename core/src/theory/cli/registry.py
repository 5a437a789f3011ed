"""``theory registry``: which processors there are, and whether their entries are sound."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from theory.cli.options import refuse_empty
from theory.cli.show import answer, say, table, tell
from theory.entries.registry import FolderRegistry
from theory.entries.strictyaml import parse_yaml
from theory.entries.tree import ENTRY
from theory.errors import RegistryFault, TheoryError
from theory.rooms.resolve import resolve_ref
from theory.run import Runner
from theory.types import Ref

if TYPE_CHECKING:
    from collections.abc import Iterator


@click.group()
def registry() -> None:
    """Look at registries and check their entries."""


@registry.command()
def ls() -> None:
    """List every ref with its description and where it comes from."""
    with Runner() as runner:
        table(_rows(runner), ("ref", "description", "from"))


@registry.command()
@click.argument("ref")
def show(ref: str) -> None:
    """Print the entry of a ref as JSON, with its folder and cids."""
    with Runner() as runner:
        processor = resolve_ref(Ref.parse(ref), runner.sources).processor
    document, _ = parse_yaml((processor.folder / ENTRY).read_bytes())
    answer(
        {"entry": document, "folder": str(processor.folder), "cid": processor.cid, "tree": processor.tree},
        as_json=False,
    )


@registry.command()
@click.argument("folders", metavar="[DIR]...", nargs=-1)
def check(folders: tuple[str, ...]) -> int:
    """Check every entry below the folders (all registries unless told), and print every fault.

    A fault is a line "file:line: message at pointer"; the exit status is 2 if there is one.
    """
    with Runner() as runner:
        roots = [source.root for source in runner.sources if source.root]
    refuse_empty({"folders": folders})
    if folders:
        roots = [Path(os.path.abspath(folder)) for folder in folders]
        if missing := [folder for folder in roots if not os.path.isdir(folder)]:
            raise RegistryFault(f"{missing[0]} is not a folder", hint="name the root of a registry")
    faults = entries = 0
    for root in roots:
        checked = FolderRegistry(root)
        entries += sum(1 for _ in checked.refs())
        for fault in checked.check():
            faults += 1
            tell([str(fault)])
    say(f"{_counted(entries, 'entry', 'entries')}, {_counted(faults, 'fault', 'faults')}")
    return RegistryFault.exit_code if faults else 0


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _rows(runner: Runner) -> Iterator[tuple[str, str, str]]:
    seen = set()
    for source in runner.sources:
        for ref in source.refs():
            if ref in seen:
                continue
            seen.add(ref)
            try:
                processor = source.resolve(ref)
                description = processor.description if processor else ""
            except TheoryError as error:
                description = f"broken: {error.message}"
            yield str(ref), description.partition("\n")[0].partition(". ")[0], source.label
