"""Sandboxes, images, volumes, and what runs containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .images import Images
from .router import Router
from .runner import Runner
from .sandboxes import Sandboxes
from .v1 import SandboxesV1
from .volume_files import VolumeFiles
from .volumes import Volumes

if TYPE_CHECKING:
    from modal_emulator.world import World

AREAS: tuple[type, ...] = (Images, Volumes, VolumeFiles, Sandboxes, SandboxesV1, Router)


def make_runner(kind: str, world: World) -> Runner:
    """What runs containers: "docker" or "process"."""
    return Runner(kind, world)
