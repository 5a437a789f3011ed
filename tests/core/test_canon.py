from __future__ import annotations

import io
import json
import struct
from typing import TYPE_CHECKING, Any

import pytest
import rfc8785
from blake3 import blake3
from hypothesis import example, given
from hypothesis import strategies as st

from theory.formats import canon
from theory.formats.canon import (
    MAX_INTEGER,
    MAX_JSON_BYTES,
    BadJson,
    Hasher,
    canonical,
    check_json,
    cid_of,
    cid_of_stream,
    compact,
    escape_pointer,
    event_hash,
    memo_key,
    parse_json,
    tree_cid,
)

if TYPE_CHECKING:
    from theory.types import JsonObject

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def double(bits: str) -> float:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    return float(number)


def pointer_of(text: str) -> str:
    with pytest.raises(BadJson, match=r".") as caught:
        parse_json(text)
    return caught.value.pointer


# ---------------------------------------------------------------- RFC 8785

# RFC 8785, appendix B: IEEE 754 bits and their spelling.
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}

# RFC 8785, 3.2.2 and 3.2.3, and the vectors of cyberphone/json-canonicalization.
DOCUMENTS = {
    "literals": (
        r"""{"string": "\u20ac$\u000F\u000aA\u0027\u0042\u0022\u005c\\\"\/", "literals": [null, true]}""",
        r"""{"literals":[null,true],"string":"€$\u000f\nA'B\"\\\\\"/"}""",
    ),
    "numbers": (
        "[333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001]",
        "[333333333.3333333,1e+30,4.5,0.002,1e-27]",
    ),
    "arrays": (
        '[56, {"d": true, "10": null, "1": []}]',
        '[56,{"1":[],"10":null,"d":true}]',
    ),
    "french": (
        '{"peach": "sorts", "péché": "wrong", "pêche": "in", "sin": "locale order"}',
        '{"peach":"sorts","péché":"wrong","pêche":"in","sin":"locale order"}',
    ),
    "structures": (
        r'{"1": {"f": {"f": "hi", "F": 5}, "\n": 56.0}, "": 0, "a": {}, "111": [{"e": 1, "E": 0}], "A": {}}',
        r'{"":0,"1":{"\n":56,"f":{"F":5,"f":"hi"}},"111":[{"E":0,"e":1}],"A":{},"a":{}}',
    ),
    "unnormalised text stays": (
        r'{"Unnormalized Unicode": "A\u030a"}',
        '{"Unnormalized Unicode":"A\u030a"}',
    ),
    "keys by UTF-16": (
        r'{"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\ud83d\ude00": 5, "\u0080": 6, "\u00f6": 7}',
        '{"\\r":2,"1":4,"\u0080":6,"ö":7,"€":1,"😀":5,"\ufb33":3}',
    ),
}


@pytest.mark.parametrize(("bits", "spelling"), NUMBERS.items())
def test_a_double_is_spelled_as_appendix_b_has_it(bits: str, spelling: str) -> None:
    assert canonical(double(bits)).decode() == spelling


