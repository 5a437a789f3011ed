"""What the end of a container means."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from theory import JsonObject

Ending = Literal["exit", "oom", "timeout", "cancelled"]
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as shells have it
KILLED, TERMINATED, FILE_TOO_LARGE = 137, 143, 153  # 128 + n for signal n of Linux

# Docker's init says so as the last line of stderr, and ends with the status of a shell.
_INIT_SAYS = rb"\[FATAL tini \(\d+\)\] exec (.+) failed: (.+)\s*\Z"


class Ended(NamedTuple):
    """How a command ended."""

    ended: Ending
    status: int  # its exit status; 128 + n for signal n
    started_at: float  # seconds since the epoch
    duration_s: float
    message: str = ""


def ending_of(
    state: JsonObject, verdict: Ending | None, last_words: bytes, *, memory: int, platform: str
) -> tuple[Ending, str]:
    """How it ended, and more about it for people.

    Args:
        state: What the engine says of the stopped container.
        verdict: Why we stopped it; None: we did not. The status cannot tell: 137 may have any reason.
        last_words: The end of its stderr.
        memory: MiB that it had.
        platform: What its image is for.
    """
    if verdict is not None:
        return verdict, ""
    status = status_of(state)
    # It may have been one of its children that was killed; one that copes with it is no failure.
    if state["OOMKilled"] and status:
        return "oom", ""
    if status == KILLED:
        return "exit", f"killed by somebody, or by the system for want of memory: it had {memory} MiB"
    if status == FILE_TOO_LARGE:
        return "exit", "it wrote a larger file than -o output_size=MIB allows"
    return "exit", _not_started(last_words, platform) if status in {NOT_FOUND, NOT_EXECUTABLE} else ""


def status_of(state: JsonObject) -> int:
    """The exit status of a stopped container."""
    status = state["ExitCode"]
    return status if isinstance(status, int) else 1


def _not_started(last_words: bytes, platform: str) -> str:
    """What the init says of a command that it could not start; nothing where that ended so itself."""
    said = re.search(_INIT_SAYS, last_words)
    if said is None:
        return ""
    program, reason = (part.decode("utf-8", "replace").strip() for part in said.groups())
    made_for = f", and the image is for {platform}" if reason == "Exec format error" else ""
    return f"cannot run {program}: {reason}{made_for}"
