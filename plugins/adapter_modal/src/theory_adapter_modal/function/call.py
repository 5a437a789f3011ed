"""A job as a call of its entry's deployed function, from its files to its outputs.

The call is spawned, its id is written down durably, and only then is it waited for: whoever tries the same
execution again, after this process was killed, waits for that call and starts no other one. To spawn is the
only question that is not asked twice: whether Modal took it cannot be known if the answer is lost.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from theory import Outcome, errors
from theory_adapter_modal.cost import RATES, Usage, estimate, known_rates
from theory_adapter_modal.faults import is_broken, is_throttled, told, words_of
from theory_adapter_modal.function.deployed import (
    OVERHEAD,
    SPARE_S,
    app_name,
    find_function,
    forget,
    volume_of,
)
from theory_adapter_modal.function.documents import INLINE_BYTES, Request, lay_down, read_answer
from theory_adapter_modal.function.endings import ended_at_modal
from theory_adapter_modal.function.log import follow, join, leave, lines_of
from theory_adapter_modal.function.record import Record
from theory_adapter_modal.function.told import Told
from theory_adapter_modal.function.transfer import REMOVE_S, Transfer
from theory_adapter_modal.function.variants import forget_variants, variant_of
from theory_adapter_modal.images import image_that_ran
from theory_adapter_modal.patience import Patience, Stopped, drop, patiently, unless_stopped

if TYPE_CHECKING:
    from collections.abc import Mapping

    import modal

    from theory import Channel, Job, JsonObject, Secrets, Workspace
    from theory_adapter_modal.account import Session
    from theory_adapter_modal.options import Options

_POLL_S = 25.0  # that one question for the answer may take; Modal's own client asks anew after 55
_CANCEL_S = 8.0  # to reach Modal; a cancelled adapter has 10
_LIVE_AFTER_S = 0.4  # a shorter command's log comes with its answer, which costs no further request


async def run_as_function(
    job: Job, workspace: Workspace, options: Options, secrets: Secrets, channel: Channel, session: Session
) -> Outcome | None:
    """Run the job on warm containers; None where no function of exactly this entry is deployed.

    Raises:
        Stopped: It was cancelled before anything was begun.
        Retry: Modal could not be reached for minutes, or lost what ran; the state says whether it still runs.
        MissingSecret, PluginFailed: As they say.
        modal.exception.Error: Anything else that Modal says (``faults.told``).
    """
    call = Call(job, workspace, options, secrets, channel, session)
    try:
        # The command's time is kept by the container.
        return await unless_stopped(channel, call.run(), has_time=lambda: False)
    except asyncio.CancelledError:  # a KeyboardInterrupt, through the Python API
        await call.cancel()
        raise
    except Stopped:
        if (cancelled := await call.cancel()) is None:
            raise
        return cancelled


class Call:
    """One call; arguments as for ``run_as_function``."""

    def __init__(
        self,
        job: Job,
        workspace: Workspace,
        options: Options,
        secrets: Secrets,
        channel: Channel,
        session: Session,
    ) -> None:
        self._job = job
        self._workspace = workspace
        self._options = options
        self._secrets = secrets
        self._channel = channel
        self._client = session.client
        self._call: modal.FunctionCall[bytes] | None = None
        self._spawning: asyncio.Future[modal.FunctionCall[bytes]] | None = None
        self._function: modal.Function[..., Any, Any] | None = None
        self._record = Record(job, workspace, app_name(job.processor, options))
        self._told = Told(channel)
        self._has_files = False  # in the volume
        self._is_unknown = False  # whether Modal took the call
        self._begun = time.time()

    async def run(self) -> Outcome | None:
        """All of it."""
        attached = self._call = await self._attached()
        self._function = await self._find()
        if self._function is None and attached is None:
            return None
        rates = asyncio.ensure_future(known_rates(self._workspace.cache, self._client))
        try:
            answer = None
            if attached is not None:
                self._has_files = sum(one.size_bytes for one in self._job.artifacts) > INLINE_BYTES
                answer = await self._wait(first_s=0.0)  # the client would wait for what is not kept any more
            if answer is None:  # none was begun, or its result is no longer kept
                self._call = await self._spawn()
                if self._call is None:
                    return None
                answer = await self._wait()
            if answer is None:
                raise errors.Retry("Modal no longer has the call of this run", hint="try again")  # noqa: TRY301 - tidied up for, too
            return await self._outcome(answer, rates)
        except Exception:
            if self._call is None and not self._is_unknown:  # nothing that may still run needs them
                await self._remove_files()
            raise
        finally:
            await drop(rates)
            leave(self._job.execution_id)

    async def cancel(self) -> Outcome | None:
        """Have Modal end the call and its container; None where there is none.

        It takes as long as it takes, up to what a cancelled adapter has.
        """
        end = time.monotonic() + _CANCEL_S
        if self._call is None and self._spawning is not None:  # Modal may have taken it by now
            await asyncio.wait((self._spawning,), timeout=_CANCEL_S / 2)
            if not self._spawning.done() or self._spawning.cancelled():
                self._is_unknown = True
            elif (error := self._spawning.exception()) is not None:
                self._is_unknown = is_broken(error)  # what is no lost answer is a refusal
            else:
                self._call = self._spawning.result()
        if (call := self._call) is None and not self._is_unknown:
            await self._remove_files(end - time.monotonic())
            return None
        self._channel.started()  # it may have cost something
        if call is None:
            self._say("Modal did not answer whether it took the call; if so, it ends there by its timeout")
        else:
            await self._cancel(call, end)
        spent = time.time() - self._begun
        return Outcome(
            "cancelled",
            None,
            self._begun,
            spent,
            platform=self._job.image.platform,
            cost_micro_usd=self._cost(spent, RATES),
        )

    async def _cancel(self, call: modal.FunctionCall[bytes], end: float) -> None:
        try:
            await asyncio.wait_for(
                patiently(lambda: call.cancel.aio(terminate_containers=True), _CANCEL_S / 2), _CANCEL_S / 2
            )
        except Exception:  # noqa: BLE001 - whatever it is, there is one thing left to do
            self._say(f"Modal did not answer; the call {call.object_id} ends there by its timeout")
        else:
            await self._remove_files(end - time.monotonic())
            self._forget_call()

    def _say(self, words: str) -> None:
        self._channel.write("stderr", f"theory: {words}\n".encode())

    # ------------------------------------------------------------ begin

    async def _attached(self) -> modal.FunctionCall[bytes] | None:
        """The call that a former try of this execution began, if it came so far."""
        import modal  # noqa: PLC0415 - only where the adapter runs

        if (known := self._record.read()) is None:
            return None
        call = modal.FunctionCall.from_id(known[0], client=self._client)
        if known[1]:
            return call
        self._has_files = True
        await self._cancel(call, time.monotonic() + _CANCEL_S)  # of the entry or inputs as they were then
        return None

    async def _spawn(self) -> modal.FunctionCall[bytes] | None:
        """Begin a call; None where the function is gone by now."""
        from modal.exception import NotFoundError  # noqa: PLC0415 - only where the adapter runs

        job = self._job
        volume = app_name(job.processor, self._options)
        request = await Request.of(job, self._workspace, volume, self._options.environment)
        if request.uploads:
            self._has_files = True
            await self._transfer().upload(request.uploads)
        patience, looked, base = Patience(), False, self._function
        while base is not None:
            try:
                function = await patiently(partial(self._variant, base))
                self._function = function
                self._join(begin=False)  # before it can write anything
                # A Ctrl-C in the middle does not lose what comes of it: cancel() ends that.
                self._spawning = asyncio.ensure_future(function.spawn.aio(request.data()))
                call = self._call = await asyncio.shield(self._spawning)
            except NotFoundError:  # it was deployed anew, or stopped
                if looked:
                    raise
                looked = True
                forget(job.processor, self._options, self._client)
                forget_variants(base)
                base = await self._find()
            except Exception as error:
                if is_throttled(error):  # it was refused, so it does not run
                    await patience.bear(error)
                    continue
                if is_broken(error):
                    self._is_unknown = True
                    self._channel.started()  # it may cost something
                    raise errors.Retry(
                        f"Modal did not answer whether it took the call: {words_of(error)}",
                        hint="try again: at worst an answer that nobody fetches was paid for",
                    ) from error
                raise
            else:
                await self._keep(call)
                return call
        await self._remove_files()
        return None

    async def _variant(self, base: modal.Function[..., Any, Any]) -> modal.Function[..., Any, Any]:
        return await variant_of(base, self._job.processor, self._secrets, self._options, self._client)

    async def _find(self) -> modal.Function[..., Any, Any] | None:
        return await patiently(lambda: find_function(self._job.processor, self._options, self._client))

    async def _keep(self, call: modal.FunctionCall[bytes]) -> None:
        """Write the call down, or end it: what is not written down would run on with nobody to find it.

        Raises:
            StoreFailed: It cannot be written.
        """
        try:
            self._record.write(call.object_id)
        except errors.StoreFailed:
            await self.cancel()
            raise

    def _forget_call(self) -> None:
        self._call = self._spawning = None
        self._record.forget()

    async def _remove_files(self, limit_s: float = REMOVE_S) -> None:
        if self._has_files:
            await self._transfer().remove(self._job.execution_id, limit_s)
            self._has_files = False

    # ------------------------------------------------------------ wait

    async def _wait(self, first_s: float = _POLL_S) -> JsonObject | None:
        """The answer; None where a former call's is no longer kept.

        Raises:
            Retry: It did not come in its time, or Modal lost what ran; the call has ended then.
        """
        call = cast("modal.FunctionCall[bytes]", self._call)
        runtime = self._job.processor.runtime
        give_up = time.monotonic() + self._options.startup + runtime.timeout + SPARE_S
        self._channel.started()  # what fails after this is charged, as the call may have cost something
        following = asyncio.ensure_future(self._follow(call))
        patience, poll_s = Patience(), first_s
        try:
            while (left := give_up - time.monotonic()) > 0:
                try:
                    return read_answer(await call.get.aio(timeout=min(poll_s, left)))
                except TimeoutError:  # not done; modal.exception has another class of this name
                    poll_s = _POLL_S
                    patience.calm()
                except Exception as error:
                    ending = ended_at_modal(error, self._job)
                    if ending is None:
                        await patience.bear(error)
                        continue
                    if isinstance(ending, dict):
                        return ending
                    if ending == "refused":  # it may run on
                        await self.cancel()
                        raise told(error) from error
                    self._forget_call()
                    if ending == "expired":
                        return None
                    raise ending from error
            await self.cancel()
            raise errors.Retry(
                f"Modal did not run {self._job.processor.ref} to its end in {self._options.startup} s for the"
                f" start, {runtime.timeout:g} s for its command and {SPARE_S} s for its files",
                hint="try again later, or with -o startup=SECONDS",
            )
        finally:
            await drop(following)

    async def _follow(self, call: modal.FunctionCall[bytes]) -> None:
        if self._function is None:  # it is deployed no more; the answer has the log
            return
        joined = self._join(begin=False)
        await asyncio.sleep(_LIVE_AFTER_S)
        if not joined:
            self._join(begin=True)
        await follow(call, self._job.execution_id, self._told, is_late=not joined)

    def _join(self, *, begin: bool) -> bool:
        function = cast("modal.Function[..., Any, Any]", self._function)
        return join(function, self._client, self._job.execution_id, self._told, begin=begin)

    # ------------------------------------------------------------ end

    async def _outcome(self, answer: JsonObject, rates: asyncio.Future[Any]) -> Outcome:
        document, job, transfer = dict[str, Any](answer), self._job, self._transfer()
        in_volume = _uses_volume(document)
        self._has_files |= in_volume
        try:
            if "log" in document:
                async for lines in lines_of(document["log"], transfer, self._workspace.root):
                    self._told.complete(str(document["attempt"]), lines)
            await lay_down(document["outputs"], self._workspace.out, transfer.fetch)
        except (errors.StoreFailed, errors.Retry):  # another try fetches it again
            raise
        except errors.TheoryError:  # and so would be whatever comes of this call
            await self._remove_files()
            self._forget_call()
            raise
        if in_volume:
            self._record.forget()  # first: who came after a kill would not find what it left
        await self._remove_files()
        known = rates.result() if rates.done() and not rates.exception() else RATES
        ended = document["ended"]
        return Outcome(
            ended=ended,
            exit_code=document["exit_code"] if ended == "exit" else None,
            started_at=float(document["started_at"]),
            duration_s=float(document["duration_s"]),
            image_digest=job.image.digest,
            platform=job.image.platform,
            cost_micro_usd=self._cost(float(document["seconds"]), known),
            message=str(document.get("message", "")),
            image=image_that_ran(job.image, str(document.get("image", ""))),
        )

    def _cost(self, seconds: float, rates: Mapping[str, float]) -> int | None:
        runtime = self._job.processor.runtime
        billed = dataclasses.replace(runtime, memory=runtime.memory + OVERHEAD)
        return estimate(Usage(billed, seconds, "function"), self._options, rates)

    def _transfer(self) -> Transfer:
        return Transfer(volume_of(self._job.processor, self._options, self._client))


def _uses_volume(document: dict[str, Any]) -> bool:
    return any("volume" in one for one in (*document.get("outputs", ()), document.get("log", {})))
