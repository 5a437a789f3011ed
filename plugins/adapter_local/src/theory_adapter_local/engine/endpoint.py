"""Where an engine listens."""

from __future__ import annotations

from typing import NamedTuple


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
