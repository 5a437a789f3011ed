"""How an area answers remote calls, and the one way that every call takes through the server.

An area is a class that is given the `World` and has handlers:

    @answers("BlobGet")
    async def get(self, request: api_pb2.BlobGetRequest) -> api_pb2.BlobGetResponse: ...

It may ask for `call: Call` too. A server stream is an async generator of responses; a handler of a client
stream gets an async iterator of requests. It refuses by raising `grpclib.GRPCError`.
"""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from grpclib import GRPCError, Status
from grpclib.const import Cardinality, Handler
from grpclib.exceptions import StreamTerminatedError

from .faults import hung_up
from .journal import summary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from grpclib.server import Stream

    from .world import World

Message = Any  # a protobuf message: each handler names its own
REMEMBERED = 20_000  # answers kept for repeated idempotency keys

OPEN_TO_ALL = frozenset({"ClientHello", "TokenFlowCreate", "TokenFlowWait"})


@dataclass
class Call:
    """One remote call: what it asked for is `request`; this is all else that is known of it."""

    method: str
    door: str  # "server", "router" or "container"
    metadata: Mapping[str, str]
    container: str | None = None  # the task whose socket it came over
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The client sends the same key with each try of the same call."""
        return self.metadata.get("x-idempotency-key", "")

    def note(self, **fields: object) -> None:
        """Add fields to this call's line of the request log."""
        self.extra.update(fields)


def answers(method: str, *, once: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a method of an area as the handler of an RPC.

    With `once`, a repeated idempotency key gets the first try's answer and nothing is done a second time; the
    work goes on when the connection breaks.
    """

    def mark(handler: Callable[..., Any]) -> Callable[..., Any]:
        handler.wants_call = "call" in inspect.signature(handler).parameters  # type: ignore[attr-defined]  # a mark
        handler.rpc = method  # type: ignore[attr-defined]  # a mark on a function
        handler.once = once  # type: ignore[attr-defined]  # the same
        return handler

    return mark


def handlers_of(area: object) -> dict[str, Callable[..., Any]]:
    """The RPCs that an area answers."""
    found = {}
    for name in dir(type(area)):
        handler = getattr(area, name)
        if method := getattr(handler, "rpc", None):
            found[method] = handler
    return found


class Dispatcher:
    """Answers one gRPC service at one door: log, token, faults, handler, faults, answer."""

    def __init__(self, world: World, service: type, door: str, container: str | None = None) -> None:
        self._world = world
        self._service = service
        self._door = door
        self._container = container

    def __mapping__(self) -> dict[str, Handler]:
        """What grpclib asks of a servicer: each path's handler, and the types of its messages."""
        mapping: dict[str, Handler] = self._service.__mapping__(_Names())  # type: ignore[attr-defined]
        return {
            path: Handler(
                partial(self._answer, path.rpartition("/")[2], handler.cardinality),
                handler.cardinality,
                handler.request_type,
                handler.reply_type,
            )
            for path, handler in mapping.items()
        }

    async def _answer(self, method: str, cardinality: Cardinality, stream: Stream[Message, Message]) -> None:
        metadata = {name: str(value) for name, value in (stream.metadata or {}).items()}
        call = Call(method, self._door, metadata, self._container)
        world = self._world
        request = None if cardinality.client_streaming else await stream.recv_message()
        line = world.journal.begin(call, summary(request) if request is not None else {})
        try:
            self._check_token(call)
            handler = self._handler(call)
            fault = await world.faults.before(call, stream)
            given = (stream if request is None else request, *((call,) if handler.wants_call else ()))
            if cardinality.server_streaming:
                await self._stream_out(stream, handler(*given), fault)
            else:
                response = await self._once(call, handler, partial(handler, *given))
                await world.faults.after(fault, call, stream)
                await world.flowing(self._door)
                await stream.send_message(response)
            world.journal.end(line, "OK", call.extra)
        except GRPCError as error:
            world.journal.end(line, error.status.name, {**call.extra, "message": error.message})
            raise
        except (asyncio.CancelledError, StreamTerminatedError, ConnectionError):
            world.journal.end(line, "GONE", call.extra)  # the client hung up
            raise
        except Exception as error:
            if hung_up(stream):
                world.journal.end(line, "GONE", call.extra)
                raise
            world.journal.end(line, "BUG", {**call.extra, "message": traceback.format_exc()})
            raise GRPCError(Status.INTERNAL, f"bug in the emulator: {error!r}") from error

    def _handler(self, call: Call) -> Any:
        """Who answers; what nobody answers is written down."""
        if call.method not in self._world.handlers:
            self._world.journal.unknown(call)
            raise GRPCError(Status.UNIMPLEMENTED, f"the emulator does not answer {call.method}")
        return self._world.handlers[call.method]

    async def _once(self, call: Call, handler: Any, asked: Callable[[], Awaitable[Message]]) -> Message:
        if not handler.once or not call.key:
            return await asked()
        answered = self._world.answered
        name = (call.method, call.key)
        if name not in answered:
            answered[name] = asyncio.ensure_future(asked())
            while len(answered) > REMEMBERED:
                answered.popitem(last=False)
        else:
            call.note(repeated=True)
        return await asyncio.shield(answered[name])

    async def _stream_out(
        self,
        stream: Stream[Message, Message],
        responses: AsyncIterator[Message],
        fault: Any,
    ) -> None:
        sent = 0
        try:
            async for response in responses:
                await self._world.flowing(self._door)
                await stream.send_message(response)
                sent += response.ByteSize()
                if fault is not None:
                    await fault.while_streaming(stream, sent)
        finally:
            await responses.aclose()  # type: ignore[attr-defined]  # an async generator

    def _check_token(self, call: Call) -> None:
        """Refuse a call at the public door whose token is not the one that this server was started with."""
        if self._door != "server" or (call.method in OPEN_TO_ALL and "x-modal-token-id" not in call.metadata):
            return
        given = (call.metadata.get("x-modal-token-id", ""), call.metadata.get("x-modal-token-secret", ""))
        if given != self._world.token:
            raise GRPCError(Status.UNAUTHENTICATED, "Token ID is malformed or does not exist")  # guess: text


class _Names:
    """Stands in for a servicer where only the paths and types of its methods are wanted."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


Answered = OrderedDict[tuple[str, str], "asyncio.Future[Message]"]
