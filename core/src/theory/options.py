"""An adapter's options: a dataclass that says what there is, and JSON or text that says what is wanted.

Field types may be ``str``, ``int``, ``float``, ``bool``, ``Literal[...]``, and any of them ``| None``; a field's
``metadata["help"]`` is its line in ``theory adapters show``.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import TYPE_CHECKING, Any

from theory.errors import BadAdapterOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theory.types import Json, JsonObject


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """One option, as people see it."""

    name: str
    type: str
    default: str
    help: str


def describe_options(cls: type | None) -> Iterator[Option]:
    """The options that a class has."""
    for field, kind in _fields(cls):
        default = "required" if field.default is dataclasses.MISSING else repr(field.default)
        yield Option(field.name, _spelled(kind), default, str(field.metadata.get("help", "")))


def options_of(adapter: str, cls: type | None, wanted: JsonObject) -> object:
    """An instance of the options class; text is read as the field's type, JSON has to have it.

    Raises:
        BadAdapterOptions: An option that the adapter does not have, or a value that does not fit.
    """
    fields = {field.name: kind for field, kind in _fields(cls)}
    if unknown := sorted(wanted.keys() - fields.keys()):
        have = ", ".join(fields) or "none"
        raise BadAdapterOptions(
            f"the adapter {adapter} has no option {unknown[0][:100]!r}", hint=f"its options: {have}"
        )
    values = {name: _value(adapter, name, fields[name], value) for name, value in wanted.items()}
    if cls is None:
        return None
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise BadAdapterOptions(
            f"the options of the adapter {adapter}: {error}", hint=f"theory adapters show {adapter} lists them"
        ) from None


def _fields(cls: type | None) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    if cls is None:
        return
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        yield field, hints[field.name]


def _value(adapter: str, name: str, kind: Any, value: Json) -> Json:  # noqa: ANN401 - a type expression
    choices = _choices(kind)
    for choice in choices:
        if choice is type(None):
            if value is None or value == "null":
                return None
        elif not isinstance(choice, type):
            if value == choice and type(value) is type(choice):
                return value
        elif isinstance(value, str) and choice is not str:
            if (read := _read(choice, value)) is not None:
                return read
        elif type(value) is choice or (choice is float and type(value) is int):
            return value
    raise BadAdapterOptions(
        f"the option {name} of the adapter {adapter} takes {_spelled(kind)}, not {str(value)[:100]!r}",
        hint=f"theory adapters show {adapter} lists them",
    )


def _read(kind: type, text: str) -> Json:
    try:
        if kind is bool:
            return {"true": True, "false": False}.get(text.lower())
        if kind is int and len(text) <= 20:  # noqa: PLR2004 - digits of a 64-bit integer
            return int(text)
        if kind is float and (number := float(text)) - number == 0:  # neither NaN nor infinite
            return number
    except ValueError:
        pass
    return None


def _choices(kind: Any) -> tuple[Any, ...]:  # noqa: ANN401 - as above
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(choice for part in typing.get_args(kind) for choice in _choices(part))
    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)
    return (kind,)


def _spelled(kind: Any) -> str:  # noqa: ANN401 - as above
    words = ("null" if c is type(None) else c.__name__ if isinstance(c, type) else repr(c) for c in _choices(kind))
    return " or ".join(words)
