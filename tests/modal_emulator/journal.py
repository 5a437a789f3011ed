"""The request log: every remote call, what it asked, and how it ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

if TYPE_CHECKING:
    from .rpc import Call

LONGEST_TEXT = 4096  # characters of a string field that the log shows
LONGEST_LIST = 50  # items of a repeated field that the log shows
SECRET_FIELDS = frozenset(
    {"env_dict", "env", "contents", "token", "token_secret", "jwt", "input_jwt", "function_call_jwt"}
)
HELD = 200_000  # lines, then the oldest go


def summary(message: Message) -> dict[str, Any]:
    """The fields that were set, as JSON: bytes by their number, secrets without their values."""
    return {field.name: _shown(field.name, value) for field, value in message.ListFields()}


def _shown(name: str, value: Any) -> Any:
    if name in SECRET_FIELDS:
        shown: Any = sorted(value) if hasattr(value, "keys") else "***"
    elif isinstance(value, Message):
        shown = summary(value)
    elif isinstance(value, bytes):
        shown = {"bytes": len(value)}
    elif isinstance(value, str):
        shown = value if len(value) <= LONGEST_TEXT else f"{value[:LONGEST_TEXT]}… ({len(value)} characters)"
    elif hasattr(value, "items"):
        shown = {str(key): _shown("", item) for key, item in value.items()}
    elif hasattr(value, "__len__"):
        shown = [_shown("", item) for item in value[:LONGEST_LIST]]
    else:
        shown = value
    return shown


class Journal:
    """All calls since the start or the last reset, oldest first."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.unknowns: list[str] = []

    def begin(self, call: Call, fields: dict[str, Any]) -> dict[str, Any]:
        """Write down that a call came in; `end` completes its line."""
        line = {
            "method": call.method,
            "door": call.door,
            "container": call.container,
            "key": call.key,
            "attempt": int(call.metadata.get("x-retry-attempt", "0")),
            "at": time.time(),
            "status": "OPEN",
            "duration_s": None,
            "request": fields,
            "notes": {},
        }
        self.lines.append(line)
        if len(self.lines) > HELD:
            del self.lines[: HELD // 10]
        return line

    def end(self, line: dict[str, Any], status: str, notes: dict[str, Any]) -> None:
        """Write down how it ended: a gRPC status, GONE (the client hung up) or BUG (of the emulator)."""
        line["status"] = status
        line["duration_s"] = time.time() - line["at"]
        line["notes"] = dict(notes)

    def unknown(self, call: Call) -> None:
        """Remember that the client wanted something that nobody here answers."""
        if call.method not in self.unknowns:
            self.unknowns.append(call.method)

    def reset(self) -> None:
        """Forget all lines."""
        self.lines.clear()
        self.unknowns.clear()
