"""What a user may ask of this adapter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

MOST_STARTUP_S = 3600


@dataclass(frozen=True)
class Options:
    """What a user may ask of this adapter."""

    mode: Literal["sandbox", "function"] | None = field(
        default=None,
        metadata={
            "help": "sandbox: fresh; function: warm, once theory modal deploy made it; null: what is there"
        },
    )
    region: str | None = field(
        default=None,
        metadata={"help": "where to run, such as us-east or eu,uk; it costs more; null: anywhere"},
    )
    cloud: str | None = field(default=None, metadata={"help": "aws, gcp, oci, auto; null: Modal's choice"})
    environment: str | None = field(
        default=None, metadata={"help": "of the Modal account; null: MODAL_ENVIRONMENT, or the account's own"}
    )
    secret: str | None = field(
        default=None,
        metadata={
            "help": "Modal secrets that hold the entry's secrets, comma-separated; null: sent from here"
        },
    )
    registry_secret: str | None = field(
        default=None, metadata={"help": "the Modal secret with the login of a private registry"}
    )
    startup: int = field(
        default=600,
        metadata={"help": "seconds that Modal may take to find a machine and start the container"},
    )
    build: bool = field(
        default=False, metadata={"help": "build the image even where nothing changed (--build does it)"}
    )

    def __post_init__(self) -> None:
        """Refuse what Modal could not take."""
        if not 1 <= self.startup <= MOST_STARTUP_S:
            raise ValueError(f"startup is not between 1 and {MOST_STARTUP_S} seconds")
        for name in ("region", "cloud", "environment", "secret", "registry_secret"):
            value = getattr(self, name)
            if value is not None and (not value.strip() or not value.isprintable()):
                raise ValueError(f"{name} is {value!r}")

    @property
    def keeps_secrets(self) -> bool:
        """Whether the entry's secrets are on Modal, so that none are needed here."""
        return self.secret is not None
