"""What is derived from a schema keeps the schema, and what cannot surely be right is refused."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory import mime_of
from theory_adapter_mock.derive import derive
from theory_adapter_mock.schema import NotDerivable, Schema

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.sampled_from([0.5, 1.0, -2.5]), st.text(max_size=3)
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=5,
)
small = st.integers(0, 4)
numbers = st.one_of(st.integers(-20, 20), st.floats(-20, 20, allow_nan=False))
NAMES = ["a", "b", "c", "meta.json", "x/y.json", "t.txt"]
TYPES = ["null", "boolean", "string", "integer", "number", "array", "object"]


def some(**rules: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=rules)


def schemas_of(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Schemas with any mixture of the keywords that are understood, sensible or not."""
    return some(
        type=st.one_of(
            st.sampled_from(TYPES), st.lists(st.sampled_from(TYPES), min_size=1, max_size=2, unique=True)
        ),
        const=values,
        enum=st.lists(values, min_size=1, max_size=3),
        default=values,
        examples=st.lists(values, max_size=2),
        title=st.just("t"),
        format=st.just("date"),
        minimum=numbers,
        maximum=numbers,
        exclusiveMinimum=numbers,
        exclusiveMaximum=numbers,
        multipleOf=st.one_of(st.integers(1, 7), st.sampled_from([0.5, 0.1])),
        minLength=small,
        maxLength=small,
        minItems=small,
        maxItems=small,
        uniqueItems=st.booleans(),
        items=inner,
        prefixItems=st.lists(inner, min_size=1, max_size=2),
        minProperties=small,
        maxProperties=small,
        required=st.lists(st.sampled_from(NAMES), max_size=3, unique=True),
        properties=st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
        additionalProperties=inner,
    )


