"""The control port: HTTP and JSON for tests, that Modal has nothing like."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .world import Settings

if TYPE_CHECKING:
    from .world import World

Handler = Callable[[web.Request], Awaitable[web.Response]]


def control(world: World) -> web.Application:
    """The application behind the control port."""
    app = web.Application()
    port = _Control(world)
    app.router.add_get("/requests", port.requests)
    app.router.add_get("/unknown", port.unknown)
    app.router.add_get("/faults", port.faults)
    app.router.add_post("/faults", _checked(port.add_fault))
    app.router.add_post("/cut", _checked(port.cut))
    app.router.add_post("/kill", _checked(port.kill))
    app.router.add_post("/expire", _checked(port.expire))
    app.router.add_post("/redeliver", _checked(port.redeliver))
    app.router.add_post("/settings", _checked(port.settings))
    app.router.add_post("/calm", _checked(port.calm))
    app.router.add_post("/reset", _checked(port.reset))
    app.router.add_get("/{what}", port.shown)
    return app


def _checked(handler: Callable[[dict[str, Any]], Awaitable[Any]]) -> Handler:
    """Answer 400 with the reason where the body is not what was meant, 404 where nothing is meant by it."""

    async def answer(request: web.Request) -> web.Response:
        try:
            body = await request.json() if request.can_read_body else {}
            return web.json_response(await handler(body))
        except LookupError as error:
            if isinstance(error, KeyError):
                return web.json_response({"error": f"missing or unknown: {error}"}, status=400)
            return web.json_response({"error": str(error)}, status=404)
        except (ValueError, TypeError, json.JSONDecodeError) as error:
            return web.json_response({"error": str(error)}, status=400)

    return answer


class _Control:
    def __init__(self, world: World) -> None:
        self._world = world

    async def requests(self, request: web.Request) -> web.Response:
        """The log; `?method=A,B` and `?since=<time>` choose."""
        lines = self._world.journal.lines
        if wanted := request.query.get("method"):
            lines = [line for line in lines if line["method"] in wanted.split(",")]
        since = float(request.query.get("since", "0"))
        return web.json_response([line for line in lines if line["at"] >= since])

    async def unknown(self, _: web.Request) -> web.Response:
        return web.json_response(self._world.journal.unknowns)

    async def faults(self, _: web.Request) -> web.Response:
        return web.json_response([asdict(fault) for fault in self._world.faults.listed])

    async def add_fault(self, asked: dict[str, Any]) -> Any:
        return asdict(self._world.faults.add(asked))

    async def cut(self, asked: dict[str, Any]) -> Any:
        """{"seconds": s, "doors": ["server", "router", "blobs"], "how": "refuse" | "hole" | "drop"}."""
        seconds, how = float(asked.get("seconds", 0)), asked.get("how", "refuse")
        doors = [self._world.doors[name] for name in asked.get("doors", self._world.doors)]
        for door in doors:
            if how == "hole":
                await door.stall(seconds)
            elif how == "drop":
                door.drop()
            elif how == "refuse":
                await door.cut(seconds)
            else:
                raise ValueError(f"a connection is cut by refuse, hole or drop, not by {how!r}")
        return {"cut": [door.name for door in doors]}

    async def kill(self, asked: dict[str, Any]) -> Any:
        """{"container" | "sandbox": id, "how": "crash" | "preempt" | "oom"}."""
        how = asked.get("how", "crash")
        for area in self._world.areas:
            if hasattr(area, "kill") and await area.kill(asked, how):
                return {"killed": asked}
        raise IndexError(f"nothing lives that is {asked}")

    async def expire(self, asked: dict[str, Any]) -> Any:
        """{"call": id}: its results are gone, as if it were a week later."""
        for area in self._world.areas:
            if hasattr(area, "expire") and area.expire(asked["call"]):
                return {"expired": asked["call"]}
        raise IndexError(f"no such call: {asked['call']}")

    async def redeliver(self, asked: dict[str, Any]) -> Any:
        """{"call": id}: what runs of it is given out once more, as when a worker is not heard of for long."""
        for area in self._world.areas:
            if hasattr(area, "redeliver") and area.redeliver(asked["call"]):
                return {"redelivered": asked["call"]}
        raise IndexError(f"nothing runs of {asked['call']}")

    async def settings(self, asked: dict[str, Any]) -> Any:
        """Fields of `world.Settings`, until the next reset."""
        self._world.settings = replace(self._world.settings, **asked)
        return asdict(self._world.settings)

    async def calm(self, _: dict[str, Any]) -> Any:
        """No more faults; cuts end now. What was made stays."""
        self._world.faults.reset()
        for door in self._world.doors.values():
            await door.mend()
        return {}

    async def reset(self, _: dict[str, Any]) -> Any:
        """Forget faults, log and nearly all that was made; end all that runs.

        Kept is what clients remember by its id as long as they live, since it never changes: mounts, images,
        nameless secrets, the default environment.
        """
        world = self._world
        await self.calm({})
        world.settings = Settings()
        for area in reversed(world.areas):  # what runs before what it stands on
            if hasattr(area, "reset"):
                done = area.reset()
                if inspect.isawaitable(done):
                    await done
        world.answered.clear()
        world.journal.reset()
        return {}

    async def shown(self, request: web.Request) -> web.Response:
        """What lives: /sandboxes, /functions, /containers, /calls, /apps, ..., each shown by its area."""
        what = request.match_info["what"]
        for area in self._world.areas:
            found = area.shown() if hasattr(area, "shown") else {}
            if what in found:
                return web.json_response(found[what])
        return web.json_response({"error": f"nothing is called {what}"}, status=404)
