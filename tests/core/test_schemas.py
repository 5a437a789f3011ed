from __future__ import annotations

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any, ClassVar

import jsonschema
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from theory.entries.schemachecks import faults_of_schema, misplaced_defaults
from theory.entries.schemas import BadSchema, Mismatch, Schema, schema_of
from theory.formats.canon import canonical

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from theory.types import Json, JsonObject


def fault_of(schema: JsonObject, value: Json) -> tuple[str, str, int]:
    with pytest.raises(Mismatch, match=r".") as caught:
        Schema(schema).check(value)
    return str(caught.value), caught.value.pointer, caught.value.more


# ---------------------------------------------------------------- verdicts are those of the reference

NAMES = st.sampled_from(["a", "b", "ab", "é"])
INTEGERS = st.integers(-3, 3)
SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | INTEGERS
    | st.sampled_from([0.0, 0.5, -1.5, 2.0])
    | st.sampled_from(["", "a", "ab", "aab", "é"])
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
TYPES = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])


def schemas_around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(NAMES, inner, max_size=3)
    count = st.integers(0, 3)
    return (
        st.fixed_dictionaries(
            {},
            optional={
                "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
                "enum": st.lists(VALUES, min_size=1, max_size=3, unique_by=canonical),
                "const": VALUES,
                "minimum": INTEGERS,
                "exclusiveMaximum": INTEGERS,
                "multipleOf": st.sampled_from([1, 2, 0.5]),
                "minLength": count,
                "maxLength": count,
                "pattern": st.sampled_from(["^a+$", "b", "^(a|b)*$", "é"]),
                "items": inner,
                "prefixItems": some,
                "contains": inner,
                "minItems": count,
                "maxItems": count,
                "uniqueItems": st.booleans(),
                "properties": named,
                "patternProperties": st.dictionaries(st.sampled_from(["^a", "b$"]), inner, max_size=2),
                "additionalProperties": inner,
                "propertyNames": inner,
                "required": st.lists(NAMES, max_size=2, unique=True),
                "minProperties": count,
                "maxProperties": count,
                "dependentRequired": st.dictionaries(
                    NAMES, st.lists(NAMES, max_size=2, unique=True), max_size=2
                ),
                "dependentSchemas": named,
                "allOf": some,
                "anyOf": some,
                "oneOf": some,
                "not": inner,
                "if": inner,
                "then": inner,
                "else": inner,
                "unevaluatedProperties": inner,
                "$ref": st.sampled_from(["#/$defs/x", "#/$defs/y"]),
            },
        )
        | st.booleans()
    )


DOCUMENTS = st.builds(
    lambda body, x, y: {**(body if isinstance(body, dict) else {"allOf": [body]}), "$defs": {"x": x, "y": y}},
    schemas_around(schemas_around(st.booleans() | st.fixed_dictionaries({"type": TYPES}))),
    st.fixed_dictionaries({"type": TYPES}),
    st.fixed_dictionaries({"enum": st.lists(SCALARS, min_size=1, max_size=2)}),
)


@given(DOCUMENTS, VALUES)
@example({"type": "integer"}, 2.0)
@example({"const": 1}, True)  # noqa: FBT003 - the value
@example({"enum": [0]}, False)  # noqa: FBT003 - the value
@example({"uniqueItems": True}, [1, True, 1.0])
@example({"multipleOf": 0.5}, 1.5)
@example({"maxLength": 1}, "😀")
def test_a_verdict_is_that_of_the_reference(schema: dict[str, Any], value: Any) -> None:
    reference = jsonschema.Draft202012Validator(schema)
    mine = Schema(schema)
    accepted = reference.is_valid(value)
    assert bool(list(mine.faults(value))) != accepted
    if accepted:
        mine.check(value)
    else:
        with pytest.raises(Mismatch, match=r"."):
            mine.check(value)


# ---------------------------------------------------------------- what is no schema of ours

