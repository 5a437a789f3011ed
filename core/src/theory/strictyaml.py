"""YAML read as JSON: no aliases, no tags, no duplicate keys, JSON's types only, and the line of every value.

Plain scalars follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), so ``no`` and
``on`` are text, not booleans. PyYAML supplies the events; a 432-byte alias bomb never becomes a value.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from theory.canon import MAX_INTEGER, MAX_JSON_DEPTH, escape_pointer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from theory.types import Json

MAX_BYTES = 1024 * 1024
_DIGITS = 20  # enough for 2^53-1 however it is spelled; int() takes quadratic time

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class BadYaml(ValueError):
    """Text that is not the YAML we take."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line  # counted from 1


def parse_yaml(data: bytes) -> tuple[Json, dict[str, int]]:
    """The value, and the line of every JSON pointer in it.

    Raises:
        BadYaml: What is not strict YAML, with its line.
    """
    import yaml  # noqa: PLC0415 - an entry that was read before is cached as JSON

    if len(data) > MAX_BYTES:
        raise BadYaml(f"{len(data):,} bytes, which is over the limit of {MAX_BYTES:,}", 1)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    lines: dict[str, int] = {}
    try:
        value = _document(yaml.parse(data, loader), lines)
    except BadYaml:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BadYaml(error.problem or "not YAML", mark.line + 1 if mark else 1) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two where PyYAML lacks libyaml
        raise BadYaml(str(error).splitlines()[0], 1) from None
    return value, lines


def _document(events: Iterator[Any], lines: dict[str, int]) -> Json:
    import yaml  # noqa: PLC0415 - as in parse_yaml

    next(events)  # the start of the stream
    if isinstance(next(events), yaml.StreamEndEvent):
        raise BadYaml("an empty document", 1)
    value = _value(events, next(events), "", lines, 1)
    next(events)  # the end of the document
    if not isinstance(event := next(events), yaml.StreamEndEvent):
        raise BadYaml("a second document in one file", event.start_mark.line + 1)
    return value


def _value(events: Iterator[Any], event: Any, pointer: str, lines: dict[str, int], depth: int) -> Json:  # noqa: ANN401 - PyYAML has no types
    import yaml  # noqa: PLC0415 - as in parse_yaml

    line = lines[pointer] = event.start_mark.line + 1
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        raise BadYaml("an anchor or alias; write the value out", line)
    if depth > MAX_JSON_DEPTH:
        raise BadYaml(f"nested deeper than {MAX_JSON_DEPTH} levels", line)
    if getattr(event, "tag", None):
        raise BadYaml("a tag; JSON's types are enough here", line)
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event.value, line) if event.implicit[0] else str(event.value)
    if isinstance(event, yaml.SequenceStartEvent):
        items: list[Json] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_value(events, event, f"{pointer}/{len(items)}", lines, depth + 1))
        return items
    mapping: dict[str, Json] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key = _value(events, event, pointer, lines, depth + 1)
        here = event.start_mark.line + 1
        if not isinstance(key, str):
            raise BadYaml(f"the key {key!r} is not text; put it in quotes", here)
        if key in mapping:
            raise BadYaml(f"the key {key[:100]!r} stands twice", here)
        step = f"{pointer}/{escape_pointer(key)}"
        mapping[key] = _value(events, next(events), step, lines, depth + 1)
        lines[step] = here
    lines[pointer] = line
    return mapping


def _scalar(text: str, line: int) -> Json:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        number = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10)) if len(text) <= _DIGITS else MAX_INTEGER + 1
        if abs(number) > MAX_INTEGER:
            raise BadYaml("an integer beyond 2^53-1 has no exact JSON; put it in quotes", line)
        return number
    if _FLOAT.fullmatch(text):
        return float(text)
    if text.lower().lstrip("+-") in {".nan", ".inf"}:
        raise BadYaml(f"{text} is no JSON number", line)
    return text
