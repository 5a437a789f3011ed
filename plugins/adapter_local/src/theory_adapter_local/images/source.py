"""Where an entry's image comes from, as this engine has to be asked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from theory import ImageName, canonical_json, cid_of, image_name, pinned_id
from theory_adapter_local.images.platforms import normal_platform

if TYPE_CHECKING:
    from theory import Processor
    from theory_adapter_local.options import Options

_TAG_DIGITS = 40  # hex digits of the context's cid: 160 bits
_NAME_LENGTH = 100  # Docker takes 255 characters for the whole name


class Source(NamedTuple):
    """What an engine is asked for."""

    processor: Processor
    reference: ImageName  # of a build: what we tag it with
    context: str = ""  # the cid of all that decides what is built; "" for an image of somebody else's
    is_pinned: bool = False  # whether what it is can be known wherever it is

    def pinned_id(self, platform: str) -> str:
        """The id of the image wherever it is; "" where its entry says too little."""
        return pinned_id(self.processor, platform) if self.is_pinned else ""


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


def asked_platform(options: Options) -> str:
    """The platform that the user asks for; "" for the engine's own."""
    return normal_platform(options.platform) if options.platform else ""
