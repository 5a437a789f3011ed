"""Which image an entry means, as far as its entry alone tells: names, and the ids that all adapters share.

An id that begins here is the same wherever the image is run, so what one adapter remembers serves another:

===============  ===========================================================================================
``sha256:…``     an image that the entry pins by digest: that digest
``build:b3:…``   a Dockerfile that pins its bases by digest: its folder, arguments and platform
===============  ===========================================================================================
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from theory.errors import RegistryFault
from theory.formats.canon import canonical, cid_of

if TYPE_CHECKING:
    from theory.types import Processor

# Source: https://github.com/distribution/reference (grammar, and Docker's short names).
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_NAME = (
    r"(?:(?P<registry>localhost|(?=[^/]*[.:A-Z])(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*|\[[0-9A-Fa-f:]+\]))"
    r"(?P<port>:[0-9]+)?/)?"
    rf"(?P<repository>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}))?"
)


class ImageName(NamedTuple):
    """Where an image is to be had.

    >>> ImageName.parse("python:3.11-slim").full
    'docker.io/library/python:3.11-slim'
    """

    registry: str  # docker.io, ghcr.io, localhost:5000
    repository: str  # library/python
    tag: str  # of no account where there is a digest
    digest: str  # sha256:…, or ""

    @classmethod
    def parse(cls, text: str) -> ImageName:
        """Read a name as Docker does.

        Raises:
            ValueError: It is none.
        """
        match = re.fullmatch(_NAME, text, re.ASCII)
        if match is None:
            raise ValueError(f"{text!r} is no name of an image")
        registry = (match["registry"] or "docker.io") + (match["port"] or "")
        repository = match["repository"]
        if registry in {"docker.io", "index.docker.io"}:
            registry = "docker.io"
            repository = repository if "/" in repository else f"library/{repository}"
        digest = match["digest"] or ""
        return cls(registry, repository, match["tag"] or "latest", digest)

    @property
    def name(self) -> str:
        """Without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def full(self) -> str:
        """All of it."""
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


def image_name(processor: Processor) -> ImageName:
    """The name of the image that an entry takes from a registry.

    Raises:
        RegistryFault: What stands there is no name of an image.
    """
    name = processor.image.oci or ""
    try:
        return ImageName.parse(name)
    except ValueError:
        raise RegistryFault(
            f"{processor.ref}: {name[:200]!r} is no name of an image",
            hint="write it as docker pull takes it, such as ghcr.io/acme/tool@sha256:…",
        ) from None


def pinned_id(processor: Processor, platform: str) -> str:
    """The id of the image wherever it is, for a platform as Docker writes it; "" where nothing pins it.

    Raises:
        RegistryFault: The image has no proper name, or the Dockerfile cannot be read.
    """
    if processor.image.dockerfile is None:
        return image_name(processor).digest
    if not _has_pinned_bases(processor, processor.image.dockerfile):
        return ""
    # Entries have no build arguments; the member keeps the id apart from those of the day when they have.
    content = {"tree": processor.tree, "arguments": {}, "platform": platform}
    return "build:" + cid_of(canonical(content))


def _has_pinned_bases(processor: Processor, dockerfile: str) -> bool:
    path = processor.folder / dockerfile
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RegistryFault(f"{path} cannot be read: {error}", hint="put the Dockerfile there") from error
    if "@sha" not in text and "scratch" not in text.lower():
        return False
    from theory.entries.dockerfile import bases_of  # noqa: PLC0415 - most have a tag

    return all(base.is_pinned for base in bases_of(text))
