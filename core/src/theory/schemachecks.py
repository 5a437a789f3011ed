"""What is wrong with a schema itself, fault by fault; for entries that are read the first time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from theory.canon import escape_pointer
from theory.paths import quoted
from theory.schemas import DIALECT, BadSchema, Mismatch, Schema, at, target_of

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    for pointer, schema in _subschemas(document, ""):
        named, single = schema.get("patternProperties"), schema.get("pattern")
        patterns = {f"{pointer}/pattern": single} if isinstance(single, str) else {}
        for pattern in named if isinstance(named, dict) else ():
            patterns[f"{pointer}/patternProperties/{escape_pointer(pattern)}"] = pattern
        for place, pattern in patterns.items():
            if fault := _fault_of_pattern(pattern):
                yield place, fault
        for keyword in ("$ref", "$dynamicRef"):
            reference = schema.get(keyword)
            if not isinstance(reference, str):
                continue
            target = target_of({"$ref": reference})
            if target is not None and at(document, target) is None:
                yield f"{pointer}/{keyword}", f"{keyword} {reference[:100]} leads to nothing"
            elif not reference.startswith("#"):
                yield f"{pointer}/{keyword}", f"{keyword} {reference[:100]} leaves the document"


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
    applied = {pointer for pointer, schema in _along_properties(document) if isinstance(schema, dict)}
    for pointer, schema in _subschemas(document, ""):
        if "default" not in schema:
            continue
        if pointer not in applied:
            yield f"{pointer}/default", "a default is applied along properties only, not here"
        elif fault := _fault_of_default(document, pointer, schema["default"]):
            yield f"{pointer}/default", f"the default breaks its own schema: {fault}"


def _subschemas(schema: Json, pointer: str) -> Iterator[tuple[str, JsonObject]]:
    """Every schema object inside a schema, itself among them, with its pointer."""
    if not isinstance(schema, dict):
        return
    yield pointer, schema
    for key, child in schema.items():
        step = f"{pointer}/{escape_pointer(key)}"
        if key in _PLACES:
            yield from _subschemas(child, step)
            for number, item in enumerate(child if isinstance(child, list) else ()):
                yield from _subschemas(item, f"{step}/{number}")
        elif key in _PLACES_BY_NAME and isinstance(child, dict):
            for name, item in child.items():
                yield from _subschemas(item, f"{step}/{escape_pointer(name)}")


def _along_properties(root: JsonObject) -> Iterator[tuple[str, Json]]:
    """Every schema whose default ``with_defaults`` may apply, with its pointer."""
    todo, seen = [""], set()
    while todo:
        pointer = todo.pop()
        schema = at(root, pointer)
        if pointer in seen or not isinstance(schema, dict):
            continue
        seen.add(pointer)
        yield pointer, schema
        if (target := target_of(schema)) is not None:
            todo.append(target)
        properties = schema.get("properties")
        if isinstance(properties, dict):
            todo.extend(f"{pointer}/properties/{escape_pointer(name)}" for name in properties)


def _fault_of_default(root: JsonObject, pointer: str, default: Json) -> str:
    """What a default breaks in the schema that it stands in, or an empty string."""
    from urllib.parse import quote  # noqa: PLC0415 - for entries that are read the first time

    # The whole document is embedded under a name, so that a $ref in it means what it means there.
    name = root.get("$id", "urn:theory:document")
    inner: JsonObject = {**root, "$id": name}
    try:
        Schema({"$defs": {"document": inner}, "$ref": f"{name}#{quote(pointer)}"}).check(default)
    except (BadSchema, Mismatch) as error:
        return str(error)
    return ""
