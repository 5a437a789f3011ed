"""What a user may ask of this adapter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from theory_adapter_local.container.mounts import read_mounts

MOST_OUTPUT = 2**40  # MiB


@dataclass(frozen=True)
class Options:
    """The options of one run; ``theory adapters show local`` prints them."""

    network: str | None = field(
        default=None,
        metadata={"help": "for entries that say network: true; null: bridge. Others have none"},
    )
    user: str | None = field(
        default=None,
        metadata={"help": "who runs the command: uid:gid, a name, or image for its own; null: not root"},
    )
    mounts: str | None = field(
        default=None,
        metadata={"help": "what to add, read-only: /here:/there,…; such a run is not remembered"},
    )
    runtime: str | None = field(
        default=None, metadata={"help": "the engine's runtime, such as runsc; null: the engine's own default"}
    )
    platform: str | None = field(
        default=None,
        metadata={"help": "which of the image's, such as linux/arm64; null: the engine's"},
    )
    pull: Literal["missing", "always", "never"] = field(
        default="missing", metadata={"help": "when to ask the registry for the image"}
    )
    keep: bool = field(
        default=False, metadata={"help": "leave the container and its files behind, to look at them"}
    )
    build: bool = field(
        default=False, metadata={"help": "build the image even where nothing changed (--build does it)"}
    )
    output_size: int = field(
        default=10240, metadata={"help": "MiB that all outputs, or any one file, may grow to while it runs"}
    )

    def __post_init__(self) -> None:
        """Refuse what no container could be made of."""
        read_mounts(self.mounts)
        if not 1 <= self.output_size <= MOST_OUTPUT:
            raise ValueError("output_size is not between 1 and 2^40 MiB")
        if self.platform is not None and "/" not in self.platform.strip("/"):
            raise ValueError(f"the platform {self.platform!r} is not of the form linux/amd64")
        for name in ("network", "user", "runtime"):
            value = getattr(self, name)
            if value is not None and (not value.strip() or not value.isprintable()):
                raise ValueError(f"{name} is {value!r}")
