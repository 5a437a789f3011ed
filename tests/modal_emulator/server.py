"""Puts the areas together and opens the doors."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from aiohttp import web
from modal_proto.api_grpc import ModalClientBase
from modal_proto.task_command_router_grpc import TaskCommandRouterBase

from .apps import Apps
from .auth import Auth
from .billing import Billing
from .blobs import Blobs
from .box import AREAS as BOX_AREAS
from .box import make_runner
from .control import control
from .door import HOST, Door
from .environments import Environments
from .functions import AREAS as FUNCTION_AREAS
from .logs import Logs
from .mounts import Mounts
from .rpc import Dispatcher, handlers_of
from .secrets import Secrets
from .world import World, grpc

DEFAULT_TOKEN = ("ak-emulator", "as-emulator")


class Emulator:
    """The whole server: `async with Emulator(...) as emulator: emulator.world.urls.server`."""

    def __init__(
        self,
        *,
        port: int = 0,
        control_port: int = 0,
        folder: Path | None = None,
        runner: str = "process",
        token: tuple[str, str] = DEFAULT_TOKEN,
    ) -> None:
        self._ports = {"server": port, "router": 0, "blobs": 0, "control": control_port}
        self._folder = folder
        self._runner = runner
        self._token = token
        self._closing = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Emulator:  # noqa: PYI034 - Self is of Python 3.11
        try:
            await self._open()
        except BaseException:
            await self._closing.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()

    async def _open(self) -> None:
        folder = self._folder
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="modal-emulator-"))
            self._closing.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        world = self.world = World(folder.resolve(), self._token)
        world.apps, world.blobs, world.logs = Apps(world), Blobs(world), Logs(world)
        world.mounts, world.secrets = Mounts(world), Secrets(world)
        world.areas = [world.apps, world.blobs, world.logs, world.mounts, world.secrets]
        for area in (Auth, Environments, Billing, *BOX_AREAS, *FUNCTION_AREAS):
            world.areas.append(area(world))
        world.runner = make_runner(self._runner, world)
        for area in world.areas:
            world.handlers.update(handlers_of(area))
        await self._open_doors(world)
        for area in world.areas:
            await self._opened(area)
        await self._opened(world.runner)

    async def _opened(self, part: Any) -> None:
        if hasattr(part, "open"):
            await part.open()
        if hasattr(part, "close"):
            self._closing.push_async_callback(part.close)

    async def _open_doors(self, world: World) -> None:
        for name, behind in (
            ("server", grpc(Dispatcher(world, ModalClientBase, "server"))),
            ("router", grpc(Dispatcher(world, TaskCommandRouterBase, "router"))),
            ("blobs", await self._web(self._bucket(world))),
            ("control", await self._web(control(world))),
        ):
            door = Door(name, behind)
            await door.open(self._ports[name])
            self._closing.push_async_callback(door.close)
            setattr(world.urls, name, f"http://{HOST}:{door.port}")
            if name != "control":
                world.doors[name] = door

    def _bucket(self, world: World) -> web.Application:
        app = web.Application(client_max_size=0)
        for area in world.areas:
            if hasattr(area, "routes"):
                app.router.add_routes(area.routes())
        return app

    async def _web(self, app: web.Application) -> Any:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self._closing.push_async_callback(runner.cleanup)
        return runner.server
