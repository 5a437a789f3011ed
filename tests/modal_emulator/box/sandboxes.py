"""Sandboxes as the control plane knows them: both versions of its calls, on the same sandboxes."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from modal_emulator.billing import RATES
from modal_emulator.environments import Environments
from modal_emulator.rpc import Call, answers

from .images import Images
from .life import ENDS, KILLED, Sandbox

if TYPE_CHECKING:
    from modal_emulator.apps import App
    from modal_emulator.world import World

Result = api_pb2.GenericResult
LONGEST = 24 * 3600  # seconds that a sandbox may run; Modal's docs


class Sandboxes:
    """All sandboxes since the start or the last reset."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sandboxes: dict[str, Sandbox] = {}
        world.apps.when_stopped.append(self._app_stopped)

    async def reset(self) -> None:
        """End and forget all of them."""
        gone, self._sandboxes = self._sandboxes, {}
        await asyncio.gather(*(sandbox.close() for sandbox in gone.values()))

    async def close(self) -> None:
        await self.reset()

    async def _app_stopped(self, app: App) -> None:
        mine = [sandbox for sandbox in self._sandboxes.values() if sandbox.app_id == app.app_id]
        for sandbox in mine:
            sandbox.end(Result.GENERIC_STATUS_TERMINATED, KILLED)
        await asyncio.gather(*(sandbox.gone() for sandbox in mine))

    async def kill(self, target: dict[str, str], how: str) -> bool:
        """End one as the control port asks."""
        sandbox = self._sandboxes.get(target.get("sandbox", ""))
        if sandbox is None:
            return False
        sandbox.end(*ENDS[how])
        await sandbox.gone()
        return True

    def shown(self) -> dict[str, list[dict[str, object]]]:
        return {"sandboxes": [sandbox.shown() for sandbox in self._sandboxes.values()]}

    def require(self, sandbox_id: str) -> Sandbox:
        """The sandbox with this id.

        Raises:
            GRPCError: NOT_FOUND.
        """
        if sandbox_id not in self._sandboxes:
            raise GRPCError(Status.NOT_FOUND, f"Sandbox {sandbox_id} not found")
        return self._sandboxes[sandbox_id]

    def of_task(self, task_id: str) -> Sandbox | None:
        """The sandbox that runs as this task."""
        return next((one for one in self._sandboxes.values() if one.task_id == task_id), None)

    def named(self, app_id: str, name: str, *, ended: bool = False) -> Sandbox | None:
        """The latest sandbox of an app that has this name, living unless `ended` is asked for too."""
        for sandbox in reversed(self._sandboxes.values()):
            if sandbox.app_id == app_id and name and sandbox.name == name and (ended or sandbox.alive):
                return sandbox
        return None

    async def make(
        self, app_id: str, wanted: api_pb2.Sandbox, tags: dict[str, str], environ: dict[str, str], mark: str
    ) -> Sandbox:
        """Start a sandbox; `mark` ends the ids of those that V2 calls make."""
        app = self._world.apps.require(app_id)
        if app.ended:
            raise GRPCError(Status.FAILED_PRECONDITION, f"App {app_id} is stopped")
        self._world.area(Images).require(wanted.image_id)
        if wanted.timeout_secs > LONGEST:
            raise GRPCError(Status.INVALID_ARGUMENT, f"timeout must be at most {LONGEST} seconds")
        if self.named(app_id, wanted.name):
            text = f"Sandbox with name '{wanted.name}' already exists"  # guess: text
            raise GRPCError(Status.ALREADY_EXISTS, text)
        sandbox = Sandbox(
            world=self._world,
            sandbox_id=self._world.new_id("sb") + mark,
            task_id=self._world.new_id("ta") + mark,
            app_id=app_id,
            definition=wanted,
            tags=tags,
            environ=environ,
            created_at=self._world.now(),
            on_end=self._ended,
            name=wanted.name,
        )
        self._sandboxes[sandbox.sandbox_id] = sandbox
        try:
            await sandbox.start()
        except Exception as error:  # noqa: BLE001 - whatever the engine or the kernel did not want
            sandbox.end(Result.GENERIC_STATUS_INIT_FAILURE, 1, f"Sandbox failed to start: {error}")  # guess
        return sandbox

    async def _ended(self, sandbox: Sandbox) -> None:
        self._world.area(_router()).forget(sandbox.task_id)

    @answers("SandboxCreateV2", once=True)
    async def create(
        self, request: api_pb2.SandboxCreateV2Request, call: Call
    ) -> api_pb2.SandboxCreateV2Response:
        environ = self._world.secrets.environment(request.definition.secret_ids)
        environ |= self.environment(request.secret_sources)
        tags = {tag.tag_name: tag.tag_value for tag in request.tags}
        sandbox = await self.make(request.app_id, request.definition, tags, environ, "V")
        call.note(sandbox=sandbox.sandbox_id, name=sandbox.name, tags=tags)
        url, token = sandbox.access()
        return api_pb2.SandboxCreateV2Response(
            sandbox_id=sandbox.sandbox_id,
            task_id=sandbox.task_id,
            metadata=self.metadata(sandbox),
            command_router_access=api_pb2.CommandRouterAccess(url=url, jwt=token),
        )

    def environment(self, sources: object) -> dict[str, str]:
        """The variables of secrets that are named or sent along; a later one wins."""
        found: dict[str, str] = {}
        for source in sources:  # type: ignore[attr-defined]  # a repeated field
            if source.WhichOneof("source") == "secret_id":
                found |= self._world.secrets.environment([source.secret_id])
            else:
                found |= dict(source.env.contents)
        return found

    def metadata(self, sandbox: Sandbox) -> api_pb2.SandboxHandleMetadata:
        return api_pb2.SandboxHandleMetadata(app_id=sandbox.app_id, result=sandbox.result)

    @answers("SandboxWaitV2")
    async def wait(self, request: api_pb2.SandboxWaitRequest) -> api_pb2.SandboxWaitResponse:
        """Its result, which is empty while it runs; waits for it as long as is asked."""
        sandbox = self.require(request.sandbox_id)
        if request.timeout > 0 and not sandbox.ended.is_set():
            await asyncio.wait({asyncio.ensure_future(sandbox.ended.wait())}, timeout=request.timeout)
        return api_pb2.SandboxWaitResponse(result=sandbox.result, metadata=self.metadata(sandbox))

    @answers("SandboxTerminateV2")
    async def terminate(self, request: api_pb2.SandboxTerminateRequest) -> api_pb2.SandboxTerminateResponse:
        sandbox = self.require(request.sandbox_id)
        existing = sandbox.result
        sandbox.end(Result.GENERIC_STATUS_TERMINATED, KILLED)
        await asyncio.shield(sandbox.gone())
        return api_pb2.SandboxTerminateResponse(existing_result=existing)

    @answers("SandboxGetTaskIdV2")
    async def task_id(self, request: api_pb2.SandboxGetTaskIdRequest) -> api_pb2.SandboxGetTaskIdResponse:
        sandbox = self.require(request.sandbox_id)
        result = sandbox.result if sandbox.ended.is_set() else None
        if not sandbox.started_at:  # it could not be started
            return api_pb2.SandboxGetTaskIdResponse(task_result=result)
        return api_pb2.SandboxGetTaskIdResponse(task_id=sandbox.task_id, task_result=result)

    @answers("SandboxGetCommandRouterAccess")
    async def router_access(
        self, request: api_pb2.SandboxGetCommandRouterAccessRequest
    ) -> api_pb2.SandboxGetCommandRouterAccessResponse:
        by_task = request.WhichOneof("target") == "task_id"
        sandbox = self.of_task(request.task_id) if by_task else self.require(request.sandbox_id)
        url, token = self.access(sandbox, request.task_id)
        return api_pb2.SandboxGetCommandRouterAccessResponse(url=url, jwt=token)

    def access(self, sandbox: Sandbox | None, task_id: str) -> tuple[str, str]:
        """Where a sandbox takes commands; what it printed can be read there when it has ended."""
        if sandbox is None:
            raise GRPCError(Status.NOT_FOUND, f"Task {task_id} not found")
        return sandbox.access()

    @answers("SandboxListV2")
    async def list(self, request: api_pb2.SandboxListRequest) -> api_pb2.SandboxListResponse:
        """The youngest first, a page at a time: those before a moment."""
        wanted = {tag.tag_name: tag.tag_value for tag in request.tags}
        environment = request.environment_name
        if environment:
            environment = self._world.area(Environments).named(environment)
        found = [
            self._info(sandbox)
            for sandbox in reversed(self._sandboxes.values())
            if request.app_id in {"", sandbox.app_id}
            and (not environment or self._world.apps.require(sandbox.app_id).environment == environment)
            and (not request.before_timestamp or sandbox.created_at < request.before_timestamp)
            and (request.include_finished or not sandbox.ended.is_set())
            and wanted.items() <= sandbox.tags.items()
        ]
        return api_pb2.SandboxListResponse(sandboxes=found[:100])  # guess: a page's length

    def _info(self, sandbox: Sandbox) -> api_pb2.SandboxInfo:
        return api_pb2.SandboxInfo(
            id=sandbox.sandbox_id,
            created_at=sandbox.created_at,
            task_info=api_pb2.TaskInfo(
                id=sandbox.task_id,
                started_at=sandbox.started_at,
                finished_at=sandbox.ended_at,
                result=sandbox.result,
            ),
            app_id=sandbox.app_id,
            tags=_protos(sandbox.tags),
            name=sandbox.name,
            image_id=sandbox.definition.image_id,
            timeout_secs=sandbox.definition.timeout_secs,
            metadata=self.metadata(sandbox),
        )

    @answers("SandboxGetFromNameV2")
    async def by_name(self, request: api_pb2.SandboxGetFromNameRequest) -> api_pb2.SandboxGetFromNameResponse:
        environment = self._world.area(Environments).named(request.environment_name)
        app = self._world.apps.named(request.app_name, environment)
        name, ended = request.sandbox_name, request.include_terminated
        sandbox = self.named(app.app_id, name, ended=ended) if app is not None else None
        if sandbox is None:
            text = f"Sandbox with name '{name}' not found in app '{request.app_name}'"  # guess: text
            raise GRPCError(Status.NOT_FOUND, text)
        return api_pb2.SandboxGetFromNameResponse(
            sandbox_id=sandbox.sandbox_id, metadata=self.metadata(sandbox)
        )

    @answers("SandboxSetName")
    async def set_name(self, request: api_pb2.SandboxSetNameRequest) -> Empty:
        sandbox = self.require(request.sandbox_id)
        other = self.named(sandbox.app_id, request.name)
        if other not in {None, sandbox}:
            raise GRPCError(Status.ALREADY_EXISTS, f"Sandbox with name '{request.name}' already exists")
        sandbox.name = request.name
        return Empty()

    @answers("SandboxTagsGetV2")
    async def tags(self, request: api_pb2.SandboxTagsGetRequest) -> api_pb2.SandboxTagsGetResponse:
        return api_pb2.SandboxTagsGetResponse(tags=_protos(self.require(request.sandbox_id).tags))

    @answers("SandboxTagsSetV2")
    async def set_tags(self, request: api_pb2.SandboxTagsSetRequest) -> Empty:
        tags = {tag.tag_name: tag.tag_value for tag in request.tags}
        self.require(request.sandbox_id).tags = tags
        return Empty()

    @answers("SandboxGetStats")
    async def stats(self, request: api_pb2.SandboxGetStatsRequest) -> api_pb2.SandboxGetStatsResponse:
        """What it is charged: what was asked for, as long as it ran; at once, and not sampled as at Modal."""
        sandbox = self.require(request.sandbox_id)
        used = sandbox.used()
        end = Timestamp()
        end.FromNanoseconds(int((sandbox.ended_at or self._world.now()) * 1e9))
        start = Timestamp()
        start.FromNanoseconds(int(sandbox.created_at * 1e9))
        answer = api_pb2.SandboxGetStatsResponse(
            duration_hours=used.seconds / 3600,
            billed_cpu_core_seconds=used.cores * used.seconds,
            billed_memory_gib_seconds=used.memory / 1024 * used.seconds,
            since=request.since if request.HasField("since") else start,
            until=request.until if request.HasField("until") else end,
        )
        if used.seconds:
            costs = used.costs()
            answer.cost = str(sum(costs.values(), Decimal(0)))
            answer.cost_by_resource.update({name: str(cost) for name, cost in costs.items()})
            answer.num_datapoints = 1
        return answer

    @staticmethod
    def knows_gpu(name: str) -> bool:
        """Whether there is such a GPU."""
        return f"gpu_{name.lower().replace('-', '_')}" in RATES or name in {"ANY", "A100", "A10G", "H100!"}


def _protos(tags: dict[str, str]) -> list[api_pb2.SandboxTag]:
    return [api_pb2.SandboxTag(tag_name=name, tag_value=value) for name, value in tags.items()]


def _router() -> type:
    from .router import Router

    return Router
