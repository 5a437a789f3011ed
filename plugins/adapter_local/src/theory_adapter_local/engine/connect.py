"""A connection to an engine: by a socket, by TCP with or without TLS, or by ssh."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from theory_adapter_local.engine.connection import Connection

if TYPE_CHECKING:
    import ssl

    from theory_adapter_local.engine.endpoint import Endpoint, Tls


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
