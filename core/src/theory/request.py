"""What a caller asks for, before anybody looked at it."""

from __future__ import annotations

import os
import re
import time
import unicodedata
from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING

from theory.errors import Usage
from theory.formats.canon import MAX_INTEGER
from theory.formats.paths import HARMFUL, SURROGATE, printable, quoted
from theory.record import Record

if TYPE_CHECKING:
    from theory.types import JsonObject, MemoPolicy

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_MAX_TIMEOUT = 86_400  # seconds, as in an entry
_KINDS = {"ref": "the ref", "adapter": "the adapter", "plan": "the plan", "prefix": "the write prefix"}
_HINT = "docs/reference/python.md lists the arguments"
_MAX_PLAN_KEY = 128  # characters


class Request(Record):
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
    exclusive: bool = False  # whether nobody else who asks may write below the prefix meanwhile

    if not TYPE_CHECKING:  # type checkers make it up by themselves

        def __init__(self, *values: object, **named: object) -> None:
            """Check what is not checked by a room."""
            super().__init__(*values, **named)
            self._check()

    def _check(self) -> None:
        for name, what in _KINDS.items():
            if not isinstance(value := getattr(self, name), str):
                raise Usage(f"{what} is of type {type(value).__name__}, not text", hint=_HINT)
        check_plan_key(self.plan)
        if type(self.seed) is not int or not 0 <= self.seed <= MAX_INTEGER:
            raise Usage(
                f"the seed {_shown(self.seed)} is not between 0 and 2^53-1",
                hint="take a whole number, such as 7",
            )
        timeout = self.timeout
        if timeout is not None and not (type(timeout) in {int, float} and 0 < timeout <= _MAX_TIMEOUT):
            raise Usage(
                f"the timeout {_shown(timeout)} is not between 0 and {_MAX_TIMEOUT:,} seconds",
                hint="take seconds above 0, or none for the entry's own",
            )
        if self.memo not in ("auto", "on", "off", "refresh"):
            raise Usage(f"memo is {_shown(self.memo)}", hint="it is auto, on, off or refresh")
        amount = self.reserve_micro_usd
        if amount is not None and (type(amount) is not int or not 0 <= amount <= MAX_INTEGER):
            raise Usage(
                f"the amount to reserve, {_shown(amount)}, is not between 0 and 2^53-1 micro-USD",
                hint="20000 are 0.02 USD",
            )
        if self.execution_id is not None and not is_execution_id(self.execution_id):
            raise Usage(
                f"{_shown(self.execution_id)} is not an execution id",
                hint="leave it out for a new one; those that there are look as theory ls shows them",
            )


def check_plan_key(key: str) -> None:
    """Refuse what no plan may be called.

    Raises:
        Usage: It is empty, longer than 128 characters, or not what a person would type.
    """
    fault = ""
    if not 1 <= len(key) <= _MAX_PLAN_KEY:
        fault = f"has {len(key)} characters, and 1 to {_MAX_PLAN_KEY} are allowed"
    elif HARMFUL.search(key) or SURROGATE.search(key):
        fault = "has a control or direction-changing character, or one that is not UTF-8"
    elif key != key.strip() or not unicodedata.is_normalized("NFC", key):
        fault = "begins or ends with a space, or is not in Unicode normal form C"
    if fault:
        raise Usage(f"the plan key {quoted(key)} {fault}", hint="take a plain name, such as team-a")


def attachments_of(given: object) -> dict[str, str]:
    """Attachments as a caller in Python gives them: a path of any kind by name.

    Raises:
        Usage: A name is no text, or a path no path.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise Usage(
            f"the attachments are of type {type(given).__name__}, not a mapping",
            hint='{"photo": "photo.jpg"}',
        )
    attachments = {}
    for name, source in given.items():
        if not (isinstance(name, str) and name and isinstance(source, (str, bytes, os.PathLike))):
            raise Usage(
                f"the attachment {_shown(name)} is {_shown(source)}, not a path",
                hint='names are text, paths too: {"photo": "photo.jpg"}',
            )
        attachments[name] = os.fsdecode(source)
    return attachments


def options_over(configured: Mapping[str, JsonObject], adapter: object, given: object) -> JsonObject:
    """An adapter's options as a caller in Python gives them, over those of the configuration.

    Raises:
        Usage: They are no mapping by name.
    """
    usual = configured.get(adapter, {}) if isinstance(adapter, str) else {}
    if given is None:
        return {**usual}
    if not (isinstance(given, Mapping) and all(isinstance(name, str) for name in given)):
        raise Usage(f"the options are {_shown(given)}, not a mapping by name", hint=_HINT)
    return {**usual, **given}


def is_execution_id(value: object) -> bool:
    """Whether this has the form of an execution's id."""
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


def _shown(value: object) -> str:
    return quoted(value) if isinstance(value, str) else printable(repr(value))


def new_execution_id() -> str:
    """A UUIDv7 (RFC 9562, 5.7): sorted by the millisecond of its making, random otherwise."""
    value = (time.time_ns() // 1_000_000 & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