NO_SCHEMAS: dict[str, tuple[JsonObject, str, str]] = {
    "another dialect": (
        {"$schema": "http://json-schema.org/draft-07/schema#"},
        "declares 'http://json-schema.org/draft-07/schema#'",
        "/$schema",
    ),
    "a type that is none": (
        {"properties": {"a/b": {"type": "strin"}}},
        '"strin" is not valid',
        "/properties/a~1b/type",
    ),
    "a pattern that looks ahead": ({"pattern": "(?=a)b"}, "not a", "/pattern"),
    "a pattern that refers back": ({"pattern": r"(a)\1"}, "not a", "/pattern"),
    "a pattern that explodes": ({"pattern": "((a{100}){100}){100}"}, "not a", "/pattern"),
    "a pattern that is none": ({"patternProperties": {"(": {}}}, "not a", "/patternProperties/("),
    "a reference to nothing": ({"$ref": "#/$defs/x"}, "does not exist", ""),
}


@pytest.mark.parametrize(("schema", "message", "pointer"), NO_SCHEMAS.values(), ids=NO_SCHEMAS.keys())
def test_what_is_no_schema_is_refused_with_its_place(schema: JsonObject, message: str, pointer: str) -> None:
    with pytest.raises(BadSchema, match=message) as caught:
        Schema(schema)
    assert caught.value.pointer == pointer


class Canary(BaseHTTPRequestHandler):
    """Counts who comes by, and answers with a schema that accepts everything."""

    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.seen.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def canary() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Canary)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


OUTSIDE: dict[str, JsonObject] = {
    "at the root": {"$ref": "URL/a"},
    "with a fragment": {"$ref": "URL/a#/$defs/x"},
    "deep down": {"properties": {"a": {"items": {"$ref": "URL/a"}}}},
    "dynamic": {"$dynamicRef": "URL/a"},
    "relative to an $id": {"$id": "URL/base", "$ref": "other"},
    "relative to an inner $id": {"$defs": {"x": {"$id": "URL/base/", "$ref": "other"}}, "$ref": "#/$defs/x"},
}


@pytest.mark.parametrize("schema", OUTSIDE.values(), ids=OUTSIDE.keys())
@pytest.mark.parametrize("scheme", ["http", "file"])
def test_a_reference_that_leaves_the_document_is_refused_and_never_fetched(
    schema: JsonObject, scheme: str, canary: str, tmp_path: Path
) -> None:
    for name in ("a", "other"):
        (tmp_path / name).write_text("true")
    url = canary if scheme == "http" else tmp_path.as_uri()
    text = canonical(schema).decode().replace("URL", url)
    with pytest.raises(BadSchema, match=r"^\$ref .* leaves the document$|Retrieving external resources|…"):
        Schema(json.loads(text)).check(1)
    assert Canary.seen == []


def test_a_schema_of_unknown_dialect_inside_is_not_fetched(canary: str) -> None:
    Schema({"properties": {"a": {"$schema": f"{canary}/meta", "type": "object"}}}).check({"a": {}})
    assert Canary.seen == []


def test_a_recursive_reference_ends() -> None:
    tree: JsonObject = {
        "$ref": "#/$defs/tree",
        "$defs": {"tree": {"type": "object", "properties": {"next": {"$ref": "#/$defs/tree"}}}},
    }
    Schema(tree).check({"next": {"next": {}}})
    assert fault_of(tree, {"next": {"next": 1}})[1] == "/next/next"
    Schema({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}).with_defaults({})


def test_a_pattern_that_backtracks_elsewhere_takes_no_time_here() -> None:
    schema = Schema({"type": "string", "pattern": "^(a+)+$"})
    began = time.process_time()
    with pytest.raises(Mismatch, match="does not match"):
        schema.check("a" * 5_000 + "!")
    assert time.process_time() - began < 1


def test_a_schema_is_compiled_once() -> None:
    document: JsonObject = {"type": "string", "minLength": 7}
    assert schema_of(document) is schema_of(document)
    assert schema_of(document).document == document


# ---------------------------------------------------------------- what a mismatch says

CHOICE: JsonObject = {
    "oneOf": [
        {"type": "string"},
        {
            "type": "object",
            "required": ["kind", "url"],
            "properties": {"kind": {"const": "link"}, "url": {"type": "string"}},
        },
        {
            "type": "object",
            "required": ["kind"],
            "properties": {
                "kind": {"const": "text"},
                "size": {"type": "object", "properties": {"w": {"type": "integer"}}},
            },
        },
    ]
}


