"""``theory config`` and ``theory schema``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from theory import config as settings
from theory.cli.show import answer, table
from theory.errors import Usage

_SCHEMAS = Path(__file__).parents[1] / "formats"


@click.command()
def config() -> None:
    """Show each setting and where it came from."""
    rows = []
    for setting in settings.load().origins:
        value = setting.value
        shown = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        rows.append((setting.key, "" if shown is None else str(shown), setting.origin))
    table(rows, ("setting", "value", "from"))


@click.command()
@click.argument("name")
def schema(name: str) -> None:
    """Print the JSON Schema of a document.

    NAME is entry, envelope, index or receipt.
    """
    known = sorted(file.name.removesuffix(".schema.json") for file in _SCHEMAS.glob("*.schema.json"))
    if name not in known:
        raise Usage(f"no schema is called {name[:100]!r}", hint=f"there are {', '.join(known)}")
    answer(json.loads((_SCHEMAS / f"{name}.schema.json").read_text("utf-8")), as_json=False)