def typed(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Schemas as people write them: one type, and the keywords of this type."""
    return st.one_of(
        some(minLength=small, maxLength=st.integers(4, 20)).map(lambda rules: {"type": "string", **rules}),
        some(minimum=numbers, exclusiveMaximum=st.integers(21, 40)).map(
            lambda rules: {"type": "number", **rules}
        ),
        some(exclusiveMinimum=numbers, multipleOf=st.integers(1, 7)).map(
            lambda rules: {"type": "integer", **rules}
        ),
        st.lists(values, min_size=1, max_size=3).map(lambda members: {"enum": members}),
        values.map(lambda value: {"const": value}),
        st.tuples(inner, small).map(lambda pair: {"type": "array", "items": pair[0], "minItems": pair[1]}),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(
            lambda parts: {
                "type": "object",
                "properties": parts,
                "required": sorted(parts),
                "additionalProperties": False,
            }
        ),
        st.just({"$ref": "#/$defs/shared"}),
    )


anything: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.booleans(), st.just({})), schemas_of, max_leaves=8
)
simple = st.recursive(st.just({"type": "string"}), typed, max_leaves=8)


def described(texts: dict[str, str], documents: dict[str, Any]) -> dict[str, Any]:
    """The outputs document, as core makes it."""
    files = {path: {"mime": mime_of(path), "size_bytes": len(text.encode())} for path, text in texts.items()}
    return {**files, **documents}


def judge(schema: Any) -> Any:
    return jsonschema.Draft202012Validator(schema)


@given(schema=schemas_of(anything))
def test_what_is_derived_keeps_its_schema(schema: dict[str, Any]) -> None:
    try:
        document = described(*derive(schema))
    except NotDerivable:
        return
    judge(schema).validate(document)


@given(files=st.dictionaries(st.sampled_from(["a.json", "b/c.json", "meta.json"]), simple, min_size=1))
def test_every_simple_schema_has_an_answer(files: dict[str, Any]) -> None:
    schema: dict[str, Any] = {
        "$defs": {"shared": {"type": "integer", "minimum": 3}},
        "type": "object",
        "required": sorted(files),
        "properties": files,
        "additionalProperties": False,
    }
    texts, documents = derive(schema)
    assert not texts
    assert documents.keys() == files.keys()
    judge(schema).validate(documents)


@given(schema=schemas_of(anything), value=values)
def test_the_checker_and_jsonschema_give_one_verdict(schema: dict[str, Any], value: Any) -> None:
    try:
        verdict = Schema(schema).holds(schema, value)
    except NotDerivable:
        return
    assert verdict == judge(schema).is_valid(value)


@given(schema=schemas_of(anything))
def test_the_same_schema_has_the_same_answer(schema: dict[str, Any]) -> None:
    def answer() -> object:
        try:
            return derive(schema)
        except NotDerivable as error:
            return str(error)

    assert answer() == answer()


@pytest.mark.parametrize("rule", [{"const": 1}, {"enum": [[1]]}, {"const": {"a": False}}], ids=str)
def test_true_is_not_one_and_false_is_not_zero(rule: dict[str, Any]) -> None:
    wrong: tuple[Any, ...] = (True, [True], {"a": 0})
    right: tuple[Any, ...] = (1.0, [1.0], {"a": False})
    assert not any(Schema({}).holds(rule, value) for value in wrong)
    assert any(Schema({}).holds(rule, value) for value in right)


def files(**parts: Any) -> dict[str, Any]:
    """A schema that wants these files; the dot is written as two underscores."""
    named = {name.replace("__", "."): part for name, part in parts.items()}
    return {"type": "object", "required": list(named), "properties": named, "additionalProperties": False}


def test_a_file_that_is_not_json_is_a_text_of_a_fitting_size() -> None:
    size = {"type": "integer", "minimum": 100, "maximum": 120}
    texts, documents = derive(
        files(report__html={"properties": {"mime": {"const": "text/html"}, "size_bytes": size}})
    )
    assert not documents
    assert 100 <= len(texts["report.html"]) <= 120


def test_a_file_without_rules_is_a_short_text() -> None:
    assert derive(files(a__txt=True)) == ({"a.txt": "simulated "}, {})


@pytest.mark.parametrize("keyword", ["const", "default", "examples", "enum"])
def test_a_value_that_the_schema_shows_is_taken(keyword: str) -> None:
    shown = {"model": "shown"}
    part = {keyword: [shown] if keyword in {"examples", "enum"} else shown}
    assert derive(files(meta__json=part)) == ({}, {"meta.json": shown})


def test_a_default_that_breaks_its_own_schema_is_passed_over() -> None:
    _, documents = derive(
        files(a__json={"type": "integer", "minimum": 2, "default": 1, "examples": ["x", 5]})
    )
    assert documents == {"a.json": 5}


def test_an_optional_property_that_is_too_hard_is_left_out() -> None:
    schema: dict[str, Any] = {"properties": {"a.json": {"type": "boolean"}, "b.json": {"pattern": "x"}}}
    assert derive(schema) == ({}, {"a.json": True})


def test_a_schema_that_contains_itself_is_derived_as_far_as_it_must() -> None:
    tree: dict[str, Any] = {
        "type": "object",
        "required": ["n"],
        "properties": {"n": {"const": 1}, "next": {"$ref": "#/$defs/a~1b%20"}},
    }
    _, documents = derive({**files(a__json={"$ref": "#/$defs/a~1b%20"}), "$defs": {"a/b ": tree}})
    derived: Any = documents["a.json"]
    assert derived["n"] == 1


@pytest.mark.parametrize(
    ("part", "pointer"),
    [
        ({"type": "string", "pattern": "^a"}, "/pattern"),
        ({"oneOf": [{}]}, "/oneOf"),
        ({"anyOf": [{}]}, "/anyOf"),
        ({"allOf": [{}]}, "/allOf"),
        ({"not": {}}, "/not"),
        ({"if": {}}, "/if"),
        ({"contains": {}}, "/contains"),
        ({"patternProperties": {}}, "/patternProperties"),
        ({"$id": "https://example.org/"}, "/$id"),
        ({"unknown": 1}, "/unknown"),
        ({"$ref": "#/$defs/none"}, "/$ref"),
        ({"$ref": "https://example.org/schema"}, "/$ref"),
        ({"$ref": "#anchor"}, "/$ref"),
        ({"$ref": "#", "minLength": 1}, "/minLength"),
        ({"type": "string", "format": "date-time"}, "/format"),
        ({"type": "number", "minimum": 1, "multipleOf": 0.1}, "/multipleOf"),
        ({"type": "array", "minItems": 3, "uniqueItems": True, "items": {"const": 1}}, ""),
        ({"type": "string", "minLength": 10**9}, ""),
        ({"type": "array", "minItems": 10**9}, ""),
        ({"type": "array", "minItems": 999, "items": {"type": "array", "minItems": 999}}, "/items/items"),
        ({"type": "integer", "minimum": 2**53}, ""),
        ({"type": "integer", "minimum": 2, "maximum": 1}, ""),
        (False, ""),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_cannot_surely_be_right_is_refused_with_its_place(part: Any, pointer: str) -> None:
    with pytest.raises(NotDerivable, match="properties") as caught:
        derive(files(a__json=part))
    assert caught.value.pointer == "/properties/a.json" + pointer


@pytest.mark.parametrize(
    "part",
    [
        {"const": "text"},
        {"properties": {"mime": {"const": "text/html"}}, "required": ["mime"]},
        {"type": "array"},
    ],
    ids=["its content", "another type", "no object"],
)
def test_a_text_file_that_no_text_can_be_is_refused(part: Any) -> None:
    with pytest.raises(NotDerivable, match=r"/properties/a\.txt: no text file"):
        derive(files(a__txt=part))


def test_a_reference_in_a_circle_is_refused() -> None:
    schema = {**files(a__json={"$ref": "#/$defs/a"}), "$defs": {"a": {"$ref": "#/$defs/a"}}}
    with pytest.raises(NotDerivable, match="in a circle"):
        derive(schema)


def test_a_value_that_must_contain_itself_is_refused() -> None:
    knot: dict[str, Any] = {
        "type": "object",
        "required": ["in"],
        "properties": {"in": {"$ref": "#/$defs/knot"}},
    }
    with pytest.raises(NotDerivable, match="deeper than 32 levels"):
        derive({**files(a__json={"$ref": "#/$defs/knot"}), "$defs": {"knot": knot}})
