"""The hooks of the adapter ``local``: an entry's image in a container of Docker's engine, or Podman's.

It isolates: no network unless the entry says so, a read-only root, no capability, no other user's files.
``hardening.py`` has each line of it with its reason.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, cast

from theory import AdapterInfo, Outcome, errors, hookimpl
from theory_adapter_local.cancelled import Cancelled
from theory_adapter_local.container.mounts import check_sources, read_mounts
from theory_adapter_local.engine.client import Lost, Refused, engine_of
from theory_adapter_local.options import Options

if TYPE_CHECKING:
    from theory import Channel, Finding, Image, Job, Processor, Secrets, Workspace


@hookimpl
def describe_adapter() -> AdapterInfo:
    """Runs containers; how many at once is twice the cores, beyond which the engine only gets slower."""
    return AdapterInfo(
        summary="runs containers on Docker: isolated, limited, without network unless the entry asks",
        offers=frozenset(
            {
                "image",
                "network",
                "gpu",
                "isolation",
                "memory_limit",
                "cpu_limit",
                "secrets_file",
                "secrets_env",
            }
        ),
        options=Options,
        capacity=2 * (os.cpu_count() or 1),
    )


@hookimpl
def identify(processor: Processor, options: object) -> Image:
    """The image that the entry means on this engine.

    Raises:
        DockerUnavailable: No engine answers.
        BadAdapterOptions: A mount that would give the host away, or that is not there.
        RegistryFault, Unsupported: The entry's image has no proper name, or is for another platform.
    """
    from theory_adapter_local.images.find import identify_image  # noqa: PLC0415 - describing needs none

    try:
        engine, chosen = engine_of(), cast("Options", options)
        check_sources(read_mounts(chosen.mounts), engine)  # before anything is built or pulled for it
        return identify_image(engine, processor, chosen)
    except (Refused, Lost) as error:
        raise _told(error) from error


@hookimpl
def execute(job: Job, workspace: Workspace, options: object, secrets: Secrets, channel: Channel) -> Outcome:
    """Run the image to its command's end, its deadline or its cancellation.

    A command that is not in the image ends as in a shell: 127 where it is not found, 126 where it cannot run.

    Raises:
        DockerUnavailable: No engine answers.
        ImageNotFound, ImageBuildFailed: There is no image.
        Retry: The engine, the container or the image went away; or no process or thread is to be had.
        BadAdapterOptions, Unsupported, OutOfMemory, PluginFailed: The engine refuses to run it.
        OutputLimit: The outputs took more than they may while it ran.
    """
    from theory_adapter_local.container.life import Task, name_of, run_container  # noqa: PLC0415 - as above
    from theory_adapter_local.files.ways import files_for  # noqa: PLC0415 - as above
    from theory_adapter_local.guard.watchdog import KEEP, guard_of, labels_of  # noqa: PLC0415 - as above
    from theory_adapter_local.images.find import ready_image  # noqa: PLC0415 - as above

    chosen = cast("Options", options)
    engine = engine_of()
    guard, name = guard_of(engine), name_of(job)
    guard.watch(name)  # first, so that its process begins while the engine is asked for the image
    is_running = False
    try:
        ready = ready_image(engine, job, chosen, workspace.cache, channel)
        if channel.wait_cancelled(0):
            raise Cancelled  # noqa: TRY301 - one answer for all the places where it may be noticed
        files = files_for(engine, ready, job, workspace, chosen, secrets)
        is_running = True
        labels = labels_of(job, job.processor.runtime.timeout)
        if chosen.keep:
            labels[KEEP] = "true"
        ended = run_container(engine, Task(job, chosen, ready, labels), files, channel)
    except Cancelled:
        return Outcome("cancelled", None, time.time(), 0.0, platform=job.image.platform, cost_micro_usd=0)
    except (Refused, Lost) as error:
        raise _told(error) from error
    finally:
        if not is_running:
            guard.forget(name)
    return Outcome(
        ended=ended.ended,
        exit_code=ended.status if ended.ended == "exit" else None,
        started_at=ended.started_at,
        duration_s=ended.duration_s,
        image_digest=ready.image.digest,
        platform=ready.image.platform,
        cost_micro_usd=0,
        message=ended.message,
        image=ready.image,
    )


@hookimpl
def diagnose() -> tuple[Finding, ...]:
    """Whether there is an engine, what it is, and what it cannot do."""
    from theory_adapter_local.diagnose import findings  # noqa: PLC0415 - for theory doctor

    return findings()


def _told(error: Refused | Lost) -> errors.TheoryError:
    """What the engine did in a place where nothing is known to be at fault but itself."""
    if isinstance(error, Lost):
        return errors.Retry(
            f"the connection to the Docker daemon broke: {error}",
            hint="try again; theory doctor says how it is",
        )
    return errors.PluginFailed(
        f"the Docker engine refuses: {error.message}", hint="theory doctor says what it can do"
    )
