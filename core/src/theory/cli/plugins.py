"""``theory adapters``, ``plugins`` and ``doctor``: what is installed, what it can do, and what is wrong."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
from typing import TYPE_CHECKING

import click

from theory import durable
from theory.canon import ZERO_CID
from theory.cli.show import answer, say, table
from theory.discovery import published
from theory.errors import StoreFailed, TheoryError
from theory.options import describe_options
from theory.plugins import ADAPTERS, Plugins
from theory.run import Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from theory.types import Store


@click.group()
def adapters() -> None:
    """List adapters and show what they can do."""


@adapters.command()
def ls() -> None:
    """List the installed adapters with what they offer."""
    plugins = Plugins.installed()
    rows = []
    for name in plugins.names(ADAPTERS):
        try:
            info = plugins.adapter(name).info
            rows.append((name, info.summary, ", ".join(sorted(info.offers))))
        except TheoryError as error:
            rows.append((name, f"broken: {error.message}", ""))
    table(rows, ("adapter", "what", "offers"))
    if not rows:
        known = published()[ADAPTERS].values()
        say("no adapter is installed\nHint: " + " or ".join(f"pip install {package}" for package in known))


@adapters.command()
@click.argument("name")
def show(name: str) -> None:
    """Print what an adapter can do and its options, as JSON."""
    info = Plugins.installed().adapter(name).info
    options = {
        option.name: {"type": option.type, "default": option.default, "help": option.help}
        for option in describe_options(info.options)
    }
    document = {
        "name": name,
        "summary": info.summary,
        "offers": sorted(info.offers),
        "pretends": info.pretends,
        "capacity": info.capacity,
        "options": options,
    }
    answer(document, as_json=False)


@click.command()
def plugins() -> int:
    """List every plugin, the broken ones with the reason.

    The exit status is 69 if one is broken.
    """
    found = list(Plugins.installed().survey())
    table(
        (
            (s.group, s.name, s.distribution, s.version, f"broken: {s.problem}" if s.problem else "ok")
            for s in found
        ),
        ("group", "name", "distribution", "version", "state"),
    )
    return 69 if any(status.problem for status in found) else 0


@click.command()
def doctor() -> int:
    """Look at the surroundings and say what is wrong.

    The exit status is 69 if something is.
    """
    rows = list(_findings())
    table(rows, ("subject", "state", "what"))
    return 69 if any(state != "ok" for _, state, _ in rows) else 0


def _home(home: Path) -> str:
    try:
        if home.exists():
            descriptor, path = durable.create(home)
            os.close(descriptor)
            durable.discard(path)
    except OSError as error:
        raise durable.refusal(StoreFailed, f"cannot write to {home}", error) from error
    return str(home)


def _store(store: Store) -> str:
    store.has([ZERO_CID])  # a store that cannot be read says so
    return store.url


def _findings() -> Iterator[tuple[str, str, str]]:
    yield "python", "ok", f"{platform.python_version()} at {sys.executable}"
    yield "sqlite", "ok", sqlite3.sqlite_version
    with Runner() as runner:
        probes: tuple[tuple[str, Callable[[], str]], ...] = (
            ("home", lambda: _home(runner.settings.home)),
            ("store", lambda: _store(runner.store)),
            ("ledger", lambda: f"{len(runner.ledger.plans())} plans"),
            ("registries", lambda: f"{sum(1 for s in runner.sources for _ in s.refs())} entries"),
        )
        for subject, probe in probes:
            try:
                yield subject, "ok", probe()
            except TheoryError as error:
                yield subject, "wrong", f"{error.message}: {error.hint}"
        for name, finding in runner.plugins.diagnose():
            state = "ok" if finding.ok else "wrong"
            hint = f": {finding.hint}" if finding.hint and not finding.ok else ""
            yield f"{name}: {finding.subject}", state, finding.message + hint
