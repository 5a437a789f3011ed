"""The life of a job's sandbox: created, filled, its command run and heard, emptied, ended whatever happens.

A run has one sandbox at a time. Modal may take it away: its machine is needed, or breaks down. Then the job
gets another one if its command had not begun, or may be repeated without harm because its entry says that it
is ``pure`` or ``seeded``; else the caller decides.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from theory import Outcome, errors
from theory_adapter_modal.account import APP, app, forget_apps
from theory_adapter_modal.cost import RATES, Usage, estimate, known_rates
from theory_adapter_modal.faults import is_broken
from theory_adapter_modal.images import build, image_for, image_that_ran
from theory_adapter_modal.patience import Stopped, drop, patiently, unless_stopped, within
from theory_adapter_modal.resources import whole_seconds
from theory_adapter_modal.sandbox import files
from theory_adapter_modal.sandbox.birth import MOST_LIFE_S, Work
from theory_adapter_modal.sandbox.endings import Ending, ending_of, not_started, taken_away, was_out_of_memory
from theory_adapter_modal.sandbox.holding import Gone, Holding
from theory_adapter_modal.sandbox.marks import held
from theory_adapter_modal.sandbox.orphans import sweep
from theory_adapter_modal.sandbox.streams import Ear, heard
from theory_adapter_modal.secrets import secrets_for

if TYPE_CHECKING:
    from collections.abc import Awaitable

    import modal

    from theory_adapter_modal.sandbox.marks import Mark

_LIVES = 3  # sandboxes that a run may have
_GRACE_S = 2.0  # between SIGTERM and the end
_TAKEN_S = 0.5  # after a SIGKILL, that Modal may take to say that it took the sandbox
# That streams may be silent after the command's end: before what it left is killed; after that where it could
# not be; and where they can only be away (between two tries, 10 s of ours and 5 s of the client's).
_LATE_S, _SILENCE_S, _AWAY_S = 0.2, 2.0, 25.0
_COLLECT_S = 3600.0  # for what a command left to come
_SWEEP_S = 10.0  # to end what dead callers left; there is hardly ever anything
_MARGIN_S = 30  # of Modal's own limit for the command, which is there in case that we are not


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
        self._work, self._holding = work, Holding(work, mark)
        self._job, self._channel, self._client = work.job, work.channel, work.session.client
        self._image_id = ""
        self._process: modal.container_process.ContainerProcess[bytes] | None = None
        self._ears: list[Ear] = []
        self._started = 0.0  # on the monotonic clock
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
            if self._holding.was_asked_for:  # a sandbox costs something before its command runs, too
                self._begin_time()
            raise
        finally:
            self._duration_s = time.monotonic() - self._started if self._started else 0.0
            await self._leave(soon=self._channel.wait_cancelled(0))
            if self._holding.billed_s == 0.0:
                rates.cancel()
            await asyncio.wait((swept,), timeout=0 if self._channel.wait_cancelled(0) else _SWEEP_S)
            await asyncio.wait((rates,))
            await drop(swept)
        runtime, options = self._job.processor.runtime, self._work.options
        usage = Usage(runtime, self._holding.billed_s, "sandbox")
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
                self._work.tell("Modal took the sandbox away; another one begins")
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
        await within(startup_s, self._holding.begin(image, keep_alive=self._has_keep_alive), late)
        await self._holding.while_there(files.stage(self._holding.there, self._job, self._work.workspace))
        if (failed := await self._start(secrets)) is not None:
            return failed
        status = await self._holding.while_there(self._wait())
        self._has_ended = True  # what it left may take longer to come than it had
        ended_s = time.monotonic() - self._started
        late = errors.Retry(
            f"the outputs of {ref} did not come from Modal within {_COLLECT_S:g} s",
            hint="run it again, or let it write less",
        )
        return await within(_COLLECT_S, self._left_by(status, ended_s), late)

    async def _left_by(self, status: int, ended_s: float) -> Ending:
        """How the command ended, once all that it left is here."""
        await self._holding.while_there(self._heard())
        ending = await self._ending(status, ended_s)
        if ending.ended == "exit":
            await self._holding.while_there(
                files.collect(self._holding.there, self._job, self._work.workspace.out)
            )
        return ending

    # ------------------------------------------------------------ the beginning

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
            process = self._process = await self._holding.while_there(
                self._holding.there.exec.aio(
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
            self._work.tell(failed.message)
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
        is_killed = await patiently(lambda: files.signal_all(self._holding.there, self._job, "KILL"))
        is_away = is_killed or any(ear.was_cut for ear in self._ears)
        if not await heard(self._ears, _AWAY_S if is_away else _SILENCE_S):
            self._work.tell(
                "the end of what the command wrote may be missing: its streams stay open, or away"
            )

    async def _ending(self, status: int, duration_s: float) -> Ending:
        evidence = None
        if status == 128 + 9:
            await self._holding.check(_TAKEN_S)
            evidence = await was_out_of_memory(self._holding.there)
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
        if self._process is None or not self._holding.is_there:
            return

        async def ask(sandbox: modal.Sandbox) -> None:
            if await files.signal_all(sandbox, self._job, "TERM"):
                await self._wait()
                await heard(self._ears, _GRACE_S)

        with suppress(Exception):
            await asyncio.wait_for(ask(self._holding.there), _GRACE_S)

    async def _leave(self, *, soon: bool) -> None:
        """End the sandbox, if there is one or may be one, and let go of all that belongs to it."""
        await self._holding.end(soon=soon)
        await drop(*(ear.task for ear in self._ears))
        self._ears, self._process = [], None
        await self._holding.let_go()
