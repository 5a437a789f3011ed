"""How long a lost connection is waited for, and how a run ends while it waits: one place for both.

The client itself tries again for less than a second (four times, 0.7 s in all; client 1.6). Anything longer
reaches us as an exception, while what runs there runs on.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from theory import errors
from theory_adapter_modal.faults import is_broken, is_throttled, words_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from theory import Channel

T = TypeVar("T")
# Whose run it is: the many places that ask Modal something need not know.
_news: ContextVar[News | None] = ContextVar("news", default=None)

PATIENCE_S = 300.0  # that a connection may be away in one go
# Between two tries: each is twice as long as the one before, less a random half.
_FIRST_S, _LONGEST_S = 0.25, 10.0
_CALM_S = 60.0  # what works for so long has recovered; a dead peer is found after 40 s (client 1.6)
_TOLD_S, _TOLD_AGAIN_S = 5.0, 60.0  # of trouble, until the user is told, and is told again
_ROOM, _REACH = ("had no room", "has no room"), ("could not be reached", "cannot be reached")
_HEARD_S = 2.0  # after which a task that was cancelled is cancelled again
_LOOK_S = 0.1  # how often a run looks whether it has been cancelled


class Stopped(Exception):
    """The run is to end before its work is done.

    Args:
        why: As in ``Outcome.ended``.
    """

    def __init__(self, why: Literal["timeout", "cancelled"]) -> None:
        super().__init__(why)
        self.why = why


class News:
    """Tells a run's user of trouble with the connection, now and then.

    Args:
        channel: Of the run.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel, self._told = channel, -math.inf

    def tell(self, words: str) -> None:
        """Say it on stderr, unless something was said a moment ago: several questions may wait at once."""
        if time.monotonic() - self._told > _TOLD_AGAIN_S:
            self._told = time.monotonic()
            self._channel.write("stderr", f"theory: {words}\n".encode())


def news_to(channel: Channel) -> None:
    """Let whatever is done from here on in this context tell this run's user of trouble."""
    _news.set(News(channel))


class Patience:
    """Waits longer and longer between tries, up to a limit since the last success.

    Args:
        limit_s: Seconds after which it gives up.
        clock: Seconds, monotonic.
    """

    def __init__(self, limit_s: float = PATIENCE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s, self._clock = limit_s, clock
        self.has_borne = False  # whether there was any trouble, ever
        self.calm()

    def calm(self) -> None:
        """It worked: the next trouble is a new one."""
        self._since: float | None = None
        self._tried = self._clock()
        self._pause_s = _FIRST_S

    async def bear(self, error: BaseException) -> None:
        """Wait before the next try, if another one may help.

        Raises:
            Retry: That was the last one.
            BaseException: The error itself, if no other try helps.
        """
        if not (is_broken(error) or is_throttled(error)):
            raise error
        self.has_borne = True
        now = self._clock()
        if now - self._tried > _CALM_S:
            self.calm()
        self._since = now if self._since is None else self._since
        had, has = _ROOM if is_throttled(error) else _REACH
        if now - self._since + self._pause_s > self._limit_s:
            raise errors.Retry(
                f"Modal {had} for {now - self._since:.0f} s: {words_of(error)}",
                hint="try again later; https://status.modal.com says how Modal is",
            ) from error
        if now - self._since > _TOLD_S and (news := _news.get()) is not None:
            news.tell(f"Modal {has}; still trying")
        await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
        self._pause_s = min(2 * self._pause_s, _LONGEST_S)
        self._tried = self._clock()


async def patiently(ask: Callable[[], Awaitable[T]], limit_s: float = PATIENCE_S) -> T:
    """Ask until there is an answer; only for what may be asked twice.

    Raises:
        Retry: The connection was away for longer than the limit, or Modal had no room for so long.
        Exception: Whatever else the question raises.
    """
    patience = Patience(limit_s)
    while True:
        try:
            return await ask()
        except Exception as error:  # noqa: BLE001 - raised again unless it is the connection
            await patience.bear(error)


async def within(limit_s: float, work: Awaitable[T], late: errors.TheoryError) -> T:
    """Do some work, which is cancelled when it takes longer than so many seconds.

    Raises:
        TheoryError: The one given, as it took longer.
    """
    began = time.monotonic()
    try:
        return await asyncio.wait_for(work, limit_s)
    except (TimeoutError, asyncio.TimeoutError):
        if time.monotonic() - began < limit_s:
            raise  # the work's own
        raise late from None


async def unless_stopped(
    channel: Channel, work: Coroutine[object, object, T], has_time: Callable[[], bool] = lambda: True
) -> T:
    """Do some work until it is done, the run is cancelled or the command's time is over.

    Args:
        channel: Knows of both.
        work: What to do.
        has_time: Whether the command still runs, so that its time counts.

    The work is cancelled then, and has ended when this returns.

    Raises:
        Stopped: It is to end.
    """
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            deadline = channel.deadline if has_time() else None
            if channel.wait_cancelled(0):
                raise Stopped("cancelled")
            if deadline is not None and time.monotonic() >= deadline:
                raise Stopped("timeout")
            left = _LOOK_S if deadline is None else min(_LOOK_S, deadline - time.monotonic())
            await asyncio.wait((task,), timeout=max(left, 0.0))
        return task.result()
    finally:
        await drop(task)


async def drop(*tasks: asyncio.Future[Any]) -> None:
    """Cancel what is not done, and wait for it; what it raises is of no interest any more.

    Modal's client loses a cancellation that comes just as its answer does (synchronicity 0.12), so it is told
    until it has heard.
    """
    waited_for = set(tasks)
    while waited_for:
        for task in waited_for:
            task.cancel()
        _, waited_for = await asyncio.wait(waited_for, timeout=_HEARD_S)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not complain
