"""``theory adapters``, ``plugins`` and ``doctor``: what is installed, what it can do, and what is wrong."""

from __future__ import annotations

import platform
import sqlite3
import sys
from typing import TYPE_CHECKING

import click

from theory.cli.show import answer, say, table
from theory.discovery import published
from theory.errors import TheoryError
from theory.home import Home
from theory.options import describe_options
from theory.plugins import ADAPTERS, Plugins

if TYPE_CHECKING:
    from collections.abc import Iterator


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

    Who is at work and what it holds, what the dead left, the disks, the databases, the clock and every
    plugin; and what to do about each. It changes nothing. The exit status is 69 if something is wrong; a
    warning is nothing wrong.
    """
    rows = list(_findings())
    table(rows, ("subject", "state", "what"))
    return 69 if any(state == "wrong" for _, state, _ in rows) else 0


def _findings() -> Iterator[tuple[str, str, str]]:
    from theory.upkeep.doctor import signs  # noqa: PLC0415 - not for its neighbours

    yield "python", "ok", f"{platform.python_version()} at {sys.executable}"
    yield "sqlite", "ok", sqlite3.sqlite_version
    with Home() as home:
        for sign in signs(home):
            yield sign.subject, sign.state, f"{sign.message}{f': {sign.hint}' if sign.hint else ''}"
        for name, finding in home.plugins.diagnose():
            state = "ok" if finding.ok else "wrong"
            hint = f": {finding.hint}" if finding.hint and not finding.ok else ""
            yield f"{name}: {finding.subject}", state, finding.message + hint
