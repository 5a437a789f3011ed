"""YAML read as JSON: no aliases, no tags, no duplicate keys, JSON's types only, and the line of every value.

Plain scalars follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), so ``no`` and
``on`` are text, not booleans. PyYAML supplies the events; a 432-byte alias bomb never becomes a value.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from theory.formats.canon import MAX_INTEGER, MAX_JSON_DEPTH, escape_pointer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from theory.types import Json

MAX_BYTES = 1024 * 1024
_MAX_VALUES = 100_000  # keys among them; ours have some hundred
_MAX_POINTER = 300  # characters; the line of what is deeper is that of what it is in
_DIGITS = 20  # enough for 2^53-1 however it is spelled; int() takes quadratic time

# Outside the set that YAML 1.2.2, 5.1, allows, and what ends a line in YAML 1.1 alone,
# since PyYAML still goes by that.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]")
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class BadYaml(ValueError):
    """Text that is not the YAML we take."""

    def __init__(self, message: str, line: int, more: tuple[tuple[str, int], ...] = ()) -> None:
        super().__init__(message)
        self.line = line  # counted from 1
        self.more = more  # further faults, and their lines


def parse_yaml(data: bytes) -> tuple[Json, dict[str, int]]:
    """The value, and the line of every JSON pointer in it.

    Raises:
        BadYaml: What is not strict YAML, with its line.
    """
    import yaml  # noqa: PLC0415 - an entry that was read before is cached as JSON

    if len(data) > MAX_BYTES:
        raise BadYaml(f"{len(data):,} bytes or more, which is over the limit of {MAX_BYTES:,}", 1)
    _check_characters(data)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    lines: dict[str, int] = {}
    faults: list[tuple[str, int]] = []
    try:
        value = _document(yaml.parse(data, loader), lines, faults)
    except BadYaml:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BadYaml(error.problem or "not YAML", mark.line + 1 if mark else 1) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two where PyYAML lacks libyaml
        raise BadYaml(str(error).splitlines()[0], 1) from None
    if faults:
        first, *more = dict.fromkeys(faults)
        raise BadYaml(*first, more=tuple(more))
    return value, lines


def _check_characters(data: bytes) -> None:
    """Refuse what is not UTF-8, and the control characters that YAML has no place for."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadYaml(f"byte {error.start} is not UTF-8", line) from None
    if found := _CONTROL.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise BadYaml(f"a control character, U+{ord(found[0]):04X}", line)


def _document(events: Iterator[Any], lines: dict[str, int], faults: list[tuple[str, int]]) -> Json:
    import yaml  # noqa: PLC0415 - as in parse_yaml

    next(events)  # the start of the stream
    if isinstance(next(events), yaml.StreamEndEvent):
        raise BadYaml("an empty document", 1)
    value = _Reader(events, lines, faults).value(next(events), "", 1)
    next(events)  # the end of the document
    if not isinstance(event := next(events), yaml.StreamEndEvent):
        raise BadYaml("a second document in one file", event.start_mark.line + 1)
    return value


class _Reader:
    """Makes values of events; what it can do without becomes a fault, and it goes on."""

    def __init__(self, events: Iterator[Any], lines: dict[str, int], faults: list[tuple[str, int]]) -> None:
        import yaml  # noqa: PLC0415 - as in parse_yaml

        self._yaml: Any = yaml
        self._events = events
        self._lines = lines
        self._faults = faults
        self._left = _MAX_VALUES

    def value(self, event: Any, pointer: str, depth: int) -> Json:  # noqa: ANN401 - PyYAML has no types
        """The value that begins with this event."""
        yaml, line = self._yaml, event.start_mark.line + 1
        self._lines.setdefault(pointer, line)
        self._left -= 1
        if self._left < 0:
            raise BadYaml(f"more than {_MAX_VALUES:,} values", line, tuple(self._faults))
        if depth > MAX_JSON_DEPTH:
            raise BadYaml(f"nested deeper than {MAX_JSON_DEPTH} levels", line, tuple(self._faults))
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            self._faults.append(("an anchor or alias; write the value out", line))
        elif getattr(event, "tag", None):
            self._faults.append(("a tag; JSON's types are enough here", line))
        if isinstance(event, yaml.AliasEvent):
            return None
        if isinstance(event, yaml.ScalarEvent):
            if "\0" in event.value:  # of no use in a path, a command or a schema
                self._faults.append(("a NUL character", line))
            return self._scalar(event.value, line) if event.implicit[0] else str(event.value)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Json] = []
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                items.append(self.value(event, _below(pointer, str(len(items))), depth + 1))
            return items
        return self._mapping(pointer, line, depth)

    def _mapping(self, pointer: str, line: int, depth: int) -> Json:
        mapping: dict[str, Json] = {}
        while not isinstance(event := next(self._events), self._yaml.MappingEndEvent):
            here = event.start_mark.line + 1
            key = self.value(event, pointer, depth + 1)
            fault = ""
            if not isinstance(key, str):
                fault = f"the key {repr(key)[:100]} is not text; put it in quotes"
            elif key in mapping:
                fault = f"the key {key[:100]!r} stands twice"
            if fault:
                self._faults.append((fault, here))
            step = _below(pointer, str(key)[:100] if fault else str(key))
            mapping[str(key)] = self.value(next(self._events), step, depth + 1)
            if step != pointer:
                self._lines[step] = here
        self._lines[pointer] = line
        return mapping

    def _scalar(self, text: str, line: int) -> Json:
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            short = len(text) <= _DIGITS
            number = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10)) if short else MAX_INTEGER + 1
            if abs(number) > MAX_INTEGER:
                self._faults.append(("an integer beyond 2^53-1 has no exact JSON; put it in quotes", line))
            return number
        if _FLOAT.fullmatch(text):
            return float(text)
        if text.lower().lstrip("+-") in {".nan", ".inf"}:
            self._faults.append((f"{text} is no JSON number", line))
        return text


def _below(pointer: str, step: str) -> str:
    """The pointer of a member; that of the whole where it would be long, as each value has one."""
    return f"{pointer}/{escape_pointer(step)}" if len(pointer) + len(step) <= _MAX_POINTER else pointer
