"""The folders that a user adds to a container, read-only: what may be one."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from theory import errors

if TYPE_CHECKING:
    from theory_adapter_local.engine.client import Engine

Mounts = tuple[tuple[str, str], ...]  # each a path here and a path in the container

# Where a processor finds its own things, or the kernel's: nothing is mounted there, above or below.
TAKEN = ("/job", "/artifacts", "/run/secrets", "/tmp", "/proc", "/sys", "/dev")  # noqa: S108 - the container's own
# A read-only mount does not stop who writes to a socket, and these give the machine to whom they listen to.
_ENGINES = (
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/containerd",
    "/run/podman",
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib/containers",
)
_KERNEL = ("/proc", "/sys", "/dev")


def read_mounts(text: str | None) -> Mounts:
    """The mounts that ``/here:/there,/here:/there`` means.

    Raises:
        ValueError: It has another form, or a path in the container that is not free.
    """
    mounts = []
    for part in text.split(",") if text else ():
        source, _, rest = part.partition(":")
        target, _, mode = rest.partition(":")
        if mode not in {"", "ro"}:
            raise ValueError(f"the mount {part!r} asks for {mode!r}, and mounts are read-only")
        if not (_is_plain(source) and _is_plain(target)):
            raise ValueError(f"the mount {part!r} is not of the form /absolute/path:/absolute/path")
        if any(_overlap(target, taken) for taken in TAKEN):
            raise ValueError(f"nothing can be mounted at {target!r}, which each container has for itself")
        mounts.append((source, target))
    return tuple(mounts)


def check_sources(mounts: Mounts, engine: Engine) -> None:
    """Refuse what would give the machine away, and what is not there.

    Raises:
        BadAdapterOptions: Which one, and why.
    """
    for source, _ in mounts:
        if reason := _reason(os.path.realpath(source), engine):
            raise errors.BadAdapterOptions(
                f"the option mounts: {source} {reason}", hint="mount a folder or a file of its own"
            )


def _reason(source: str, engine: Engine) -> str:
    """What speaks against mounting this; or an empty string."""
    own = (engine.host.removeprefix("unix://"),) if engine.is_local else ()
    if any(_overlap(source, os.path.realpath(place)) for place in (*own, *_ENGINES)):
        return "has to do with what Docker is controlled by, and so with the whole machine"
    if any(_overlap(source, place) for place in _KERNEL):
        return "belongs to the kernel"
    if not engine.is_local:
        return ""  # it is on the engine's machine
    try:
        mode = os.stat(source).st_mode
    except OSError as error:  # Docker says so too, but Podman makes a folder
        return f"cannot be mounted: {error.strerror}"
    return "" if stat.S_ISDIR(mode) or stat.S_ISREG(mode) else "is neither a folder nor a file"


def _is_plain(path: str) -> bool:
    """Whether a path is absolute and has one spelling only."""
    return path.startswith("/") and not path.startswith("//") and os.path.normpath(path) == path


def _overlap(one: str, other: str) -> bool:
    """Whether two paths are the same, or one is in the other."""
    one, other = one.rstrip("/") + "/", other.rstrip("/") + "/"
    return one.startswith(other) or other.startswith(one)
