"""An adapter's options: a dataclass that says what there is, and JSON or text that says what is wanted.

Field types may be ``str``, ``int``, ``float``, ``bool``, ``Literal[...]``, and any of them ``| None``; a
field's ``metadata["help"]`` is its line in ``theory adapters show``.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from theory.errors import BadAdapterOptions
from theory.formats.canon import MAX_INTEGER, compact
from theory.formats.paths import printable, quoted
from theory.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theory.types import Json, JsonObject

_INTEGER = re.compile("[+-]?[0-9]+")
_DIGITS = 17  # sign and digits of 2^53-1
_WORDS: dict[type, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
}  # as JSON Schema has them


class Option(Record):
    """One option, as people see it."""

    name: str
    type: str
    default: str
    help: str


def describe_options(cls: type | None) -> Iterator[Option]:
    """The options that a class has."""
    for field, kind in _fields(cls):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        spelled = "required" if default is dataclasses.MISSING else compact(default)
        yield Option(field.name, _spelled(kind), spelled, str(field.metadata.get("help", "")))


def options_of(adapter: str, cls: type | None, wanted: JsonObject) -> object:
    """An instance of the options class; text is read as the field's type, JSON has to have it.

    Raises:
        BadAdapterOptions: An option that the adapter does not have, or a value that does not fit.
    """
    fields = {field.name: kind for field, kind in _fields(cls)}
    if unknown := sorted(wanted.keys() - fields.keys()):
        have = ", ".join(fields) or "none"
        raise BadAdapterOptions(
            f"the adapter {adapter} has no option {quoted(unknown[0])}", hint=f"its options: {have}"
        )
    values = {name: _value(adapter, name, fields[name], value) for name, value in wanted.items()}
    if cls is None:
        return None
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise BadAdapterOptions(
            f"the options of the adapter {adapter}: {error}",
            hint=f"theory adapters show {adapter} lists them",
        ) from None


@lru_cache
def _fields(cls: type | None) -> tuple[tuple[dataclasses.Field[Any], Any], ...]:
    if cls is None:
        return ()
    hints = typing.get_type_hints(cls)
    return tuple((field, hints[field.name]) for field in dataclasses.fields(cls))


def _value(adapter: str, name: str, kind: Any, value: Json) -> Json:  # noqa: ANN401 - a type expression
    choices = _choices(kind)
    if type(None) in choices and (value is None or (value == "null" and str not in choices)):
        return None
    for choice in choices:
        if (fitting := _fitting(choice, value)) is not None:
            return fitting
    raise BadAdapterOptions(
        f"the option {name} of the adapter {adapter} takes {_spelled(kind)}, not {_short(value)}",
        hint=f"theory adapters show {adapter} lists them",
    )


def _fitting(choice: Any, value: Json) -> Json:  # noqa: ANN401 - a type, or a member of a Literal
    """The value as this choice has it; None where it does not fit."""
    kind = choice if isinstance(choice, type) else type(choice)
    if isinstance(value, str) and kind is not str:
        value = _read(kind, value)
    elif kind is float and type(value) is int and abs(value) <= MAX_INTEGER:
        value = float(value)
    if type(value) is not kind or (kind is not choice and value != choice):
        return None
    if kind is int and abs(cast("int", value)) > MAX_INTEGER:
        return None
    return None if isinstance(value, float) and value - value != 0 else value  # NaN or infinite


def _read(kind: type, text: str) -> Json:
    try:
        if kind is bool:
            return {"true": True, "false": False}.get(text.lower())
        if kind is int:
            # int() takes quadratic time, and reads what nobody means: 1_0, or digits of other scripts.
            return int(text) if _INTEGER.fullmatch(text) and len(text) <= _DIGITS else None
        return float(text) if kind is float else None
    except ValueError:
        return None


def _choices(kind: Any) -> tuple[Any, ...]:  # noqa: ANN401 - as above
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(choice for part in typing.get_args(kind) for choice in _choices(part))
    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)
    return (kind,)


def _spelled(kind: Any) -> str:  # noqa: ANN401 - as above
    return " or ".join(_word(choice) for choice in _choices(kind))


def _word(choice: Any) -> str:  # noqa: ANN401 - as above
    if choice is type(None):
        return "null"
    return _WORDS.get(choice, choice.__name__) if isinstance(choice, type) else compact(choice)


def _short(value: Json) -> str:
    """A value as JSON, but not all of a long one."""
    try:
        text = compact(value)
    except (TypeError, ValueError, RecursionError):  # from Python, where it may be anything
        text = repr(value)
    return printable(text if len(text) <= 100 else text[:99] + "…")  # noqa: PLR2004
