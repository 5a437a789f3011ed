"""Where the pieces of a command's log come from: Modal's own log while it runs, the answer at its end.

One stream a function serves all of its jobs in this process, since Modal's log of one call is asked for with
a request a second. Nothing depends on it: what it loses is looked up, and what is not found is in the answer.
"""

from __future__ import annotations

import asyncio
import base64
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from theory_adapter_modal.patience import drop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import modal

    from theory_adapter_modal.function.told import Told
    from theory_adapter_modal.function.transfer import Transfer

LIVE = "theory-log"  # theory_shim.LIVE
_PAUSE_S, _LONGEST_S = 0.5, 15.0  # after the stream broke, before it is begun again
# Between two looks of a job for pieces that came: longer where none does, as hundreds may wait at once.
_LOOK_S, _LONGEST_LOOK_S = 0.05, 0.4
_FILL_S = 3.0  # between two looks for what is missing
_LINGER_S = 2.0  # that the stream stays open for the next job
_MOST_LINE = 1 << 20  # bytes; ours have 50 KiB at most
_MOST_BEGUN = 64  # containers whose last line has no end yet; it has one within a moment
_LINES = 1000  # of the answer's log, passed on at a time
_listeners: dict[tuple[int, str], Listener] = {}
_lock = threading.Lock()


class Listener(threading.Thread):
    """Follows the log of one function, and gives each job of this process its pieces."""

    def __init__(self, key: tuple[int, str], function: modal.Function[..., Any, Any]) -> None:
        super().__init__(daemon=True, name="theory-modal-log")
        self._key = key
        self._function = function
        self._jobs: dict[str, Told] = {}
        self._idle_since = time.monotonic()
        self._begun: dict[object, str] = {}  # what has no line end yet, by where it comes from

    def run(self) -> None:
        """Listen as long as there are jobs."""
        asyncio.run(self._listen())

    @property
    def is_dead(self) -> bool:
        """Whether it was started and listens no more."""
        return self.ident is not None and not self.is_alive()

    def take_over(self, other: Listener) -> None:
        """Give the jobs of one that is dead their pieces."""
        self._jobs.update(other._jobs)

    def add(self, execution_id: str, told: Told) -> None:
        """Give a job its pieces from now on."""
        self._jobs[execution_id] = told

    def remove(self, execution_id: str) -> None:
        """The job has its answer."""
        if self._jobs.pop(execution_id, None) is not None:
            self._idle_since = time.monotonic()

    async def _listen(self) -> None:
        pause = _PAUSE_S
        while not self._leaves():
            stream = asyncio.ensure_future(self._stream())
            while not stream.done() and not self._is_idle():
                await asyncio.wait((stream,), timeout=_PAUSE_S)
            await drop(stream)
            pause = _PAUSE_S if not stream.cancelled() and stream.result() else min(2 * pause, _LONGEST_S)
            if not self._is_idle():
                await asyncio.sleep(pause)

    async def _stream(self) -> bool:
        """Follow the log until it breaks; whether it gave anything."""
        heard = False
        with suppress(Exception):  # whatever it is, it is begun again
            async for entry in self._function.logs.stream.aio():
                heard = True
                hear(self._jobs, self._begun, entry.message, tuple(entry.context_ids))
        return heard

    def _is_idle(self) -> bool:
        return not self._jobs and time.monotonic() - self._idle_since > _LINGER_S

    def _leaves(self) -> bool:
        with _lock:
            if self._is_idle():
                _listeners.pop(self._key, None)
                return True
        return False


def hear(jobs: dict[str, Told], begun: dict[object, str], text: str, origin: object) -> None:
    """Find the pieces in a portion of Modal's log, which may end anywhere; the rest waits in ``begun``."""
    *lines, rest = (begun.pop(origin, "") + text).split("\n")
    if 0 < len(rest) < _MOST_LINE:
        begun[origin] = rest
        if len(begun) > _MOST_BEGUN:  # that container ended in the middle of a line
            del begun[next(iter(begun))]
    for line in lines:
        name, _, more = line.partition(" ")
        attempt, _, piece = more.partition(" ")
        told = jobs.get(attempt.partition(".")[0]) if name == LIVE else None
        if told is not None:
            told.take(attempt, piece)


def join(
    function: modal.Function[..., Any, Any],
    client: modal.Client,
    execution_id: str,
    told: Told,
    *,
    begin: bool,
) -> bool:
    """Have a job get its pieces from now on; whether it does.

    Args:
        function: What it is a call of.
        client: The account.
        execution_id: The job.
        told: Gets them.
        begin: Listen if nobody does yet; else the job only joins.
    """
    key = (id(client), function.object_id)
    with _lock:
        listener = _listeners.get(key)
        if listener is None and not begin:
            return False
        if listener is None or listener.is_dead:
            former, listener = listener, Listener(key, function)
            if former is not None:
                listener.take_over(former)
            try:
                listener.start()
            except RuntimeError:  # this machine takes no more threads
                return False
            _listeners[key] = listener
        listener.add(execution_id, told)
    return True


def leave(execution_id: str) -> None:
    """The job has ended."""
    with _lock:
        for listener in _listeners.values():
            listener.remove(execution_id)


async def follow(call: modal.FunctionCall[bytes], execution_id: str, told: Told, *, is_late: bool) -> None:
    """Pass on a job's log as it comes, until this is cancelled.

    Args:
        call: The job's call.
        execution_id: The job.
        told: Has joined.
        is_late: It joined when the command may have written something already, so that is asked for.
    """
    filled, pause = time.monotonic() if not is_late else 0.0, _LOOK_S
    while True:
        pause = _LOOK_S if told.pass_on() else min(2 * pause, _LONGEST_LOOK_S)
        if (told.lacks or not filled) and time.monotonic() - filled > _FILL_S:
            await _fill(call, execution_id, told)
            filled = time.monotonic()
        await asyncio.sleep(pause)


async def _fill(call: modal.FunctionCall[bytes], execution_id: str, told: Told) -> None:
    """Ask for all that Modal's log has of the call so far."""
    begun: dict[object, str] = {}
    with suppress(Exception):  # it comes with the answer
        async for entry in call.logs.fetch.aio():
            hear({execution_id: told}, begun, entry.message, tuple(entry.context_ids))


async def lines_of(log: dict[str, Any], transfer: Transfer, scratch: Path) -> AsyncIterator[list[str]]:
    """The pieces of the whole log, from the answer or from the volume, some at a time."""
    if "volume" not in log:
        yield base64.b64decode(log.get("data", "")).decode("utf-8", "replace").splitlines()
        return
    file = scratch / "log"
    await transfer.fetch(log["volume"], file, log["size"], log["digest"])
    with file.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        while portion := [line.rstrip("\n") for _, line in zip(range(_LINES), lines, strict=False)]:
            yield portion
    file.unlink()


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - the parent's may be held by a thread that is not in the child
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
