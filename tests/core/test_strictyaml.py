from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from theory.entries.strictyaml import MAX_BYTES, BadYaml, parse_yaml
from theory.formats.canon import MAX_INTEGER, BadJson, canonical, check_json

if TYPE_CHECKING:
    from theory.types import Json

# What YAML itself may hold unescaped, and no line ends that it counts but JSON does not.
TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029\ufeff\ufffe\uffff")
)
NUMBERS = st.integers(-MAX_INTEGER, MAX_INTEGER) | st.floats(allow_nan=False, allow_infinity=False)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def value_of(text: str) -> Json:
    value, _ = parse_yaml(text.encode())
    return value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("[yes, on, off, y, n, NO, Off]", ["yes", "on", "off", "y", "n", "NO", "Off"]),
        ("[true, True, FALSE]", [True, True, False]),
        ("[null, ~, Null, '', \"null\"]", [None, None, None, "", "null"]),
        ("a:", {"a": None}),
        ("[12, -3, +4, 010, 0x1F, 0o17]", [12, -3, 4, 10, 31, 15]),
        ("[1:30, 1_000, 0b1, 0x, 12e]", ["1:30", "1_000", "0b1", "0x", "12e"]),
        ("[1.5, .5, 1., 1e3, -2.5E-3]", [1.5, 0.5, 1.0, 1000.0, -0.0025]),
        ("2020-01-01", "2020-01-01"),
        ("'12'", "12"),
        ("|\n  a\n  b\n", "a\nb\n"),
        (">\n  a\n  b\n", "a b\n"),
        ("<<: {a: 1}", {"<<": {"a": 1}}),
        ("--- {a: 1}\n...\n", {"a": 1}),
        ("9007199254740991", MAX_INTEGER),
    ],
)
def test_a_plain_scalar_is_what_yaml_1_2_says(text: str, value: Json) -> None:
    assert canonical(value_of(text)) == canonical(value)


REFUSED = {
    "an anchor": ("a: &x 1", 1, "an anchor or alias"),
    "an alias": ("a: 1\nb: *x", 2, "an anchor or alias"),
    "an anchored mapping": ("a:\n  &x {b: 1}", 2, "an anchor or alias"),
    "an anchored key": ("&x a: 1", 1, "an anchor or alias"),
    "a standard tag": ("a: !!str 1", 1, "a tag"),
    "a local tag": ("a:\n  - !thing 1", 2, "a tag"),
    "an executing tag": ("!!python/object/apply:os.system ['true']", 1, "a tag"),
    "the non-specific tag": ('! "12"', 1, "a tag"),
    "a tagged list": ("!!set [a]", 1, "a tag"),
    "a duplicate key": ("a: 1\nb: 2\na: 3", 3, "the key 'a' stands twice"),
    "a duplicate key, quoted": ("a: 1\n'a': 3", 2, "the key 'a' stands twice"),
    "a duplicate key, deep": ("x:\n  - {a: 1,\n     a: 1}", 3, "the key 'a' stands twice"),
    "a number as key": ("a: 1\n2: b", 2, "the key 2 is not text"),
    "a word as key": ("true: 1", 1, "the key True is not text"),
    "no key": ("? \n: 1", 1, "the key None is not text"),
    "a list as key": ("[a]: 1", 1, r"the key \['a'\] is not text"),
    "two documents": ("a: 1\n---\nb: 2", 2, "a second document"),
    "no document": ("# nothing\n", 1, "an empty document"),
    "nothing": ("", 1, "an empty document"),
    "NaN": ("a: 1\nb: .nan", 2, "no JSON number"),
    "infinity": ("a: -.INF", 1, "no JSON number"),
    "an integer too large": ("a: 1\nb: 9007199254740992", 2, r"beyond 2\^53-1"),
    "a very large integer": ("a: " + "9" * 5000, 1, r"beyond 2\^53-1"),
    "a tab": ("a:\n\t- b", 2, "cannot start any token"),
    "an open bracket": ("a: [1,\nb", 3, "did not find"),
    "a NUL": ("a:\n  - b\x00", 2, r"a control character, U\+0000"),
    "an escaped NUL": ('a: 1\nb: "x\\0"', 2, "a NUL character"),
    "too deep": ("[" * 65 + "]" * 65, 1, "nested deeper than 64 levels"),
    "far too deep": ("[" * 100_000, 1, "nested deeper than 64 levels"),
    "a surrogate": (r'a: "\ud800"', 1, "invalid Unicode"),
    "no character": (r'a: "\U00110000"', 1, "invalid Unicode"),
}


@pytest.mark.parametrize(("text", "line", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_strict_is_refused_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(BadYaml, match=message) as caught:
        parse_yaml(text.encode())
    assert caught.value.line == line


def test_a_bomb_of_aliases_never_becomes_a_value() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{key}: &{key} [{','.join('*' + before for _ in range(9))}]\n"
        for before, key in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(BadYaml, match="an anchor or alias"):
        parse_yaml(bomb.encode())


def test_a_file_over_1_mib_is_not_read() -> None:
    with pytest.raises(BadYaml, match="over the limit of 1,048,576"):
        parse_yaml(b"#" * (MAX_BYTES + 1))


def test_bytes_that_are_not_utf_8_are_refused() -> None:
    with pytest.raises(BadYaml, match=r"(?i)utf-?8"):
        parse_yaml(b"a: \xff\xfe\xfa")


@pytest.mark.parametrize("text", ['a: "\\U00110000"', 'a: "\\UFFFFFFFF"', '! "12"', "a: &x 1"])
def test_the_parser_without_libyaml_refuses_the_same(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    with pytest.raises(BadYaml, match=r"."):
        parse_yaml(text.encode())


def test_every_pointer_has_the_line_of_its_key() -> None:
    text = (
        b"ref: a/b@1\n\ninputs:\n  type: object\n  properties:\n    a~/b: {type: string}\n"
        b"    list:\n      - 1\n      -\n        x: 2\n"
    )
    _, lines = parse_yaml(text)
    assert lines == {
        "": 1,
        "/ref": 1,
        "/inputs": 3,
        "/inputs/type": 4,
        "/inputs/properties": 5,
        "/inputs/properties/a~0~1b": 6,
        "/inputs/properties/a~0~1b/type": 6,
        "/inputs/properties/list": 7,
        "/inputs/properties/list/0": 8,
        "/inputs/properties/list/1": 10,
        "/inputs/properties/list/1/x": 10,
    }


@given(VALUES)
@example(1e16)
@example(1e-7)
@example({"a": "#: -", "": " x "})
def test_json_is_read_as_the_same_value(value: Any) -> None:
    try:
        check_json(value)
    except BadJson:
        return  # 1e16 is spelled as an integer that is not exact
    assert value_of(canonical(value).decode()) == value


@given(st.binary(max_size=60) | st.text(alphabet="[]{}:,-?!&*|>'\"%@`#\n\t abn01.~\u20ac", max_size=40))
def test_whatever_is_read_is_json_or_bad_yaml(data: bytes | str) -> None:
    try:
        value, lines = parse_yaml(data if isinstance(data, bytes) else data.encode())
    except BadYaml as error:
        assert error.line >= 1  # noqa: PT017 - either way is good
    else:
        assert lines[""] >= 1
        json.dumps(value)
