"""The one error for an engine that cannot be reached, with a hint for each of the reasons."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from theory import errors
from theory_adapter_local.engine.connection import Malformed, TooSlow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from theory_adapter_local.engine.connection import Lost
    from theory_adapter_local.engine.endpoint import Endpoint

# Seconds for a connection, and for the answer to a ping. A ping takes 1 ms here; ssh has to log in first.
PROBE_S = {"unix": 5.0, "tcp": 5.0, "ssh": 30.0}

_WITHOUT = "or run without it: --adapter process, or --adapter mock"


class DockerUnavailable(errors.Unavailable):
    """No engine answers; the hint says why, and what to do about it."""

    code = "ERR_DOCKER_UNAVAILABLE"

    def __init__(self, hint: str) -> None:
        super().__init__(
            "Docker daemon not running or not installed", hint=hint
        )  # as the requirements show it


# -------------------------------------------------------------------- nobody says where it is


def none_found(environ: Mapping[str, str]) -> DockerUnavailable:
    """There is no socket on this machine."""
    import shutil  # noqa: PLC0415 - never in a good run

    path = environ.get("PATH")
    if shutil.which("docker", path=path) or shutil.which("dockerd", path=path):
        return DockerUnavailable(f"Docker is installed, but not running; start it: {_start()}")
    if shutil.which("podman", path=path):
        return DockerUnavailable(
            "Podman is installed, but its socket is not there; systemctl --user start podman.socket"
        )
    return DockerUnavailable(
        f"Docker is not installed; install and start it: https://docs.docker.com/engine/install, {_WITHOUT}"
    )


def wrong_form(host: str, source: str, reason: str) -> DockerUnavailable:
    """DOCKER_HOST, or a context, says what no engine's address looks like."""
    return DockerUnavailable(
        f"{source} is {host!r}, which is no address of an engine: {reason}; "
        "write unix:///var/run/docker.sock, tcp://machine:2375 or ssh://user@machine, or unset it"
    )


def unknown_context(name: str, source: str) -> DockerUnavailable:
    """The current context of Docker's command is not there."""
    return DockerUnavailable(
        f"{source} names the Docker context {name!r}, which does not exist; docker context ls, "
        "then docker context use NAME"
    )


# -------------------------------------------------------------------- no connection


def no_connection(endpoint: Endpoint, error: OSError) -> DockerUnavailable:
    """It could not be connected to."""
    reason = error.strerror or str(error)
    if isinstance(error, (TimeoutError, BlockingIOError)):  # the latter is a socket whose queue is full
        hint = _too_slow(endpoint)
    elif endpoint.scheme == "ssh":
        hint = f"{_name(endpoint)} needs ssh, which cannot be started: {reason}; install OpenSSH's client"
    elif endpoint.scheme == "unix":
        hint = _no_socket(endpoint, error, reason)
    elif type(error).__name__ == "gaierror":  # of the module socket
        hint = f"{_name(endpoint)}: the name {endpoint.address} cannot be resolved: {reason}"
    elif isinstance(error, ConnectionRefusedError):
        hint = (
            f"{_name(endpoint)}: nothing listens on port {endpoint.port} there; start its engine, {_WITHOUT}"
        )
    elif endpoint.tls is not None:
        hint = _no_tls(endpoint, reason)
    else:
        hint = f"{_name(endpoint)}: {reason}"
    return DockerUnavailable(hint)


def _no_socket(endpoint: Endpoint, error: OSError, reason: str) -> str:
    import errno  # noqa: PLC0415 - never in a good run
    import pathlib  # noqa: PLC0415 - the same

    path = pathlib.Path(endpoint.address)
    if isinstance(error, PermissionError):
        return _not_allowed(endpoint.address)
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return f"{path} is a link to nothing; start the engine: {_start()}"
    if isinstance(error, FileNotFoundError):
        return f"{_name(endpoint)}: there is no such socket; start its engine: {_start()}, {_WITHOUT}"
    if error.errno in {errno.ECONNREFUSED, errno.ENOTSOCK}:  # the latter on macOS
        if path.is_socket():
            return f"{path} was left behind by a daemon that has ended; start it: {_start()}"
        reason = "that is no socket"
    return f"{_name(endpoint)}: {reason}"