@pytest.mark.parametrize(
    ("schema", "value", "message", "pointer"),
    [
        ({"type": "object", "required": ["text"]}, {}, '"text" is a required property', ""),
        ({"properties": {"n": {"type": "integer"}}}, {"n": "x"}, '"x" is not of type "integer"', "/n"),
        (
            {"properties": {"a/b": {"items": {"maximum": 3}}}},
            {"a/b": [1, 5]},
            "5 is greater than the maximum of 3",
            "/a~1b/1",
        ),
        (
            {"properties": {"a": {}}, "additionalProperties": False},
            {"t/o": 1},
            "'t/o' was unexpected",
            "/t~1o",
        ),
        ({"unevaluatedProperties": False}, {"typo": 1}, "'typo' was unexpected", "/typo"),
        ({"prefixItems": [True], "unevaluatedItems": False}, [1, 2], "'2' was unexpected", ""),
        ({"enum": ["a", "b"]}, "c", '"c" is not one of "a" or "b"', ""),
    ],
)
def test_a_mismatch_says_where_and_what_was_expected(
    schema: JsonObject, value: Json, message: str, pointer: str
) -> None:
    found = fault_of(schema, value)
    assert message in found[0]
    assert found[1] == pointer


def test_of_several_faults_the_one_nearest_to_the_root_is_told_and_the_others_are_counted() -> None:
    schema: JsonObject = {"required": ["b"], "properties": {"a": {"type": "string", "enum": ["x"]}}}
    assert fault_of(schema, {"a": 1}) == ('"b" is a required property', "", 2)


def test_of_a_choice_the_branch_that_got_furthest_is_told() -> None:
    assert fault_of(CHOICE, {"kind": "text", "size": {"w": "wide"}})[:2] == (
        '"wide" is not of type "integer"',
        "/size/w",
    )


def test_of_a_choice_that_nothing_comes_near_every_branch_is_told() -> None:
    message, pointer, _ = fault_of({"properties": {"c": CHOICE}}, {"c": 5})
    assert message == '5 is not of type "string", and 5 is not of type "object"'
    assert pointer == "/c"


def test_a_long_value_is_not_repeated_whole() -> None:
    assert len(fault_of({"type": "integer"}, "x" * 10_000)[0]) < 200


# ---------------------------------------------------------------- defaults

DEFAULTS: JsonObject = {
    "type": "object",
    "properties": {
        "sep": {"type": "string", "default": ","},
        "rows": {"default": [1, {"x": 2}]},
        "style": {
            "type": "object",
            "default": {},
            "properties": {"size": {"type": "integer", "default": 10}},
        },
        "page": {"type": "object", "properties": {"n": {"default": 1}}},
        "unit": {"$ref": "#/$defs/unit"},
        "box": {"$ref": "#/$defs/bo~1x%20"},
        "list": {"items": {"properties": {"never": {"default": 1}}}},
        "choice": {"oneOf": [{"properties": {"never": {"default": 1}}}, {"type": "string"}]},
        "some": {"anyOf": [{"properties": {"never": {"default": 1}}}]},
    },
    "$defs": {
        "unit": {"type": "string", "default": "mm"},
        "bo/x ": {"type": "object", "properties": {"w": {"default": 3}}},
    },
}


def test_defaults_are_filled_along_properties_and_references() -> None:
    assert Schema(DEFAULTS).with_defaults({}) == {
        "sep": ",",
        "rows": [1, {"x": 2}],
        "style": {"size": 10},
        "unit": "mm",
    }
    assert Schema(DEFAULTS).with_defaults({"page": {}, "box": {"h": 1}, "sep": None}) == {
        "sep": None,
        "rows": [1, {"x": 2}],
        "style": {"size": 10},
        "unit": "mm",
        "page": {"n": 1},
        "box": {"h": 1, "w": 3},
    }


