"""What runs the containers of functions and sandboxes: each gets a room, and its command runs in there."""

from __future__ import annotations

import asyncio
import shlex
import subprocess
from typing import TYPE_CHECKING

from .build import build, record
from .engine import Containers
from .images import Built, Images
from .machine import Machine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from modal_emulator.world import World

    from .dockerfile import Said
    from .room import Mounts, Process, Room

TEMPORARY = "modal-emulator-"  # how the name of a scratch folder begins that the emulator made itself


class Runner:
    """Docker containers, or private corners of this machine."""

    def __init__(self, kind: str, world: World) -> None:
        self._world = world
        self.rooms = Containers(world) if kind == "docker" else Machine(world)
        self._watchdog: subprocess.Popen[bytes] | None = None

    @property
    def isolated(self) -> bool:
        """Whether containers have a file system of their own; else paths are this machine's."""
        return self.rooms.isolated

    async def open(self) -> None:
        """Get ready, with a process beside that tidies up when this one's end ends its input."""
        await self.rooms.open()
        tidy = f"cat >/dev/null; {self.rooms.left_overs}"
        if self._world.folder.name.startswith(TEMPORARY):
            tidy += f"; rm -rf {shlex.quote(str(self._world.folder))}"
        self._watchdog = subprocess.Popen(  # noqa: ASYNC220 - milliseconds, before anybody is served
            ["/bin/sh", "-c", tidy],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    async def close(self) -> None:
        await self.rooms.close()
        if self._watchdog is not None:
            assert self._watchdog.stdin is not None
            self._watchdog.stdin.close()
            await asyncio.to_thread(self._watchdog.wait)

    async def room(
        self,
        image_id: str,
        *,
        mounts: Mounts = (),
        cpu: float = 0,
        memory: int = 0,
        network: bool = True,
        label: str = "",
    ) -> Room:
        """A room of an image, with nothing running in it.

        Args:
            image_id: the image.
            mounts: what of this machine is seen in it.
            cpu: cores at most, 0 for no limit; not kept by "process".
            memory: MiB at most, 0 for no limit; not kept by "process".
            network: all of this machine's, its loopback included, or none.
            label: a name that no other room has.
        """
        built = self._world.area(Images).require(image_id)
        return await self.rooms.room(
            built, mounts=mounts, cpu=cpu, memory=memory, network=network, label=label
        )

    async def start(
        self,
        image_id: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        mounts: Mounts = (),
        workdir: str = "",
        cpu: float = 0,
        memory: int = 0,
        *,
        network: bool = True,
        label: str = "",
    ) -> Process:
        """A command in a room of its own; closing the process removes the room. Arguments as in `room`."""
        room = await self.room(image_id, mounts=mounts, cpu=cpu, memory=memory, network=network, label=label)
        try:
            built = self._world.area(Images).require(image_id)
            process = await room.spawn(argv, env, workdir or built.workdir)
        except BaseException:
            await room.close()
            raise
        process.after = room.close
        return process

    async def build(self, built: Built) -> Said:
        """Make an image, or write down that it was asked for; what its containers start with."""
        if isinstance(self.rooms, Containers):
            return await build(self._world, self.rooms.engine, built)
        return await record(self._world, built)
