"""JSON Schema 2020-12: verdicts by ``jsonschema-rs``, which fetches no ``$ref`` and backtracks in no pattern.

``jsonschema`` is the reference: ``theory registry check`` and the tests hold entries and verdicts against it.
It does not word failures, because its patterns run on a backtracking engine: ``^(a+)+$`` on 27 characters
takes 3.6 s.
"""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from theory.canon import compact, escape_pointer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jsonschema_rs import Draft202012Validator, ValidationError

    from theory.types import Json, JsonObject

DIALECT = "https://json-schema.org/draft/2020-12/schema"

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
_SHOWN = 160  # characters of a fault's own words


class BadSchema(ValueError):
    """A schema that we do not take; the message says what, ``pointer`` where in the schema."""

    def __init__(self, message: str, pointer: str = "") -> None:
        super().__init__(message)
        self.pointer = pointer


class Mismatch(ValueError):
    """A value that breaks its schema; ``pointer`` is where in the value."""

    def __init__(self, message: str, pointer: str, more: int) -> None:
        super().__init__(message)
        self.pointer = pointer
        self.more = more  # further faults beside this one


class Schema:
    """One schema, compiled.

    Raises:
        BadSchema: It is no schema, refers outside itself, or has a pattern that needs backtracking.
    """

    def __init__(self, document: JsonObject) -> None:
        import jsonschema_rs  # noqa: PLC0415 - 25 ms, and some commands check nothing

        self.document = document
        declared = document.get("$schema", DIALECT)
        if declared != DIALECT:
            raise BadSchema(f"declares {declared!r}, but only {DIALECT} is read", "/$schema")
        try:
            self._validator: Draft202012Validator = jsonschema_rs.Draft202012Validator(
                cast("dict[str, Any]", document),
                retriever=_refuse,
                pattern_options=jsonschema_rs.RegexOptions(),
                validate_formats=False,
            )
        except jsonschema_rs.ValidationError as error:
            raise BadSchema(_reason(error.message), _pointer(error.instance_path)) from None
        except ValueError as error:
            raise BadSchema(_reason(str(error))) from None

    def check(self, value: Json) -> None:
        """Accept a value that satisfies the schema.

        Raises:
            Mismatch: The fault that explains most, where it is, and how many more there are.
        """
        if self._validator.is_valid(value):
            return
        errors = list(self._validator.iter_errors(value))
        raise _mismatch(_most_telling(errors), len(errors) - 1)

    def faults(self, value: Json) -> Iterator[Mismatch]:
        """Every fault of a value, none of them raised."""
        for error in self._validator.iter_errors(value):
            yield _mismatch(_most_telling([error]), 0)

    def with_defaults(self, value: Json) -> Json:
        """The value with the defaults filled in that stand along ``properties``, a local ``$ref`` followed.

        A ``$ref`` that leads back to itself is followed once. The value itself is not changed.
        """
        return _filled(value, self.document, self.document)


@lru_cache(maxsize=256)
def _compiled(text: str) -> Schema:
    import json  # noqa: PLC0415 - already there whenever a schema is

    return Schema(json.loads(text))


def schema_of(document: JsonObject) -> Schema:
    """The compiled schema of this document, from a cache."""
    return _compiled(compact(document))


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
        schema = _at(root, pointer)
        if pointer in seen or not isinstance(schema, dict):
            continue
        seen.add(pointer)
        yield pointer, schema
        if (target := _target(schema)) is not None:
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


def _filled(value: Json, schema: Json, root: JsonObject, following: frozenset[str] = frozenset()) -> Json:
    if not isinstance(schema, dict) or not isinstance(value, dict):
        return value
    target = _target(schema)
    if target is not None and target not in following:
        following |= {target}
        value = cast("JsonObject", _filled(value, _at(root, target), root, following))
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return value
    filled = dict(value)
    for name, below in properties.items():
        if name not in filled:
            holder = _with_default(below, root)
            if holder is None:
                continue
            filled[name] = deepcopy(holder["default"])  # who gets the value may change it
        filled[name] = _filled(filled[name], below, root, following)
    return filled


def _with_default(schema: Json, root: JsonObject) -> JsonObject | None:
    """The schema itself if it has a default, else the one at the end of its ``$ref`` that has."""
    seen = set()
    while isinstance(schema, dict) and "default" not in schema:
        target = _target(schema)
        if target is None or target in seen:
            return None
        seen.add(target)
        schema = _at(root, target)
    return schema if isinstance(schema, dict) else None


def _target(schema: JsonObject) -> str | None:
    """The pointer that a local ``$ref`` is; None for an anchor, another document, and where there is none."""
    reference = schema.get("$ref")
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        return None
    if "%" not in reference:
        return reference[1:]
    from urllib.parse import unquote  # noqa: PLC0415 - hardly ever needed

    return unquote(reference[1:])


def _at(root: JsonObject, pointer: str) -> Json:
    found: Json = root
    for step in pointer.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        else:
            found = found.get(key) if isinstance(found, dict) else None
    return found


def _mismatch(error: ValidationError, more: int) -> Mismatch:
    pointer = _pointer(error.instance_path)
    if error.schema_path[-1:] in (["additionalProperties"], ["unevaluatedProperties"]):
        names: list[str] = getattr(error.kind, "unexpected", [])
        pointer += _pointer(names[:1])  # the first of them is where to look
    return Mismatch(_told(error), pointer, more)


def _most_telling(errors: list[ValidationError]) -> ValidationError:
    """Of several faults the one nearest to the root; of a choice, that of the branch that got furthest."""
    chosen = min(errors, key=lambda error: (len(error.instance_path), _first_line(error.message)))
    branches: list[list[ValidationError]] = getattr(chosen.kind, "context", None) or []
    deepest = [
        _most_telling(branch)
        for branch in branches
        if branch and not any(_only_of_kind(error, chosen) for error in branch)
    ]
    furthest = max((len(error.instance_path) for error in deepest), default=0)
    nearest = [error for error in deepest if len(error.instance_path) == furthest]
    return nearest[0] if len(nearest) == 1 else chosen


def _told(error: ValidationError) -> str:
    """The words of a fault; of a choice that no branch of came near, what each branch would have taken."""
    branches: list[list[ValidationError]] = getattr(error.kind, "context", None) or []
    each = dict.fromkeys(_first_line(_most_telling(branch).message) for branch in branches if branch)
    return _first_line(", and ".join(each) or error.message)


def _only_of_kind(error: ValidationError, choice: ValidationError) -> bool:
    """Whether this alone says that the branch was not the one that was meant."""
    same_place = len(error.instance_path) <= len(choice.instance_path)
    return same_place and error.schema_path[-1:] in (["type"], ["const"])


def _reason(text: str) -> str:
    return _first_line(text.rpartition("ValueError: ")[2])  # what _refuse said, out of its wrapping


def _refuse(uri: str) -> Json:
    raise ValueError(f"$ref {uri} leaves the document")


def _pointer(path: Iterable[str | int]) -> str:
    return "".join(f"/{escape_pointer(str(step))}" for step in path)


def _first_line(text: str) -> str:
    line = text.split("\n", 1)[0]
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN // 2]} … {line[-_SHOWN // 2 :]}"
