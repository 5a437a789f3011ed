"""How a command in a sandbox ended, as shells and the other adapters have it."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, NamedTuple

from theory import errors
from theory_adapter_modal.faults import words_of

if TYPE_CHECKING:
    import modal

    from theory import Processor
    from theory.types import Ended

TIMED_OUT = -1  # Modal's own limit ended it. Source: modal.container_process, client 1.6
KILLED = 128 + 9
_NOT_FOUND, _CANNOT_RUN = 127, 126
_LOOK_S = 2.0
# Where Linux counts what it killed for want of memory: control groups of version 2, and of version 1.
_COUNTERS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
_COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


class Ending(NamedTuple):
    """How it ended."""

    ended: Ended
    exit_code: int | None
    message: str = ""
    duration_s: float | None = None  # of the command; None where nobody measured it


def ending_of(status: int, was_oom: bool | None, duration_s: float, *, memory: int) -> Ending:  # noqa: FBT001 - what is known
    """The ending for a command's exit status.

    Args:
        status: What Modal says of the command.
        was_oom: For a killed one, whether the sandbox's own counter says that it was for want of memory; None
            where it has none.
        duration_s: How long it ran.
        memory: What it had, in MiB.

    >>> ending_of(0, None, 1.0, memory=512)
    Ending(ended='exit', exit_code=0, message='', duration_s=1.0)
    >>> ending_of(137, None, 1.0, memory=512).ended
    'oom'
    """
    if status == TIMED_OUT:
        return Ending("timeout", None, "Modal ended it", duration_s)
    if status == KILLED and was_oom is not False:
        message = (
            "" if was_oom else f"it was killed, and by nothing that is known but want of its {memory} MiB"
        )
        return Ending("oom", None, message, duration_s)
    return Ending("exit", status, "", duration_s)


def not_started(error: BaseException) -> Ending | None:
    """The ending of a command that Modal could not start; None where the error is about something else."""
    from modal.exception import InvalidError, NotFoundError  # noqa: PLC0415 - only where the adapter runs

    if not isinstance(error, (InvalidError, NotFoundError)):
        return None
    words = words_of(error)
    code = (
        _CANNOT_RUN
        if re.search(r"permission denied|exec format|not executable", words, re.IGNORECASE)
        else _NOT_FOUND
    )
    return Ending("exit", code, f"the command cannot be started: {words}", 0.0)


def taken_away(processor: Processor, status: int | None, *, has_begun: bool) -> errors.Retry:
    """The error for a sandbox that ended by itself, with this exit status, and is not replaced."""
    ref, memory = processor.ref, processor.runtime.memory
    why = f" with status {status}" if status else ""
    if not has_begun:
        return errors.Retry(
            f"the sandbox of {ref} ended{why} before its command began",
            hint="see whether the image runs at all: --adapter local; else try again later",
        )
    return errors.Retry(
        f"the sandbox of {ref} ended{why} while its command ran: taken away, or out of its {memory} MiB",
        hint="run it again, with more runtime.memory if that happens again; nothing of this try is kept",
    )


async def was_out_of_memory(sandbox: modal.Sandbox) -> bool | None:
    """Whether something in this sandbox was killed for want of memory; None where it does not count that."""
    from modal.exception import Error  # noqa: PLC0415 - only where the adapter runs

    async def count(path: str) -> bool | None:
        try:
            found = _COUNT.search(await asyncio.wait_for(sandbox.filesystem.read_text.aio(path), _LOOK_S))
        except (Error, OSError, ValueError, asyncio.TimeoutError):
            return None
        return found and found[1] != "0"

    counted = await asyncio.gather(*map(count, _COUNTERS))
    return None if all(each is None for each in counted) else any(counted)
