"""Names of the platforms that images are for, each in its one full spelling.

Source: https://github.com/containerd/platforms (names of architectures).
"""

from __future__ import annotations

_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm/v7",
    "armv7l": "arm/v7",
}
_USUAL_VARIANTS = {"arm64/v8": "arm64", "amd64/v1": "amd64"}


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
