"""JSON Schema 2020-12: verdicts by ``jsonschema-rs``, which fetches no ``$ref`` and backtracks in no pattern.

``jsonschema`` is the reference: ``theory registry check`` and the tests hold entries and verdicts against it.
It does not word failures, because its patterns run on a backtracking engine: ``^(a+)+$`` on 27 characters
takes 3.6 s.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, cast

from theory.formats.canon import compact, escape_pointer
from theory.once import once

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jsonschema_rs import Draft202012Validator, ValidationError

    from theory.types import Json, JsonObject

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_DIGITS = 7  # of the number of an item; int() takes quadratic time
# Characters of the pointers of all values in a document; jsonschema-rs keeps one for each part of a schema,
# and for each fault of a value.
_MOST_OF_SCHEMA = 20_000_000  # more would take hundreds of MiB
_MOST_TOLD = 100_000  # for more, not every fault is told
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
        if _is_large(document, _MOST_OF_SCHEMA):
            raise BadSchema("has too many parts below names that are too long")
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
        errors = self._errors(value)
        raise _mismatch(_most_telling(errors), len(errors) - 1)

    def faults(self, value: Json) -> Iterator[Mismatch]:
        """Every fault of a value, none of them raised; of a large value the first."""
        for error in self._errors(value):
            yield _mismatch(_most_telling([error]), 0)

    def _errors(self, value: Json) -> list[ValidationError]:
        """Every fault, or of a large value one: all are made at once, each with its place, 1 KB and more."""
        from jsonschema_rs import ValidationError  # noqa: PLC0415 - as in __init__

        if not _is_large(value, _MOST_TOLD):
            return list(self._validator.iter_errors(value))
        try:
            self._validator.validate(value)
        except ValidationError as error:
            return [error]
        return []

    def with_defaults(self, value: Json) -> Json:
        """The value with the defaults filled in that stand along ``properties``, a local ``$ref`` followed.

        A ``$ref`` that leads back to itself is followed once. The value itself is not changed.
        """
        return _filled(value, self.document, self.document)


@once
def schema_of(document: JsonObject) -> Schema:
    """The compiled schema of this document, which stays as it is."""
    return Schema(document)


def _filled(value: Json, schema: Json, root: JsonObject, following: frozenset[str] = frozenset()) -> Json:
    if not isinstance(schema, dict) or not isinstance(value, dict):
        return value
    target = target_of(schema)
    if target is not None and target not in following:
        following |= {target}
        value = cast("JsonObject", _filled(value, at(root, target), root, following))
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
        target = target_of(schema)
        if target is None or target in seen:
            return None
        seen.add(target)
        schema = at(root, target)
    return schema if isinstance(schema, dict) else None


def target_of(schema: JsonObject) -> str | None:
    """The pointer that a local ``$ref`` is; None for an anchor, another document, and where there is none."""
    reference = schema.get("$ref")
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        return None
    if "%" not in reference:
        return reference[1:]
    from urllib.parse import unquote  # noqa: PLC0415 - hardly ever needed

    return unquote(reference[1:])


def at(root: JsonObject, pointer: str) -> Json:
    """What a JSON pointer leads to; None where there is nothing."""
    found: Json = root
    for step in pointer.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdecimal() and len(key) <= _DIGITS and int(key) < len(found):
            found = found[int(key)]
        else:
            found = found.get(key) if isinstance(found, dict) else None
    return found


def _is_large(value: Json, most: int) -> bool:
    """Whether the pointers of all values in it would be longer than this, together."""
    left = most
    todo: list[tuple[Json, int]] = [(value, 0)]
    while todo:
        item, length = todo.pop()
        left -= length + 1
        if left < 0:
            return True
        if isinstance(item, dict):
            left -= sum(length + len(key) for key in item)
            todo.extend((child, length + len(key) + 1) for key, child in item.items())
        elif isinstance(item, list):
            if len(item) * (length + 1) > left:
                return True
            todo.extend((child, length + 2) for child in item)
    return False


def _mismatch(error: ValidationError, more: int) -> Mismatch:
    if named := _named(error):
        return Mismatch(_first_line(named[0]), _pointer(named[1]), more)
    pointer = _pointer(error.instance_path)
    if error.schema_path[-1:] in (["additionalProperties"], ["unevaluatedProperties"]):
        names: list[str] = getattr(error.kind, "unexpected", [])
        pointer += _pointer(names[:1])  # the first of them is where to look
    return Mismatch(_told(error), pointer, more)


def _most_telling(errors: list[ValidationError]) -> ValidationError:
    """Of several faults the one nearest to the root; of a choice, that of the branch with the fewest."""
    chosen = min(errors, key=lambda error: (len(error.instance_path), _first_line(error.message)))
    branches: list[list[ValidationError]] = getattr(chosen.kind, "context", None) or []
    nearest: dict[tuple[int, int], list[ValidationError]] = {}
    for branch in branches:
        if branch and not any(_only_of_kind(error, chosen) for error in branch):
            error = _most_telling(branch)
            # A member that tells branches apart weighs as much as two others.
            weight = len(branch) + sum(fault.schema_path[-1:] == ["const"] for fault in branch)
            nearest.setdefault((weight, -len(error.instance_path)), []).append(error)
    best = nearest[min(nearest)] if nearest else []
    return best[0] if len(best) == 1 else chosen


def _named(error: ValidationError) -> tuple[str, list[str | int]] | None:
    """Of a choice whose branches are told apart by one member, what that member may be, and where it is."""
    branches: list[list[ValidationError]] = getattr(error.kind, "context", None) or []
    wanted: dict[tuple[str | int, ...], list[str]] = {}
    for fault in (fault for branch in branches for fault in branch):
        step = fault.instance_path[len(error.instance_path) :]
        if len(step) == 1 and isinstance(step[0], str) and fault.schema_path[-1:] == ["const"]:
            word = compact(getattr(fault.kind, "expected_value", None))
            wanted.setdefault(tuple(fault.instance_path), []).append(word)
    place, words = max(wanted.items(), key=lambda item: len(item[1]), default=((), []))
    if len(words) < 2:  # noqa: PLR2004 - a choice
        return None
    return f"it is none of {', '.join(dict.fromkeys(words))}", list(place)


def _told(error: ValidationError) -> str:
    """The words of a fault; of a choice that no branch of came near, what each branch would have taken."""
    branches: list[list[ValidationError]] = getattr(error.kind, "context", None) or []
    each = dict.fromkeys(_first_line(_most_telling(branch).message) for branch in branches if branch)
    told = _first_line(", and ".join(each) or error.message)
    return told[:1].lower() + told[1:]


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
