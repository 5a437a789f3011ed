"""Which engine is meant, found as Docker's own command finds it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from theory_adapter_local.engine import faults
from theory_adapter_local.engine.endpoint import Endpoint, Tls

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_DOCKER, _PODMAN = "/var/run/docker.sock", "/run/podman/podman.sock"
_LABEL = "[0-9A-Za-z_][0-9A-Za-z_-]{0,62}"
_NAME = rf"{_LABEL}(\.{_LABEL})*|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(%\w+)?"  # of a machine, or its IPv6 address
_PORTS = {"tcp": 2375, "http": 2375, "https": 2376}  # source: Docker's command line


def endpoints_of(environ: Mapping[str, str]) -> tuple[Endpoint, ...]:
    """Where an engine may be, the best first: DOCKER_HOST or the command's context, else what is here.

    Raises:
        DockerUnavailable: Something names an engine, and wrongly.
    """
    host = environ.get("DOCKER_HOST")
    if host:
        folder = environ.get("DOCKER_CERT_PATH") or _config_folder(environ)
        tls = Tls(folder, verify=True) if environ.get("DOCKER_TLS_VERIFY") else None
        return (endpoint_of(host, "DOCKER_HOST", tls),)
    named = _context(environ)
    if named is not None:
        return (named,)
    return tuple(
        endpoint_of(f"unix://{path}", "") for path in default_sockets(environ) if os.path.lexists(path)
    )


def default_sockets(environ: Mapping[str, str]) -> Iterator[str]:
    """Where engines listen on this machine unless they are told otherwise: Docker, rootless, and Podman."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    yield _DOCKER
    if runtime:
        yield f"{runtime}/docker.sock"
    yield f"{_home(environ)}/.docker/run/docker.sock"
    if runtime:
        yield f"{runtime}/podman/podman.sock"
    yield _PODMAN


def endpoint_of(host: str, source: str, tls: Tls | None = None) -> Endpoint:
    """Read what DOCKER_HOST may say; without a scheme, it is a machine's name and port.

    Raises:
        DockerUnavailable: It has none of the forms.
    """
    if not host.isprintable():  # urlsplit would leave some of it out
        raise faults.wrong_form(host, source, "it has control characters")
    host = host.removeprefix("http+")  # how the docker package writes a socket into a context
    scheme, separator, rest = host.partition("://")
    if scheme == "unix":
        if not rest.startswith("/"):
            raise faults.wrong_form(host, source, "a socket's path has to begin with /")
        return Endpoint(host, source, "unix", rest)
    from urllib.parse import urlsplit  # noqa: PLC0415 - not for a socket here

    try:
        parts = urlsplit(host if separator else f"tcp://{host}")
        name, port = parts.hostname or "", parts.port or 0
    except ValueError as error:
        raise faults.wrong_form(host, source, str(error)) from None
    if parts.password is not None:
        raise faults.wrong_form(f"{scheme}://…@{name}", source, "a password may not stand in it")
    if not re.fullmatch(_NAME, name) or parts.query or parts.fragment:
        raise faults.wrong_form(host, source, "it names no machine")
    if parts.scheme == "ssh":
        return Endpoint(host, source, "ssh", name, port, parts.username or "", parts.path.rstrip("/"))
    if parts.scheme not in _PORTS:
        raise faults.wrong_form(host, source, "only unix, tcp, http, https and ssh are known")
    if parts.path.strip("/") or parts.username:
        raise faults.wrong_form(host, source, "it can only have a machine's name and a port")
    return _tcp_endpoint(
        host, source, name, port, tls or (Tls("", verify=True) if scheme == "https" else None)
    )


def _tcp_endpoint(host: str, source: str, name: str, port: int, tls: Tls | None) -> Endpoint:
    return Endpoint(host, source, "tcp", name, port or _PORTS["https" if tls else "tcp"], tls=tls)


# -------------------------------------------------------------------- contexts of Docker's command


def _context(environ: Mapping[str, str]) -> Endpoint | None:
    """What the current context of Docker's command names; None for its default.

    The ``docker`` package can read it too, but at the cost of its import, in every run of everybody who has
    Docker Desktop or a rootless engine, which both set a context.
    """
    folder = _config_folder(environ)
    name, source = environ.get("DOCKER_CONTEXT", ""), "DOCKER_CONTEXT"
    if not name:
        source = f"{folder}/config.json"
        name = str(_read(source, "currentContext") or "default")
    if name == "default":
        return None
    from hashlib import sha256  # noqa: PLC0415 - for those who have a context

    key = sha256(name.encode()).hexdigest()
    described = f"{folder}/contexts/meta/{key}/meta.json"
    host = _read(described, "Endpoints", "docker", "Host")
    if not isinstance(host, str) or not host:
        raise faults.unknown_context(name, source)
    certificates = f"{folder}/contexts/tls/{key}/docker"
    verify = _read(described, "Endpoints", "docker", "SkipTLSVerify") is not True
    tls = Tls(certificates, verify) if os.path.isdir(certificates) or not verify else None
    return endpoint_of(host, f"the Docker context {name}", tls)._replace(context=name)


def _read(path: str, *members: str) -> object:
    """A member of a JSON file; None if there is none."""
    import json  # noqa: PLC0415 - not where DOCKER_HOST says it all

    try:
        with open(path, "rb") as file:
            found = json.load(file)
        for member in members:
            found = found[member]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found


def _config_folder(environ: Mapping[str, str]) -> str:
    return environ.get("DOCKER_CONFIG") or f"{_home(environ)}/.docker"


def _home(environ: Mapping[str, str]) -> str:
    return environ.get("HOME") or os.path.expanduser("~")
