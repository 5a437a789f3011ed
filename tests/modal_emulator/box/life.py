"""One sandbox from its start to its end."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modal_proto import api_pb2

from modal_emulator.auth import jwt
from modal_emulator.billing import Billing, Used

from .images import Images
from .room import PIPE, Process, Room
from .spool import Spool
from .volumes import Volumes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from modal_emulator.world import World

Status = api_pb2.GenericResult
DEFAULT_CORES, DEFAULT_MEMORY = 0.125, 128  # what is charged at least; Modal's docs
TOKEN_LIFE = 20 * 60  # seconds that the router's token holds; guess
KILLED = 128 + signal.SIGKILL
ENDS = {  # how a sandbox can be killed from the control port: status and exit code; guess
    "crash": (Status.GENERIC_STATUS_FAILURE, KILLED),
    "preempt": (Status.GENERIC_STATUS_INTERNAL_FAILURE, KILLED),
    "oom": (Status.GENERIC_STATUS_KERNEL_OOM_KILL, KILLED),
}


@dataclass(eq=False)
class Sandbox:
    """A sandbox: what was asked for, where it runs, how it ended."""

    world: World
    sandbox_id: str
    task_id: str
    app_id: str
    definition: api_pb2.Sandbox
    tags: dict[str, str]
    environ: dict[str, str]
    created_at: float
    on_end: Callable[[Sandbox], Awaitable[None]]
    name: str = ""
    started_at: float = 0.0
    ended_at: float = 0.0
    ready_at: float = 0.0
    result: api_pb2.GenericResult = field(default_factory=api_pb2.GenericResult)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    _room: Room | None = None
    main: Process | None = None
    written: int = 0  # bytes that came for the standard input of its main command
    pieces: int = 0  # the same in messages, for V1
    busy: int = 0  # commands that run in it
    used_at: float = 0.0  # when the last of them ended
    tokens: set[str] = field(default_factory=set)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _pumps: list[asyncio.Task[None]] = field(default_factory=list)
    _ending: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        folder = self.world.folder
        self.stdout, self.stderr = Spool(folder), Spool(folder)

    @property
    def alive(self) -> bool:
        """Whether commands can be run in it."""
        return self._ending is None and self._room is not None

    @property
    def room(self) -> Room:
        """Where its commands run, while it is alive."""
        assert self._room is not None
        return self._room

    @property
    def image_workdir(self) -> str:
        """Where commands start that do not say where."""
        return self.definition.workdir or self.world.area(Images).require(self.definition.image_id).workdir

    async def start(self) -> None:
        """Make its room and start its command, or nothing where it has none."""
        wanted, world = self.definition, self.world
        built = world.area(Images).require(wanted.image_id)
        files = world.mounts.files(list(wanted.mount_ids))
        mounts = [(str(file.content), file.remote, True) for file in files]
        mounts += world.area(Volumes).mounts(wanted.volume_mounts)
        resources = wanted.resources
        self._room = await world.runner.room(
            wanted.image_id,
            mounts=mounts,
            cpu=resources.milli_cpu_max / 1000,
            memory=resources.memory_mb_max,
            network=wanted.network_access.network_access_type != api_pb2.NetworkAccess.BLOCKED,
            label=self.task_id,
        )
        self.started_at = self.used_at = world.now()
        self.environ = {
            "MODAL_SANDBOX_ID": self.sandbox_id,
            "MODAL_TASK_ID": self.task_id,
            "MODAL_IMAGE_ID": wanted.image_id,
            "MODAL_IS_REMOTE": "1",
            **self.environ,
        }
        argv = [*built.entrypoint, *(wanted.entrypoint_args or built.command)]
        if argv:
            self.main = await self.room.spawn(argv, self.environ, self.image_workdir, stdin=PIPE)
            self._tasks.append(asyncio.ensure_future(self._run(self.main)))
        else:  # guess: a sandbox with nothing to run waits for its end
            self.stdout.end()
            self.stderr.end()
        if wanted.timeout_secs:
            self._tasks.append(asyncio.ensure_future(self._time_out(wanted.timeout_secs)))
        if wanted.idle_timeout_secs:
            self._tasks.append(asyncio.ensure_future(self._idle_out(wanted.idle_timeout_secs)))

    async def _run(self, main: Process) -> None:
        """Wait for its main command: that is its end."""
        self._pumps = [
            asyncio.ensure_future(self._pump(1, main.stdout, self.stdout)),
            asyncio.ensure_future(self._pump(2, main.stderr, self.stderr)),
        ]
        code = await main.wait()
        await asyncio.wait(self._pumps, timeout=1)  # what it started may hold its streams open
        if code == -signal.SIGKILL and self.room.oomed():
            self.end(Status.GENERIC_STATUS_KERNEL_OOM_KILL, KILLED)
        elif code == 0:
            self.end(Status.GENERIC_STATUS_SUCCESS, 0)
        else:
            self.end(Status.GENERIC_STATUS_FAILURE, code if code > 0 else 128 - code)

    async def _pump(self, fd: int, source: object, spool: Spool) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        try:
            async for data in source:  # type: ignore[attr-defined]  # an async iterator of bytes
                spool.append(data)
                if text := decoder.decode(data):
                    self.world.logs.write(self.app_id, self.task_id, fd, text, sandbox_id=self.sandbox_id)
        finally:
            spool.end()

    async def _time_out(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.end(Status.GENERIC_STATUS_TIMEOUT, 124)

    async def _idle_out(self, seconds: float) -> None:
        while (left := self.used_at + seconds - self.world.now()) > 0 or self.busy:  # noqa: ASYNC110 - used_at moves
            await asyncio.sleep(max(left, 0.1))
        self.end(Status.GENERIC_STATUS_IDLE_TIMEOUT, 124)  # guess: its exit code

    def end(self, status: int, code: int, reason: str = "") -> None:
        """Begin its end, unless that has begun."""
        if self._ending is None:
            result = api_pb2.GenericResult(status=status, exitcode=code, exception=reason)  # type: ignore[arg-type]  # an enum's number
            self._ending = asyncio.ensure_future(self._end(result))

    async def _end(self, result: api_pb2.GenericResult) -> None:
        if self._room is not None:
            await self._room.close()
        if self._pumps:
            await asyncio.wait(self._pumps)  # all who could write are gone
        self.stdout.end()
        self.stderr.end()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self.ended_at = self.world.now()
        self._charge()
        self.result = result
        self.ended.set()
        await self.on_end(self)

    async def gone(self) -> None:
        """Wait until nothing of it is left."""
        if self._ending is not None:
            await self._ending

    async def close(self) -> None:
        """End it and forget what it printed."""
        self.end(Status.GENERIC_STATUS_TERMINATED, KILLED)
        await self.gone()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self.stdout.close()
        self.stderr.close()

    def access(self) -> tuple[str, str]:
        """Where commands are sent, and the token that opens it."""
        token = jwt({"task_id": self.task_id, "exp": self.world.now() + TOKEN_LIFE})
        self.tokens.add(token)
        return self.world.urls.router, token

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return (self.ended_at or self.world.now()) - self.started_at if self.started_at else 0.0

    def used(self) -> Used:
        """What it is charged for."""
        resources = self.definition.resources
        gpu = resources.gpu_config
        return Used(
            app_id=self.app_id,
            started_at=self.started_at,
            seconds=self.seconds,
            cores=resources.milli_cpu / 1000 or DEFAULT_CORES,
            memory=resources.memory_mb or DEFAULT_MEMORY,
            gpu=gpu.gpu_type,
            gpus=gpu.count,
            sandbox=True,
        )

    def _charge(self) -> None:
        if self.started_at:
            self.world.area(Billing).use(self.used())

    def shown(self) -> dict[str, object]:
        """What the control port tells of it."""
        return {
            "id": self.sandbox_id,
            "task": self.task_id,
            "app": self.app_id,
            "name": self.name,
            "tags": self.tags,
            "image": self.definition.image_id,
            "alive": self.alive,
            "status": Status.GenericStatus.Name(self.result.status),
            "exit_code": self.result.exitcode,
            "created_at": self.created_at,
            "seconds": self.seconds,
        }
