"""Connections to an engine on another machine: ``ssh … docker system dial-stdio``, as Docker does it."""

from __future__ import annotations

import shlex
import socket
import subprocess
import tempfile
from typing import TYPE_CHECKING

from theory_adapter_local.engine.connection import Connection

if TYPE_CHECKING:
    from theory_adapter_local.engine.endpoint import Endpoint

_LOGIN_S = 20  # for the connection of ssh itself
_END_S = 5.0  # for its end, which takes it some milliseconds
_MOST_WORDS = 4096  # bytes of what ssh says of a failure


def connect_by_ssh(endpoint: Endpoint) -> Connection:
    """Start ssh and speak through it. It asks nothing: a key or an agent has to let it in.

    Raises:
        OSError: ssh cannot be started.
    """
    ours, theirs = socket.socketpair()
    words = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the connection; a pipe might fill up
    try:
        process = subprocess.Popen(  # noqa: S603 - the name begins with no dash, and stands after --
            command_of(endpoint),
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=words,
            start_new_session=True,  # Ctrl-C is ours to handle: the engine has to be told first
        )
    except BaseException:
        words.close()
        ours.close()
        raise
    finally:
        theirs.close()

    def fault() -> str:
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return ""
        words.seek(0)
        said = words.read(_MOST_WORDS).decode("utf-8", "replace").strip()
        return said.splitlines()[-1] if said else f"ssh ended with {process.returncode}"

    def close() -> None:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        words.close()

    return Connection(ours, fault, close)


def command_of(endpoint: Endpoint) -> list[str]:
    """What is run. Source: ``connhelper`` of docker/cli."""
    options = [
        "-o",
        "BatchMode=yes",
        "-o",
        f"ConnectTimeout={_LOGIN_S}",
        "-o",
        "ServerAliveInterval=15",
        "-T",
    ]
    if endpoint.user:
        options += ["-l", endpoint.user]
    if endpoint.port:
        options += ["-p", str(endpoint.port)]
    there = f"docker --host unix://{shlex.quote(endpoint.path)}" if endpoint.path else "docker"
    return ["ssh", *options, "--", endpoint.address, f"{there} system dial-stdio"]
