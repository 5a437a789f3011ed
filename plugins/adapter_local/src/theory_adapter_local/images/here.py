"""What images an engine has, and for which platform they are."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from theory_adapter_local.engine.client import Refused
from theory_adapter_local.images.platforms import fits, normal_platform
from theory_adapter_local.images.source import asked_platform

if TYPE_CHECKING:
    from collections.abc import Mapping

    from theory_adapter_local.engine.client import Engine
    from theory_adapter_local.images.source import Source
    from theory_adapter_local.options import Options

CONTEXT_LABEL = "theory.context"  # of an image that we built: the cid of what it was built from


def find_image(engine: Engine, source: Source, options: Options) -> Mapping[str, Any] | None:
    """What the engine says of this image if it has one that may be used."""
    found = inspect_image(engine, source.reference.full)
    if found is None or not is_for(engine, found, asked_platform(options)):
        return None
    labels = (found.get("Config") or {}).get("Labels") or {}
    if source.context and labels.get(CONTEXT_LABEL) != source.context:
        return None  # somebody gave our tag to another image
    return found


def inspect_image(engine: Engine, name: str) -> Mapping[str, Any] | None:
    """What the engine says of the image of this name."""
    try:
        found: Mapping[str, Any] = engine.call("GET", f"/images/{name}/json")
    except Refused as error:
        if error.status == 404:  # noqa: PLR2004 - HTTP
            return None
        raise
    return found


def image_platform(found: Mapping[str, Any]) -> str:
    """What an image is for."""
    parts = (found.get("Os") or "linux", found.get("Architecture"), found.get("Variant"))
    return normal_platform("/".join(filter(None, parts)))


def platform_of(engine: Engine) -> str:
    """What the engine runs without emulation."""
    version = engine.version()
    return normal_platform(f"{version.get('Os')}/{version.get('Arch')}")


def is_for(engine: Engine, found: Mapping[str, Any], asked: str) -> bool:
    """Whether an image is for the platform asked for or, where that is "", for the engine's own."""
    platform = image_platform(found)
    if asked:
        return fits(platform, asked)
    if engine.is_local and fits(platform, normal_platform(f"linux/{os.uname().machine}")):
        return True  # as nearly always; asking the engine takes 9 ms (Docker 20.10, 2026-11)
    return fits(platform, platform_of(engine))


def not_found(full: str) -> str:
    """The message, word for word as the requirements have it."""
    return f"Unable to find image '{full}'"
