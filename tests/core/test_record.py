"""Records do what frozen dataclasses with slots do, and compile nothing."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys
from dataclasses import field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import theory
from theory import types
from theory.record import Ordered, Record


class Point(Ordered):
    """Two numbers."""

    x: int
    y: int = 7


class Named(Point):
    """A record that has more than its base."""

    names: tuple[str, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)


@dataclasses.dataclass(frozen=True, order=True)
class Twin:
    """What a Point would be as a dataclass."""

    x: int
    y: int = 7


NUMBERS = st.integers(-2, 2)
ARGUMENTS: dict[str, tuple[tuple[int, ...], dict[str, int]]] = {
    "none": ((), {}),
    "one": ((1,), {}),
    "two": ((1, 2), {}),
    "three": ((1, 2, 3), {}),
    "by name": ((), {"x": 1, "y": 2}),
    "by name, the other order": ((), {"y": 2, "x": 1}),
    "both ways": ((1,), {"y": 2}),
    "the default alone by name": ((), {"y": 2}),
    "unknown": ((1,), {"z": 2}),
    "unknown beside all": ((1, 2), {"z": 2}),
    "unknown in place of one": ((), {"z": 2}),
    "twice": ((1,), {"x": 2}),
    "twice beside all": ((1, 2), {"y": 2}),
}


class Often(Ordered):
    """One that has been made many times."""

    x: int
    y: int = 7


class Rest(Often):
    """One that is based on such a one, and has what is made anew."""

    notes: dict[str, str] = field(default_factory=dict)


for number in range(200):
    Often(number)
    Rest(number)


@pytest.mark.parametrize("often", [False, True], ids=["seldom", "often"])
@pytest.mark.parametrize("words", ARGUMENTS)
def test_arguments_are_taken_and_refused_as_by_a_dataclass(words: str, often: bool) -> None:
    values, named = ARGUMENTS[words]

    def made(kind: Any) -> object:
        try:
            one = kind(*values, **named)
        except TypeError as error:
            return str(error).partition("__init__() ")[2]
        return one.x, one.y

    assert made(Often if often else Point) == made(Twin)


def test_what_is_made_often_is_not_what_is_based_on_it() -> None:
    class Late(Often):
        """Made after its base was."""

        z: int = 9

    assert vars(Often)["__init__"] is not vars(Point)["__init__"], "this tests nothing"
    assert repr(Late(1, z=2)) == f"{Late.__qualname__}(x=1, y=7, z=2)"
    assert Rest(1, notes={"a": "b"}).notes == {"a": "b"}
    first, second = Rest(1), Rest(1)
    assert (first.x, first.y, first.notes) == (1, 7, {})
    assert first.notes is not second.notes


def test_a_default_that_is_made_anew_belongs_to_one_record() -> None:
    first, second = Named(1), Named(1)
    assert (first.y, first.names, first.notes) == (7, (), {})
    assert first.notes is not second.notes


@given(st.tuples(NUMBERS, NUMBERS), st.tuples(NUMBERS, NUMBERS))
def test_equality_order_and_hash_are_those_of_the_values(a: tuple[int, int], b: tuple[int, int]) -> None:
    one, other = Point(*a), Point(*b)
    assert (one == other, one != other) == (a == b, a != b)
    assert (one < other, one <= other, one > other, one >= other) == (a < b, a <= b, a > b, a >= b)
    assert len({one, other}) == len({a, b})


def test_records_of_two_classes_are_neither_equal_nor_ordered() -> None:
    class Other(Point):
        """The same fields."""

    assert Point(1) != Other(1)
    assert Point(1) != (1, 7)
    for compare in ("__lt__", "__le__", "__gt__", "__ge__"):
        assert getattr(Point(1), compare)(Other(1)) is NotImplemented
    with pytest.raises(TypeError, match="'<' not supported"):
        sorted([Point(1), Other(1)])


def test_a_record_is_shown_as_it_is_made() -> None:
    assert repr(Named(1, names=("a",))) == "Named(x=1, y=7, names=('a',), notes={})"


def test_a_record_cannot_be_changed() -> None:
    point: Any = Point(1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'x'"):
        point.x = 2
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'z'"):
        point.z = 2
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'x'"):
        del point.x
    assert point == Point(1)


def test_the_tools_of_dataclasses_work() -> None:
    named = Named(1, 2, ("a",), {"b": "c"})
    assert [(one.name, one.type) for one in dataclasses.fields(Point)] == [("x", "int"), ("y", "int")]
    assert [one.name for one in dataclasses.fields(named)] == ["x", "y", "names", "notes"]
    assert dataclasses.replace(named, y=3) == Named(1, 3, ("a",), {"b": "c"})
    assert dataclasses.asdict(named) == {"x": 1, "y": 2, "names": ("a",), "notes": {"b": "c"}}
    assert str(inspect.signature(Point)) == "(x: 'int', y: 'int' = 7) -> None"
    match named:
        case Named(x, y, names):
            assert (x, y, names) == (1, 2, ("a",))
    assert dataclasses.is_dataclass(Named)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_record_survives_pickling_and_copying(protocol: int) -> None:
    named = Named(1, names=("a",), notes={"b": "c"})
    assert pickle.loads(pickle.dumps(named, protocol)) == named  # noqa: S301 - made a moment ago
    assert copy.copy(named) == named
    deep = copy.deepcopy(named)
    assert deep == named
    assert deep.notes is not named.notes


def test_every_public_record_is_one_and_has_no_room_for_more() -> None:
    public = [getattr(theory, name) for name in theory.__all__]
    records = [kind for kind in public if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
    assert types.Job in records
    for kind in records:
        assert issubclass(kind, Record), kind
        assert kind.__dictoffset__ == 0, kind


def test_no_class_of_core_is_compiled_when_the_program_starts() -> None:
    names = [found.name for found in pkgutil.walk_packages(theory.__path__, "theory.")]
    made = {
        f"{kind.__module__}.{kind.__qualname__}"
        for name in names
        if not name.startswith(("theory.testing", "theory.__main__"))
        for kind in vars(importlib.import_module(name)).values()
        if isinstance(kind, type) and kind.__module__ == name and "__dataclass_fields__" in vars(kind)
    }
    assert made == {"theory.record.Record"}


def test_neither_a_kind_of_record_nor_a_record_compiles_anything() -> None:
    code = (
        "import sys, dataclasses\n"
        "from theory.record import Record\n"
        "from theory.types import Ref, Runtime\n"
        "seen = []\n"
        "sys.addaudithook(lambda event, _: event in ('compile', 'exec') and seen.append(event))\n"
        "class Other(Record): x: int\n"
        "Ref('a', 'b', 1), Runtime(cpu=2), hash(Ref('a', 'b', 1)), Ref('a', 'b', 1) == Ref('a', 'b', 2)\n"
        "print(seen)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_field_that_is_told_again_keeps_its_place_and_has_the_new_default() -> None:
    class Base(Record):
        x: int
        y: int = 0

    class Again(Base):
        y: int = 5

    assert Again.__match_args__ == ("x", "y")
    assert repr(Again(1)).endswith("Again(x=1, y=5)")
    assert Again(1, 2) == Again(x=1, y=2)