def test_nothing_is_filled_inside_a_choice_or_a_list() -> None:
    given_value: JsonObject = {"list": [{}], "choice": {}, "some": {}}
    filled = Schema(DEFAULTS).with_defaults(given_value)
    assert isinstance(filled, dict)
    assert {key: filled[key] for key in given_value} == given_value


@given(st.dictionaries(st.sampled_from(["sep", "rows", "style", "page", "unit", "box", "list", "x"]), VALUES))
def test_filling_twice_is_filling_once_and_nothing_present_changes(value: dict[str, Any]) -> None:
    before = canonical(value)
    schema = Schema(DEFAULTS)
    filled = schema.with_defaults(value)
    assert canonical(value) == before
    assert schema.with_defaults(filled) == filled
    assert isinstance(filled, dict)
    for key, present in value.items():
        now = filled[key]
        assert now == present or (isinstance(now, dict) and present.items() <= now.items())


def test_who_changes_the_filled_value_does_not_change_the_schema() -> None:
    schema = Schema(DEFAULTS)
    filled: Any = schema.with_defaults({})
    filled["rows"][1]["x"] = "changed"
    assert schema.with_defaults({})["rows"] == [1, {"x": 2}]  # type: ignore[call-overload,index]  # it is an object


def test_a_default_that_leads_back_to_itself_is_filled_once() -> None:
    node: JsonObject = {
        "properties": {"n": {"$ref": "#/$defs/node", "default": {}}},
        "$defs": {
            "node": {"properties": {"k": {"default": 1}, "next": {"$ref": "#/$defs/node", "default": {}}}}
        },
    }
    assert Schema(node).with_defaults({}) == {"n": {"k": 1, "next": {}}}


def test_an_anchor_is_not_taken_for_the_root() -> None:
    schema: JsonObject = {
        "properties": {"a": {"$ref": "#here"}, "b": {"default": 1}},
        "$defs": {"x": {"$anchor": "here", "type": "object"}},
    }
    assert Schema(schema).with_defaults({"a": {}}) == {"a": {}, "b": 1}


@pytest.mark.parametrize("keyword", ["oneOf", "anyOf", "allOf", "prefixItems"])
def test_a_default_in_a_list_of_schemas_is_misplaced(keyword: str) -> None:
    schema: JsonObject = {keyword: [{"properties": {"a": {"default": 1}}}]}
    assert list(misplaced_defaults(schema)) == [
        (f"/{keyword}/0/properties/a/default", "a default is applied along properties only, not here")
    ]


@pytest.mark.parametrize(
    "keyword", ["not", "if", "then", "else", "items", "contains", "additionalProperties", "unevaluatedItems"]
)
def test_a_default_below_a_condition_is_misplaced(keyword: str) -> None:
    assert [pointer for pointer, _ in misplaced_defaults({keyword: {"default": 1}})] == [
        f"/{keyword}/default"
    ]


def test_a_default_that_only_a_list_refers_to_is_misplaced() -> None:
    schema: JsonObject = {
        "properties": {"a": {"items": {"$ref": "#/$defs/x"}}},
        "$defs": {"x": {"properties": {"n": {"default": 1}}}},
    }
    assert [pointer for pointer, _ in misplaced_defaults(schema)] == ["/$defs/x/properties/n/default"]


