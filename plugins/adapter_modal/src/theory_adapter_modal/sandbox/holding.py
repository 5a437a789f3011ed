"""The sandbox that a run has: one at a time, watched while it is there, and ended whatever happens."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from theory import errors
from theory_adapter_modal.patience import drop, patiently
from theory_adapter_modal.sandbox.birth import create
from theory_adapter_modal.sandbox.orphans import account_of, end_by_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

    import modal

    from theory_adapter_modal.sandbox.birth import Work
    from theory_adapter_modal.sandbox.marks import Mark

T = TypeVar("T")

_NEWS_S = 2.0  # how long after a failure Modal may take to say that the sandbox has ended
# To have it ended; the latter where the run was cancelled and has to be answered.
_END_S, _END_SOON_S = 60.0, 4.0


class Gone(Exception):
    """The sandbox has ended, and not because we ended it.

    Args:
        status: Its exit status, 128 + n for signal n; None where Modal does not say.
    """

    def __init__(self, status: int | None) -> None:
        super().__init__(status)
        self.status = status


class Holding:
    """A run's sandbox, from its creation to its end.

    Args:
        work: Whose it is.
        mark: The note of it, held.
    """

    def __init__(self, work: Work, mark: Mark) -> None:
        self._work, self._mark = work, mark
        self._creation: asyncio.Task[modal.Sandbox] | None = None
        self._sandbox: modal.Sandbox | None = None
        self._watched: asyncio.Task[int | None] | None = None
        self._created = 0.0  # on the monotonic clock
        self._is_ended = False
        self.billed_s = 0.0  # of all sandboxes that it had, together

    @property
    def was_asked_for(self) -> bool:
        """Whether there is or was a sandbox that costs something, as far as is known here."""
        return self._created > 0

    @property
    def there(self) -> modal.Sandbox:
        """The sandbox; only after ``begin``."""
        assert self._sandbox is not None  # noqa: S101 - it was created
        return self._sandbox

    @property
    def is_there(self) -> bool:
        """Whether there is one."""
        return self._sandbox is not None

    async def begin(self, image: modal.Image, *, keep_alive: bool) -> None:
        """Have a sandbox: exactly one, whatever becomes of the connection, as two of one name cannot be.

        Args:
            image: Built.
            keep_alive: Whether the image has ``sleep``, as far as is known.

        Raises:
            As ``birth.create``.
        """
        work = self._work
        if self._mark.was_there:
            # Else a create whose answer is lost would take it for its own, with the former command in it.
            former = self._mark.environment()
            if self._mark.account() not in {None, account_of(former)}:
                work.tell(
                    "a former try's sandbox may be in another account of Modal, where it ends by itself"
                )
            await patiently(lambda: end_by_name(work.name, former, work.session.client))
        environment = work.session.environment
        self._mark.write(environment, account_of(environment))
        self._created, self._is_ended = time.monotonic(), False
        self._creation = asyncio.ensure_future(create(work, image, keep_alive=keep_alive))
        self._sandbox = await asyncio.shield(self._creation)
        self._watched = asyncio.ensure_future(_watch(self._sandbox))

    async def while_there(self, work: Coroutine[object, object, T]) -> T:
        """Do some work that needs the sandbox.

        Raises:
            Gone: It ended meanwhile.
        """
        watched = self._watched
        assert watched is not None  # noqa: S101 - it was created
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait((task, watched), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await asyncio.wait((task,), timeout=_NEWS_S)  # its result may be on the way
            if task.done() and task.exception() is None:
                return task.result()
            if task.done() and not isinstance(task.exception(), errors.TheoryError):
                await self.check(_NEWS_S)  # it may have failed because of that
            await self.check()
            return task.result()
        finally:
            await drop(task)

    async def check(self, wait_s: float = 0.0) -> None:
        """See whether it is still there, so many seconds from now.

        Raises:
            Gone: It is not.
        """
        assert self._watched is not None  # noqa: S101 - it was created
        await asyncio.wait((self._watched,), timeout=wait_s)
        if self._watched.done():
            raise Gone(self._watched.result())

    async def end(self, *, soon: bool) -> None:
        """Have the sandbox ended, if there is one or may be one; ``let_go`` is to follow."""
        if self._creation is None:
            self._is_ended = True
            return
        end_s = _END_SOON_S if soon else _END_S
        await asyncio.wait((self._creation,), timeout=end_s)
        self._is_ended = await self._ended_within(end_s)
        self.billed_s += time.monotonic() - self._created

    async def let_go(self) -> None:
        """Let go of all that belongs to it, and tell what could not be ended."""
        await drop(*(task for task in (self._creation, self._watched) if task is not None))
        if self._sandbox is not None:
            with suppress(Exception):
                await self._sandbox.detach.aio()  # type: ignore[no-untyped-call]  # it is, in the stub
        self._sandbox = self._creation = self._watched = None
        if self._is_ended:
            self._mark.clear()
        else:
            name = self._work.name
            self._work.tell(
                f"the sandbox {name} may still be there; the next run here ends it, or Modal does"
            )

    async def _ended_within(self, end_s: float) -> bool:
        """Whether Modal has ended the sandbox, or knows of none."""
        from modal.exception import NotFoundError  # noqa: PLC0415 - only where the adapter runs

        creation, work = self._creation, self._work
        assert creation is not None  # noqa: S101 - it was begun

        def end() -> Awaitable[bool]:
            return end_by_name(work.name, work.session.environment, work.session.client)

        try:
            if _has_result(creation):
                self._sandbox = creation.result()
                await asyncio.wait_for(patiently(self._sandbox.terminate.aio, end_s), end_s)
                return True
            was_done = creation.done()
            await asyncio.wait_for(patiently(end, end_s), end_s)
            if not was_done and creation.done():
                return await self._ended_within(end_s)  # it came while nothing of that name was found
        except NotFoundError:
            return True
        except Exception:  # noqa: BLE001 - whatever it is, the sandbox may still be there
            return False
        return creation.done()


def _has_result(task: asyncio.Task[T]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


async def _watch(sandbox: modal.Sandbox) -> int | None:
    """The sandbox's exit status once it has ended."""
    from modal.exception import NotFoundError, SandboxTerminatedError, SandboxTimeoutError  # noqa: PLC0415 - where it runs

    try:
        await patiently(sandbox.wait.aio, limit_s=float("inf"))
    except (NotFoundError, SandboxTerminatedError, SandboxTimeoutError):
        return None
    return sandbox.returncode
