"""Which image a run means, whether it is here, and how it gets here.

The id of an image is what the memo key has of it (docs/reference/formats.md):

==================  ========================================================================================
``sha256:…``        an image that the entry pins by digest: that digest
``build:b3:…``      a Dockerfile that pins its bases by digest: its context, arguments and platform
``local:sha256:…``  any other image that is here: the engine's own id of it, which nobody else shares
``once:…``          one run alone, 32 random hex digits: it cannot be known yet which image that will be,
                    or folders of this machine are mounted into it
==================  ========================================================================================
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from theory import Image, ImageName, errors
from theory_adapter_local.images.here import (
    find_image,
    image_platform,
    inspect_image,
    is_for,
    not_found,
    platform_of,
)
from theory_adapter_local.images.source import asked_platform, renews, source_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from theory import Channel, Job, Processor
    from theory_adapter_local.engine.client import Engine
    from theory_adapter_local.images.source import Source
    from theory_adapter_local.options import Options


class Ready(NamedTuple):
    """An image that is here."""

    id: str  # what ``create`` is given, sha256:…: a tag could move meanwhile
    image: Image  # what really runs
    user: str  # whom the image runs as, "" for root
    environment: tuple[str, ...]  # NAME=value
    volumes: tuple[str, ...] = ()  # folders that the image wants to be writable, of its own


def identify_image(engine: Engine, processor: Processor, options: Options) -> Image:
    """The image that this entry means here and now; nothing is pulled or built.

    Raises:
        RegistryFault: The entry names its image in a way that Docker cannot read.
        DockerUnavailable: No engine answers.
    """
    source = source_of(processor, options)
    found = None if renews(source, options) else find_image(engine, source, options)
    if found is not None:
        return _image(found, source, options)
    platform = asked_platform(options) or platform_of(engine)
    is_known = source.is_pinned and not options.mounts and not (options.build and source.context)
    return Image(
        id=source.pinned_id(platform) if is_known else _once(),
        digest=source.reference.digest or None,
        platform=platform,
    )


def ready_image(engine: Engine, job: Job, options: Options, cache: Path, channel: Channel) -> Ready:
    """The image of a job, pulled or built now where it is not here or the options ask for that.

    Args:
        engine: Where it has to be.
        job: The job, with what ``identify_image`` said.
        options: The user's.
        cache: The adapter's own folder, for locks and what is sent to a build.
        channel: Gets the log of the pull or the build; its cancellation ends them. Neither counts against
            the command's time.

    Raises:
        ImageNotFound: It is neither here nor to be had; the hint says why.
        ImageBuildFailed: A step of the Dockerfile failed.
        Unsupported: What is here is for another platform, and for this one there is none.
        Retry: The entry's folder was changed meanwhile, or the engine's disk is full.
        Cancelled: The run was cancelled.
        DockerUnavailable: No engine answers.
    """
    source = source_of(job.processor, options)
    found = None if renews(source, options) else find_image(engine, source, options)
    if found is None:
        try:
            _get(engine, job.processor, source, options, cache, channel)
        except errors.ImageNotFound as error:
            here = inspect_image(engine, source.reference.full)
            if here is not None and not is_for(engine, here, asked_platform(options)):
                raise _unfit(engine, source, here, options) from error
            raise  # what is here would do, but has to be asked for anew: pull=always
        found = find_image(engine, source, options)
    if found is None:
        if (here := inspect_image(engine, source.reference.full)) is not None:
            raise _unfit(engine, source, here, options)
        raise errors.ImageNotFound(not_found(source.reference.full), hint="it was removed at once; try again")
    config = found.get("Config") or {}
    return Ready(
        found["Id"],
        _image(found, source, options),
        user=config.get("User") or "",
        environment=tuple(config.get("Env") or ()),
        volumes=tuple(sorted(config.get("Volumes") or ())),
    )


def _get(
    engine: Engine, processor: Processor, source: Source, options: Options, cache: Path, channel: Channel
) -> None:
    if source.context:
        from theory_adapter_local.images.build import build_image  # noqa: PLC0415 - few runs build

        build_image(engine, processor, source, options, cache, channel)
        return
    from theory_adapter_local.images.pull import pull_image  # noqa: PLC0415 - few runs pull

    pull_image(engine, source.reference, asked_platform(options), options.pull, channel)


def _unfit(engine: Engine, source: Source, here: Mapping[str, Any], options: Options) -> errors.TheoryError:
    platform, asked = image_platform(here), asked_platform(options)
    wanted = f"{asked} is asked for" if asked else f"this engine runs {platform_of(engine)}"
    hint = f"-o platform={platform} tries it, where the engine can emulate that"
    if source.reference.digest:  # Docker's own image store has one platform of a digest, and keeps that
        hint += f"; docker rmi {source.reference.full} makes room for the other one, where there is one"
    return errors.Unsupported(f"the image {source.reference.full} is for {platform}, and {wanted}", hint=hint)


def _image(found: Mapping[str, Any], source: Source, options: Options) -> Image:
    platform = image_platform(found)
    return Image(
        id=_once() if options.mounts else source.pinned_id(platform) or f"local:{found['Id']}",
        digest=_digest(found, source.reference),
        platform=platform,
        python=_python(found),
    )


def _digest(found: Mapping[str, Any], reference: ImageName) -> str:
    """The digest under which a registry has it; the engine's own id where none has."""
    if reference.digest:
        return reference.digest
    for text in found.get("RepoDigests") or ():
        try:
            known = ImageName.parse(text)
        except ValueError:  # <none>@sha256:…
            continue
        if known.name == reference.name:
            return known.digest
    return str(found["Id"])


def _python(found: Mapping[str, Any]) -> str | None:
    for variable in (found.get("Config") or {}).get("Env") or ():
        name, _, value = variable.partition("=")
        if name == "PYTHON_VERSION" and value.count("."):
            return ".".join(value.split(".")[:2])
    return None


def _once() -> str:
    return f"once:{os.urandom(16).hex()}"
