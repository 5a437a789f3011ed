"""Images: asked for by their content, built once, with a log that can be followed."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from grpclib import GRPCError, Status
from modal_proto import api_pb2

from modal_emulator.rpc import Call, answers
from modal_emulator.world import BASE62

from .dockerfile import Said

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from modal_emulator.world import World

Result = api_pb2.GenericResult
BUILDER = "ap-builder"  # whose containers build
HELD = 55.0  # seconds that a question for the log is held open; the client's own figure


@dataclass(eq=False)
class Built:
    """An image, from the first question for it on."""

    image_id: str
    proto: api_pb2.Image
    tag: str  # the engine's name for it
    builder: str  # the version of Modal's way to build
    afresh: bool = False  # take no layer from a cache
    said: Said = field(default_factory=Said)
    result: api_pb2.GenericResult = field(default_factory=api_pb2.GenericResult)
    log: list[str] = field(default_factory=list)
    began: float = 0.0  # unix seconds
    ended: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def environ(self) -> dict[str, str]:
        return self.said.environ

    @property
    def entrypoint(self) -> list[str]:
        return self.said.entrypoint

    @property
    def command(self) -> list[str]:
        return self.said.command

    @property
    def workdir(self) -> str:
        return self.said.workdir

    def tell(self, text: str) -> None:
        """Add to the log."""
        self.log.append(text)
        self.wake()

    def wake(self) -> None:
        """Something is new."""
        self.changed.set()
        self.changed = asyncio.Event()

    def metadata(self) -> api_pb2.ImageMetadata:
        return api_pb2.ImageMetadata(workdir=self.workdir, image_builder_version=self.builder)


class Images:
    """All images of the workspace since the start or the last reset."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._images: dict[str, Built] = {}

    async def reset(self) -> None:
        """Forget what is not built. Clients hold the ids of the others for as long as they live."""
        tasks = [built.task for built in self._images.values() if built.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        good = Result.GENERIC_STATUS_SUCCESS
        self._images = {name: built for name, built in self._images.items() if built.result.status == good}

    async def close(self) -> None:
        await self.reset()

    def shown(self) -> dict[str, list[dict[str, object]]]:
        return {
            "images": [
                {
                    "id": built.image_id,
                    "tag": built.tag,
                    "status": Result.GenericStatus.Name(built.result.status),
                    "commands": list(built.proto.dockerfile_commands),
                }
                for built in self._images.values()
            ]
        }

    def require(self, image_id: str) -> Built:
        """An image that was built.

        Raises:
            GRPCError: NOT_FOUND, or FAILED_PRECONDITION while it is not ready.
        """
        if image_id not in self._images:
            raise GRPCError(Status.NOT_FOUND, f"Image {image_id} not found")
        built = self._images[image_id]
        if built.result.status != Result.GENERIC_STATUS_SUCCESS:
            raise GRPCError(Status.FAILED_PRECONDITION, f"Image {image_id} is not built")
        return built

    @answers("ImageGetOrCreate", once=True)
    async def get_or_create(
        self, request: api_pb2.ImageGetOrCreateRequest, call: Call
    ) -> api_pb2.ImageGetOrCreateResponse:
        """An image by its content: with its result if it was built, else its build is begun."""
        if request.app_id:
            self._world.apps.require(request.app_id)
        for base in request.image.base_images:
            self.require(base.image_id)
        afresh = request.force_build or request.ignore_cache
        digest = self._digest(request.image, request.builder_version)
        image_id = self._world.new_id("im") if afresh else f"im-{_base62(digest)}"
        known = self._images.get(image_id)
        failed = known is not None and known.result.status > Result.GENERIC_STATUS_SUCCESS
        if known is None or failed:
            tag = f"theory-emulator:{digest[:40]}"
            known = Built(image_id, request.image, tag, request.builder_version, afresh)
            self._images[image_id] = known
            known.task = asyncio.ensure_future(self._build(known))
        call.note(image=image_id, commands=list(request.image.dockerfile_commands))
        if not known.result.status:
            return api_pb2.ImageGetOrCreateResponse(image_id=image_id)
        return api_pb2.ImageGetOrCreateResponse(
            image_id=image_id, result=known.result, metadata=known.metadata()
        )

    def _digest(self, image: api_pb2.Image, builder: str) -> str:
        """SHA-256 of all that a build can see."""
        seen = hashlib.sha256(builder.encode())
        named = api_pb2.Image()
        named.CopyFrom(image)
        named.context_mount_id = ""
        named.secret_ids.clear()
        seen.update(named.SerializeToString(deterministic=True))
        for file in self.context(image):
            seen.update(f"\0{file[0]}\0{file[1]}\0{file[2]:o}".encode())
        for pair in sorted(self._world.secrets.environment(image.secret_ids).items()):
            seen.update(repr(pair).encode())
        return seen.hexdigest()

    def context(self, image: api_pb2.Image) -> list[tuple[str, str, int]]:
        """The files that a build can copy: their names, where their content is, their modes."""
        if not image.context_mount_id:
            return []
        files = self._world.mounts.files([image.context_mount_id])
        return sorted((file.remote.lstrip("/"), str(file.content), file.mode) for file in files)

    async def _build(self, built: Built) -> None:
        built.began = self._world.now()
        try:
            if built.proto.HasField("build_function"):
                raise BuildFailed("the emulator runs no build functions")  # noqa: TRY301 - told as a failure
            built.said = await self._world.runner.build(built)
        except BuildFailed as failure:
            result = Result(status=Result.GENERIC_STATUS_FAILURE, exception=str(failure))
        except asyncio.CancelledError:
            built.result = Result(status=Result.GENERIC_STATUS_TERMINATED)
            built.wake()
            raise
        except Exception as error:  # noqa: BLE001 - the engine went away, the disk is full, …
            result = Result(
                status=Result.GENERIC_STATUS_FAILURE, exception=f"{type(error).__name__}: {error}"
            )
        else:
            result = Result(status=Result.GENERIC_STATUS_SUCCESS)
        for text in built.log:
            self._world.logs.write(BUILDER, f"ta-{built.image_id}", 1, text)
        built.ended = self._world.now() + 0.001  # what is asked for ends before it
        built.result = result
        built.wake()

    @answers("ImageBuildChainGet")
    async def chain(self, request: api_pb2.ImageBuildChainGetRequest) -> api_pb2.ImageBuildChainGetResponse:
        """Where the log of a build is; guess: one step for all of an image."""
        built = self._images.get(request.image_id)
        if built is None:
            raise GRPCError(Status.NOT_FOUND, f"Image {request.image_id} not found")
        step = api_pb2.ImageBuildStep(
            image_id=built.image_id, builder_app_id=BUILDER, builder_task_id=f"ta-{built.image_id}"
        )
        step.started_at.FromNanoseconds(int(built.began * 1e9))
        step.finished_at.FromNanoseconds(int((built.ended or self._world.now()) * 1e9))
        return api_pb2.ImageBuildChainGetResponse(build_steps=[step])

    @answers("ImageJoinStreaming")
    async def join(
        self, request: api_pb2.ImageJoinStreamingRequest
    ) -> AsyncIterator[api_pb2.ImageJoinStreamingResponse]:
        """The log after an entry as it grows, then the result."""
        if request.image_id not in self._images:
            raise GRPCError(Status.NOT_FOUND, f"Image {request.image_id} not found")
        built = self._images[request.image_id]
        told = int(request.last_entry_id or 0)
        end = asyncio.get_running_loop().time() + (request.timeout or HELD)
        while True:
            changed, done = built.changed, built.result.status != 0
            while told < len(built.log):
                text, told = built.log[told], told + 1
                logs = api_pb2.TaskLogs(
                    data=text, file_descriptor=api_pb2.FILE_DESCRIPTOR_STDOUT, timestamp=self._world.now()
                )
                yield api_pb2.ImageJoinStreamingResponse(task_logs=[logs], entry_id=str(told))
            if done:
                yield api_pb2.ImageJoinStreamingResponse(
                    result=built.result, metadata=built.metadata(), eof=True, entry_id=str(told)
                )
                return
            left = end - asyncio.get_running_loop().time()
            try:
                await asyncio.wait_for(changed.wait(), left)
            except asyncio.TimeoutError:
                return  # the client asks again

    @answers("ImageFromId")
    async def from_id(self, request: api_pb2.ImageFromIdRequest) -> api_pb2.ImageFromIdResponse:
        built = self.require(request.image_id)
        return api_pb2.ImageFromIdResponse(image_id=built.image_id, metadata=built.metadata())


class BuildFailed(Exception):
    """An image could not be made; the text is what the client is told."""


def _base62(digest: str) -> str:
    number, text = int(digest, 16), ""
    for _ in range(22):
        number, place = divmod(number, 62)
        text += BASE62[place]
    return text
