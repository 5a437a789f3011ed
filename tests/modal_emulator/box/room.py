"""A room: a file system and a process namespace in which commands run, on whatever made it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PIPE, DEVNULL, STDOUT = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL, asyncio.subprocess.STDOUT
BUFFER = 1 << 20  # bytes that a pipe's reader holds before the writer has to wait
TOOLS = Path(__file__).with_name("fstools.py")
Mounts = Sequence[tuple[str, str, bool]]  # (path on this machine, path inside, whether it is read-only)


class Process:
    """A command that runs in a room, or beside it."""

    def __init__(self, process: asyncio.subprocess.Process, *, entered: bool) -> None:
        self._process = process
        self._exit = asyncio.ensure_future(self._exited())
        self._entered = entered  # nsenter stands between it and us
        self.id = str(process.pid)
        self.stdin = process.stdin
        self.stdout = _pieces(process.stdout)
        self.stderr = _pieces(process.stderr)
        self.after: Callable[[], Awaitable[None]] | None = None  # what `close` does at the end

    async def wait(self) -> int:
        """Its exit code, or a negative number: the signal that ended it."""
        return await asyncio.shield(self._exit)

    async def _exited(self) -> int:
        """Unlike asyncio's own wait, not delayed by children that hold its streams open."""
        ended = asyncio.Event()
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(self._process.pid)
            loop = asyncio.get_running_loop()
            loop.add_reader(fd, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(fd)
                os.close(fd)
        while self._process.returncode is None:  # noqa: ASYNC110 - asyncio tells nobody
            await asyncio.sleep(0.001)
        return self._process.returncode

    async def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal; SIGKILL goes to all that it started and that did not leave its process group."""
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self._process.pid, number)
            else:
                os.kill(await self._inner(), number)

    async def _inner(self) -> int:
        """The command itself, which is the child of nsenter."""
        while self._entered and self._process.returncode is None:
            if found := children(self._process.pid):
                return found[0]
            await asyncio.sleep(0.005)  # nsenter has not forked yet
        return self._process.pid

    async def close(self) -> None:
        """End it and remove what it leaves."""
        await self.kill()
        await self.wait()
        if self.stdin is not None:
            self.stdin.close()
        if self.after is not None:
            await self.after()


async def _pieces(stream: asyncio.StreamReader | None) -> AsyncIterator[bytes]:
    while stream is not None and (data := await stream.read(BUFFER)):
        yield data


def children(pid: int) -> list[int]:
    """The processes that one started and that are alive."""
    try:
        told = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(child) for child in told.split()]


@dataclass(eq=False)
class Room:
    """Namespaces that one process holds open.

    Args:
        name: what the runner calls it.
        holder: the process whose namespaces are entered.
        root: its root folder as seen from here.
        environ: what every command in it has.
        cgroups: the files through which a command joins its limits.
        namespaces: which of them to enter, as options of nsenter.
        remove: ends the holder and with it all that is in here.
    """

    name: str
    holder: int
    root: str
    environ: Mapping[str, str]
    remove: Callable[[], Awaitable[None]]
    cgroups: Sequence[str] = ()
    namespaces: Sequence[str] = ("--mount", "--pid")
    oomed: Callable[[], bool] = lambda: False  # whether the kernel killed something here for want of memory
    _running: set[Process] = field(default_factory=set)

    async def spawn(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        workdir: str = "",
        *,
        stdin: int = DEVNULL,
        stdout: int = PIPE,
        stderr: int = PIPE,
    ) -> Process:
        """Start a command in here, as root."""
        nsenter = [
            _program("nsenter"),
            *(f"--target={self.holder}", *self.namespaces, f"--root={self.root}", f"--wdns={workdir or '/'}"),
        ]
        joins = "".join(f"echo 0 >{shlex.quote(path)} && " for path in self.cgroups)
        script = f'{joins}exec {shlex.join(nsenter)} -- "$@"'
        command = ["/bin/sh", "-c", script, "sh", *argv]
        full = {**self.environ, **environ}
        return await self._start(command, full, (), stdin, stdout, stderr, entered=True)

    async def tool(self, command: str, fds: tuple[int, ...]) -> Process:
        """Start the program that reads and writes files in here; `fds` holds its socket."""
        argv = [sys.executable, "-I", "-S", str(TOOLS), self.root, command, *map(str, fds)]
        return await self._start(argv, {}, fds, PIPE, PIPE, PIPE, entered=False)

    async def _start(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        fds: tuple[int, ...],
        stdin: int,
        stdout: int,
        stderr: int,
        *,
        entered: bool,
    ) -> Process:
        started = await asyncio.create_subprocess_exec(
            *argv,
            env=environ,
            cwd="/",
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            limit=BUFFER,
            pass_fds=fds,
            start_new_session=True,
        )
        process = Process(started, entered=entered)
        self._running.add(process)
        task = asyncio.ensure_future(process.wait())
        task.add_done_callback(lambda _: self._running.discard(process))
        return process

    async def close(self) -> None:
        """End all that runs in here and remove it."""
        for process in list(self._running):
            await process.kill()
        await self.remove()
        for process in list(self._running):
            await process.wait()


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} (util-linux) is not installed")
    return found
