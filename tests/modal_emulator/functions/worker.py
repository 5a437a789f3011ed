"""What containers ask: work, and what became of it."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from modal_emulator.rpc import Call, answers

from .calls import Calls, Input
from .containers import Containers

if TYPE_CHECKING:
    from modal_emulator.world import World

    from .container import Container

HEARTBEAT = 14.0  # seconds that a heartbeat is held; the client gives up after 15.1
SETTLE = 0.005  # seconds: what an input printed last is read before the next one is given out


class Worker:
    """Answers on the sockets of containers."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._calls = world.area(Calls)
        self._containers = world.area(Containers)

    def _asking(self, call: Call) -> Container:
        container = self._containers.by_task.get(call.container or "")
        if container is None:
            raise GRPCError(Status.PERMISSION_DENIED, f"{call.method} is for containers")
        return container

    @answers("ContainerHello")
    async def hello(self, _: Empty, call: Call) -> Empty:
        self._asking(call)
        return Empty()

    @answers("ContainerHeartbeat")
    async def heartbeat(
        self, _: api_pb2.ContainerHeartbeatRequest, call: Call
    ) -> api_pb2.ContainerHeartbeatResponse:
        """Held until there is something to cancel, or nearly until the client would give up."""
        container, answer = self._asking(call), api_pb2.ContainerHeartbeatResponse()
        try:
            await asyncio.wait_for(container.heard.wait(), HEARTBEAT)
        except asyncio.TimeoutError:
            return answer
        container.heard.clear()
        answer.cancel_input_event.input_ids.extend(sorted(container.cancelled))
        container.cancelled.clear()
        return answer

    @answers("FunctionGetInputs")
    async def inputs(
        self, request: api_pb2.FunctionGetInputsRequest, call: Call
    ) -> api_pb2.FunctionGetInputsResponse:
        """Work as soon as there is some; none for `scaledown` seconds, and the container is told to end."""
        container = self._asking(call)
        if not container.started_at:
            container.started_at = self._world.now()
        elif container.last is not None:
            await asyncio.sleep(SETTLE)
        most = max(request.batch_max_size, 1)
        taken = [] if container.draining else self._containers.take(container, most)
        while not taken and not container.draining:
            taken = await self._wait(container)
            if not taken and not self._needed(container):
                break
        if not taken:
            container.draining = True
            return api_pb2.FunctionGetInputsResponse(inputs=[api_pb2.FunctionGetInputsItem(kill_switch=True)])
        call.note(function_call_ids=[one.call.call_id for one in taken])
        return api_pb2.FunctionGetInputsResponse(inputs=[self._item(container, one) for one in taken])

    async def _wait(self, container: Container) -> list[Input]:
        container.waiting = asyncio.get_running_loop().create_future()
        try:
            return await asyncio.wait_for(asyncio.shield(container.waiting), container.definition.scaledown)
        except asyncio.TimeoutError:
            return container.waiting.result() if container.waiting.done() else []
        except asyncio.CancelledError:  # it hung up: what it was given in that moment is not lost
            if container.waiting.done():
                for one in container.waiting.result():
                    container.running.pop(one.input_id, None)
                    self._containers.enqueue(one, first=True)
            raise
        finally:
            container.waiting = None

    def _needed(self, container: Container) -> bool:
        """Whether an idle container is kept because there are to be so many."""
        made = container.definition
        alive = [
            one for one in self._containers.by_task.values() if one.definition is made and not one.draining
        ]
        return not container.draining and (bool(container.running) or len(alive) <= made.least)

    def _item(self, container: Container, one: Input) -> api_pb2.FunctionGetInputsItem:
        body = one.body
        if container.definition.proto.block_network and body.WhichOneof("args_oneof") == "args_blob_id":
            body = api_pb2.FunctionInput()
            body.CopyFrom(one.body)
            body.args = self._world.blobs.get(one.body.args_blob_id)
        return api_pb2.FunctionGetInputsItem(
            input_id=one.input_id,
            input=body,
            function_call_id=one.call.call_id,
            function_call_invocation_type=one.call.invocation,  # type: ignore[arg-type]  # an enum's number
            retry_count=one.retry_count,
        )

    @answers("FunctionPutOutputs")
    async def outputs(self, request: api_pb2.FunctionPutOutputsRequest, call: Call) -> Empty:
        container = self._asking(call)
        for item in request.outputs:
            await self._containers.finished(container, item)
        return Empty()

    @answers("FunctionCallPutDataOut")
    async def data_out(self, request: api_pb2.FunctionCallPutDataRequest, call: Call) -> Empty:
        self._asking(call)
        await self._calls.put_chunks(request.function_call_id, list(request.data_chunks))
        return Empty()

    @answers("TaskResult")
    async def failed(self, request: api_pb2.TaskResultRequest, call: Call) -> Empty:
        """It could not start: its code cannot be imported, say."""
        self._asking(call).failure = request.result
        return Empty()

    @answers("FunctionGetDynamicConcurrency")
    async def concurrency(
        self, request: api_pb2.FunctionGetDynamicConcurrencyRequest
    ) -> api_pb2.FunctionGetDynamicConcurrencyResponse:
        return api_pb2.FunctionGetDynamicConcurrencyResponse(concurrency=request.max_concurrency)

    @answers("FunctionGetCurrentStats")
    async def stats(self, request: api_pb2.FunctionGetCurrentStatsRequest) -> api_pb2.FunctionStats:
        backlog, tasks, running = self._containers.figures(request.function_id)
        return api_pb2.FunctionStats(backlog=backlog, num_total_tasks=tasks, num_running_inputs=running)

    @answers("TaskList")
    async def tasks(self, request: api_pb2.TaskListRequest) -> api_pb2.TaskListResponse:
        return api_pb2.TaskListResponse(
            tasks=[
                api_pb2.TaskStats(
                    task_id=key,
                    app_id=container.definition.app_id,
                    started_at=container.started_at,
                    enqueued_at=container.enqueued_at,
                )
                for key, container in self._containers.by_task.items()
                if request.app_id in {"", container.definition.app_id}
            ]
        )

    @answers("ContainerStop")
    async def stop(self, request: api_pb2.ContainerStopRequest) -> api_pb2.ContainerStopResponse:
        container = self._containers.by_task.get(request.task_id)
        if container is None:
            raise GRPCError(Status.NOT_FOUND, f"Container {request.task_id} not found")
        if request.graceful:
            self._containers.drain(container)
        else:
            await container.kill("preempt", signal.SIGKILL)  # what it worked on is given out again
        return api_pb2.ContainerStopResponse()
