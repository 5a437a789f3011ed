"""Options that several commands have."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from theory import config
from theory.errors import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from theory.config import Settings


def store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--store``, for what reads or writes blobs."""
    return click.option("--store", metavar="URL", help="Where blobs are kept.  [default: below THEORY_HOME]")(
        command
    )


def settings_of(store: str | None, registries: tuple[str, ...] = ()) -> Settings:
    """The settings that hold here, under what the command line says.

    Raises:
        Usage: An option is empty, or the configuration is faulty.
    """
    refuse_empty({"store": store, "registry": registries})
    settings = config.load()
    if store is not None:
        settings = dataclasses.replace(settings, store=config.store_url(store, Path()))
    if registries:
        named = tuple(Path(os.path.abspath(folder)) for folder in registries)
        settings = dataclasses.replace(settings, named_registries=(*named, *settings.named_registries))
    return settings


def refuse_empty(given: Mapping[str, object]) -> None:
    """Refuse an option that was given nothing: most often a variable of a script that is not set.

    Raises:
        Usage: Which one.
    """
    for name, value in given.items():
        if value == "" or (isinstance(value, tuple) and "" in value):
            option = "REF" if name == "ref_argument" else _SHORT.get(name, "--" + name.replace("_", "-"))
            raise Usage(f"{option} is empty", hint="give it a value, or leave it out")


_SHORT = {
    "options": "-o",
    "attachments": "--attach",
    "registries": "--registry",
    "folders": "DIR",
    "key": "KEY",
    "what": "A|REF",
    "other": "B",
}
