"""Names of images, and of the platforms that they are for, each in its one full spelling.

Source: https://github.com/distribution/reference (grammar, and Docker's short names) and
https://github.com/containerd/platforms (names of architectures).
"""

from __future__ import annotations

import re
from typing import NamedTuple

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_REFERENCE = (
    r"(?:(?P<registry>localhost|(?=[^/]*[.:A-Z])(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*|\[[0-9A-Fa-f:]+\]))"
    r"(?P<port>:[0-9]+)?/)?"
    rf"(?P<repository>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}))?"
)
_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm/v7",
    "armv7l": "arm/v7",
}
_USUAL_VARIANTS = {"arm64/v8": "arm64", "amd64/v1": "amd64"}


class Reference(NamedTuple):
    """Where an image is to be had.

    >>> Reference.parse("python:3.11-slim").full
    'docker.io/library/python:3.11-slim'
    """

    registry: str  # docker.io, ghcr.io, localhost:5000
    repository: str  # library/python
    tag: str  # of no account where there is a digest
    digest: str  # sha256:…, or ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a name as Docker does.

        Raises:
            ValueError: It is none.
        """
        match = re.fullmatch(_REFERENCE, text, re.ASCII)
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


def normal_platform(text: str) -> str:
    """The one spelling of a platform.

    >>> normal_platform("linux/aarch64"), normal_platform("linux/arm64/v8"), normal_platform("linux/arm/v6")
    ('linux/arm64', 'linux/arm64', 'linux/arm/v6')
    """
    system, _, machine = text.strip().lower().strip("/").partition("/")
    machine = _ARCHITECTURES.get(machine, machine)
    return f"{system}/{_USUAL_VARIANTS.get(machine, machine)}"


def fits(actual: str, wanted: str) -> bool:
    """Whether an image for ``actual`` is one for ``wanted``, which may leave the variant open."""
    return actual == wanted or actual.startswith(wanted + "/")
