"""What a caller asks for, before anybody looked at it."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from theory.canon import MAX_INTEGER
from theory.errors import Usage
from theory.paths import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from theory.types import JsonObject, MemoPolicy

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_MAX_TIMEOUT = 86_400  # seconds, as in an entry


@dataclass(frozen=True, slots=True)
class Request:
    """One call for a run.

    Raises:
        Usage: A value that no run can have.
    """

    ref: str
    inputs: str | bytes | JsonObject
    adapter: str
    plan: str
    prefix: str
    attachments: Mapping[str, str] = field(default_factory=dict)  # name -> path, URI or -
    options: JsonObject = field(default_factory=dict)
    seed: int = 0
    timeout: float | None = None  # seconds; None: the entry's
    memo: MemoPolicy = "auto"
    execution_id: str | None = None  # of the execution that is tried again
    reserve_micro_usd: int | None = None  # None: what the entry or the adapter says

    def __post_init__(self) -> None:
        """Check what is not checked by a room."""
        if type(self.seed) is not int or not 0 <= self.seed <= MAX_INTEGER:
            raise Usage(f"the seed {self.seed!r} is not between 0 and 2^53-1")
        if self.timeout is not None and not 0 < self.timeout <= _MAX_TIMEOUT:
            raise Usage(f"the timeout {self.timeout!r} is not between 0 and {_MAX_TIMEOUT:,} seconds")
        amount = self.reserve_micro_usd
        if amount is not None and (type(amount) is not int or not 0 <= amount <= MAX_INTEGER):
            raise Usage("the amount to reserve is not between 0 and 2^53-1 micro-USD")
        if self.execution_id is not None and not _UUID.fullmatch(self.execution_id):
            raise Usage(
                f"{printable(self.execution_id)!r} is not an execution id",
                hint="theory ls shows those that there are",
            )


def new_execution_id() -> str:
    """A UUIDv7 (RFC 9562, 5.7): sorted by the millisecond of its making, random otherwise."""
    value = (time.time_ns() // 1_000_000 & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
