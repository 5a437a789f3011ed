"""What ``theory doctor`` says of Docker on this machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

from theory import Finding, errors
from theory_adapter_local.engine.client import Lost, Refused, engine_of
from theory_adapter_local.engine.faults import DockerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from theory import JsonObject
    from theory_adapter_local.engine.client import Engine

LEAST_FREE = (
    2 << 30
)  # bytes; an image of a processor with its libraries has 0.2 to 1 GiB, and twice that while built
_GIB = 1 << 30
_MIB = 1 << 20
# What an engine says that it can, and what its lack means for a run.
_LIMITS = {
    "MemoryLimit": "memory",
    "SwapLimit": "swap",
    "PidsLimit": "processes",
    "CpuCfsQuota": "processor time",
}


def findings(environ: Mapping[str, str] = os.environ) -> tuple[Finding, ...]:
    """Which engine runs would use, what it can, and what is left there. Raises nothing."""
    try:
        engine = engine_of(environ)
    except DockerUnavailable as error:
        return (Finding("engine", ok=False, message=error.message, hint=error.hint),)
    looks: tuple[tuple[str, Callable[[Engine], Finding]], ...] = (
        ("engine", _engine),
        ("system", _system),
        ("hardening", _hardening),
        ("files", _files),
        ("disk", _disk),
        ("left over", _left_over),
    )
    return tuple(_finding(subject, look, engine) for subject, look in looks)


def _finding(subject: str, look: Callable[[Engine], Finding], engine: Engine) -> Finding:
    try:
        return look(engine)
    except (Refused, Lost, OSError) as error:
        return Finding(subject, ok=False, message=f"cannot be found out: {error}")
    except (TypeError, ValueError, LookupError, AttributeError) as error:  # of an answer that no engine gives
        return Finding(
            subject, ok=False, message=f"cannot be found out: the engine's answer is odd: {error!r}"
        )
    except errors.TheoryError as error:
        return Finding(subject, ok=False, message=f"cannot be found out: {error.message}", hint=error.hint)


def _engine(engine: Engine) -> Finding:
    version = engine.version()
    name = "Podman" if engine.is_podman else "Docker"
    there = f"{name} {version.get('Version', '?')} at {engine.host}, API {engine.api}"
    source = engine.endpoint.source
    system = str(engine.info().get("OSType") or "linux")
    return Finding(
        "engine",
        ok=system == "linux",
        message=f"{there} (from {source})" if source else there,
        hint="" if system == "linux" else f"it runs containers of {system}; switch it to Linux containers",
    )


def _system(engine: Engine) -> Finding:
    info = engine.info()
    options = _security(info)
    parts = [
        f"storage {info.get('Driver', '?')}",
        f"cgroup v{info.get('CgroupVersion') or '1'}",
        f"{info.get('NCPU', '?')} cores",
        f"{_number(info, 'MemTotal') // _MIB} MiB of memory",
        *(["rootless"] if "rootless" in options else []),
        *(["users mapped"] if "userns" in options else []),
    ]
    return Finding("system", ok=True, message=", ".join(parts))


def _hardening(engine: Engine) -> Finding:
    info = engine.info()
    options = _security(info)
    lacks = [f"no limit of {meaning}" for name, meaning in _LIMITS.items() if info.get(name) is False]
    if "seccomp" not in options:
        lacks.append("no seccomp profile")
    if not engine.is_podman and not info.get("InitBinary"):
        lacks.append("no init program (docker-init)")
    # One of the warnings is about this; the others repeat the limits, or are about networks.
    warnings = cast("list[str]", info.get("Warnings") or [])
    lacks += ["its API is open to the network" for warning in warnings if "API is accessible" in warning][:1]
    if lacks:
        rootless = (
            "; a rootless engine needs cgroup v2 with its controllers delegated"
            if "rootless" in options
            else ""
        )
        return Finding(
            "hardening", ok=False, message=", ".join(lacks), hint=f"docker info says more{rootless}"
        )
    also = [name for name in ("apparmor", "selinux") if name in options]
    return Finding("hardening", ok=True, message=", ".join(["seccomp", *also, "init", "all limits"]))


def _files(engine: Engine) -> Finding:
    if not engine.is_local:
        return Finding("files", ok=True, message="copied to the engine and back: it is on another machine")
    from theory_adapter_local.files.probe import sight_of  # noqa: PLC0415 - only with an engine

    images = cast("list[JsonObject]", engine.call("GET", "/images/json"))
    if not images:
        return Finding(
            "files", ok=True, message="mounted or copied: that cannot be tried before there is an image"
        )
    with tempfile.TemporaryDirectory(prefix="theory-doctor-", dir=_place()) as folder:
        sight = sight_of(engine, str(images[0]["Id"]), Path(folder), folder, Path(folder, "cache"))
    how = (
        "mounted: bind mounts work"
        if sight.binds
        else "copied: the engine does not see our files as they are"
    )
    return Finding("files", ok=True, message=how)


def _disk(engine: Engine) -> Finding:
    root = str(engine.info().get("DockerRootDir") or "")
    if not engine.is_local or not root or not os.path.isdir(root):
        return Finding("disk", ok=True, message="not of this machine")
    free = shutil.disk_usage(root).free
    return Finding(
        "disk",
        ok=free >= LEAST_FREE,
        message=f"{free / _GIB:.1f} GiB free in {root}",
        hint="" if free >= LEAST_FREE else "docker system df shows what takes the room",
    )


def _left_over(engine: Engine) -> Finding:
    from theory_adapter_local.guard.watchdog import OWNER  # noqa: PLC0415 - only with an engine

    query = {"all": "1", "filters": f'{{"label": ["{OWNER}"]}}'}
    containers = cast("list[JsonObject]", engine.call("GET", "/containers/json", query=query))
    running = sum(container.get("State") == "running" for container in containers)
    built = [
        image
        for image in cast("list[JsonObject]", engine.call("GET", "/images/json"))
        if any(
            tag.removeprefix("docker.io/").startswith("theory/")
            for tag in cast("list[str]", image.get("RepoTags") or [])
        )
    ]
    size = sum(_number(image, "Size") for image in built) // _MIB
    return Finding(
        "left over",
        ok=True,
        message=f"{len(containers)} containers of runs, of which {running} are running; "
        f"{len(built)} images built for processors, {size} MiB",
    )


def _place() -> str | None:
    """A folder that an engine sees if it sees those of runs: below the user's own; None: any."""
    home = os.environ.get("THEORY_HOME") or os.path.expanduser("~")
    return home if os.path.isdir(home) and os.access(home, os.W_OK) else None


def _security(info: JsonObject) -> set[str]:
    """The names of the security options: name=seccomp,profile=default is seccomp."""
    options = cast("list[str]", info.get("SecurityOptions") or [])
    return {option.partition(",")[0].removeprefix("name=") for option in options}


def _number(record: JsonObject, key: str) -> int:
    value = record.get(key)
    return value if isinstance(value, int) else 0
