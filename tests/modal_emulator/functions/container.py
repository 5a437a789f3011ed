"""One container: the real worker program of Modal, on a socket of its own."""

from __future__ import annotations

import asyncio
import codecs
import importlib.util
import shutil
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modal_proto import api_pb2
from modal_proto.api_grpc import ModalClientBase

from modal_emulator.billing import Billing, Used
from modal_emulator.rpc import Dispatcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from modal_emulator.world import World

    from .calls import Input
    from .definitions import Definition

INSIDE = "/__modal"  # where a container that has a file system of its own finds what is ours
ENTRYPOINT = ("-m", "modal._container_entrypoint")
NO_LIMIT = 1 << 30  # bytes: results are sent in messages by containers that have no network
DEFAULT_CORES, DEFAULT_MEMORY = 0.125, 128  # Modal's docs


@dataclass(eq=False)
class Container:
    """A worker process and what it works on."""

    task_id: str
    definition: Definition
    world: World
    enqueued_at: float
    started_at: float = 0.0  # its first question for inputs
    running: dict[str, Input] = field(default_factory=dict)
    waiting: asyncio.Future[list[Input]] | None = None  # it waits for inputs; none: it is to end
    last: Input | None = None
    cancelled: set[str] = field(default_factory=set)
    heard: asyncio.Event = field(default_factory=asyncio.Event)  # there is something in `cancelled`
    draining: bool = False
    ending: str = ""  # why it was killed: crash, preempt, oom, timeout, cancel, stop
    failure: api_pb2.GenericResult | None = None  # it could not start
    exit_code: int | None = None
    _process: Any = None
    _server: asyncio.AbstractServer | None = None
    _pumps: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Its socket, arguments and sources; a short name, since a socket's path has at most 107 bytes."""
        return self.world.folder / "t" / self.task_id[3:13]

    async def run(self) -> int:
        """Start it and wait for its end; nothing of it is left then."""
        try:
            await self._start()
            self.exit_code = await self._process.wait()
            await asyncio.gather(*self._pumps)
        finally:
            await self._clean_up()
        return self.exit_code

    async def kill(self, why: str, number: int = signal.SIGKILL) -> None:
        """End it from outside."""
        self.ending = self.ending or why
        if self._process is not None and self.exit_code is None:
            await self._process.kill(number)

    async def _start(self) -> None:
        world, proto = self.world, self.definition.proto
        self.folder.mkdir(parents=True)
        (self.folder / "args").write_bytes(self._arguments().SerializeToString())
        dispatcher = Dispatcher(world, ModalClientBase, "container", self.task_id)
        self._server = await world.listen(dispatcher, self.folder / "api")
        isolated = world.runner.isolated
        ours = Path(INSIDE) if isolated else self.folder
        mounts = [(self.folder, INSIDE, True)] if isolated else []
        mounts += self._sources(isolated=isolated) + self._volumes()
        environ = {
            "MODAL_SERVER_URL": f"unix://{ours}/api",
            "MODAL_CONTAINER_ARGUMENTS_PATH": f"{ours}/args",
            "MODAL_IS_REMOTE": "1",
            "MODAL_TASK_ID": self.task_id,
            "MODAL_IMAGE_ID": proto.image_id,
            "MODAL_ENVIRONMENT": world.apps.require(self.definition.app_id).environment,
            "MODAL_CONFIG_PATH": "/dev/null",
            "PYTHONUNBUFFERED": "1",
        }
        if isolated:
            mounts.append((_site_packages(), f"{INSIDE}-packages", True))
            environ["PYTHONPATH"] = f"/root:{INSIDE}-packages"
        else:
            environ["PYTHONPATH"] = str(self.folder.joinpath("root", "root"))
        environ |= world.secrets.environment(proto.secret_ids)
        resources = proto.resources
        self._process = await world.runner.start(
            proto.image_id,
            [("python" if isolated else sys.executable), *ENTRYPOINT],
            environ,
            mounts=[(str(source), target, read_only) for source, target, read_only in mounts],
            workdir="",
            cpu=resources.milli_cpu_max / 1000,  # a request is no limit
            memory=resources.memory_mb_max,
            network=not proto.block_network,
            label=self.task_id,
        )
        if self.ending:  # killed while it started
            await self._process.kill(signal.SIGKILL)
        self._pumps = [
            asyncio.ensure_future(self._pump(1, self._process.stdout)),
            asyncio.ensure_future(self._pump(2, self._process.stderr)),
        ]

    def _arguments(self) -> api_pb2.ContainerArguments:
        made, world = self.definition, self.world
        layout = world.apps.layout_of(world.apps.require(made.app_id))
        layout.function_ids[made.proto.function_name] = made.function_id
        known = {one.object_id for one in layout.objects}
        if made.function_id not in known:
            layout.objects.add(object_id=made.function_id, function_handle_metadata=made.metadata)
        for dependency in made.proto.object_dependencies:
            if dependency.object_id not in known:
                one = layout.objects.add(object_id=dependency.object_id)
                world.describe(one)
        if made.proto.block_network:  # it cannot reach the bucket
            for one in layout.objects:
                if one.object_id == made.function_id:
                    one.function_handle_metadata.max_object_size_bytes = NO_LIMIT
                    one.function_handle_metadata.max_async_object_size_bytes = NO_LIMIT
        return api_pb2.ContainerArguments(
            task_id=self.task_id,
            function_id=made.function_id,
            app_id=made.app_id,
            function_def=made.proto,
            serialized_params=made.serialized_params,
            app_layout=layout,
            environment_name=world.apps.require(made.app_id).environment,
        )

    def _sources(self, *, isolated: bool) -> list[tuple[Path, str, bool]]:
        """The files of its mounts: bound one by one, or laid out in its folder where paths are the host's."""
        files = self.world.mounts.files(list(self.definition.proto.mount_ids))
        if isolated:
            return [(file.content, file.remote, True) for file in files]
        for file in files:
            path = self.folder / "root" / file.remote.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.content, path)
            path.chmod(file.mode)
        return []

    def _volumes(self) -> list[tuple[Path, str, bool]]:
        return [
            (self.world.volume_folder(mount.volume_id, mount.sub_path), mount.mount_path, mount.read_only)
            for mount in self.definition.proto.volume_mounts
        ]

    async def _pump(self, fd: int, stream: AsyncIterator[bytes]) -> None:
        """Write down what it prints, as said by the input that it works on or worked on last."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        made = self.definition
        async for piece in stream:
            if text := decoder.decode(piece):
                one = self.last
                self.world.logs.write(
                    made.app_id,
                    self.task_id,
                    fd,
                    text,
                    function_id=made.function_id,
                    function_call_id=one.call.call_id if one else "",
                    input_id=one.input_id if one else "",
                )

    async def _clean_up(self) -> None:
        if self._process is not None:
            await self._process.close()
        for pump in self._pumps:
            pump.cancel()
        if self._server is not None:
            self._server.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        resources = self.definition.proto.resources
        self.world.area(Billing).use(
            Used(
                self.definition.app_id,
                self.enqueued_at,
                self.world.now() - self.enqueued_at,
                resources.milli_cpu / 1000 or DEFAULT_CORES,
                resources.memory_mb or DEFAULT_MEMORY,
                resources.gpu_config.gpu_type,
                resources.gpu_config.count,
            )
        )


def _site_packages() -> Path:
    """The folder that holds the client which this interpreter has, and all that it needs."""
    found = importlib.util.find_spec("modal_proto")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent.parent
