"""How a sandbox comes to be: exactly one for a run, whatever becomes of the connection meanwhile."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from theory import errors
from theory_adapter_modal.account import APP, app
from theory_adapter_modal.faults import is_broken, words_of
from theory_adapter_modal.patience import Patience, patiently
from theory_adapter_modal.resources import resources_of, whole_seconds
from theory_adapter_modal.sandbox.orphans import end_by_name
from theory_adapter_modal.tags import tags_of

if TYPE_CHECKING:
    import modal

    from theory import Channel, Job, Secrets, Workspace
    from theory_adapter_modal.account import Session
    from theory_adapter_modal.options import Options

# Source: https://modal.com/docs/guide/sandboxes, 2026-06: a sandbox lives for 24 hours at most.
MOST_LIFE_S = 24 * 3600
_FILES_S = 3600  # for files on their way in and out, in the life of a sandbox beyond its command's
_IDLE_S = 600  # without any command: more than we wait for a lost connection, as its caller must be dead


class Work(NamedTuple):
    """What is to be run, and with what."""

    job: Job
    workspace: Workspace
    options: Options
    secrets: Secrets
    channel: Channel
    session: Session

    @property
    def name(self) -> str:
        """The sandbox's name, by which a lost one is found again."""
        return f"theory-{self.job.execution_id}"

    def tell(self, words: str) -> None:
        """Say something to the user, beside what the command writes."""
        self.channel.write("stderr", f"theory: {words}\n".encode())


async def create(work: Work, image: modal.Image, *, keep_alive: bool) -> modal.Sandbox:
    """Have a sandbox, by a name that no two have at once: who asks again gets no second one.

    Args:
        work: Whose.
        image: Built.
        keep_alive: Whether the image has ``sleep``, as far as is known.

    Raises:
        Unsupported: Modal has no such machine.
        Retry: Modal was away, or had no room, for too long.
        modal.exception.Error: Anything else that Modal says (``faults.told``).
    """
    from modal.exception import AlreadyExistsError, InvalidError, NotFoundError  # noqa: PLC0415 - where it runs

    patience, may_be_there = Patience(), False
    while True:
        try:
            return await _ask_for_one(work, image, keep_alive=keep_alive)
        except AlreadyExistsError as error:
            # Either an answer was lost and this is ours, or a former try of this execution left it.
            with suppress(NotFoundError):
                if may_be_there:
                    return await patiently(lambda: _lookup(work))
                await patiently(lambda: end_by_name(work.name, work.session.environment, work.session.client))
            await patience.bear(ConnectionError(str(error)))  # its name is free in a moment
        except InvalidError as error:
            raise errors.Unsupported(
                f"Modal refuses to run {work.job.processor.ref}: {words_of(error)}",
                hint="check the entry's runtime, and the options region and cloud",
            ) from error
        except Exception as error:  # noqa: BLE001 - raised again unless it is the connection
            may_be_there = may_be_there or is_broken(error)
            await patience.bear(error)


async def _ask_for_one(work: Work, image: modal.Image, *, keep_alive: bool) -> modal.Sandbox:
    import modal  # noqa: PLC0415 - only where the adapter runs

    runtime, options = work.job.processor.runtime, work.options
    life_s = min(MOST_LIFE_S, whole_seconds(runtime.timeout) + options.startup + _FILES_S)
    return await modal.Sandbox.create.aio(
        # Whatever the image would run by itself is not run. Without `sleep` in it, Modal's own way to wait.
        *(("sleep", str(life_s)) if keep_alive else ()),
        app=await app(APP, work.session),
        name=work.name,
        tags=tags_of(work.job),
        image=image,
        timeout=life_s,
        idle_timeout=_IDLE_S,
        client=work.session.client,
        **resources_of(runtime, options),
    )


async def _lookup(work: Work) -> modal.Sandbox:
    import modal  # noqa: PLC0415 - only where the adapter runs

    return await modal.Sandbox.from_name.aio(
        APP, work.name, environment_name=work.session.environment, client=work.session.client
    )
