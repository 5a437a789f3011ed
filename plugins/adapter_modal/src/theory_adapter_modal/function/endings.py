"""How a call ended where the program that serves could not say it: what Modal's client raises then."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, Literal

from theory import errors
from theory_adapter_modal.faults import is_broken, is_of_modal, is_throttled, words_of

if TYPE_CHECKING:
    from theory import Job

_OUT_OF_MEMORY = re.compile(r"\boom\b|out of memory|memory limit", re.IGNORECASE)
_AGAIN = "try again; Modal has tried it more than once already"


def ended_at_modal(  # noqa: PLR0911 - one an ending
    error: BaseException, job: Job
) -> dict[str, Any] | errors.TheoryError | Literal["expired", "refused"] | None:
    """What an exception in place of an answer means.

    Returns:
        None where only the connection is at fault, so that the call runs on; ``expired`` where Modal no
        longer has it; ``refused`` where Modal does not say how it is, so that it may run on; the document of
        an answer where the command's end is known; else what a user is told, as it has ended.
    """
    from modal import exception  # noqa: PLC0415 - only where the adapter runs

    if isinstance(error, (exception.OutputExpiredError, exception.NotFoundError)):
        return "expired"
    if isinstance(error, exception.FunctionTimeoutError):
        return _ended(job, "timeout")
    if isinstance(error, exception.InternalFailure):
        return errors.Retry(
            f"Modal lost the container of {job.processor.ref}: {words_of(error)}", hint=_AGAIN
        )
    if isinstance(error, exception.RemoteError) and not isinstance(error, exception.ImageBuildError):
        words = words_of(error)
        if _OUT_OF_MEMORY.search(words):
            return _ended(job, "oom")
        return errors.Retry(f"the container of {job.processor.ref} on Modal ended: {words}", hint=_AGAIN)
    if is_broken(error) or is_throttled(error):
        return None
    if isinstance(error, errors.TheoryError):
        return error
    if is_of_modal(error):
        return "refused"
    # Whatever class it has: the program that serves raises nothing, so it did not come to that.
    return errors.PluginFailed(
        f"the function of {job.processor.ref} on Modal raised {type(error).__name__}: {words_of(error)}",
        hint=f"deploy it again: theory modal deploy {job.processor.ref}",
    )


def _ended(job: Job, how: str) -> dict[str, Any]:
    """The document of a call whose container could no longer write one."""
    runtime = job.processor.runtime
    spent = runtime.timeout if how == "timeout" else 0.0
    return {
        "ended": how,
        "exit_code": None,
        "started_at": time.time() - spent,
        "duration_s": spent,
        "seconds": spent,
        "outputs": [],
    }
