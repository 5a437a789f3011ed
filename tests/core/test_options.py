from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.errors import BadAdapterOptions
from theory.options import Option, describe_options, options_of


@dataclass(frozen=True)
class Options:
    """One option of every kind."""

    name: str = "x"
    count: int = 1
    share: float = 0.5
    loud: bool = False
    mode: Literal["fast", "slow"] = "fast"
    level: Literal[1, 2] = field(default=1, metadata={"help": "How deep."})
    seed: int | None = None
    note: str | None = None
    when: Literal["now"] | None = None
    tags: str = field(default_factory=lambda: "a,b")

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count is below 0")


@dataclass(frozen=True)
class Strict:
    """An option without a default."""

    needed: int


def read(**wanted: Any) -> Options:
    options = options_of("mock", Options, wanted)
    assert isinstance(options, Options)
    return options


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("name", "5", "5"),
        ("name", "null", "null"),
        ("count", 7, 7),
        ("count", "7", 7),
        ("count", "-0", 0),
        ("share", 0.25, 0.25),
        ("share", 2, 2.0),
        ("share", "2", 2.0),
        ("share", "1e-3", 0.001),
        ("loud", True, True),
        ("loud", "TRUE", True),
        ("loud", "false", False),
        ("mode", "slow", "slow"),
        ("level", 2, 2),
        ("level", "2", 2),
        ("seed", None, None),
        ("seed", "null", None),
        ("seed", "5", 5),
        ("note", None, None),
        ("note", "null", "null"),
        ("when", "now", "now"),
        ("when", "null", None),
    ],
)
def test_json_and_text_become_the_type_of_the_field(name: str, value: Any, expected: Any) -> None:
    found = getattr(read(**{name: value}), name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "takes"),
    [
        ("name", 5, "string"),
        ("name", None, "string"),
        ("count", 1.0, "integer"),
        ("count", True, "integer"),
        ("count", "1.0", "integer"),
        ("count", "9" * 30, "integer"),
        ("count", 2**53, "integer"),
        ("count", "9007199254740992", "integer"),
        ("count", "1_0", "integer"),
        ("count", "\u0663", "integer"),
        ("count", [1], "integer"),
        ("share", float("nan"), "number"),
        ("share", float("inf"), "number"),
        ("share", "nan", "number"),
        ("share", "-Infinity", "number"),
        ("share", True, "number"),
        ("share", 10**400, "number"),
        ("loud", 1, "boolean"),
        ("loud", "yes", "boolean"),
        ("mode", "Fast", '"fast" or "slow"'),
        ("level", 3, "1 or 2"),
        ("level", True, "1 or 2"),
        ("level", 1.0, "1 or 2"),
        ("seed", "x", "integer or null"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_what_would(name: str, value: Any, takes: str) -> None:
    with pytest.raises(
        BadAdapterOptions, match=f"^the option {name} of the adapter mock takes {takes}, not "
    ) as caught:
        read(**{name: value})
    assert caught.value.hint == "theory adapters show mock lists them"
    assert len(caught.value.message) < 250


def test_an_unknown_option_gets_the_list_of_the_known() -> None:
    with pytest.raises(BadAdapterOptions, match=r"^the adapter mock has no option 'cuont'$") as caught:
        read(cuont=1)
    assert caught.value.hint.startswith("its options: name, count, share")


def test_an_adapter_without_options_takes_none() -> None:
    assert options_of("bare", None, {}) is None
    with pytest.raises(BadAdapterOptions, match="the adapter bare has no option 'x'") as caught:
        options_of("bare", None, {"x": 1})
    assert caught.value.hint == "its options: none"


def test_what_the_class_itself_refuses_is_told() -> None:
    with pytest.raises(BadAdapterOptions, match="the options of the adapter mock: count is below 0"):
        read(count=-1)
    with pytest.raises(BadAdapterOptions, match="'needed'"):
        options_of("mock", Strict, {})


def test_options_are_described_as_people_see_them() -> None:
    lines = {option.name: option for option in describe_options(Options)}
    assert lines["level"] == Option("level", "1 or 2", "1", "How deep.")
    assert lines["seed"] == Option("seed", "integer or null", "null", "")
    assert lines["tags"].default == '"a,b"'
    assert [option.default for option in describe_options(Strict)] == ["required"]
    assert list(describe_options(None)) == []


@given(st.integers(-(2**53) + 1, 2**53 - 1), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_the_text_of_a_value_is_read_as_the_value(count: int, share: float, loud: bool) -> None:
    whole = abs(count)
    assert read(count=str(whole), share=repr(share), loud=str(loud)) == read(
        count=whole, share=share, loud=loud
    )
