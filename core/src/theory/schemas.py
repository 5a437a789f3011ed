"""JSON Schema 2020-12: verdicts by ``jsonschema-rs``, which neither fetches a ``$ref`` nor backtracks in a pattern.

``jsonschema`` is the reference: ``theory registry check`` and the tests hold entries and verdicts against it. It does not
word failures, because its patterns run on a backtracking engine: ``^(a+)+$`` on 27 characters takes 3.6 s.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from theory.canon import compact, escape_pointer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jsonschema_rs import Draft202012Validator, ValidationError

    from theory.types import Json, JsonObject

DIALECT = "https://json-schema.org/draft/2020-12/schema"

# Keywords below which a default would depend on which branch matched.
_CONDITIONAL = ("oneOf", "anyOf", "not", "if", "then", "else", "items", "prefixItems", "contains", "dependentSchemas")
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
            raise BadSchema(_first_line(error.message), _pointer(error.instance_path)) from None
        except ValueError as error:
            raise BadSchema(_first_line(str(error))) from None

    def check(self, value: Json) -> None:
        """Accept a value that satisfies the schema.

        Raises:
            Mismatch: The fault that explains most, where it is, and how many more there are.
        """
        if self._validator.is_valid(value):
            return
        errors = list(self._validator.iter_errors(value))
        chosen = _most_telling(errors)
        raise Mismatch(_first_line(chosen.message), _pointer(chosen.instance_path), len(errors) - 1)

    def with_defaults(self, value: Json) -> Json:
        """The value with the defaults that stand along ``properties`` filled in; the value itself is not changed."""
        return _filled(value, self.document, self.document)


@lru_cache(maxsize=256)
def _compiled(text: str) -> Schema:
    import json  # noqa: PLC0415 - already there whenever a schema is

    return Schema(json.loads(text))


def schema_of(document: JsonObject) -> Schema:
    """The compiled schema of this document, from a cache."""
    return _compiled(compact(document))


def misplaced_defaults(document: JsonObject) -> Iterator[tuple[str, str]]:
    """Every ``default`` that would not be applied or that breaks its own schema: pointer and fault."""
    yield from _misplaced(document, document, "", conditional=False)


def _misplaced(schema: Json, root: JsonObject, pointer: str, *, conditional: bool) -> Iterator[tuple[str, str]]:
    if isinstance(schema, list):
        for number, item in enumerate(schema):
            yield from _misplaced(item, root, f"{pointer}/{number}", conditional=conditional)
    if not isinstance(schema, dict):
        return
    if "default" in schema:
        if conditional:
            yield f"{pointer}/default", "a default is applied along properties only, not here"
        else:
            own = {**schema, **({"$defs": root["$defs"]} if "$defs" in root else {})}
            try:
                Schema(own).check(schema["default"])
            except (BadSchema, Mismatch) as error:
                yield f"{pointer}/default", f"the default breaks its own schema: {error}"
    for key, child in schema.items():
        inside = conditional or key in _CONDITIONAL or key in {"additionalProperties", "patternProperties", "allOf"}
        if key in {"properties", "$defs", "patternProperties", "dependentSchemas"} and isinstance(child, dict):
            for name, below in child.items():
                step = f"{pointer}/{key}/{escape_pointer(name)}"
                yield from _misplaced(below, root, step, conditional=inside)
        elif key in (*_CONDITIONAL, "additionalProperties", "allOf", "propertyNames", "unevaluatedProperties"):
            yield from _misplaced(child, root, f"{pointer}/{key}", conditional=True)


def _filled(value: Json, schema: Json, root: JsonObject, following: frozenset[str] = frozenset()) -> Json:
    if not isinstance(schema, dict) or not isinstance(value, dict):
        return value
    target = schema.get("$ref")
    if isinstance(target, str) and target.startswith("#") and target not in following:
        value = cast("JsonObject", _filled(value, _at(root, target), root, following | {target}))
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return value
    filled = dict(value)
    for name, below in properties.items():
        if name not in filled and isinstance(below, dict):
            if "default" not in below:
                continue
            filled[name] = below["default"]
        filled[name] = _filled(filled[name], below, root)
    return filled


def _at(root: JsonObject, reference: str) -> Json:
    found: Json = root
    for step in reference.removeprefix("#").split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _most_telling(errors: list[ValidationError]) -> ValidationError:
    """Of several faults the one nearest to the root; of a choice, the fault of the branch that got furthest."""
    chosen = min(errors, key=lambda error: (len(error.instance_path), _first_line(error.message)))
    branches: list[list[ValidationError]] = getattr(chosen.kind, "context", None) or []
    deepest = [
        _most_telling(branch)
        for branch in branches
        if branch and not any(_only_of_kind(error, chosen) for error in branch)
    ]
    return max(deepest, key=lambda error: len(error.instance_path)) if deepest else chosen


def _only_of_kind(error: ValidationError, choice: ValidationError) -> bool:
    """A branch that fails on the type or the const of the value itself was not the one that was meant."""
    return len(error.instance_path) <= len(choice.instance_path) and error.schema_path[-1:] in (["type"], ["const"])


def _refuse(uri: str) -> Json:
    raise ValueError(f"$ref {uri} leaves the document")


def _pointer(path: Iterable[str | int]) -> str:
    return "".join(f"/{escape_pointer(str(step))}" for step in path)


def _first_line(text: str) -> str:
    line = text.split("\n", 1)[0]
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN // 2]} … {line[-_SHOWN // 2 :]}"