@pytest.mark.parametrize(
    ("schema", "faults"),
    [
        ({"properties": {"a": {"type": "string", "default": 1}}}, ["/properties/a/default"]),
        (
            {"properties": {"a": {"$ref": "#/$defs/x", "default": 1}}, "$defs": {"x": {"type": "string"}}},
            ["/properties/a/default"],
        ),
        ({"properties": {"a": {"$ref": "#/properties/b", "default": 1}, "b": {"type": "integer"}}}, []),
        (
            {
                "$id": "urn:mine",
                "properties": {"a": {"$ref": "urn:mine#/$defs/x", "default": 1}},
                "$defs": {"x": {"type": "integer"}},
            },
            [],
        ),
        ({"properties": {"a/b %": {"type": "string", "default": 1}}}, ["/properties/a~1b %/default"]),
        ({"properties": {"default": {"type": "string"}}}, []),
        ({"properties": {"a": {"const": {"default": 1}, "enum": [{"default": 1}]}}}, []),
        (
            DEFAULTS,
            [
                "/properties/choice/oneOf/0/properties/never/default",
                "/properties/list/items/properties/never/default",
                "/properties/some/anyOf/0/properties/never/default",
            ],
        ),
    ],
)
def test_a_default_has_to_satisfy_its_own_schema(schema: JsonObject, faults: list[str]) -> None:
    assert sorted(pointer for pointer, _ in misplaced_defaults(schema)) == faults


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1, '1 is not of type "string", and 1 is not of type "array"'),
        ({}, '{} is not of type "string", and {} is not of type "array"'),
        (["x"], '"x" is not of type "integer"'),
    ],
    ids=["neither", "neither, an object", "the second branch, deeper"],
)
def test_a_choice_that_nothing_came_near_says_what_each_branch_takes(value: Any, words: str) -> None:
    either = Schema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]})
    with pytest.raises(Mismatch, match=f"^{re.escape(words)}$"):
        either.check(value)


def test_a_choice_between_two_members_names_both() -> None:
    one = Schema({"oneOf": [{"required": ["text"]}, {"required": ["file"]}]})
    with pytest.raises(Mismatch, match=r'^"text" is a required property, and "file" is a required property$'):
        one.check({})


# ---------------------------------------------------------------- every fault of a schema


@pytest.mark.parametrize("name", NO_SCHEMAS)
def test_what_refuses_a_schema_is_among_its_faults(name: str) -> None:
    schema, _, pointer = NO_SCHEMAS[name]
    assert any(place.startswith(pointer) for place, _ in faults_of_schema(schema))


def test_every_fault_of_a_schema_has_its_place_and_plain_words() -> None:
    schema: JsonObject = {
        "type": "strin",
        "minLength": -1,
        "pattern": r"(a)\1",
        "patternProperties": {"(?<!a)b": {}, "(": {}},
        "items": {"$ref": "#/$defs/gone"},
        "contains": {"$dynamicRef": "http://127.0.0.1:9/x"},
        "not": {"$ref": "file:///etc/hosts"},
    }
    backtracks = "looks around or back, which takes more than linear time; write it without"
    assert sorted(faults_of_schema(schema)) == [
        ("/contains/$dynamicRef", "$dynamicRef http://127.0.0.1:9/x leaves the document"),
        ("/items/$ref", "$ref #/$defs/gone leads to nothing"),
        ("/minLength", "-1 is less than the minimum of 0"),
        ("/not/$ref", "$ref file:///etc/hosts leaves the document"),
        ("/pattern", rf"the pattern '(a)\1' {backtracks}"),
        ("/patternProperties/(", "the pattern '(' is no regular expression, or too large a one"),
        ("/patternProperties/(?<!a)b", f"the pattern '(?<!a)b' {backtracks}"),
        ("/type", '"strin" is not one of "array", "boolean" or 5 other candidates'),
    ]


def test_a_sound_schema_has_no_faults() -> None:
    assert faults_of_schema(DEFAULTS) == []


KINDS: JsonObject = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "required": ["kind", "text"], "properties": {"kind": {"const": "text"}}},
        {"type": "object", "required": ["kind", "url"], "properties": {"kind": {"const": "link"}}},
        {
            "type": "object",
            "required": ["x", "y", "z"],
            "properties": {"x": True, "y": True, "z": True},
            "additionalProperties": False,
        },
    ]
}


@pytest.mark.parametrize(
    ("value", "words", "pointer"),
    [
        ({"kind": "text"}, '"text" is a required property', ""),
        ({"kind": "link", "text": 1}, '"url" is a required property', ""),
        ({"kind": "sound"}, 'it is none of "text", "link"', "/kind"),
        ({"x": 1, "y": 1, "z": 1, "zz": 1}, "('zz' was unexpected)", "/zz"),
    ],
)
def test_of_a_choice_the_branch_with_the_fewest_faults_is_told(value: Json, words: str, pointer: str) -> None:
    message, place, _ = fault_of(KINDS, value)
    assert message.endswith(words)
    assert place == pointer
