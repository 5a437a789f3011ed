"""Calls of functions: inputs in, outputs out, in whatever order and however often the client asks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from modal_emulator.rpc import Call, answers

from .definitions import Definitions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from modal_emulator.world import World

    from .containers import Containers

Result = api_pb2.GenericResult
INLINE = 2 << 20  # bytes of a result that a message carries; the client's own limit
MOST_OUTSTANDING = 1000  # inputs of one map that wait at a time; guess
AT_ONCE = 100  # outputs in one answer

CANCELLED = "Input was cancelled by user"  # guess: text


@dataclass(eq=False)
class Input:
    """One piece of work."""

    input_id: str
    idx: int
    body: api_pb2.FunctionInput
    call: FunctionCall
    retry_count: int = 0  # attempts that the user's own retry policy has used
    losses: int = 0  # containers that it was lost with
    task_id: str = ""
    started_at: float = 0.0
    output: api_pb2.FunctionGetOutputsItem | None = None

    @property
    def done(self) -> bool:
        """Whether there is a result."""
        return self.output is not None


@dataclass(eq=False)
class FunctionCall:
    """A call with all of its inputs."""

    call_id: str
    function_id: str
    app_id: str
    kind: int
    invocation: int
    created_at: float
    inputs: dict[str, Input] = field(default_factory=dict)
    outputs: list[Input] = field(default_factory=list)  # in the order in which they ended
    chunks: list[api_pb2.DataChunk] = field(default_factory=list)  # of a generator
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    expired: bool = False

    @property
    def unfinished(self) -> int:
        """Inputs that have no result."""
        return sum(not one.done for one in self.inputs.values())


class Calls:
    """All calls of the workspace."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._calls: dict[str, FunctionCall] = {}
        self.inputs: dict[str, Input] = {}
        self.containers: Containers

    def reset(self) -> None:
        self._calls.clear()
        self.inputs.clear()

    def require(self, call_id: str) -> FunctionCall:
        """The call with this id.

        Raises:
            GRPCError: NOT_FOUND.
        """
        if call_id not in self._calls:
            raise GRPCError(Status.NOT_FOUND, f"Function call {call_id} not found")
        return self._calls[call_id]

    # ------------------------------------------------------------ inputs

    @answers("FunctionMap", once=True)
    async def start(self, request: api_pb2.FunctionMapRequest, call: Call) -> api_pb2.FunctionMapResponse:
        found = self._world.area(Definitions).require(request.function_id)
        if self._world.apps.require(found.app_id).ended:
            raise GRPCError(Status.FAILED_PRECONDITION, f"App {found.app_id} is stopped")  # guess: status
        made = FunctionCall(
            self._world.new_id("fc"),
            found.function_id,
            found.app_id,
            request.function_call_type,
            request.function_call_invocation_type,
            self._world.now(),
        )
        self._calls[made.call_id] = made
        call.note(function_call_id=made.call_id)
        return api_pb2.FunctionMapResponse(
            function_call_id=made.call_id,
            pipelined_inputs=self._add(made, request.pipelined_inputs),
            retry_policy=found.proto.retry_policy,
            function_call_jwt=made.call_id,
            sync_client_retries_enabled=False,  # this server retries
            max_inputs_outstanding=MOST_OUTSTANDING,
        )

    @answers("FunctionPutInputs", once=True)
    async def put(self, request: api_pb2.FunctionPutInputsRequest) -> api_pb2.FunctionPutInputsResponse:
        made = self.require(request.function_call_id)
        return api_pb2.FunctionPutInputsResponse(inputs=self._add(made, request.inputs))

    def _add(
        self, made: FunctionCall, items: Iterable[api_pb2.FunctionPutInputsItem]
    ) -> list[api_pb2.FunctionPutInputsResponseItem]:
        answers_ = []
        for item in items:
            one = Input(self._world.new_id("in"), item.idx, item.input, made)
            made.inputs[one.input_id] = self.inputs[one.input_id] = one
            self.containers.enqueue(one)
            answers_.append(
                api_pb2.FunctionPutInputsResponseItem(
                    idx=one.idx, input_id=one.input_id, input_jwt=one.input_id
                )
            )
        return answers_

    @answers("FunctionFinishInputs")
    async def finish(self, request: api_pb2.FunctionFinishInputsRequest) -> Empty:
        self.require(request.function_call_id)
        return Empty()

    @answers("FunctionCallFromId")
    async def by_id(self, request: api_pb2.FunctionCallFromIdRequest) -> api_pb2.FunctionCallFromIdResponse:
        found = self.require(request.function_call_id)
        answer = api_pb2.FunctionCallFromIdResponse(
            function_call_id=found.call_id, num_inputs=len(found.inputs)
        )
        answer.metadata.app_id, answer.metadata.function_id = found.app_id, found.function_id
        return answer

    # ------------------------------------------------------------ outputs

    async def settle(
        self, one: Input, result: api_pb2.GenericResult, data_format: int, **times: float
    ) -> None:
        """Give an input its result; the first one counts."""
        if one.done:
            return
        if len(result.data) > INLINE:
            kept = Result()
            kept.CopyFrom(result)
            kept.data_blob_id = self._world.blobs.put(result.data)
            result = kept
        one.output = api_pb2.FunctionGetOutputsItem(
            result=result,
            idx=one.idx,
            input_id=one.input_id,
            data_format=data_format,  # type: ignore[arg-type]  # an enum's number
            task_id=one.task_id,
            retry_count=one.retry_count,
            **times,  # type: ignore[arg-type]  # two floats
        )
        one.call.outputs.append(one)
        async with one.call.changed:
            one.call.changed.notify_all()

    @answers("FunctionGetOutputs")
    async def outputs(
        self, request: api_pb2.FunctionGetOutputsRequest, call: Call
    ) -> api_pb2.FunctionGetOutputsResponse:
        """What is there of what was asked for, or as soon as there is some; nothing after `timeout` seconds.

        An expired call has no outputs and nothing unfinished.  # guess: also that the poll is held
        """
        found = self.require(request.function_call_id)
        call.note(function_call_id=found.call_id)
        deadline = asyncio.get_running_loop().time() + request.timeout
        while True:
            outputs, last = self._wanted(found, request)
            left = deadline - asyncio.get_running_loop().time()
            if outputs or left <= 0:
                return api_pb2.FunctionGetOutputsResponse(
                    outputs=outputs,
                    idxs=[output.idx for output in outputs],
                    last_entry_id=last,
                    num_unfinished_inputs=0 if found.expired else found.unfinished,
                )
            async with found.changed:
                try:
                    await asyncio.wait_for(found.changed.wait(), left)
                except asyncio.TimeoutError:
                    continue

    @staticmethod
    def _wanted(
        found: FunctionCall, request: api_pb2.FunctionGetOutputsRequest
    ) -> tuple[list[api_pb2.FunctionGetOutputsItem], str]:
        if found.expired:
            return [], request.last_entry_id
        most = request.max_values or AT_ONCE
        if request.HasField("start_idx"):
            wanted = [
                one.output
                for one in found.outputs
                if one.output and request.start_idx <= one.idx <= request.end_idx
            ]
            return wanted[:most], request.last_entry_id
        seen = int(request.last_entry_id.partition("-")[0] or 0)
        wanted = [one.output for one in found.outputs[seen : seen + most] if one.output]
        return wanted, f"{seen + len(wanted)}-0"

    async def put_chunks(self, call_id: str, chunks: list[api_pb2.DataChunk]) -> None:
        """Keep what a generator yielded; a generator that runs again does not say it twice."""
        found = self.require(call_id)
        known = len(found.chunks)
        found.chunks += [chunk for chunk in chunks if chunk.index > known]
        async with found.changed:
            found.changed.notify_all()

    @answers("FunctionCallGetDataOut")
    async def data_out(self, request: api_pb2.FunctionCallGetDataRequest) -> AsyncIterator[api_pb2.DataChunk]:
        found, sent = self.require(request.function_call_id), request.last_index
        while True:
            for chunk in found.chunks[sent:]:
                yield chunk
                sent += 1
            async with found.changed:
                await found.changed.wait_for(partial(self._more, found, sent))

    @staticmethod
    def _more(found: FunctionCall, sent: int) -> bool:
        return len(found.chunks) > sent

    # ------------------------------------------------------------ the end of a call

    @answers("FunctionCallCancel", once=True)
    async def cancel(self, request: api_pb2.FunctionCallCancelRequest, call: Call) -> Empty:
        found = self.require(request.function_call_id)
        waiting = [one for one in found.inputs.values() if not one.done]
        call.note(inputs=len(waiting), terminate_containers=request.terminate_containers)
        ended = Result(status=Result.GENERIC_STATUS_TERMINATED, exception=CANCELLED)
        for one in waiting:
            await self.settle(one, ended, api_pb2.DATA_FORMAT_UNSPECIFIED)
        await self.containers.cancel(waiting, terminate=request.terminate_containers)
        return Empty()

    def expire(self, call_id: str) -> bool:
        """Forget the results of a call."""
        if call_id not in self._calls:
            return False
        self._calls[call_id].expired = True
        return True

    @answers("FunctionCallGetInfo")
    async def info(self, request: api_pb2.FunctionCallGetInfoRequest) -> api_pb2.FunctionCallGetInfoResponse:
        found = self.require(request.function_call_id)
        info = api_pb2.FunctionCallInfo(
            function_call_id=found.call_id, created_at=found.created_at, total_inputs=len(found.inputs)
        )
        by_status = {
            Result.GENERIC_STATUS_SUCCESS: info.succeeded_inputs,
            Result.GENERIC_STATUS_TIMEOUT: info.timeout_inputs,
            Result.GENERIC_STATUS_TERMINATED: info.cancelled_inputs,
        }
        for one in found.inputs.values():
            if one.output is None:
                category = info.pending_inputs
            else:
                category = by_status.get(one.output.result.status, info.failed_inputs)
            category.total += 1
            category.latest.add(
                input_id=one.input_id, idx=one.idx, task_id=one.task_id, started_at=one.started_at
            )
        return api_pb2.FunctionCallGetInfoResponse(info=info)

    def shown(self) -> dict[str, list[dict[str, object]]]:
        return {
            "calls": [
                {
                    "id": call.call_id,
                    "function": call.function_id,
                    "inputs": len(call.inputs),
                    "unfinished": call.unfinished,
                    "expired": call.expired,
                    "results": [
                        Result.GenericStatus.Name(one.output.result.status)
                        for one in call.outputs
                        if one.output
                    ],
                    "deliveries": [
                        one.losses + one.retry_count + bool(one.task_id) for one in call.inputs.values()
                    ],
                }
                for call in self._calls.values()
            ]
        }
