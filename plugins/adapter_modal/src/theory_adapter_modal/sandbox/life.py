"""The life of a job's sandbox: created, filled, its command run and heard, emptied, ended whatever happens.

A run has one sandbox at a time. Modal may take it away: its machine is needed, or breaks down. Then the job
gets another one if its command had not begun, or may be repeated without harm because its entry says that it
is ``pure`` or ``seeded``; else the caller decides.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from theory import Outcome, errors
from theory_adapter_modal.account import APP, app, forget_apps
from theory_adapter_modal.cost import RATES, Usage, estimate, known_rates
from theory_adapter_modal.faults import is_broken
from theory_adapter_modal.images import build, image_for, image_that_ran
from theory_adapter_modal.patience import Stopped, patiently, unless_stopped, within
from theory_adapter_modal.resources import whole_seconds
from theory_adapter_modal.sandbox import files
from theory_adapter_modal.sandbox.birth import MOST_LIFE_S, Work, create
from theory_adapter_modal.sandbox.endings import Ending, ending_of, not_started, taken_away, was_out_of_memory
from theory_adapter_modal.sandbox.marks import held
from theory_adapter_modal.sandbox.orphans import account_of, end_by_name, sweep
from theory_adapter_modal.sandbox.streams import Ear, heard
from theory_adapter_modal.secrets import secrets_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

    import modal

    from theory_adapter_modal.sandbox.marks import Mark

T = TypeVar("T")

_LIVES = 3  # sandboxes that a run may have
_GRACE_S = 2.0  # between SIGTERM and the end
_NEWS_S = 2.0  # how long after a failure Modal may take to say that the sandbox has ended
# To have it ended; the latter where the run was cancelled and has to be answered.
_END_S, _END_SOON_S = 60.0, 4.0
# That streams may be silent after the command's end: before what it left is killed; after that where it could
# not be; and where they can only be away (between two tries, 10 s of ours and 5 s of the client's).
_LATE_S, _SILENCE_S, _AWAY_S = 0.2, 2.0, 25.0
_COLLECT_S = 3600.0  # for what a command left to come
_SWEEP_S = 10.0  # to end what dead callers left; there is hardly ever anything
_MARGIN_S = 30  # of Modal's own limit for the command, which is there in case that we are not


class Gone(Exception):
    """The sandbox has ended, and not because we ended it.

    Args:
        status: Its exit status, 128 + n for signal n; None where Modal does not say.
    """

    def __init__(self, status: int | None) -> None:
        super().__init__(status)
        self.status = status


async def run_in_sandbox(work: Work) -> Outcome:
    """Run the job in a sandbox of its own.

    Raises:
        Busy: Another process of this machine runs this very execution.
        Unsupported: The command may take longer than a sandbox lives, or Modal has no such machine.
        Retry, ImageNotFound, ImageBuildFailed, MissingSecret, ModalUnavailable, PluginFailed: As ``execute``.
    """
    if work.job.processor.runtime.timeout > MOST_LIFE_S - _MARGIN_S:
        raise errors.Unsupported(
            f"{work.job.processor.ref} may take {work.job.processor.runtime.timeout:g} s,"
            f" and a sandbox of Modal lives for {MOST_LIFE_S} s",
            hint="give it less time: --timeout SECONDS",
        )
    mark = await unless_stopped(work.channel, held(work.workspace.cache, work.name))
    try:
        return await _Run(work, mark).run()
    finally:
        mark.close()


class _Run:
    """One run, from the image to the last sandbox's end."""

    def __init__(self, work: Work, mark: Mark) -> None:
        self._work, self._mark = work, mark
        self._job, self._channel, self._client = work.job, work.channel, work.session.client
        self._image_id = ""
        self._sandbox: modal.Sandbox | None = None
        self._end: asyncio.Task[int | None] | None = None  # of the sandbox
        self._creation: asyncio.Task[modal.Sandbox] | None = None
        self._process: modal.container_process.ContainerProcess[bytes] | None = None
        self._ears: list[Ear] = []
        self._billed_s = 0.0
        self._created = self._started = 0.0  # on the monotonic clock
        self._started_at = time.time()
        self._has_begun = self._has_ended = False  # the command's time
        self._has_keep_alive = True  # whether its image has `sleep`, as far as we know

    async def run(self) -> Outcome:
        """All of it."""
        rates = asyncio.ensure_future(known_rates(self._work.workspace.cache, self._client))
        swept = asyncio.ensure_future(sweep(self._work.workspace.cache, self._client))
        ending = Ending("cancelled", None)
        try:
            try:
                ending = await unless_stopped(
                    self._channel, self._live(), has_time=lambda: not self._has_ended
                )
            except Stopped as stopped:
                ending = Ending(stopped.why, None)
                await self._ask_to_end()
        except BaseException:
            if self._created:  # a sandbox costs something before its command runs, too
                self._begin_time()
            raise
        finally:
            self._duration_s = time.monotonic() - self._started if self._started else 0.0
            await self._leave(soon=self._channel.wait_cancelled(0))
            if self._billed_s == 0.0:
                rates.cancel()
            await asyncio.wait((swept,), timeout=0 if self._channel.wait_cancelled(0) else _SWEEP_S)
            swept.cancel()
            await asyncio.wait((rates, swept))
            for task in (rates, swept):
                if not task.cancelled():
                    task.exception()  # looked at, so that asyncio does not complain
        runtime, options = self._job.processor.runtime, self._work.options
        usage = Usage(runtime, self._billed_s, "sandbox")
        known = RATES if rates.cancelled() or rates.exception() else rates.result()
        return Outcome(
            ended=ending.ended,
            exit_code=ending.exit_code if ending.ended == "exit" else None,
            started_at=self._started_at,
            duration_s=ending.duration_s if ending.duration_s is not None else self._duration_s,
            image_digest=self._job.image.digest,
            platform=self._job.image.platform,
            cost_micro_usd=0 if rates.cancelled() else estimate(usage, options, known),
            message=ending.message,
            image=image_that_ran(self._job.image, self._image_id),
        )

    async def _live(self) -> Ending:
        image, secrets = await self._ready()
        for life in range(1, _LIVES + 1):
            try:
                return await self._one_life(image, secrets)
            except Gone as gone:
                if not self._may_go_on(life):
                    raise taken_away(
                        self._job.processor, gone.status, has_begun=bool(self._started)
                    ) from gone
                self._tell("Modal took the sandbox away; another one begins")
                await self._leave(soon=False)
        raise AssertionError  # the last life returns or raises

    async def _ready(self) -> tuple[modal.Image, list[modal.Secret]]:
        """The image, built, and the secrets; asked for at once, before anything is there that costs."""
        from modal.exception import NotFoundError  # noqa: PLC0415 - only where the adapter runs

        job, options = self._job, self._work.options
        image = image_for(job.processor, options, self._client)

        async def built_in(home: modal.App) -> str:
            return await patiently(lambda: build(image, job.processor, home, self._channel))

        async def built() -> str:
            try:
                return await built_in(await patiently(lambda: app(APP, self._work.session)))
            except NotFoundError:  # the app that this process knows was stopped
                forget_apps()
                return await built_in(await patiently(lambda: app(APP, self._work.session)))

        def kept() -> Awaitable[list[modal.Secret]]:
            return secrets_for(job.processor, self._work.secrets, options, self._client)

        self._image_id, secrets = await asyncio.gather(built(), patiently(kept))
        return image, secrets

    async def _one_life(self, image: modal.Image, secrets: list[modal.Secret]) -> Ending:
        ref, startup_s = self._job.processor.ref, self._work.options.startup
        late = errors.Retry(
            f"Modal did not start a container for {ref} within {startup_s} s",
            hint="try again later, or give it more: -o startup=SECONDS",
        )
        await within(startup_s, self._begin(image), late)
        await self._while_there(files.stage(self._there, self._job, self._work.workspace))
        if (failed := await self._start(secrets)) is not None:
            return failed
        status = await self._while_there(self._wait())
        self._has_ended = True  # what it left may take longer to come than it had
        ended_s = time.monotonic() - self._started
        late = errors.Retry(
            f"the outputs of {ref} did not come from Modal within {_COLLECT_S:g} s",
            hint="run it again, or let it write less",
        )
        return await within(_COLLECT_S, self._left_by(status, ended_s), late)

    async def _left_by(self, status: int, ended_s: float) -> Ending:
        """How the command ended, once all that it left is here."""
        await self._while_there(self._heard())
        ending = await self._ending(status, ended_s)
        if ending.ended == "exit":
            await self._while_there(files.collect(self._there, self._job, self._work.workspace.out))
        return ending

    # ------------------------------------------------------------ the beginning

    async def _begin(self, image: modal.Image) -> None:
        """Have a sandbox: exactly one, whatever becomes of the connection, as two of one name cannot be."""
        if self._mark.was_there:
            # Else a create whose answer is lost would take it for its own, with the former command in it.
            former = self._mark.environment()
            if self._mark.account() not in {None, account_of(former)}:
                self._tell(
                    "a former try's sandbox may be in another account of Modal, where it ends by itself"
                )
            await patiently(lambda: end_by_name(self._work.name, former, self._client))
        environment = self._work.session.environment
        self._mark.write(environment, account_of(environment))
        self._created = time.monotonic()
        self._creation = asyncio.ensure_future(create(self._work, image, keep_alive=self._has_keep_alive))
        self._sandbox = await asyncio.shield(self._creation)
        self._end = asyncio.ensure_future(self._watch(self._sandbox))

    async def _start(self, secrets: list[modal.Secret]) -> Ending | None:
        """Start the command, once; its end where it cannot be started."""
        job = self._job
        environment: dict[str, str | None] = {
            **job.environment,
            "HOME": files.SCRATCH,
            "TMPDIR": files.SCRATCH,
        }
        asked = time.monotonic()
        self._started_at = time.time()
        # Before it is asked for, since an answer that is lost does not tell whether it runs.
        self._begin_time()
        self._started, self._has_ended = asked, False
        try:
            process = self._process = await self._while_there(
                self._there.exec.aio(
                    *(job.processor.command or ()),
                    env=environment,
                    secrets=secrets,
                    timeout=whole_seconds(job.processor.runtime.timeout) + _MARGIN_S,
                    text=False,
                )
            )
        except Exception as error:
            if is_broken(error):
                # It may run, and nothing tells: this sandbox is given up, and with it whatever runs there.
                raise Gone(None) from error
            if (failed := not_started(error)) is None:
                raise
            self._tell(failed.message)
            return failed
        self._ears = [
            Ear(process.stdout, "stdout", self._channel),
            Ear(process.stderr, "stderr", self._channel),
        ]
        return None

    def _begin_time(self) -> None:
        """Let the command's time begin, once: a second try has what is left of it.

        What fails after this is charged, as what began may have cost something.
        """
        if not self._has_begun:
            self._has_begun = True
            self._channel.started()

    # ------------------------------------------------------------ while it runs

    async def _watch(self, sandbox: modal.Sandbox) -> int | None:
        """The sandbox's exit status once it has ended."""
        from modal.exception import NotFoundError, SandboxTerminatedError, SandboxTimeoutError  # noqa: PLC0415 - as above

        try:
            await patiently(sandbox.wait.aio, limit_s=float("inf"))
        except (NotFoundError, SandboxTerminatedError, SandboxTimeoutError):
            return None
        return sandbox.returncode

    async def _while_there(self, work: Coroutine[object, object, T]) -> T:
        """Do some work that needs the sandbox.

        Raises:
            Gone: It ended meanwhile.
        """
        task, end = asyncio.ensure_future(work), self._ending_of_sandbox
        try:
            await asyncio.wait((task, end), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await asyncio.wait((task,), timeout=_NEWS_S)  # its result may be on the way
            if task.done() and task.exception() is None:
                return task.result()
            if task.done() and not isinstance(task.exception(), errors.TheoryError):
                await asyncio.wait((end,), timeout=_NEWS_S)  # it may have failed because of that
            if end.done():
                raise Gone(end.result()) from (task.exception() if task.done() else None)
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))

    async def _wait(self) -> int:
        """The command's exit status: 128 + n for signal n, -1 where Modal's own limit ended it."""
        process = self._process
        assert process is not None  # noqa: S101 - it was started
        return await patiently(process.wait.aio)

    async def _heard(self) -> None:
        """All that the command wrote has been passed on.

        What it started and left behind may hold its streams open; that is killed, as it is elsewhere.
        """
        if await heard(self._ears, _LATE_S):
            return
        is_killed = await patiently(lambda: files.signal_all(self._there, self._job, "KILL"))
        is_away = is_killed or any(ear.was_cut for ear in self._ears)
        if not await heard(self._ears, _AWAY_S if is_away else _SILENCE_S):
            self._tell("the end of what the command wrote may be missing: its streams stay open, or away")

    async def _ending(self, status: int, duration_s: float) -> Ending:
        evidence = None
        if status == 128 + 9:
            await asyncio.wait((self._ending_of_sandbox,), timeout=_NEWS_S / 4)
            if self._ending_of_sandbox.done():
                raise Gone(self._ending_of_sandbox.result())
            evidence = await was_out_of_memory(self._there)
        return ending_of(status, evidence, duration_s, memory=self._job.processor.runtime.memory)

    # ------------------------------------------------------------ the end

    def _may_go_on(self, life: int) -> bool:
        if life == _LIVES:
            return False
        if not self._started:
            self._has_keep_alive = False
            return True
        return self._job.processor.determinism != "nondeterministic" and life == 1

    async def _ask_to_end(self) -> None:
        """Give the command, and what it started, a moment to end by itself, where a shell can tell it."""
        if self._process is None or self._sandbox is None:
            return

        async def ask(sandbox: modal.Sandbox) -> None:
            if await files.signal_all(sandbox, self._job, "TERM"):
                await self._wait()
                await heard(self._ears, _GRACE_S)

        with suppress(Exception):
            await asyncio.wait_for(ask(self._sandbox), _GRACE_S)

    async def _leave(self, *, soon: bool) -> None:
        """End the sandbox, if there is one or may be one, and let go of all that belongs to it."""
        end_s = _END_SOON_S if soon else _END_S
        is_ended = self._creation is None
        if self._creation is not None:
            await asyncio.wait((self._creation,), timeout=end_s)
            is_ended = await self._is_ended(end_s)
            self._billed_s += time.monotonic() - self._created
        tasks = [
            task
            for task in (self._creation, self._end, *(ear.task for ear in self._ears))
            if task is not None and not task.done()
        ]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._sandbox is not None:
            with suppress(Exception):
                await self._sandbox.detach.aio()  # type: ignore[no-untyped-call]  # it is, in the stub
        self._sandbox = self._creation = self._end = self._process = None
        self._ears = []
        if is_ended:
            self._mark.clear()
        else:
            self._tell(
                f"the sandbox {self._work.name} may still be there; the next run here ends it, or Modal does"
            )

    async def _is_ended(self, end_s: float) -> bool:
        """Whether Modal has ended the sandbox, or knows of none."""
        from modal.exception import NotFoundError  # noqa: PLC0415 - only where the adapter runs

        creation = self._creation
        try:
            if (
                creation is not None
                and creation.done()
                and not creation.cancelled()
                and creation.exception() is None
            ):
                self._sandbox = creation.result()
                await asyncio.wait_for(patiently(self._sandbox.terminate.aio, end_s), end_s)
                return True
            name, environment = self._work.name, self._work.session.environment

            def end() -> Awaitable[bool]:
                return end_by_name(name, environment, self._client)

            was_done = creation is None or creation.done()
            await asyncio.wait_for(patiently(end, end_s), end_s)
            if not was_done and creation is not None and creation.done():
                return await self._is_ended(end_s)  # it came while nothing of that name was found
        except NotFoundError:
            return True
        except Exception:  # noqa: BLE001 - whatever it is, the sandbox may still be there
            return False
        return creation is None or creation.done()

    @property
    def _there(self) -> modal.Sandbox:
        assert self._sandbox is not None  # noqa: S101 - it was created
        return self._sandbox

    @property
    def _ending_of_sandbox(self) -> asyncio.Task[int | None]:
        assert self._end is not None  # noqa: S101 - it was created
        return self._end

    def _tell(self, words: str) -> None:
        self._channel.write("stderr", f"theory: {words}\n".encode())
