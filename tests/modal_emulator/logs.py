"""What containers and sandboxes print, kept in order and streamed from any entry on."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from .rpc import answers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .world import World

NANOSECONDS = 1_000_000_000
AT_ONCE = 100  # entries in one message of a stream


@dataclass(frozen=True)
class Entry:
    """A piece of text as a container wrote it."""

    number: int
    app_id: str
    task_id: str
    fd: int
    text: str
    time_ns: int
    function_id: str = ""
    function_call_id: str = ""
    input_id: str = ""
    sandbox_id: str = ""

    def item(self) -> api_pb2.TaskLogs:
        return api_pb2.TaskLogs(
            data=self.text,
            timestamp=self.time_ns / NANOSECONDS,
            timestamp_ns=self.time_ns,
            file_descriptor=self.fd,  # type: ignore[arg-type]  # an enum's number
            function_call_id=self.function_call_id,
            input_id=self.input_id,
            container_id=self.task_id,
        )

    def batch(self) -> api_pb2.TaskLogsBatch:
        return api_pb2.TaskLogsBatch(
            task_id=self.task_id,
            items=[self.item()],
            entry_id=f"{self.number:020d}",
            function_id=self.function_id,
            input_id=self.input_id,
            sandbox_id=self.sandbox_id,
        )


class Logs:
    """The entries of every app, each with a number that only grows."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._entries: list[Entry] = []
        self._written = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def reset(self) -> None:
        self._entries.clear()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def write(self, app_id: str, task_id: str, fd: int, text: str, **ids: str) -> None:
        """Keep a piece of text; fd 1 and 2 as ever, 3 is what the system says.

        Args:
            app_id: the app it belongs to.
            task_id: the container that wrote it.
            fd: the file descriptor it was written to.
            text: what was written, in whole lines where possible.
            ids: function_id, function_call_id, input_id, sandbox_id, as far as known.
        """
        number = self._entries[-1].number + 1 if self._entries else 1
        now = int(self._world.now() * NANOSECONDS)
        self._entries.append(Entry(number, app_id, task_id, fd, text, now, **ids))
        task = asyncio.ensure_future(self._wake())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wake(self) -> None:
        async with self._written:
            self._written.notify_all()

    def _wanted(self, request: api_pb2.AppGetLogsRequest | api_pb2.AppFetchLogsRequest, entry: Entry) -> bool:
        """Whether an entry passes the filters that both requests have."""
        if entry.app_id != request.app_id and (request.app_id or not request.task_id):
            return False
        source = (
            request.source if isinstance(request, api_pb2.AppFetchLogsRequest) else request.file_descriptor
        )
        return (
            source in {0, entry.fd}
            and request.function_id in {"", entry.function_id}
            and request.function_call_id in {"", entry.function_call_id}
            and request.task_id in {"", entry.task_id}
            and request.sandbox_id in {"", entry.sandbox_id}
            and request.search_text in entry.text
        )

    @answers("AppGetLogs")
    async def follow(self, request: api_pb2.AppGetLogsRequest) -> AsyncIterator[api_pb2.TaskLogsBatch]:
        """What is there after `last_entry_id`, then what comes within `timeout` seconds; the app's end."""
        last = int(request.last_entry_id or 0)
        app = self._world.apps.require(request.app_id) if request.app_id else None
        deadline = asyncio.get_running_loop().time() + request.timeout
        while True:
            ended = app is not None and app.ended
            for entry in self._after(last):
                last = entry.number
                if self._wanted(request, entry):
                    yield entry.batch()
            if ended:
                yield api_pb2.TaskLogsBatch(app_done=True)
                return
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await self._more(last, left)

    def _after(self, number: int) -> list[Entry]:
        start = bisect_right(self._entries, number, key=lambda entry: entry.number)
        return self._entries[start : start + AT_ONCE]

    async def _more(self, last: int, seconds: float) -> None:
        """Wait for an entry after this one, but not long: an app may end without a word."""
        if self._after(last):
            return
        async with self._written:
            try:
                await asyncio.wait_for(self._written.wait(), min(seconds, 0.2))
            except asyncio.TimeoutError:
                return

    def _between(
        self, request: api_pb2.AppFetchLogsRequest | api_pb2.AppCountLogsRequest, entry: Entry
    ) -> bool:
        return _ns(request.since) <= entry.time_ns < (_ns(request.until) or 1 << 63)

    @answers("AppFetchLogs")
    async def fetch(self, request: api_pb2.AppFetchLogsRequest) -> api_pb2.AppFetchLogsResponse:
        """The latest `limit` entries of a span of time, oldest first."""
        found = [
            entry for entry in self._entries if self._between(request, entry) and self._wanted(request, entry)
        ]
        kept = found[-request.limit :] if request.limit else found
        return api_pb2.AppFetchLogsResponse(batches=[entry.batch() for entry in kept])

    @answers("AppCountLogs")
    async def count(self, request: api_pb2.AppCountLogsRequest) -> api_pb2.AppCountLogsResponse:
        """How many entries each span of `bucket_secs` has."""
        if not request.bucket_secs:
            raise GRPCError(Status.INVALID_ARGUMENT, "bucket_secs must be above 0")
        same = api_pb2.AppFetchLogsRequest(
            app_id=request.app_id,
            task_id=request.task_id,
            function_id=request.function_id,
            function_call_id=request.function_call_id,
            sandbox_id=request.sandbox_id,
            search_text=request.search_text,
            source=request.source,
        )
        length = request.bucket_secs * NANOSECONDS
        counts: dict[int, list[int]] = {}
        for entry in self._entries:
            if self._between(request, entry) and self._wanted(same, entry):
                counts.setdefault(entry.time_ns // length, [0, 0, 0])[entry.fd - 1] += 1
        first, last = _ns(request.since) // length, (_ns(request.until) - 1) // length
        return api_pb2.AppCountLogsResponse(
            app_id=request.app_id,
            buckets=[
                api_pb2.AppCountLogsResponse.LogBucket(
                    bucket_start_at=Timestamp(seconds=number * request.bucket_secs),
                    stdout_logs=counts.get(number, [0, 0, 0])[0],
                    stderr_logs=counts.get(number, [0, 0, 0])[1],
                    system_logs=counts.get(number, [0, 0, 0])[2],
                )
                for number in range(first, last + 1)
            ],
        )


def _ns(moment: Timestamp) -> int:
    return moment.seconds * NANOSECONDS + moment.nanos
