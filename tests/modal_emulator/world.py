"""What all areas share: names, tokens, folders, doors, and each other."""

from __future__ import annotations

import asyncio
import secrets
import string
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from grpclib import GRPCError, Status
from grpclib.encoding.proto import ProtoCodec
from grpclib.server import Server

from .faults import Details, Faults
from .journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable

    from modal_proto import api_pb2

    from .apps import Apps
    from .blobs import Blobs
    from .door import Door
    from .logs import Logs
    from .mounts import Mounts
    from .rpc import Answered, Dispatcher
    from .secrets import Secrets

BASE62 = string.ascii_letters + string.digits
Area = TypeVar("Area")


@dataclass
class Urls:
    """Where the doors are."""

    server: str = ""
    router: str = ""
    blobs: str = ""
    control: str = ""


@dataclass
class Settings:
    """What tests may change while it runs (POST /settings); a reset puts them back."""

    crash_retries: int = 3  # times that an input is given out again after its container crashed; guess
    crash_pause: float = 0.1  # seconds before it is, doubled each time; guess
    most_containers: int = 10  # of one function; Modal's own limits are higher
    preempt_grace: float = 30.0  # seconds between SIGINT and SIGKILL; Modal's docs


class World:
    """One emulated workspace."""

    apps: Apps
    blobs: Blobs
    logs: Logs
    mounts: Mounts
    secrets: Secrets
    runner: Any  # box.Runner: starts containers

    def __init__(self, folder: Path, token: tuple[str, str]) -> None:
        self.folder = folder
        self.token = token
        self.urls = Urls()
        self.settings = Settings()
        self.journal = Journal()
        self.faults = Faults()
        self.doors: dict[str, Door] = {}
        self.areas: list[Any] = []
        self.handlers: dict[str, Callable[..., Any]] = {}
        self.answered: Answered = OrderedDict()

    def area(self, kind: type[Area]) -> Area:
        """The one instance of an area."""
        return next(area for area in self.areas if isinstance(area, kind))

    @staticmethod
    def new_id(prefix: str) -> str:
        """An id as Modal spells them: a prefix of its kind and 22 characters."""
        return f"{prefix}-{''.join(secrets.choice(BASE62) for _ in range(22))}"

    @staticmethod
    def now() -> float:
        """Seconds since 1970."""
        return time.time()

    async def listen(self, dispatcher: Dispatcher, path: Path) -> asyncio.AbstractServer:
        """Answer gRPC on a unix socket: one a container, whose calls do not say who they are."""
        return await asyncio.get_running_loop().create_unix_server(grpc(dispatcher), str(path))

    def describe(self, one: api_pb2.Object) -> None:
        """Add to an object of a layout what its handle is made of, where an area knows it."""
        for area in self.areas:
            if hasattr(area, "describe"):
                area.describe(one)

    def volume_folder(self, volume_id: str, sub_path: str = "") -> Path:
        """Where the files of a volume are.

        Raises:
            GRPCError: NOT_FOUND.
        """
        for area in self.areas:
            if hasattr(area, "volume_folder"):
                return Path(area.volume_folder(volume_id)) / sub_path
        raise GRPCError(Status.NOT_FOUND, f"Volume {volume_id} not found")

    async def flowing(self, door: str) -> None:
        """Wait while a door is stalled."""
        if door in self.doors:
            await self.doors[door].flowing()


def grpc(dispatcher: Dispatcher) -> Callable[[], Any]:
    """What answers gRPC on one connection."""
    server = Server([dispatcher], codec=ProtoCodec(), status_details_codec=Details())
    return server._protocol_factory  # noqa: SLF001 - a door brings its own listener
