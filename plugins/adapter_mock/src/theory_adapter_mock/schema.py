"""Which values surely keep a JSON Schema: a checker that knows few keywords and refuses all others.

Source of the keywords' meaning: JSON Schema 2020-12, Core 8 to 10 and Validation 6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from theory import Json, JsonObject

MAX_DEPTH = 32  # of values, and of references to references

# These speak to people; format asserts nothing unless a validator is told so.
_SILENT = frozenset(
    [
        "$schema",
        "$comment",
        "$defs",
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "format",
    ]
)
KEYWORDS_OF_TYPE = {
    "object": frozenset(["properties", "required", "additionalProperties", "minProperties", "maxProperties"]),
    "array": frozenset(["items", "prefixItems", "minItems", "maxItems", "uniqueItems"]),
    "string": frozenset(["minLength", "maxLength"]),
    "number": frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]),
}
_KNOWN = _SILENT.union(("type", "const", "enum"), *KEYWORDS_OF_TYPE.values())


class NotDerivable(Exception):
    """There is no value, or none that is surely right.

    Args:
        pointer: Where in the schema, as a JSON pointer.
        reason: Why, in lower case.
    """

    def __init__(self, pointer: str, reason: str) -> None:
        super().__init__(f"{pointer}: {reason}")
        self.pointer = pointer
        self.reason = reason


class Schema:
    """A schema document; its parts are named by JSON pointer."""

    def __init__(self, root: JsonObject) -> None:
        self.root = root

    def open(self, part: Json, at: str) -> tuple[JsonObject, str]:
        """The rules of a part and where they are, its references followed.

        Raises:
            NotDerivable: Nothing can keep it, it has a keyword unknown here, or it leads in a circle.
        """
        for _ in range(MAX_DEPTH):
            if part is True:
                return {}, at
            if not isinstance(part, dict):
                raise NotDerivable(at, "nothing can keep it")
            if "$ref" not in part:
                unknown = sorted(part.keys() - _KNOWN)
                if unknown:
                    raise NotDerivable(
                        step(at, unknown[0]), f"{unknown[0]!r} is a rule that is too much for it"
                    )
                return part, at
            beside = sorted(part.keys() - _SILENT - {"$ref"})
            if beside:
                raise NotDerivable(step(at, beside[0]), "a rule beside a $ref is too much for it")
            part, at = self._follow(part["$ref"], step(at, "$ref"))
        raise NotDerivable(at, "the references lead in a circle")

    def holds(self, part: Json, value: Json, at: str = "") -> bool:  # noqa: PLR0911
        """Whether the value keeps this part.

        Raises:
            NotDerivable: That cannot be told for sure.
        """
        if part is False:
            return False
        rules, at = self.open(part, at)
        if "const" in rules and not _same(rules["const"], value):
            return False
        if "enum" in rules and not any(_same(member, value) for member in listed(rules, "enum", at)):
            return False
        if "type" in rules and not any(_is_of_type(value, kind) for kind in types(rules, at)):
            return False
        if isinstance(value, dict):
            return self._object_holds(rules, value, at)
        if isinstance(value, list):
            return self._array_holds(rules, value, at)
        if isinstance(value, str):
            return count(rules, "minLength", at, 0) <= len(value) <= count(rules, "maxLength", at, len(value))
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return _number_holds(rules, value, at)
        return True

    def member(self, rules: JsonObject, name: str, at: str) -> tuple[Json, str]:
        """The part that a member of this name has to keep, and where it is."""
        properties = rules.get("properties")
        if isinstance(properties, dict) and name in properties:
            return properties[name], step(step(at, "properties"), name)
        return rules.get("additionalProperties", True), step(at, "additionalProperties")

    def item(self, rules: JsonObject, index: int, at: str) -> tuple[Json, str]:
        """The part that an item at this place has to keep, and where it is."""
        prefix = listed(rules, "prefixItems", at)
        if index < len(prefix):
            return prefix[index], step(step(at, "prefixItems"), str(index))
        return rules.get("items", True), step(at, "items")

    def _object_holds(self, rules: JsonObject, value: JsonObject, at: str) -> bool:
        size = len(value)
        if not count(rules, "minProperties", at, 0) <= size <= count(rules, "maxProperties", at, size):
            return False
        if any(name not in value for name in listed(rules, "required", at)):
            return False
        return all(
            self.holds(part, value[name], place)
            for name in value
            for part, place in [self.member(rules, name, at)]
        )

    def _array_holds(self, rules: JsonObject, value: list[Json], at: str) -> bool:
        size = len(value)
        if not count(rules, "minItems", at, 0) <= size <= count(rules, "maxItems", at, size):
            return False
        if rules.get("uniqueItems") and any(_same(a, b) for i, a in enumerate(value) for b in value[:i]):
            return False
        return all(
            self.holds(part, value[index], place)
            for index in range(size)
            for part, place in [self.item(rules, index, at)]
        )

    def _follow(self, reference: Json, at: str) -> tuple[Json, str]:
        text = unquote(reference) if isinstance(reference, str) else ""
        if text != "#" and not text.startswith("#/"):
            raise NotDerivable(
                at, "only references to a part of this schema, such as #/$defs/name, can be followed"
            )
        found: Json = self.root
        for name in text[2:].split("/") if text != "#" else []:
            key = name.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or key not in found:
                raise NotDerivable(at, "there is nothing that it refers to")
            found = found[key]
        return found, text[1:]


def step(at: str, key: str) -> str:
    """One step further along a JSON pointer (RFC 6901)."""
    return f"{at}/{key.replace('~', '~0').replace('/', '~1')}"


def listed(rules: JsonObject, keyword: str, at: str) -> list[Json]:
    """The list that a keyword has, or an empty one."""
    value = rules.get(keyword, [])
    if not isinstance(value, list):
        raise NotDerivable(step(at, keyword), "it is no array")
    return value


def types(rules: JsonObject, at: str) -> list[str]:
    """The types that are allowed; without a word about them, the one that the other keywords speak of."""
    if "type" in rules:
        kinds = listed(rules, "type", at) if isinstance(rules["type"], list) else [rules["type"]]
        if any(kind not in _IS for kind in kinds):
            raise NotDerivable(step(at, "type"), "it is no type")
        return [str(kind) for kind in kinds]
    return [kind for kind, keywords in KEYWORDS_OF_TYPE.items() if rules.keys() & keywords] or ["object"]


def count(rules: JsonObject, keyword: str, at: str, otherwise: int) -> int:
    """The number of things that a keyword asks for."""
    value = rules.get(keyword, otherwise)
    if not _is_of_type(value, "integer"):
        raise NotDerivable(step(at, keyword), "it is no integer")
    return int(value)  # type: ignore[arg-type]  # an integer, or a float that is one


def _number_holds(rules: JsonObject, value: float, at: str) -> bool:
    bounds = {keyword: rules[keyword] for keyword in KEYWORDS_OF_TYPE["number"] & rules.keys()}
    for keyword, bound in bounds.items():
        if not _is_of_type(bound, "number"):
            raise NotDerivable(step(at, keyword), "it is no number")
        if keyword == "multipleOf":
            if not (isinstance(bound, int) and isinstance(value, int)):
                raise NotDerivable(step(at, keyword), "multiples of fractions differ between validators")
            if value % bound:
                return False
        elif not _KEEPS[keyword](value, bound):
            return False
    return True


_KEEPS = {
    "minimum": lambda value, bound: value >= bound,
    "maximum": lambda value, bound: value <= bound,
    "exclusiveMinimum": lambda value, bound: value > bound,
    "exclusiveMaximum": lambda value, bound: value < bound,
}
_IS = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "integer": lambda value: (
        (isinstance(value, int) and not isinstance(value, bool))
        or (isinstance(value, float) and value.is_integer())
    ),
}


def _is_of_type(value: Json, kind: str) -> bool:
    return _IS[kind](value)


def _same(one: Json, other: Json) -> bool:
    """Equality as JSON has it: 1 is 1.0, and true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return one == other
