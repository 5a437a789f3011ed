"""The command router of sandboxes: commands in them, their streams, their ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from grpclib import GRPCError, Status
from modal_proto import task_command_router_pb2 as router_pb2

from modal_emulator.rpc import Call, answers

from .room import DEVNULL, PIPE, STDOUT, Process
from .sandboxes import Sandboxes
from .spool import Spool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from modal_emulator.world import World

    from .life import Sandbox

TOOLS = "/__modal/.bin/modal-sandbox-fs-tools"  # the client asks for this program


@dataclass(eq=False)
class Exec:
    """A command in a sandbox."""

    sandbox: Sandbox
    process: Process
    stdout: Spool
    stderr: Spool
    written: int = 0  # bytes that came for its standard input
    closed: bool = False  # its standard input has ended
    writer: int = 0  # the stream that may write to it: a later one takes over
    code: int | None = None
    timed_out: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def write(self, offset: int, data: bytes) -> None:
        """Pass on what is new; a client that is not sure sends the same again."""
        if self.closed or self.code is not None:
            raise GRPCError(Status.FAILED_PRECONDITION, "stdin is closed")  # guess: text
        if offset > self.written:
            raise GRPCError(Status.INVALID_ARGUMENT, f"expected offset {self.written}, got {offset}")
        fresh = data[self.written - offset :]
        self.written += len(fresh)
        await feed(self.process, fresh)

    def end_input(self) -> None:
        """Nothing more comes."""
        self.closed = True
        if self.process.stdin is not None:
            self.process.stdin.close()


class Router:
    """Answers for all tasks of all sandboxes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._execs: dict[tuple[str, str], asyncio.Task[Exec]] = {}
        self._watches: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for watch in self._watches:
            watch.cancel()

    def forget(self, task_id: str) -> None:
        """Drop all commands of a task that has ended."""
        for key in [key for key in self._execs if key[0] == task_id]:
            task = self._execs.pop(key)
            if task.done() and not task.cancelled() and task.exception() is None:
                task.result().stdout.close()
                task.result().stderr.close()

    def _sandbox(self, task_id: str, call: Call, *, alive: bool = True) -> Sandbox:
        sandbox = self._world.area(Sandboxes).of_task(task_id)
        if sandbox is None:
            raise GRPCError(Status.NOT_FOUND, f"Task {task_id} not found")
        if call.metadata.get("authorization", "").removeprefix("Bearer ") not in sandbox.tokens:
            raise GRPCError(Status.UNAUTHENTICATED, "the token does not open this task")
        if alive and not sandbox.alive:
            raise GRPCError(Status.NOT_FOUND, f"Task {task_id} has finished")  # guess: text
        return sandbox

    async def _exec(self, request: object, call: Call) -> Exec:
        task_id, exec_id = request.task_id, request.exec_id  # type: ignore[attr-defined]  # several requests have both
        self._sandbox(task_id, call)
        if (task_id, exec_id) not in self._execs:
            raise GRPCError(Status.NOT_FOUND, f"Exec {exec_id} not found")
        return await asyncio.shield(self._execs[task_id, exec_id])

    @answers("TaskExecStart")
    async def start(
        self, request: router_pb2.TaskExecStartRequest, call: Call
    ) -> router_pb2.TaskExecStartResponse:
        """Start a command; the same id again is the same command."""
        sandbox = self._sandbox(request.task_id, call)
        key = request.task_id, request.exec_id
        if key not in self._execs:
            self._execs[key] = asyncio.ensure_future(self._start(sandbox, request))
        else:
            call.note(repeated=True)
        await asyncio.shield(self._execs[key])
        return router_pb2.TaskExecStartResponse()

    async def _start(self, sandbox: Sandbox, request: router_pb2.TaskExecStartRequest) -> Exec:
        argv = list(request.command_args)
        if not argv:
            raise GRPCError(Status.INVALID_ARGUMENT, "no command")
        stdout, stderr = Spool(self._world.folder), Spool(self._world.folder)
        files = None
        if argv[0] == TOOLS:
            files, theirs = socket.socketpair()
            with theirs:
                process = await sandbox.room.tool(argv[1], (theirs.fileno(),))
        else:
            process = await self._spawn(sandbox, argv, request)
        one = Exec(sandbox, process, stdout, stderr)
        limit = request.timeout_secs if request.HasField("timeout_secs") else 0
        watch = asyncio.ensure_future(self._watch(one, limit, files))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)
        return one

    async def _spawn(
        self, sandbox: Sandbox, argv: list[str], request: router_pb2.TaskExecStartRequest
    ) -> Process:
        environ = self._world.secrets.environment(request.secret_ids)
        environ |= self._world.area(Sandboxes).environment(request.secret_sources) | dict(request.env)
        piped = request.stdout_config == router_pb2.TASK_EXEC_STDOUT_CONFIG_PIPE
        stderr = {
            router_pb2.TASK_EXEC_STDERR_CONFIG_PIPE: PIPE,
            router_pb2.TASK_EXEC_STDERR_CONFIG_STDOUT: STDOUT,
        }
        try:
            return await sandbox.room.spawn(
                argv,
                {**sandbox.environ, **environ},
                request.workdir or sandbox.image_workdir,
                stdin=PIPE,
                stdout=PIPE if piped else DEVNULL,
                stderr=stderr.get(request.stderr_config, DEVNULL),
            )
        except (OSError, ValueError) as error:  # too many arguments, a zero byte in one
            raise GRPCError(Status.INVALID_ARGUMENT, f"cannot start the command: {error}") from None

    async def _watch(self, one: Exec, limit: float, files: socket.socket | None) -> None:
        """Keep what it prints, end it in time, remember how it ended."""
        sandbox, process = one.sandbox, one.process
        sandbox.busy += 1
        out = self._file(one, files) if files is not None else one.stdout.fill(process.stdout)
        pumps = [asyncio.ensure_future(out), asyncio.ensure_future(one.stderr.fill(process.stderr))]
        try:
            waiting = asyncio.ensure_future(process.wait())
            await asyncio.wait({waiting}, timeout=limit or None)
            if not waiting.done():
                one.timed_out = True
                await process.kill()
            one.code = await waiting
        finally:
            sandbox.busy -= 1
            sandbox.used_at = self._world.now()
            one.end_input()
            one.done.set()
        await asyncio.gather(*pumps, return_exceptions=True)

    async def _file(self, one: Exec, files: socket.socket) -> None:
        """Be the file that the program opened, or what it printed."""
        with files:
            sent = await asyncio.to_thread(socket.recv_fds, files, 1, 1)
        if sent[1]:
            one.stdout.take(sent[1][0])
            one.stdout.end()
        else:
            await one.stdout.fill(one.process.stdout)

    @answers("TaskExecStdioRead")
    async def read(
        self, request: router_pb2.TaskExecStdioReadRequest, call: Call
    ) -> AsyncIterator[router_pb2.TaskExecStdioReadResponse]:
        one = await self._exec(request, call)
        first = request.file_descriptor == router_pb2.TASK_EXEC_STDIO_FILE_DESCRIPTOR_STDOUT
        spool = one.stdout if first else one.stderr
        async with contextlib.aclosing(spool.follow(request.offset)) as pieces:
            async for _, data in pieces:
                yield router_pb2.TaskExecStdioReadResponse(data=data)

    @answers("TaskExecStdinWrite")
    async def write(
        self, request: router_pb2.TaskExecStdinWriteRequest, call: Call
    ) -> router_pb2.TaskExecStdinWriteResponse:
        one = await self._exec(request, call)
        if request.data:
            await one.write(request.offset, request.data)
        if request.eof:
            one.end_input()
        return router_pb2.TaskExecStdinWriteResponse()

    @answers("TaskExecStdinWriteStream")
    async def write_stream(
        self, requests: AsyncIterator[router_pb2.TaskExecStdinWriteStreamRequest], call: Call
    ) -> router_pb2.TaskExecStdinWriteStreamResponse:
        """Pass a stream on as fast as the command reads; only its explicit end closes the command's input."""
        one, offset, mine = None, 0, 0
        async for request in requests:
            kind = request.WhichOneof("payload") if one is None else None
            if one is None:
                if kind is not None and kind != "start":
                    raise GRPCError(Status.INVALID_ARGUMENT, "a stream begins with its start")
                one = await self._exec(request.start, call)
                offset = request.start.offset
                one.writer = mine = one.writer + 1
                call.note(exec=request.start.exec_id, offset=offset)
                continue
            if one.writer != mine:
                raise GRPCError(Status.ABORTED, "another stream writes now")
            if request.HasField("end"):
                one.end_input()
                return router_pb2.TaskExecStdinWriteStreamResponse()
            await one.write(offset, request.data)
            offset += len(request.data)
        raise GRPCError(Status.CANCELLED, "the stream broke off")

    @answers("TaskExecStdinStatus")
    async def stdin_status(
        self, request: router_pb2.TaskExecStdinStatusRequest, call: Call
    ) -> router_pb2.TaskExecStdinStatusResponse:
        """How much came; whoever asks takes the writing over."""
        one = await self._exec(request, call)
        one.writer += 1
        return router_pb2.TaskExecStdinStatusResponse(num_bytes_written=one.written, closed=one.closed)

    @answers("TaskExecPoll")
    async def poll(
        self, request: router_pb2.TaskExecPollRequest, call: Call
    ) -> router_pb2.TaskExecPollResponse:
        one = await self._exec(request, call)
        return router_pb2.TaskExecPollResponse(**self._status(one))

    @answers("TaskExecWait")
    async def wait(
        self, request: router_pb2.TaskExecWaitRequest, call: Call
    ) -> router_pb2.TaskExecWaitResponse:
        one = await self._exec(request, call)
        waits = {asyncio.ensure_future(one.done.wait()), asyncio.ensure_future(one.sandbox.ended.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in waits:
                waiting.cancel()
        if not one.sandbox.alive:
            raise GRPCError(Status.NOT_FOUND, f"Task {request.task_id} has finished")
        return router_pb2.TaskExecWaitResponse(**self._status(one))

    @staticmethod
    def _status(one: Exec) -> dict[str, int]:
        """guess: a command that ran out of time has no status; the client waits for its own clock."""
        if one.timed_out:
            raise GRPCError(Status.DEADLINE_EXCEEDED, "the command ran out of time")
        if one.code is None or not one.done.is_set():
            return {}
        return {"code": one.code} if one.code >= 0 else {"signal": -one.code}

    @answers("SandboxStdioReadV2")
    async def read_sandbox(
        self, request: router_pb2.SandboxStdioReadV2Request, call: Call
    ) -> AsyncIterator[router_pb2.SandboxStdioReadV2Response]:
        """What its main command prints or printed."""
        sandbox = self._sandbox(request.task_id, call, alive=False)
        first = request.file_descriptor == router_pb2.SANDBOX_STDIO_FILE_DESCRIPTOR_STDOUT
        spool = sandbox.stdout if first else sandbox.stderr
        async with contextlib.aclosing(spool.follow(request.offset)) as pieces:
            async for offset, data in pieces:
                yield router_pb2.SandboxStdioReadV2Response(data=data, starting_offset=offset)

    @answers("SandboxStdinWriteV2")
    async def write_sandbox(
        self, request: router_pb2.SandboxStdinWriteV2Request, call: Call
    ) -> router_pb2.SandboxStdinWriteV2Response:
        sandbox = self._sandbox(request.task_id, call)
        fresh = request.data[sandbox.written - request.offset :]
        sandbox.written += len(fresh)
        await feed_sandbox(sandbox, fresh, eof=request.eof)
        return router_pb2.SandboxStdinWriteV2Response()

    @answers("SandboxWaitUntilReady")
    async def ready(
        self, request: router_pb2.SandboxWaitUntilReadyTcrRequest, call: Call
    ) -> router_pb2.SandboxWaitUntilReadyTcrResponse:
        """Ready as soon as it runs; probes are not run."""
        sandbox = self._sandbox(request.task_id, call)
        return router_pb2.SandboxWaitUntilReadyTcrResponse(ready_at=sandbox.started_at)

    @answers("TaskReloadVolumes")
    async def reload(
        self, request: router_pb2.TaskReloadVolumesRequest, call: Call
    ) -> router_pb2.TaskReloadVolumesResponse:
        """Nothing to do: volumes here are seen as they are."""
        self._sandbox(request.task_id, call)
        return router_pb2.TaskReloadVolumesResponse()


async def feed(process: Process, data: bytes) -> None:
    """Write to a process, at its pace.

    Raises:
        GRPCError: FAILED_PRECONDITION: it reads no more.
    """
    assert process.stdin is not None
    try:
        process.stdin.write(data)
        await process.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        raise GRPCError(Status.FAILED_PRECONDITION, "stdin is closed") from None  # guess: text


async def feed_sandbox(sandbox: Sandbox, data: bytes, *, eof: bool) -> None:
    """Write to the main command of a sandbox, and end its input."""
    if sandbox.main is None or sandbox.main.stdin is None:
        raise GRPCError(Status.FAILED_PRECONDITION, "the sandbox runs no command")
    if data:
        await feed(sandbox.main, data)
    if eof:
        sandbox.main.stdin.close()