@pytest.mark.parametrize(("given_text", "spelling"), DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_a_document_is_spelled_as_the_rfc_has_it(given_text: str, spelling: str) -> None:
    assert canonical(parse_json(given_text)).decode() == spelling


@pytest.mark.parametrize("bits", ["7fffffffffffffff", "7ff0000000000000", "fff0000000000000"])
def test_what_no_json_number_is_has_no_spelling(bits: str) -> None:
    with pytest.raises(BadJson, match="NaN or an infinite number, which JSON does not have"):
        check_json(double(bits))


@given(VALUES)
@example(1e20)
@example(2.0**53)
@example(-0.0)
@example({"a": [1e21, 9007199254740991, 5e-324]})
def test_what_is_accepted_is_read_again_from_its_canonical_form(value: Any) -> None:
    try:
        check_json(value)
    except BadJson:
        return
    assert parse_json(canonical(value)) == value


@given(VALUES)
@example({"a": [9007199254740991, 8999999999999999, -9000000000000000, 1e16, 123456789012345680000.0]})
@example(0.5)
@example([-1.5e-9, {"1.5": "[1.5", "e": ",2e3"}])
@example({"\ue000": 1, "\U0001f600": 2, "\uffff": 3})
@example({"\x7f\x80\u2028\ud7ff": '\x7f\x1f\x00"\\/\b\f\n\r\t\u2029'})
def test_the_fast_way_spells_as_the_reference_implementation(value: Any) -> None:
    try:
        check_json(value)
    except BadJson:
        return
    assert canonical(value) == rfc8785.dumps(value)


WILD: st.SearchStrategy[Any] = st.recursive(
    SCALARS | st.text() | st.binary(max_size=2) | st.just(2**53),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.dictionaries(st.text() | st.integers() | st.none(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(WILD)
@example({"a": {1: 2}})
@example(["\ud800"])
@example([-(2**53)])
def test_what_is_plain_has_no_fault(value: Any) -> None:
    if canon._is_plain(value):  # noqa: SLF001 - it is right for ever, or wrong in silence
        canon._find_fault(value, exact=True)  # noqa: SLF001


@pytest.mark.parametrize(("levels", "plain"), [(0, True), (1, True), (64, True), (65, False)])
def test_documents_of_ascii_and_integers_are_plain(levels: int, plain: bool) -> None:
    value: Any = MAX_INTEGER
    for _ in range(levels):
        value = {"a": value, "b": "text", "c": True, "d": None, "e": -MAX_INTEGER}
    assert canon._is_plain(value) is plain  # noqa: SLF001 - nothing else tells the fast way from the slow one


@given(VALUES)
def test_a_python_without_the_encoder_in_c_spells_the_same(value: Any) -> None:
    try:
        check_json(value)
    except BadJson:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json.encoder, "c_make_encoder", None)
        slow = canon._spelling(sort_keys=False)  # noqa: SLF001 - of another Python
    assert compact(value) == slow(value)


@given(VALUES)
def test_what_is_read_survives_the_form_for_people(value: Any) -> None:
    try:
        check_json(value)
    except BadJson:
        return
    assert parse_json(compact(value)) == value


@given(st.dictionaries(TEXT, st.integers(-9, 9)))
def test_the_order_of_keys_does_not_change_the_bytes(value: dict[str, int]) -> None:
    assert canonical(dict(reversed(value.items()))) == canonical(value)


# ---------------------------------------------------------------- strict JSON

REFUSED = {
    "NaN": ("NaN", "NaN or an infinite number"),
    "Infinity": ('{"a": [-Infinity]}', "NaN or an infinite number"),
    "a number too large": ("1e400", "NaN or an infinite number"),
    "twice the same key": ('{"a": 1, "b": 2, "a": 3}', "the key 'a' stands twice in one object"),
    "the same key in another spelling": (r'{"a": 1, "\u0061": 1}', "the key 'a' stands twice"),
    "a lone surrogate": (r'"\ud800"', "a lone surrogate"),
    "a comment": ("1 // one", "extra data at line 1, column 3"),
    "a trailing comma": ("[1,]", "at line 1, column"),
    "single quotes": ("{'a': 1}", "at line 1, column 2"),
    "an open string": ('{\n"a": "x', "unterminated string starting at line 2, column 6"),
    "a raw line end in text": ('"a\nb"', "invalid control character at line 1, column 3"),
    "nothing": ("", "expecting value at line 1, column 1"),
    "a byte order mark": ("\ufeff{}", "a byte order mark"),
    "a leading zero": ("01", "extra data"),
    "many digits": ("1" * 5000, "has 5,000 digits"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_strict_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadJson, match=message):
        parse_json(text)
    with pytest.raises(BadJson, match=message):
        parse_json(text.encode("utf-8", "surrogatepass"))


def test_bytes_that_are_not_utf_8_are_refused_with_their_place() -> None:
    with pytest.raises(BadJson, match=r"^byte 2 is not UTF-8$"):
        parse_json(b'"a\xff"')


@pytest.mark.parametrize(
    "data", [b"\xff\xfe1\x00", b"\x00\x00\xfe\xff\x00\x00\x001"], ids=["utf-16", "utf-32"]
)
def test_another_encoding_is_refused(data: bytes) -> None:
    with pytest.raises(BadJson, match="is not UTF-8"):
        parse_json(data)


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        ('{"a": {"b": [0, 9007199254740993]}}', "/a/b/1"),
        ('{"a~b/c": -9007199254740992}', "/a~0b~1c"),
        ('{"": 1e400}', "/"),
        ('{"x": [100000000000000000000.0]}', "/x/0"),
        (r'{"x": {"\ud800": 1}}', "/x"),
        (r'{"x": "\udc00"}', "/x"),
    ],
)
def test_a_fault_of_a_value_has_its_pointer(text: str, pointer: str) -> None:
    assert pointer_of(text) == pointer


def test_the_largest_exact_integer_is_taken_and_the_next_is_not() -> None:
    assert parse_json("[9007199254740991, -9007199254740991]") == [MAX_INTEGER, -MAX_INTEGER]
    with pytest.raises(BadJson, match=r"beyond 2\^53-1"):
        parse_json("9007199254740992")


def test_larger_integers_are_taken_where_nothing_is_hashed() -> None:
    assert parse_json("9007199254740993", exact=False) == 9007199254740993


@pytest.mark.parametrize("kind", ["[{}]", '{{"a":{}}}'])
def test_the_64th_level_is_taken_and_the_65th_refused(kind: str) -> None:
    text = "1"
    for _ in range(64):
        text = kind.format(text)
    parse_json(text)
    with pytest.raises(BadJson, match="nested deeper than 64 levels"):
        parse_json(kind.format(text))


@pytest.mark.parametrize("unit", ["[", '{"a":', '[{"a":'])
@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_any_depth_is_refused_and_no_stack_overflows(unit: str, depth: int) -> None:
    closing = "".join({"[": "]", "{": "}"}[char] for char in reversed(unit) if char in "[{")
    with pytest.raises(BadJson, match="nested deeper than 64 levels"):
        parse_json(unit * depth + "1" + closing * depth)


def test_the_limit_of_16_mib_counts_bytes() -> None:
    fits = '"' + "a" * (MAX_JSON_BYTES - 2) + '"'
    assert isinstance(parse_json(fits), str)
    for text in (fits + " ", '"' + "é" * (MAX_JSON_BYTES // 2) + '"'):
        with pytest.raises(BadJson, match="over the limit of 16,777,216"):
            parse_json(text)
        with pytest.raises(BadJson, match="over the limit of 16,777,216"):
            parse_json(text.encode())


@pytest.mark.parametrize(
    ("value", "message"),
    [((1, 2), "a value of type tuple"), ({1: 2}, "a key of type int"), ([b"x"], "a value of type bytes")],
)
def test_a_value_of_another_type_is_no_json(value: object, message: str) -> None:
    with pytest.raises(BadJson, match=message):
        check_json(value)


def test_a_list_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(BadJson, match="nested deeper"):
        check_json(endless)


JSONISH = st.lists(
    st.sampled_from(
        [
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            '"',
            "a",
            "\\u",
            "d8",
            "00",
            "1",
            "-",
            "e",
            ".",
            "9" * 40,
            "null",
            "NaN",
            " ",
            "\x00",
        ]
    ),
    max_size=30,
).map("".join)


@given(st.binary() | st.text() | JSONISH)
def test_whatever_is_read_is_json_or_bad_json(data: bytes | str) -> None:
    try:
        value = parse_json(data)
    except BadJson as error:
        str(error).encode()  # it can be shown
        error.pointer.encode()
    else:
        assert json.loads(canonical(value)) == value


@given(TEXT)
def test_a_step_of_a_pointer_can_be_read_back(key: str) -> None:
    step = escape_pointer(key)
    assert "/" not in step
    assert step.replace("~1", "/").replace("~0", "~") == key


# ---------------------------------------------------------------- addresses: golden


def test_the_cid_of_abc_is_its_blake3_digest() -> None:
    assert cid_of(b"abc") == "b3:6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"


def test_the_address_of_a_tree_stays_what_it_is() -> None:
    files = [("a.txt", "b3:" + "1" * 64, False), ("bin/run", "b3:" + "2" * 64, True)]
    assert tree_cid(files) == "b3:9f7137f721cdc2fe3917670d7192cbd93d3a9f4f5176126014720a23d34cee55"
    assert tree_cid(reversed(files)) == tree_cid(files)
    assert tree_cid([]) == "b3:aca93ea4edc81b47120d3e26ed63c39a02f24c75ade3fbc7deba9335cf0baeec"


def test_a_memo_key_stays_what_it_is() -> None:
    preimage: JsonObject = {"seed": 0, "inputs": {"text": "é", "n": 1.0}}
    key = memo_key(canonical(preimage))
    assert key == "b3:3e668b22b369d01b494b1b7ccf39757ff4dc4c129f6ff7656e005052c4d6a2f6"


def test_the_hash_of_a_ledger_event_stays_what_it_is() -> None:
    columns: dict[str, str | int | None] = {"plan": "default", "seq": 1, "kind": "plan.create", "prev": None}
    assert event_hash(columns) == "b3:15b6fd558549c86e214a312792d25786c6261d8c1ded0772b0638c08bf91815b"


@given(TEXT, st.integers(0, MAX_INTEGER))
@example('{"started":1.5,"\\":[0.5]}', 1)
@example("\U0001f600\ue000", MAX_INTEGER)
def test_an_event_is_hashed_in_its_canonical_spelling(payload: str, ts: int) -> None:
    columns: dict[str, str | int | None] = {
        "plan": payload,
        "seq": 1,
        "ts": ts,
        "execution_id": None,
        "payload": payload,
    }
    spelled: Any = columns
    digest = blake3(rfc8785.dumps(spelled), derive_key_context="theory ledger v1").hexdigest()
    assert event_hash(columns) == f"b3:{digest}"


def test_one_value_has_another_address_as_a_tree_a_memo_key_and_an_event() -> None:
    assert len({tree_cid([]), memo_key(b"[]"), event_hash([]), cid_of(b"[]")}) == 4  # type: ignore[arg-type]  # the bytes count


@given(st.lists(st.binary(max_size=100), max_size=5))
def test_a_stream_has_the_cid_of_its_bytes_however_it_is_cut(parts: list[bytes]) -> None:
    whole, hasher, copied = b"".join(parts), Hasher(), io.BytesIO()
    for part in parts:
        hasher.update(part)
    assert (hasher.cid, hasher.size_bytes) == (cid_of(whole), len(whole))
    assert cid_of_stream(io.BytesIO(whole), copied.write) == (cid_of(whole), len(whole))
    assert copied.getvalue() == whole
