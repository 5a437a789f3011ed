"""What is wrong with a schema itself, fault by fault; for entries that are read the first time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from theory.entries.schemas import DIALECT, BadSchema, Schema, at, target_of
from theory.formats.canon import pointer_of
from theory.formats.paths import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theory.formats.canon import Place
    from theory.types import Json, JsonObject

# Where schemas stand in a schema: one or a list of them, or by name (JSON Schema 2020-12 core, 8.2.4, 10 and
# 11).
_PLACES = frozenset(
    (
        "additionalProperties",
        "allOf",
        "anyOf",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "oneOf",
        "prefixItems",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    )
)
_PLACES_BY_NAME = frozenset({"$defs", "dependentSchemas", "patternProperties", "properties"})
_MOST = 1_000_000  # characters of the pointers of all defaults
_BACKTRACKING = re.compile(r"\(\?<?[=!]|\\[1-9]")  # look-around, and what was matched before


def faults_of_schema(document: JsonObject) -> list[tuple[str, str]]:
    """Every fault for which ``Schema`` refuses a document: pointer and fault; none if it does not."""
    try:
        Schema(document)
    except BadSchema as error:
        found = [*_faults_of_form(document), *_faults_of_words(document)]
        return found or [(error.pointer, str(error))]
    return []


def _faults_of_form(document: JsonObject) -> Iterator[tuple[str, str]]:
    declared = document.get("$schema", DIALECT)
    if declared != DIALECT:
        yield "/$schema", f"declares {declared!r}, but only {DIALECT} is read"
    for error in Schema({"$ref": DIALECT}).faults(document):
        if error.pointer != "/$schema":
            yield error.pointer, str(error)


def _faults_of_words(document: JsonObject) -> Iterator[tuple[str, str]]:
    """Patterns that are none, and references that lead nowhere."""
    for place, schema in _subschemas(document, None):
        named, single = schema.get("patternProperties"), schema.get("pattern")
        patterns: dict[Place, str] = {(place, "pattern"): single} if isinstance(single, str) else {}
        for pattern in named if isinstance(named, dict) else ():
            patterns[(place, "patternProperties"), pattern] = pattern
        for where, pattern in patterns.items():
            if fault := _fault_of_pattern(pattern):
                yield pointer_of(where), fault
        for keyword in ("$ref", "$dynamicRef"):
            reference = schema.get(keyword)
            if not isinstance(reference, str):
                continue
            target = target_of({"$ref": reference})
            if target is not None and at(document, target) is None:
                yield pointer_of((place, keyword)), f"{keyword} {reference[:100]} leads to nothing"
            elif not reference.startswith("#"):
                yield pointer_of((place, keyword)), f"{keyword} {reference[:100]} leaves the document"


def _fault_of_pattern(pattern: str) -> str:
    try:
        Schema({"pattern": pattern})
    except BadSchema:
        shown = f"the pattern {quoted(pattern[:100])}"
        if _BACKTRACKING.search(pattern):
            return f"{shown} looks around or back, which takes more than linear time; write it without"
        return f"{shown} is no regular expression, or too large a one"
    return ""


def misplaced_defaults(document: JsonObject) -> Iterator[tuple[str, str]]:
    """Every ``default`` that would never be applied or that breaks its own schema: pointer and fault."""
    applied = {id(schema) for schema in _along_properties(document)}
    taken: list[tuple[str, Json]] = []
    room = _MOST
    for place, schema in _subschemas(document, None):
        if "default" not in schema:
            continue
        pointer = pointer_of(place)
        room -= len(pointer)
        if room < 0:
            yield f"{pointer}/default", "this is one default too many, or below names that are too long"
            break
        if id(schema) in applied:
            taken.append((pointer, schema["default"]))
        else:
            yield f"{pointer}/default", "a default is applied along properties only, not here"
    for pointer, fault in _faults_of_defaults(document, taken):
        yield f"{pointer}/default", f"the default breaks its own schema: {fault}"


def _subschemas(schema: Json, place: Place) -> Iterator[tuple[Place, JsonObject]]:
    """Every schema object inside a schema, itself among them, with its place."""
    if not isinstance(schema, dict):
        return
    yield place, schema
    for key, child in schema.items():
        below = (place, key)
        if key in _PLACES:
            yield from _subschemas(child, below)
            for number, item in enumerate(child if isinstance(child, list) else ()):
                yield from _subschemas(item, (below, number))
        elif key in _PLACES_BY_NAME and isinstance(child, dict):
            for name, item in child.items():
                yield from _subschemas(item, (below, name))


def _along_properties(root: JsonObject) -> Iterator[JsonObject]:
    """Every schema whose default ``with_defaults`` may apply."""
    todo: list[Json] = [root]
    seen: set[int] = set()
    while todo:
        schema = todo.pop()
        if not isinstance(schema, dict) or id(schema) in seen:
            continue
        seen.add(id(schema))
        yield schema
        if (target := target_of(schema)) is not None:
            todo.append(at(root, target))
        properties = schema.get("properties")
        if isinstance(properties, dict):
            todo.extend(properties.values())


def _faults_of_defaults(root: JsonObject, defaults: list[tuple[str, Json]]) -> Iterator[tuple[str, str]]:
    """What each default breaks in the schema that it stands in, by pointer; one fault each."""
    from urllib.parse import quote  # noqa: PLC0415 - for entries that are read the first time

    # The whole document is embedded under a name, so that a $ref in it means what it means there; once for
    # all defaults, since that takes the longest.
    if not defaults:
        return
    name = root.get("$id", "urn:theory:document")
    inner: JsonObject = {**root, "$id": name}
    parts: list[Json] = [{"$ref": f"{name}#{quote(pointer)}"} for pointer, _ in defaults]
    try:
        whole = Schema({"$defs": {"document": inner}, "prefixItems": parts})
        faults = tuple(whole.faults([value for _, value in defaults]))
    except BadSchema as error:
        yield defaults[0][0], str(error)
        return
    told: dict[int, str] = {}
    for fault in faults:
        told.setdefault(int(fault.pointer.split("/")[1]), str(fault))
    for number, words in sorted(told.items()):
        yield defaults[number][0], words
