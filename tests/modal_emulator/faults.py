"""Faults on demand: what goes wrong with which call, and how often."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grpclib import GRPCError, Status
from grpclib.encoding.base import StatusDetailsCodecBase
from modal_proto import api_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message
    from grpclib.server import Stream

    from .rpc import Call

KINDS = ("status", "after", "cut", "stall", "throttle")
EVERY = "*"


@dataclass
class Fault:
    """One kind of trouble for one method.

    status    answered in place of the work
    after     the work is done, then `status` is answered, or with no status the connection breaks
    cut       the connection breaks: before the work, or in a stream once `after_bytes` were sent
    stall     the call hangs for `seconds`, then goes on
    throttle  RESOURCE_EXHAUSTED; with `retry_after_s` the client is told to try again after so long
    """

    method: str
    kind: str
    status: str = ""
    message: str = ""
    times: int = 1  # 0: each time
    skip: int = 0  # so many calls pass first
    seconds: float = 0.0
    after_bytes: int = 0
    retry_after_s: float | None = None
    door: str = ""  # "server", "router", "container"; empty: any
    matched: int = 0
    spent: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no fault is called {self.kind!r}: {', '.join(KINDS)}")
        if self.status:
            Status[self.status]
        elif self.kind == "status":
            self.status = "UNAVAILABLE"

    def meets(self, call: Call) -> bool:
        """Whether this call has the trouble; counts."""
        if self.spent or self.method not in {EVERY, call.method} or self.door not in {"", call.door}:
            return False
        self.matched += 1
        if self.matched <= self.skip:
            return False
        self.spent = bool(self.times) and self.matched - self.skip >= self.times
        return True

    def error(self) -> GRPCError:
        """The answer that stands in for the real one."""
        if self.kind == "throttle":
            details: Any = None
            if self.retry_after_s is not None:
                details = [api_pb2.RPCRetryPolicy(retry_after_secs=self.retry_after_s)]
            return GRPCError(Status.RESOURCE_EXHAUSTED, self.message or "rate limit exceeded", details)
        return GRPCError(Status[self.status], self.message or f"a fault was asked for: {self.status}")

    async def while_streaming(self, stream: Stream[Any, Any], sent: int) -> None:
        """Break the connection once so many bytes of a stream are on their way."""
        if self.kind == "cut" and sent >= self.after_bytes:
            await drop(stream)
        elif self.kind == "after":
            raise self.error()


class Faults:
    """All troubles that were asked for and are not used up."""

    def __init__(self) -> None:
        self.listed: list[Fault] = []

    def add(self, asked: dict[str, Any]) -> Fault:
        """Ask for trouble.

        Raises:
            ValueError: there is no such kind.
            KeyError: there is no such status.
            TypeError: a field is unknown or missing.
        """
        fault = Fault(**asked)
        self.listed.append(fault)
        return fault

    async def before(self, call: Call, stream: Stream[Any, Any]) -> Fault | None:
        """Give a call its trouble, or the part of it that comes before the work; the rest is returned."""
        fault = next((fault for fault in self.listed if fault.meets(call)), None)
        if fault is None:
            return None
        call.note(fault=fault.kind)
        if fault.kind in {"status", "throttle"}:
            raise fault.error()
        if fault.kind == "stall":
            await asyncio.sleep(fault.seconds)
            return None
        if fault.kind == "cut" and not fault.after_bytes:
            await drop(stream)
        return fault

    async def after(self, fault: Fault | None, call: Call, stream: Stream[Any, Any]) -> None:
        """The part of the trouble that comes between the work and its answer."""
        if fault is None or fault.kind != "after":
            return
        call.note(committed=True)
        if fault.status:
            raise fault.error()
        await drop(stream)

    def reset(self) -> None:
        """No more trouble."""
        self.listed.clear()


async def drop(stream: Stream[Any, Any]) -> None:
    """Break the connection that a call came over, with no farewell; grpclib then cancels this task."""
    stream._stream.connection._transport.abort()  # noqa: SLF001 - grpclib has no public way to do that
    await asyncio.Event().wait()


def hung_up(stream: Stream[Any, Any]) -> bool:
    """Whether nobody hears the answer: what h2 says of a stream that is gone is no bug of ours."""
    return not stream._stream.closable  # noqa: SLF001 - the same


class Details(StatusDetailsCodecBase):
    """Spells the details of a refusal as Modal does: a `modal.client.RPCStatus`."""

    def encode(self, status: Status, message: str | None, details: Sequence[Message] | None) -> bytes:
        spelled = api_pb2.RPCStatus(code=status.value, message=message or "")
        for detail in details or ():
            spelled.details.add().Pack(detail, type_url_prefix="type.modal.com/")
        return spelled.SerializeToString()

    def decode(self, status: Status, message: str | None, data: bytes) -> Any:  # noqa: ARG002 - grpclib's
        return list(api_pb2.RPCStatus.FromString(data).details)
