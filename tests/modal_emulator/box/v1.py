"""The calls of V1 sandboxes, which the client makes for those with a GPU, where they differ from V2's."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
from typing import TYPE_CHECKING

from grpclib import GRPCError, Status
from modal_proto import api_pb2

from modal_emulator.rpc import Call, answers

from .router import feed_sandbox
from .sandboxes import Sandboxes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.empty_pb2 import Empty

    from modal_emulator.world import World


class SandboxesV1:
    """Another door to the same sandboxes."""

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def _all(self) -> Sandboxes:
        return self._world.area(Sandboxes)

    @answers("SandboxCreate", once=True)
    async def create(
        self, request: api_pb2.SandboxCreateRequest, call: Call
    ) -> api_pb2.SandboxCreateResponse:
        gpu = request.definition.resources.gpu_config
        if gpu.gpu_type and not self._all.knows_gpu(gpu.gpu_type):
            raise GRPCError(Status.INVALID_ARGUMENT, f"Invalid GPU type: {gpu.gpu_type}")  # guess: text
        environ = self._world.secrets.environment(request.definition.secret_ids)
        tags = {tag.tag_name: tag.tag_value for tag in request.tags}
        sandbox = await self._all.make(request.app_id, request.definition, tags, environ, "")
        call.note(sandbox=sandbox.sandbox_id, name=sandbox.name, tags=tags, gpu=gpu.gpu_type)
        return api_pb2.SandboxCreateResponse(
            sandbox_id=sandbox.sandbox_id, metadata=self._all.metadata(sandbox)
        )

    @answers("SandboxWait")
    async def wait(self, request: api_pb2.SandboxWaitRequest) -> api_pb2.SandboxWaitResponse:
        return await self._all.wait(request)  # type: ignore[no-any-return]  # a marked handler

    @answers("SandboxTerminate")
    async def terminate(self, request: api_pb2.SandboxTerminateRequest) -> api_pb2.SandboxTerminateResponse:
        return await self._all.terminate(request)  # type: ignore[no-any-return]  # a marked handler

    @answers("SandboxGetTaskId")
    async def task_id(self, request: api_pb2.SandboxGetTaskIdRequest) -> api_pb2.SandboxGetTaskIdResponse:
        return await self._all.task_id(request)  # type: ignore[no-any-return]  # a marked handler

    @answers("SandboxList")
    async def list(self, request: api_pb2.SandboxListRequest) -> api_pb2.SandboxListResponse:
        return await self._all.list(request)  # type: ignore[no-any-return]  # a marked handler

    @answers("SandboxGetFromName")
    async def by_name(self, request: api_pb2.SandboxGetFromNameRequest) -> api_pb2.SandboxGetFromNameResponse:
        return await self._all.by_name(request)  # type: ignore[no-any-return]  # a marked handler

    @answers("SandboxTagsGet")
    async def tags(self, request: api_pb2.SandboxTagsGetRequest) -> api_pb2.SandboxTagsGetResponse:
        return await self._all.tags(request)  # type: ignore[no-any-return]  # a marked handler

    @answers("SandboxTagsSet")
    async def set_tags(self, request: api_pb2.SandboxTagsSetRequest) -> Empty:
        return await self._all.set_tags(request)  # type: ignore[no-any-return]  # a marked handler

    @answers("TaskGetCommandRouterAccess")
    async def router_access(
        self, request: api_pb2.TaskGetCommandRouterAccessRequest
    ) -> api_pb2.TaskGetCommandRouterAccessResponse:
        url, token = self._all.access(self._all.of_task(request.task_id), request.task_id)
        return api_pb2.TaskGetCommandRouterAccessResponse(url=url, jwt=token)

    @answers("SandboxGetLogs")
    async def logs(self, request: api_pb2.SandboxGetLogsRequest) -> AsyncIterator[api_pb2.TaskLogsBatch]:
        """What its main command prints, as text; an entry's id is the byte at which the next one begins."""
        sandbox = self._all.require(request.sandbox_id)
        first = request.file_descriptor == api_pb2.FILE_DESCRIPTOR_STDOUT
        spool = sandbox.stdout if first else sandbox.stderr
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        end = asyncio.get_running_loop().time() + (request.timeout or 55)
        async with contextlib.aclosing(spool.follow(int(request.last_entry_id or 0))) as pieces:
            while True:
                left = end - asyncio.get_running_loop().time()
                try:
                    offset, data = await asyncio.wait_for(pieces.__anext__(), max(left, 0.01))
                except asyncio.TimeoutError:
                    return  # the client asks again
                except StopAsyncIteration:
                    yield api_pb2.TaskLogsBatch(eof=True, sandbox_id=sandbox.sandbox_id)
                    return
                text = decoder.decode(data)
                after = offset + len(data) - len(decoder.getstate()[0])
                yield api_pb2.TaskLogsBatch(
                    task_id=sandbox.task_id,
                    sandbox_id=sandbox.sandbox_id,
                    entry_id=str(after),
                    items=[api_pb2.TaskLogs(data=text, file_descriptor=request.file_descriptor)],
                )

    @answers("SandboxStdinWrite")
    async def write(self, request: api_pb2.SandboxStdinWriteRequest) -> api_pb2.SandboxStdinWriteResponse:
        """Pass on each message once: they are numbered from 1."""
        sandbox = self._all.require(request.sandbox_id)
        if request.index > sandbox.pieces:
            sandbox.pieces = request.index
            await feed_sandbox(sandbox, request.input, eof=request.eof)
        return api_pb2.SandboxStdinWriteResponse()
