"""Outputs that keep a JSON Schema, for schemas simple enough to be sure of it.

The schema of a run's outputs describes one object with a member for each file: the content of a JSON file,
``{"mime": ..., "size_bytes": ...}`` for any other. What is made here is checked before it is given away, by
a checker that refuses every keyword that it does not know: rather no answer than a wrong one.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING

from theory import mime_of
from theory_adapter_mock.schema import MAX_DEPTH, NotDerivable, Schema, count, listed, step, types

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from theory import Json, JsonObject

    # Makes the value of one member: its name, its part of the schema, where that is, and how deep we are.
    Make = Callable[[str, Json, str, int], Json]

_JSON = "application/json"
_WORD = "simulated "  # repeated to the length that is wanted
_MAX_FILE_BYTES = 1024 * 1024  # of one text
_MAX_TEXT_BYTES = 64 * 1024 * 1024  # of all texts, which are made in memory
_MAX_DOCUMENTS = 50_000  # values and characters in all JSON: indented, below the 4 MiB that core reads
_MAX_INTEGER = 2**53 - 1  # RFC 8785: beyond it, readers of JSON disagree


def derive(root: JsonObject) -> tuple[dict[str, str], dict[str, Json]]:
    """Texts and JSON documents by path, which keep the schema of the outputs.

    Every property of the schema becomes a file, if one can be made for it or it is required.

    Raises:
        NotDerivable: With the place in the schema.
    """
    maker = _Maker(root)
    rules, at = maker.schema.open(root, "")
    described = maker.members(rules, at, 0, maker.file)
    if not maker.schema.holds(root, described):
        raise NotDerivable(at, "no simple answer keeps it")
    if sum(maker.sizes.values()) > _MAX_TEXT_BYTES:
        raise NotDerivable(at, f"its files would have more than {_MAX_TEXT_BYTES >> 20} MiB")
    texts = {path: _text(maker.sizes[path]) for path in described if path in maker.sizes}
    return texts, {path: value for path, value in described.items() if path not in maker.sizes}


def fits(root: JsonObject, texts: Mapping[str, str], documents: Mapping[str, Json]) -> bool:
    """Whether these outputs surely keep the schema."""
    described = {path: _described(path, len(text.encode())) for path, text in texts.items()}
    with suppress(NotDerivable):
        return Schema(root).holds(root, {**described, **documents})
    return False


class _Maker:
    """Makes values for the parts of one schema."""

    def __init__(self, root: JsonObject) -> None:
        self.schema = Schema(root)
        self.sizes: dict[str, int] = {}  # in bytes, of the files that are not JSON
        self._left = _MAX_DOCUMENTS

    def file(self, name: str, part: Json, at: str, depth: int) -> Json:
        """What the outputs document says of one file."""
        if mime_of(name) == _JSON:
            return self.value(name, part, at, depth)
        rules, at = self.schema.open(part, at)
        sizes: list[Json] = [len(_WORD)]
        shown = (rules.get("const"), rules.get("default"), *listed(rules, "enum", at))
        sizes.extend(value.get("size_bytes") for value in shown if isinstance(value, dict))
        size_part, place = self.schema.member(rules, "size_bytes", at)
        with suppress(NotDerivable):  # then one of the others may do
            sizes.append(self.value("size_bytes", size_part, place, depth))
        for size in sizes:
            if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_FILE_BYTES:
                continue
            described = _described(name, size)
            if self.schema.holds(rules, described, at):
                self.sizes[name] = size
                return described
        raise NotDerivable(at, f"no text file of this name and up to {_MAX_FILE_BYTES:,} bytes keeps it")

    def value(self, name: str, part: Json, at: str, depth: int) -> Json:
        """A value that keeps this part of the schema."""
        rules, at = self.schema.open(part, at)
        if depth > MAX_DEPTH:
            raise NotDerivable(at, f"it goes deeper than {MAX_DEPTH} levels")
        self._spend(1 + len(name), at)
        for value in self._values(rules, at, depth):
            if self.schema.holds(rules, value, at):
                return value
        raise NotDerivable(at, "no simple value keeps it")

    def members(self, rules: JsonObject, at: str, depth: int, make: Make) -> dict[str, Json]:
        """An object: what is required, and what else can be made of its properties."""
        required = [str(name) for name in listed(rules, "required", at)]
        properties = rules.get("properties", {})
        optional = (
            [name for name in properties if name not in required] if isinstance(properties, dict) else []
        )
        most = count(rules, "maxProperties", at, len(required) + len(optional))
        made: dict[str, Json] = {}
        for name in required:
            made[name] = make(name, *self.schema.member(rules, name, at), depth + 1)
        for name in optional:
            if len(made) < most:
                with suppress(NotDerivable):  # it need not be there
                    made[name] = make(name, *self.schema.member(rules, name, at), depth + 1)
        return made

    def _values(self, rules: JsonObject, at: str, depth: int) -> Iterator[Json]:
        """Values worth a try: those that the schema itself shows, else the simplest of each type."""
        for keyword in ("const", "default"):
            if keyword in rules:
                yield rules[keyword]
        for keyword in ("examples", "enum"):
            yield from listed(rules, keyword, at)
        if "const" in rules or "enum" in rules:
            return
        for kind in types(rules, at):
            yield from self._simplest(kind, rules, at, depth)

    def _simplest(self, kind: str, rules: JsonObject, at: str, depth: int) -> Iterator[Json]:
        if kind == "object":
            yield self.members(rules, at, depth, self.value)
        elif kind == "array":
            yield self._items(rules, at, depth)
        elif kind == "string":
            yield self._string(rules, at)
        elif kind in {"integer", "number"}:
            yield from _numbers(rules, whole=kind == "integer")
        elif kind == "boolean":
            yield from (True, False)
        else:
            yield None

    def _items(self, rules: JsonObject, at: str, depth: int) -> Json:
        """An array with as few items as may be."""
        least = count(rules, "minItems", at, 0)
        self._spend(least, at)
        return [self.value("", *self.schema.item(rules, index, at), depth + 1) for index in range(least)]

    def _string(self, rules: JsonObject, at: str) -> str:
        if "format" in rules:
            raise NotDerivable(step(at, "format"), "only a default or an example can have a format")
        least = count(rules, "minLength", at, 0)
        length = max(least, min(len(_WORD) - 1, count(rules, "maxLength", at, len(_WORD) - 1)))
        self._spend(length, at)
        return _text(length)

    def _spend(self, amount: int, at: str) -> None:
        self._left -= amount
        if self._left < 0:
            raise NotDerivable(at, f"more than {_MAX_DOCUMENTS:,} values and characters are too much for it")


def _numbers(rules: JsonObject, *, whole: bool) -> Iterator[Json]:
    """Numbers worth a try: zero, then those on and beside the bounds, then one in the middle."""
    yield 0
    keywords = ("minimum", "exclusiveMinimum", "exclusiveMaximum", "maximum")
    bounds = [bound for keyword in keywords if isinstance(bound := rules.get(keyword), (int, float))]
    if not all(abs(bound) <= _MAX_INTEGER for bound in bounds):
        return
    factor = rules.get("multipleOf", 1)
    unit = factor if isinstance(factor, int) and factor > 0 else 1
    for bound in bounds:
        floor = math.floor(bound / unit) if isinstance(bound, float) else bound // unit
        yield from (near * unit for near in (floor, floor + 1, floor - 1) if abs(near * unit) <= _MAX_INTEGER)
    if not whole:
        yield from bounds
        yield from ((low + high) / 2 for low in bounds for high in bounds if low < high)
        yield from (bound + shift for bound in bounds for shift in (0.5, -0.5))


def _described(name: str, size: int) -> dict[str, Json]:
    """A file that is not JSON, as the outputs document has it."""
    return {"mime": mime_of(name), "size_bytes": size}


def _text(length: int) -> str:
    return (_WORD * (length // len(_WORD) + 1))[:length]
