"""A job's files on their way into a sandbox, and back.

What every sandbox has is Modal's own file tool: a program that is started for each file. It takes the
artifacts in and, where the image has no ``sh`` and ``tar``, all else. Where it has them, one short command
lays a job out, and one archive brings back any number of files.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from theory import errors
from theory_adapter_modal.faults import words_of
from theory_adapter_modal.patience import Patience, drop, patiently
from theory_adapter_modal.sandbox.streams import pieces
from theory_adapter_modal.sandbox.sums import Sum, shown
from theory_adapter_modal.sandbox.tarball import REPLACED, Broken, Reader, refused, special, unpack

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import modal
    from modal.types import FileInfo

    from theory import Job, Workspace

T = TypeVar("T")

JOB, OUT = "/job", "/job/out"
SCRATCH = "/tmp"  # noqa: S108 - the sandbox's own
_AT_ONCE = 8  # files on their way
_SHORT_S = 60  # for a short one
_SMALL_BYTES = 1024 * 1024  # of inputs that are sent in one message
_MOST_S = 3600  # of a command of ours in there
_CANNOT_RUN = (126, 127)  # a shell's, for what is not executable or not there
_SHELL = ("/bin/sh", "-c")
_LAY_OUT = f"mkdir -p {OUT} {SCRATCH} && cat >{JOB}/inputs.json"
# What still runs of the job is found by a variable that only its processes have. It is killed first: what is
# archived does not change meanwhile.
_EACH = 'for it in $(grep -ls "THEORY_EXECUTION_ID=$1" /proc/[0-9]*/environ); do it=${it#/proc/};'
_SIGNAL = _EACH + ' kill "-$2" "${it%/environ}"; done 2>/dev/null'
_ARCHIVE = _EACH + ' kill -9 "${it%/environ}"; done 2>/dev/null;'
_ARCHIVE += f" find {OUT} -type s -print0 2>/dev/null; printf '\\0'; exec tar -cf - -C /job out"


async def stage(sandbox: modal.Sandbox, job: Job, workspace: Workspace) -> None:
    """Send the inputs, streamed from their files, and make the folders that a command may rely on.

    Raises:
        modal.exception.Error: The sandbox is gone, or its disk is full.
    """
    tool, slots = sandbox.filesystem, asyncio.Semaphore(_AT_ONCE)

    async def send(path: Path, there: str) -> None:
        async with slots:
            await _again(lambda: tool.copy_from_local.aio(path, there))

    async def lay_out() -> None:
        small = _if_small(workspace.inputs)
        if not small or not await _again(lambda: _quietly(sandbox, *_SHELL, _LAY_OUT, given=small)):
            await asyncio.gather(
                _again(lambda: tool.make_directory.aio(OUT)),
                _again(lambda: tool.make_directory.aio(SCRATCH)),
                send(workspace.inputs, f"{JOB}/inputs.json"),
            )

    await asyncio.gather(
        lay_out(), *(send(workspace.root / one.path.lstrip("/"), one.path) for one in job.artifacts)
    )
    if job.artifacts:
        await _again(lambda: _quietly(sandbox, "chmod", "-R", "a-w", "/artifacts"))


async def collect(sandbox: modal.Sandbox, job: Job, out: Path) -> None:
    """Fetch what is in ``out``; what the ended command left running is killed, where that is possible.

    Raises:
        OutputLimit, BadOutputPath, DuplicateOutput, StoreFailed: What the command left cannot be taken.
        Retry: It did not arrive whole.
        modal.exception.Error: The sandbox is gone.
    """
    try:
        if not await _fetch_archive(sandbox, job, out):
            await _fetch_files(sandbox, out)
    except Broken as broken:
        raise errors.Retry(
            f"the outputs did not arrive whole from Modal: {broken}", hint="run it again"
        ) from broken


async def signal_all(sandbox: modal.Sandbox, job: Job, signal: str) -> bool:
    """Send a signal to all processes of the job; whether the image has what it takes.

    Raises:
        modal.exception.Error, OSError: The connection broke.
    """
    return await _quietly(sandbox, *_SHELL, _SIGNAL, "sh", job.execution_id, signal)


def _if_small(file: Path) -> bytes:
    """What is in a file, or nothing where that is too much for one message."""
    with file.open("rb") as opened:
        data = opened.read(_SMALL_BYTES + 1)
    return data if len(data) <= _SMALL_BYTES else b""


async def _quietly(sandbox: modal.Sandbox, *command: str, given: bytes = b"") -> bool:
    """Run a short command of ours; whether it is there, and did what it should.

    Raises:
        modal.exception.Error, OSError: The connection broke.
    """
    from modal.exception import ConflictError, InvalidError, NotFoundError  # noqa: PLC0415 - where it runs
    from modal.stream_type import StreamType  # noqa: PLC0415 - as above

    null = StreamType.DEVNULL
    try:
        process = await sandbox.exec.aio(*command, stdout=null, stderr=null, text=False, timeout=_SHORT_S)
        if given:
            process.stdin.write(given)
            process.stdin.write_eof()
            with suppress(ConflictError):  # it has ended already: its status says why
                await process.stdin.drain.aio()
    except (InvalidError, NotFoundError):
        return False
    return await process.wait.aio() == 0


async def _again(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask for a file operation that may be done twice, until it is done.

    The client says NotFoundError both where the sandbox is gone and where it could not be reached; which of
    the two it is, is known to who waits for the sandbox's end.
    """
    from modal.exception import NotFoundError, SandboxFilesystemNotFoundError  # noqa: PLC0415 - where it runs

    patience = Patience()
    while True:
        try:
            return await ask()
        except SandboxFilesystemNotFoundError:
            raise
        except NotFoundError as error:
            await patience.bear(ConnectionError(str(error)))
        except Exception as error:  # noqa: BLE001 - raised again unless it is the connection
            await patience.bear(error)


