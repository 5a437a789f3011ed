"""What the engine's refusal to create or start a container means, and what to do about it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from theory import errors
from theory_adapter_local.container.endings import NOT_EXECUTABLE, NOT_FOUND

if TYPE_CHECKING:
    from theory import Job
    from theory_adapter_local.engine.client import Refused
    from theory_adapter_local.options import Options

_WORDS = 300  # characters of what the engine says that a message repeats
_COMMAND = (
    r'exec: "(?P<program>[^"]+)": (?:stat [^:]+: )?'
    r"(?P<reason>executable file not found in \$PATH|no such file or directory|permission denied"
    r"|is a directory)"
)


class _Meaning(NamedTuple):
    """Words of the engine, and ours for them; {ref}, {said} and the options are filled in."""

    pattern: str
    kind: type[errors.TheoryError]
    message: str
    hint: str


# The words are those of Engine 20.10 to 29 and Podman 4, each tried with the former (2026-11).
_MEANINGS = (
    _Meaning(
        "docker-init|catatonit|init binary",
        errors.Unsupported,
        "the Docker engine has no init program, which every container of theory has as its first process",
        "install tini (Debian: apt install tini) or catatonit, and restart the engine",
    ),
    _Meaning(
        "no such image|image not known",
        errors.Retry,
        "the image of {ref} was removed by somebody else",
        "try again",
    ),
    _Meaning(
        "no space left on device|disk quota exceeded",
        errors.Retry,
        "the disk of the Docker engine is full: {said}",
        "docker system df shows what takes it",
    ),
    _Meaning(
        "unknown or invalid runtime|unknown runtime|runtime .* not found|invalid runtime",
        errors.BadAdapterOptions,
        "the Docker engine has no runtime {options.runtime!r}",
        "docker info lists those that it has",
    ),
    _Meaning(
        r"network .*not found|no such network|conflicting options|invalid network|no such container",
        errors.BadAdapterOptions,
        "the option network: the Docker engine cannot use {options.network!r}: {said}",
        "docker network ls lists what there is",
    ),
    _Meaning(
        "unable to find (user|group)|no matching entries in (passwd|group)|invalid (user|uid|gid)",
        errors.BadAdapterOptions,
        "the image of {ref} has no such user: {said}",
        "-o user=1000:1000 needs no name in the image",
    ),
    _Meaning(
        r"could not select device driver|nvidia-container|\bgpus?\b|cdi device",
        errors.Unsupported,
        "{ref} needs a gpu, and the Docker engine has none to give: {said}",
        "install the NVIDIA container toolkit, or --adapter modal",
    ),
    _Meaning(
        "does not match the (specified|detected)|exec format error",
        errors.Unsupported,
        "the image of {ref} is for another platform: {said}",
        "-o platform=linux/amd64 or linux/arm64 takes another one of its images",
    ),
    _Meaning(
        "minimum memory limit|memory limit too low|out of memory|oom-killed",
        errors.OutOfMemory,
        "{ref} cannot even start with its {memory} MiB of memory",
        "raise runtime.memory in its entry",
    ),
    _Meaning(
        "no command specified|no command or entrypoint",
        errors.Unsupported,
        "{ref} has no command, and neither has its image",
        "give the entry a command",
    ),
    _Meaning(
        "cannot mkdir|chdir to cwd|working directory|workdir",
        errors.Unsupported,
        "the working directory of the image of {ref} cannot be used: {said}",
        "set WORKDIR in its Dockerfile to a folder that everybody may enter",
    ),
    _Meaning(
        "mount",
        errors.BadAdapterOptions,
        "the Docker engine cannot mount what {ref} was given: {said}",
        "look at the option mounts; the paths are those of the engine's machine",
    ),
)


def cannot_run(refused: Refused) -> tuple[int, str] | None:
    """The status that a shell gives, and the reason, where only the command was at fault; None elsewhere.

    With Docker's init it is that which does not find the command, and ends so by itself.
    """
    said = re.search(_COMMAND, refused.message)
    if said is None or "init" in said["program"]:
        return None
    status = NOT_EXECUTABLE if said["reason"] in {"permission denied", "is a directory"} else NOT_FOUND
    return status, f"cannot run {said['program']}: {said['reason']}"


def error_of(refused: Refused, job: Job, options: Options) -> errors.TheoryError:
    """What a user is told of a refusal to create or start a container."""
    ref, said = job.processor.ref, " ".join(refused.message.split())[:_WORDS]
    for meaning in _MEANINGS:
        if re.search(meaning.pattern, refused.message, re.IGNORECASE):
            memory = job.processor.runtime.memory
            message = meaning.message.format(ref=ref, said=said, options=options, memory=memory)
            return meaning.kind(message, hint=meaning.hint)
    return errors.PluginFailed(
        f"the Docker engine refuses to run {ref}: {said}", hint="theory doctor says what it can do"
    )


def removed(name: str) -> errors.Retry:
    """For a container that is not there any more."""
    return errors.Retry(f"the container {name} was removed by somebody else", hint="try again")


def stopped(name: str, *, with_daemon: bool) -> errors.Retry:
    """For a container that ended with its engine, or that somebody else had the engine stop."""
    if with_daemon:
        return errors.Retry(
            f"the Docker daemon was stopped while the container {name} ran", hint="try again when it is up"
        )
    return errors.Retry(f"the container {name} was stopped by somebody else", hint="try again")


def away(name: str, seconds: float) -> errors.Retry:
    """For an engine that went and did not come back."""
    return errors.Retry(
        f"the Docker daemon went away while the container {name} ran, and was not back after {seconds:g} s",
        hint="try again when it is up; what is left of it is removed then",
    )
