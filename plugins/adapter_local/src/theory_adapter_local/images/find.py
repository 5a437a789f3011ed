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

from theory import Image, ImageName, canonical_json, cid_of, errors, image_name, pinned_id
from theory_adapter_local.engine.client import Refused
from theory_adapter_local.images.platforms import fits, normal_platform

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from theory import Channel, Job, Processor
    from theory_adapter_local.engine.client import Engine
    from theory_adapter_local.options import Options

CONTEXT_LABEL = "theory.context"  # of an image that we built: the cid of what it was built from
_TAG_DIGITS = 40  # hex digits of the context's cid: 160 bits
_NAME_LENGTH = 100  # Docker takes 255 characters for the whole name


class Ready(NamedTuple):
    """An image that is here."""

    id: str  # what ``create`` is given, sha256:…: a tag could move meanwhile
    image: Image  # what really runs
    user: str  # whom the image runs as, "" for root
    environment: tuple[str, ...]  # NAME=value
    volumes: tuple[str, ...] = ()  # folders that the image wants to be writable, of its own


class Source(NamedTuple):
    """Where an entry's image comes from, as this engine has to be asked."""

    processor: Processor
    reference: ImageName  # of a build: what we tag it with
    context: str = ""  # the cid of all that decides what is built; "" for an image of somebody else's
    is_pinned: bool = False  # whether what it is can be known wherever it is

    def pinned_id(self, platform: str) -> str:
        """The id of the image wherever it is; "" where its entry says too little."""
        return pinned_id(self.processor, platform) if self.is_pinned else ""


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


def not_found(full: str) -> str:
    """The message, word for word as the requirements have it."""
    return f"Unable to find image '{full}'"


# ---------------------------------------------------------------- where it comes from


def source_of(processor: Processor, options: Options) -> Source:
    """Where the entry's image comes from.

    Raises:
        RegistryFault: The name is none, or the Dockerfile cannot be read.
    """
    dockerfile = processor.image.dockerfile
    if dockerfile is None:
        reference = image_name(processor)
        return Source(processor, reference, is_pinned=bool(reference.digest))
    content = {
        "tree": processor.tree,
        "dockerfile": os.path.normpath(dockerfile),
        "platform": asked_platform(options),
    }
    context = cid_of(canonical_json(content))
    reference = ImageName("docker.io", f"theory/{_plain_name(processor)}", context[3 : 3 + _TAG_DIGITS], "")
    return Source(processor, reference, context, is_pinned=bool(pinned_id(processor, "")))


def _plain_name(processor: Processor) -> str:
    """A ref may have characters in places where a repository may not."""
    name = f"{processor.ref.namespace}-{processor.ref.name}".replace("_", "-")
    return "-".join(filter(None, name.split("-")))[:_NAME_LENGTH].strip("-")


def renews(source: Source, options: Options) -> bool:
    """Whether the image that is here is not to be used as it is."""
    if source.context:
        return options.build or (options.pull == "always" and not source.is_pinned)
    return options.pull == "always"


# ---------------------------------------------------------------- what is here


def find_image(engine: Engine, source: Source, options: Options) -> Mapping[str, Any] | None:
    """What the engine says of this image if it has one that may be used."""
    found = inspect_image(engine, source.reference.full)
    if found is None or not is_for(engine, found, asked_platform(options)):
        return None
    labels = (found.get("Config") or {}).get("Labels") or {}
    if source.context and labels.get(CONTEXT_LABEL) != source.context:
        return None  # somebody gave our tag to another image
    return found


def inspect_image(engine: Engine, name: str) -> Mapping[str, Any] | None:
    """What the engine says of the image of this name."""
    try:
        found: Mapping[str, Any] = engine.call("GET", f"/images/{name}/json")
    except Refused as error:
        if error.status == 404:  # noqa: PLR2004 - HTTP
            return None
        raise
    return found


def image_platform(found: Mapping[str, Any]) -> str:
    """What an image is for."""
    parts = (found.get("Os") or "linux", found.get("Architecture"), found.get("Variant"))
    return normal_platform("/".join(filter(None, parts)))


def platform_of(engine: Engine) -> str:
    """What the engine runs without emulation."""
    version = engine.version()
    return normal_platform(f"{version.get('Os')}/{version.get('Arch')}")


def is_for(engine: Engine, found: Mapping[str, Any], asked: str) -> bool:
    """Whether an image is for the platform asked for or, where that is "", for the engine's own."""
    platform = image_platform(found)
    if asked:
        return fits(platform, asked)
    if engine.is_local and fits(platform, normal_platform(f"linux/{os.uname().machine}")):
        return True  # as nearly always; asking the engine takes 9 ms (Docker 20.10, 2026-11)
    return fits(platform, platform_of(engine))


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


def asked_platform(options: Options) -> str:
    """The platform that the user asks for; "" for the engine's own."""
    return normal_platform(options.platform) if options.platform else ""


def _once() -> str:
    return f"once:{os.urandom(16).hex()}"