async def _fetch_archive(sandbox: modal.Sandbox, job: Job, out: Path) -> bool:
    """Whether the sandbox could make an archive, and all of it is here."""
    from modal.exception import InvalidError, NotFoundError  # noqa: PLC0415 - only where the adapter runs
    from modal.stream_type import StreamType  # noqa: PLC0415 - as above

    try:
        process = await sandbox.exec.aio(
            *(*_SHELL, _ARCHIVE, "sh", job.execution_id),
            stderr=StreamType.DEVNULL,
            text=False,
            timeout=_MOST_S,
        )
    except (InvalidError, NotFoundError):
        return False
    status = asyncio.ensure_future(patiently(process.wait.aio))
    try:
        reader = Reader(pieces(process.stdout))
        try:
            sockets = await reader.names()
            await unpack(reader, out)
        except Broken:
            if await status in _CANNOT_RUN:
                return False
            raise
        if sockets:  # the one kind that no archive holds
            raise special(sockets[0].removeprefix(f"{OUT}/"), "a socket")
        if (ended := await status) != 0:  # what it could not read is not in the archive
            raise Broken(f"tar ended with status {ended}")
        return True
    finally:
        await drop(status)


async def _fetch_files(sandbox: modal.Sandbox, out: Path) -> None:
    """Fetch file by file: folder after folder is listed, and then all files are copied, some at once."""
    from modal.exception import SandboxFilesystemError  # noqa: PLC0415 - only where the adapter runs
    from modal.types import FileType  # noqa: PLC0415 - as above

    tool, slots, count = sandbox.filesystem, asyncio.Semaphore(_AT_ONCE), Sum()

    async def copy(name: str) -> None:
        async with slots:
            try:
                await _again(lambda: tool.copy_to_local.aio(f"{OUT}/{name}", out / name))
            except SandboxFilesystemError as error:
                raise errors.BadOutputPath(
                    f"the output {shown(name)} cannot be fetched: {words_of(error)}",
                    hint="let it be a regular file with a plain name, or have tar in the image",
                ) from error
            except OSError as error:
                raise refused(error, name) from error

    names, folders, seen = list[str](), [""], set[str]()
    while folders:
        folder = folders.pop()
        for entry in await _listed(tool, folder):
            name = f"{folder}{entry.name}"
            # The list comes from the image's side: no name of it may lead out of here, or through a link.
            if entry.name in {"", ".", ".."} or "/" in entry.name or "\0" in entry.name or name in seen:
                raise special(name, "no name of a file, or there twice")
            seen.add(name)
            is_folder = entry.type == FileType.DIRECTORY
            count.add(name, entry.size if entry.type == FileType.FILE else 0, is_folder=is_folder)
            try:
                if is_folder:
                    (out / name).mkdir(mode=0o700)
                    folders.append(f"{name}/")
                elif entry.type == FileType.SYMLINK:
                    (out / name).symlink_to(entry.symlink_target or "")
                else:
                    names.append(name)
            except OSError as error:
                raise refused(error, name) from error
    await asyncio.gather(*map(copy, names))


async def _listed(tool: Any, folder: str) -> list[FileInfo]:  # noqa: ANN401 - the client has no public name for it
    from modal import exception  # noqa: PLC0415 - only where the adapter runs

    try:
        return await _again(lambda: tool.list_files.aio(f"{OUT}/{folder}".rstrip("/")))
    except ValueError as error:  # the tool names a kind that its client does not know
        raise special(folder or "out", f"or has in it {error}") from error
    except (exception.SandboxFilesystemNotFoundError, exception.SandboxFilesystemNotADirectoryError) as error:
        if folder:
            raise Broken(f"{shown(folder)} is gone") from error
        raise errors.BadOutputPath(REPLACED, hint="leave /job/out where it is") from error
