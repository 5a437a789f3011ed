"""Images from a registry, with the user's own login, and what a registry's refusal means."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, Literal

from theory import errors
from theory_adapter_local.engine.client import Refused
from theory_adapter_local.images.here import not_found, platform_of
from theory_adapter_local.images.progress import Failed, follow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from theory import Channel, ImageName
    from theory_adapter_local.engine.client import Engine

_SILENCE_S = 1.0  # between two lines of progress
_WORDS = 300  # characters of a registry's answer that a hint shows
_MIB = 1024 * 1024

_FULL = "no space left on device"
# What the engine says of a pull that failed, and what to do about it; the first that fits. The status
# says nothing: Docker 20.10 gives most of them 500. Source: tests/adapter_local/test_images.py, and
# https://distribution.github.io/distribution/spec/api (errors).
_OFFLINE = "the engine cannot reach {registry}; try again with a network, or docker load the image"
_REASONS = (
    (
        "does not match the specified platform|no matching manifest for|no match for platform",
        "there is none for {platform}; -o platform=… asks for another one",
    ),
    (
        r"toomanyrequests|too many requests|\b429\b",
        "{registry} has had enough requests from here; docker login {registry} raises its limit",
    ),
    (
        "x509|certificate",
        "the engine does not trust the certificate of {registry}: see /etc/docker/certs.d in Docker's manual",
    ),
    (
        "gave HTTP response to HTTPS client",
        "{registry} speaks plain HTTP, which the engine takes only from insecure-registries in daemon.json",
    ),
    ("no such host|dial tcp|connection re(fused|set)|network is unreachable|no route to host", _OFFLINE),
    (
        r"i/o timeout|TLS handshake|Client\.Timeout|deadline exceeded|proxyconnect|misbehaving|\bEOF$",
        _OFFLINE,
    ),
    (
        "repository does not exist or may require|pull access denied",
        "{registry} has no such repository, or shows it only to its users: docker login {registry}",
    ),
    (
        r"unauthorized|denied|no basic auth|authentication required|forbidden|\b40[13]\b",
        "{registry} does not give it to you: docker login {registry}",
    ),
    (
        r"manifest unknown|name unknown|not known to registry|not found|NAME_INVALID|\b404\b",
        "{registry} has no such image; look for a typing error in its name or tag",
    ),
    ("", "{registry} failed; try again later"),
)


def pull_image(
    engine: Engine,
    reference: ImageName,
    platform: str,
    policy: Literal["missing", "always", "never"],
    channel: Channel,
) -> None:
    """Have the engine pull an image, for this platform or, where it is "", for its own.

    Raises:
        ImageNotFound: The registry does not give it, or may not be asked; the hint says why.
        Retry: The engine's disk is full.
        Cancelled: The run was cancelled.
    """
    if policy == "never":
        hint = f"pull=never: docker pull {reference.full}, or docker load it, first"
        raise errors.ImageNotFound(not_found(reference.full), hint=hint)
    query = {"fromImage": reference.name, "tag": reference.digest or reference.tag}
    if platform:
        query["platform"] = platform
    line = f"pulling {reference.full}"
    channel.write("stderr", f"{line}\n".encode())
    progress = Progress(line, channel)
    try:
        follow(
            engine,
            "/images/create",
            query=query,
            headers=_login(reference.registry, channel),
            hear=progress.hear,
            channel=channel,
        )
    except (Failed, Refused) as error:
        words = error.words if isinstance(error, Failed) else error.message
        raise refusal(engine, reference, platform, words) from error


def refusal(engine: Engine, reference: ImageName, platform: str, words: str) -> errors.TheoryError:
    """The error for a pull that failed with these words."""
    said = " ".join(words.split())[:_WORDS]
    if _FULL in said:
        return disk_full(said)
    advice = next(advice for pattern, advice in _REASONS if re.search(pattern, said, re.IGNORECASE))
    advice = advice.format(registry=reference.registry, platform=platform or platform_of(engine))
    return errors.ImageNotFound(not_found(reference.full), hint=f"{advice} ({said})")


def disk_full(said: str) -> errors.TheoryError:
    """The error for an engine that has no room."""
    return errors.Retry(
        f"the disk of the Docker engine is full: {said}",
        hint="docker system df shows what takes the room; docker image prune frees what no tag names",
    )


def _login(registry: str, channel: Channel) -> dict[str, str]:
    """The header with the user's login at this registry, from Docker's configuration or its helpers."""
    import warnings  # noqa: PLC0415 - few runs pull

    from docker import auth  # noqa: PLC0415 - 120 ms
    from docker.errors import DockerException  # noqa: PLC0415 - as above

    # The package warns of a missing helper before it fails, which is told below.
    warnings.filterwarnings("ignore", "docker-credential-", UserWarning)
    try:
        login = auth.resolve_authconfig(auth.load_config(), registry)
    except (DockerException, OSError, ValueError) as error:
        told = f"the login for {registry} cannot be read, so none is used: {error}\n"
        channel.write("stderr", told.encode())
        return {}
    return {"X-Registry-Auth": auth.encode_header(login).decode("ascii")} if login else {}


class Progress:
    """Tells how far a pull is, in at most a line a second."""

    def __init__(self, line: str, channel: Channel, clock: Callable[[], float] = time.monotonic) -> None:
        self._line = line
        self._channel = channel
        self._clock = clock
        self._told = clock()
        self._layers: dict[str, tuple[str, int, int]] = {}  # state, bytes here, bytes in all

    def hear(self, message: Mapping[str, Any]) -> None:
        """Take a message of the engine."""
        state, layer = str(message.get("status", "")), message.get("id")
        if not isinstance(layer, str) or not layer or state.startswith("Pulling from"):
            return
        _, here, size = self._layers.get(layer, ("", 0, 0))
        detail = message.get("progressDetail")
        if state == "Downloading" and isinstance(detail, dict):
            told = detail.get("current", here), detail.get("total", size)
            here, size = told if all(isinstance(number, int) for number in told) else (here, size)
        elif state in {"Download complete", "Pull complete", "Extracting"}:
            here = size
        self._layers[layer] = (state, here, size)
        now = self._clock()
        if now - self._told >= _SILENCE_S:
            self._told = now
            self._channel.write("stderr", self._state().encode())

    def _state(self) -> str:
        ready = sum(state in {"Pull complete", "Already exists"} for state, *_ in self._layers.values())
        here = sum(here for _, here, _ in self._layers.values()) / _MIB
        size = sum(size for *_, size in self._layers.values()) / _MIB
        return f"{self._line}: {ready} of {len(self._layers)} layers, {here:.1f} of {size:.1f} MiB\n"
