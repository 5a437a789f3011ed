"""The hooks of the adapter ``modal``: an entry's image in a container on Modal.

``modal`` itself is imported only when a job runs: describing and identifying need neither it nor a network.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, TypeVar, cast

from theory import AdapterInfo, Outcome, errors, hookimpl
from theory_adapter_modal.options import Options

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from theory import Channel, Finding, Image, Job, Processor, Secrets, Workspace
    from theory_adapter_modal.account import Session

T = TypeVar("T")

_AT_ONCE = 200  # jobs; Modal has the machines, here each is a thread and a connection


@hookimpl
def describe_adapter() -> AdapterInfo:
    """Runs containers on Modal's machines."""
    return AdapterInfo(
        summary="runs containers on Modal: isolated, limited, with graphics cards, billed by the second",
        offers=frozenset(
            {"image", "network", "gpu", "isolation", "memory_limit", "cpu_limit", "secrets_env"},
        ),
        options=Options,
        capacity=_AT_ONCE,
    )


@hookimpl
def identify(processor: Processor, options: object) -> Image:
    """The image that the entry means.

    Raises:
        ModalUnavailable: The package is missing, or ``MODAL_ENABLED`` is not set.
        Unsupported: The entry has no command.
        RegistryFault: The entry's image has no proper name, or its Dockerfile is missing.
    """
    from theory_adapter_modal.account import check_enabled  # noqa: PLC0415 - describing needs none
    from theory_adapter_modal.images import identify_image  # noqa: PLC0415 - as above

    check_enabled()  # before anything is hashed or reserved for it
    if not processor.command:
        raise errors.Unsupported(
            f"{processor.ref} has no command, and what Modal would run of its image nobody can tell",
            hint=f"write the command into its entry, or theory run {processor.ref} --adapter local",
        )
    return identify_image(processor, cast("Options", options))


@hookimpl
def execute(job: Job, workspace: Workspace, options: object, secrets: Secrets, channel: Channel) -> Outcome:
    """Run the job on Modal to its end, its deadline or its cancellation; nothing of it runs there afterwards.

    Raises:
        ModalUnavailable: The package, the permission or a valid token is missing.
        ImageNotFound, ImageBuildFailed: There is no image.
        MissingSecret: Modal has no such secret.
        Retry: Modal could not be reached for minutes, has no room, or took the machine away.
        PluginFailed, Unsupported: Modal refuses to run it.
    """
    from theory_adapter_modal import faults  # noqa: PLC0415 - describing needs none
    from theory_adapter_modal.account import Session, connected  # noqa: PLC0415 - as above
    from theory_adapter_modal.patience import Stopped, news_to  # noqa: PLC0415 - as above

    chosen = cast("Options", options)

    async def work() -> Outcome:
        news_to(channel)
        session = Session(await connected(channel), chosen.environment)
        return await _execute(job, workspace, chosen, secrets, channel, session)

    try:
        return _run(work())
    except Stopped:
        return Outcome("cancelled", None, time.time(), 0.0, platform=job.image.platform, cost_micro_usd=0)
    except errors.TheoryError:
        raise
    except Exception as error:
        if faults.is_of_modal(error):
            raise faults.told(error) from error
        raise  # our own bug


@hookimpl
def diagnose() -> tuple[Finding, ...]:
    """Whether Modal can be used, as whom, and what was left there."""
    from theory_adapter_modal.diagnose import findings  # noqa: PLC0415 - for theory doctor

    return findings()


async def _execute(
    job: Job, workspace: Workspace, options: Options, secrets: Secrets, channel: Channel, session: Session
) -> Outcome:
    from theory_adapter_modal.sandbox.birth import Work  # noqa: PLC0415 - only where the adapter runs
    from theory_adapter_modal.sandbox.life import run_in_sandbox  # noqa: PLC0415 - as above

    if options.mode == "function" or (options.mode is None and _has_stub(job.processor)):
        from theory_adapter_modal.function.call import run_as_function  # noqa: PLC0415 - as above
        from theory_adapter_modal.function.deployed import not_deployed  # noqa: PLC0415 - as above

        done = await run_as_function(job, workspace, options, secrets, channel, session)
        if done is not None:
            return done
        if options.mode == "function":
            raise not_deployed(job.processor, options)
        ref = job.processor.ref
        words = (
            f"no function of {ref} as it is now, with the same -o, is deployed, so it gets a sandbox;"
            f" theory modal deploy {ref} with those makes one"
        )
        channel.write("stderr", f"theory: {words}\n".encode())
    return await run_in_sandbox(Work(job, workspace, options, secrets, channel, session))


def _has_stub(processor: Processor) -> bool:
    return isinstance(processor.adapter.get("modal", {}).get("stub_name"), str)


def _run(work: Coroutine[object, object, T]) -> T:
    """Run a coroutine in this thread, or in one of its own where this one has a loop already (notebooks)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    answers: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            raised.append(error)

    thread = threading.Thread(target=run, name="theory-modal")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return answers[0]