def _not_allowed(path: str) -> str:
    """Who may use a socket, and how to become one of them."""
    import grp  # noqa: PLC0415 - never in a good run
    import pwd  # noqa: PLC0415 - the same

    try:
        status = os.stat(path)
    except OSError:
        return f"you may not use {path}: its folder is closed to you"
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = str(status.st_uid)
    if not status.st_mode & 0o020 or status.st_gid == 0:
        return f"you may not use {path}: it is for the user {owner} alone"
    try:
        group = grp.getgrgid(status.st_gid)
    except KeyError:
        return f"you may not use {path}: it is for the group {status.st_gid}, which has no name here"
    try:
        is_member = pwd.getpwuid(os.getuid()).pw_name in group.gr_mem
    except KeyError:
        is_member = False
    if is_member:
        return (
            f"you joined the group {group.gr_name}, which may use {path}, after you logged in; log in again"
        )
    return (
        f"you may not use {path}: it is for the group {group.gr_name}; "
        f"sudo usermod -aG {group.gr_name} $USER, then log in again"
    )


def _no_tls(endpoint: Endpoint, reason: str) -> str:
    folder = endpoint.tls.folder if endpoint.tls else ""
    where = f"; its ca.pem, cert.pem and key.pem belong in {folder}" if folder else "; set DOCKER_CERT_PATH"
    return f"{_name(endpoint)}: no TLS connection: {reason}{where}"


# -------------------------------------------------------------------- no good answer


def no_answer(endpoint: Endpoint, lost: Lost) -> DockerUnavailable:
    """It took the connection, and then did not answer as an engine does."""
    if isinstance(lost, TooSlow):
        return DockerUnavailable(_too_slow(endpoint))
    if endpoint.scheme == "ssh":
        there = f"{endpoint.user}@{endpoint.address}" if endpoint.user else endpoint.address
        return DockerUnavailable(f"{_name(endpoint)}: {lost}; try: ssh {there} docker system dial-stdio")
    if endpoint.tls is not None and not isinstance(lost, Malformed):
        return DockerUnavailable(_no_tls(endpoint, str(lost)))
    wants = "; if it wants TLS: DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH" if endpoint.scheme == "tcp" else ""
    return DockerUnavailable(f"{_name(endpoint)}: what listens there is not Docker: {lost}{wants}")


def refusal(endpoint: Endpoint, status: int, words: str) -> DockerUnavailable:
    """It answers the ping with an error."""
    return DockerUnavailable(
        f"{_name(endpoint)}: it is not ready, not Docker, or something stands in front of it: "
        f"it answers {status}, {words[:200]}"
    )


def too_old(endpoint: Endpoint, api: str, oldest: str) -> DockerUnavailable:
    """It does not speak the API; or it says nothing of one, and then it is something else."""
    if not api:
        return DockerUnavailable(
            f"{_name(endpoint)}: what listens there is not Docker: it names no API version"
        )
    return DockerUnavailable(
        f"{_name(endpoint)}: its API is {api[:20]}, and {oldest} is needed; install Docker 19.03 or newer"
    )


def _too_slow(endpoint: Endpoint) -> str:
    patience = PROBE_S[endpoint.scheme]
    how = f"restart it: {_start('restart')}" if endpoint.scheme == "unix" else "see whether it is running"
    return f"{_name(endpoint)} does not answer within {patience:g} s; {how}"


# -------------------------------------------------------------------- words


def _name(endpoint: Endpoint) -> str:
    return f"{endpoint.host} (from {endpoint.source})" if endpoint.source else endpoint.host


def _start(verb: str = "start") -> str:
    """The command that starts the engine on this machine."""
    if sys.platform == "darwin":
        return "open -a Docker"
    if os.path.isdir("/run/systemd/system"):
        return f"sudo systemctl {verb} docker"
    return f"sudo service docker {verb}"
