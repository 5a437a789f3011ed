"""Where an engine listens, found as Docker's own command finds it, and a connection to it."""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING, NamedTuple

from theory_adapter_local.engine import faults
from theory_adapter_local.engine.connection import Connection

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping

_DOCKER, _PODMAN = "/var/run/docker.sock", "/run/podman/podman.sock"
_LABEL = "[0-9A-Za-z_][0-9A-Za-z_-]{0,62}"
_NAME = rf"{_LABEL}(\.{_LABEL})*|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(%\w+)?"  # of a machine, or its IPv6 address
_PORTS = {"tcp": 2375, "http": 2375, "https": 2376}  # source: Docker's command line


class Tls(NamedTuple):
    """How a TLS connection is made."""

    folder: str  # of ca.pem, cert.pem and key.pem, as far as they are there
    verify: bool


class Endpoint(NamedTuple):
    """Where an engine listens; checked."""

    host: str  # as DOCKER_HOST spells it
    source: str  # who says so, for people
    scheme: str  # unix, tcp or ssh
    address: str  # the socket's path, or the name of the machine
    port: int = 0
    user: str = ""
    path: str = ""  # of its socket, where ssh leads to another than the default
    tls: Tls | None = None
    context: str = ""  # of Docker's command, if one named it

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead to it."""
        if self.context:
            return {"DOCKER_HOST": "", "DOCKER_CONTEXT": self.context}
        tls = self.tls if self.tls and self.tls.folder else None
        certificates = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": tls.folder} if tls else {}
        return {"DOCKER_HOST": self.host, "DOCKER_TLS_VERIFY": "", **certificates}

    @property
    def authority(self) -> str:
        """What the Host header says."""
        name = f"[{self.address}]" if ":" in self.address else self.address
        return f"{name}:{self.port}" if self.scheme == "tcp" else "docker"


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


def connect(endpoint: Endpoint, timeout_s: float) -> Connection:
    """Connect within so many seconds.

    Raises:
        OSError: There is no connection to be had.
    """
    if endpoint.scheme == "ssh":
        from theory_adapter_local.engine.ssh import connect_by_ssh  # noqa: PLC0415 - drives another program

        return connect_by_ssh(endpoint)
    if endpoint.scheme == "unix":
        sock = socket.socket(socket.AF_UNIX)
    else:
        sock = socket.create_connection((endpoint.address, endpoint.port), timeout_s)
    try:
        sock.settimeout(timeout_s)
        if endpoint.scheme == "unix":
            sock.connect(endpoint.address)
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a wait may be silent for hours
        if endpoint.tls is not None:
            sock = _tls_context(endpoint.tls).wrap_socket(sock, server_hostname=endpoint.address)
    except BaseException:
        sock.close()
        raise
    return Connection(sock)


def _tls_context(tls: Tls) -> ssl.SSLContext:
    import ssl  # noqa: PLC0415 - 10 ms that a socket here does not need

    authority, certificate, key = (os.path.join(tls.folder, f"{name}.pem") for name in ("ca", "cert", "key"))
    # Not create_default_context: since Python 3.13 it refuses certificates made as Docker's manual says.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls.folder and os.path.exists(authority):
        context.load_verify_locations(authority)
    else:
        context.load_default_certs()
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.folder and os.path.exists(certificate):
        context.load_cert_chain(certificate, key)
    return context


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
