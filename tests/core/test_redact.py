"""Values of secrets never come out, in no spelling and over no edge."""

from __future__ import annotations

import base64
import itertools
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from theory.rooms.redact import Redactor

SECRET = 'p/s"w\\o&d ü+1='  # noqa: S105 - of a test
SPELLINGS = {
    "raw": SECRET.encode(),
    "JSON": json.dumps(SECRET)[1:-1].encode(),
    "JSON as UTF-8": json.dumps(SECRET, ensure_ascii=False)[1:-1].encode(),
    "JSON with escaped slashes": json.dumps(SECRET)[1:-1].replace("/", "\\/").encode(),
    "repr": repr(SECRET)[1:-1].encode(),
    "URL": quote(SECRET).encode(),
    "URL component": quote(SECRET, safe="").encode(),
    "form": quote_plus(SECRET).encode(),
    "hex": SECRET.encode().hex().encode(),
    "HEX": SECRET.encode().hex().upper().encode(),
    "URL in lower case": quote(SECRET, safe="").lower().encode(),
    "URL, all": "".join(f"%{byte:02x}" for byte in SECRET.encode()).encode(),
    "URL, twice": quote(quote(SECRET, safe=""), safe="").encode(),
    "JSON, all": "".join(f"\\u{ord(char):04X}" for char in SECRET).encode(),
    "JSON, all, in JSON": "".join(f"\\\\u{ord(char):04X}" for char in SECRET).encode(),
    "JSON in JSON": json.dumps(json.dumps(SECRET)[1:-1])[1:-1].encode(),
    "JSON in a URL": quote(json.dumps(SECRET)[1:-1], safe="").encode(),
    "JSON and URL": "".join(
        f"%{ord(c):02x}" if n % 2 and c != "ü" else f"\\u{ord(c):04x}" for n, c in enumerate(SECRET)
    ).encode(),
    "JSON pointer": SECRET.replace("/", "~1").encode(),
    "repr, ASCII": ascii(SECRET)[1:-1].encode(),
    "repr of bytes": repr(SECRET.encode())[2:-1].encode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_value_is_masked_in_each_spelling_in_which_values_leak(spelling: str) -> None:
    assert Redactor([SECRET]).mask(b"<" + SPELLINGS[spelling] + b">") == b"<***>"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_value_is_masked_in_each_spelling_over_each_edge(spelling: str) -> None:
    redactor, whole = Redactor([SECRET]), b"<" + SPELLINGS[spelling] + b">"
    for edge in range(len(whole)):
        first, held = redactor.portion(b"", whole[:edge])
        second, held = redactor.portion(held, whole[edge:])
        assert first + second + redactor.mask(held) == b"<***>", edge
    held, shown = b"", b""
    for at in range(len(whole)):
        safe, held = redactor.portion(held, whole[at : at + 1])
        shown += safe
    assert shown + redactor.mask(held) == b"<***>"


@pytest.mark.parametrize("urlsafe", [False, True], ids=["standard", "urlsafe"])
@pytest.mark.parametrize("before", ["", "a", "ab", "user:"])
@pytest.mark.parametrize("after", ["", "z", "zz"])
def test_a_value_inside_base64_is_masked_at_each_alignment(before: str, after: str, urlsafe: bool) -> None:
    encode = base64.urlsafe_b64encode if urlsafe else base64.b64encode
    value = "sk-live_0123456789?>"
    text = (before + value + after).encode()
    masked = Redactor([value]).mask(encode(text))
    assert masked.count(b"***") == 1
    left = masked.replace(b"***", b"")
    # What is left stands for neighbours alone: a digit is six bits.
    assert len(left.rstrip(b"=")) <= (len(before) * 8) // 6 + (len(after) * 8 + 5) // 6


@given(
    parts=st.lists(
        st.sampled_from([b"abcd", b"abcdef", b"cdab", b"a", b"b", b"xy", b"aaaa", b"ef", b"**"]), max_size=12
    ),
    cuts=st.lists(st.integers(0, 60), max_size=8),
)
def test_whatever_the_portions_the_whole_is_masked_the_same(parts: list[bytes], cuts: list[int]) -> None:
    redactor = Redactor(["abcd", "abcdef", "cdab", "aaaa", "**xy"])
    whole = b"".join(parts)
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    held, shown = b"", b""
    for begin, end in itertools.pairwise(edges):
        safe, held = redactor.portion(held, whole[begin:end])
        shown += safe
    assert shown + redactor.mask(held) == redactor.mask(whole)


ESCAPED = (
    *(b"abcd", b"ab", b"cd", rb"\u0061", rb"\u006", b"2", rb"\x63d", b"%62", b"%6", b"\\", rb"\\", b"%25"),
    *(b"/%", rb"\/", rb"\u00", b"e9", rb"\ud83d", rb"\ude00", rb"\u005c", b"YWJj", rb"\n", rb"\u000a"),
)


@given(
    parts=st.lists(st.sampled_from(ESCAPED), max_size=14),
    cuts=st.lists(st.integers(0, 90), max_size=10),
    more=st.sampled_from([(), ("a/%62",)]),
)
@example(
    parts=[b"%25", b"abcd", b"abcd"], cuts=[], more=()
)  # what is held back must not begin within an escape
def test_whatever_the_portions_escapes_are_read_the_same(
    parts: list[bytes], cuts: list[int], more: tuple[str, ...]
) -> None:
    redactor = Redactor(["abcd", "\\u0061b", "cd\U0001f600", "cdab", *more])
    whole = b"".join(parts)
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    held, shown = b"", b""
    for begin, end in itertools.pairwise(edges):
        safe, held = redactor.portion(held, whole[begin:end])
        shown += safe
    assert shown + redactor.mask(held) == redactor.mask(whole)


@given(
    before=st.text("ab:", max_size=4),
    after=st.text("yz", max_size=3),
    cuts=st.lists(st.integers(0, 60), max_size=6),
)
def test_a_value_in_base64_is_masked_the_same_whatever_the_portions(
    before: str, after: str, cuts: list[int]
) -> None:
    redactor = Redactor(["hunter2"])
    whole = b"x" + base64.b64encode((before + "hunter2" + after).encode()) + b"y\n"
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    held, shown = b"", b""
    for begin, end in itertools.pairwise(edges):
        safe, held = redactor.portion(held, whole[begin:end])
        shown += safe
    assert shown + redactor.mask(held) == redactor.mask(whole)
    assert b"***" in redactor.mask(whole)


def test_a_value_that_begins_another_one_does_not_let_its_end_through() -> None:
    redactor = Redactor(["token", "token-of-admin"])
    first, held = redactor.portion(b"", b"token")
    second, held = redactor.portion(held, b"-of-admin.")
    assert first + second + redactor.mask(held) == b"***."


def test_json_is_masked_in_keys_texts_and_numbers_and_stays_json() -> None:
    redactor = Redactor(["12345", "token", "true"])
    masked = redactor.json({"token": [12345, 0.12345, "my token", True, None, 7]})
    assert masked == {"***": ["***", "***", "my ***", True, None, 7]}


def test_values_too_short_to_hide_are_left() -> None:
    assert Redactor(["abc", ""]).text("abc") == "abc"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("the file s3cr3t-va…", "the file ***…"),
        ("{ s3cr3t-va … et}", "{ *** … et}"),
        ("it is … r3t-value' is no integer", "it is … ***' is no integer"),
        ("…value and s3c…", "…*** and s3c…"),
        ("nothing … of it…", "nothing … of it…"),
    ],
    ids=["begin", "begin and no end", "end", "end and too little", "nothing"],
)
def test_what_a_cut_leaves_of_a_value_is_masked(text: str, masked: str) -> None:
    assert Redactor(["s3cr3t-value", "another"]).message(text) == masked


def test_values_that_overlap_on_and_on_are_not_held_for_ever() -> None:
    redactor = Redactor(["abab"])
    held, shown = b"", b""
    for portion in (b"\\u0061bab", *(b"ababab" * 3_000,) * 20):
        safe, held = redactor.portion(held, portion)
        shown += safe
        assert len(held) < 100_000
    assert b"abab" not in shown + redactor.mask(held)


def test_bytes_that_are_no_text_are_masked_too() -> None:
    assert Redactor(["\udcffkey-\udcfe"]).text("k\u00e9y") == "k\u00e9y"
    assert Redactor(["\udcffkey-\udcfe"]).mask(b"x\xffkey-\xfe") == b"x***"


def test_a_value_is_masked_where_it_is_used_without_its_white_space() -> None:
    assert Redactor(["hunter2secret\n"]).text("Bearer hunter2secret end") == "Bearer *** end"


def test_a_line_of_a_long_value_is_masked_by_itself() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0\n-----END KEY-----\n"
    assert "MIIEvQIBADANBgkqhkiG9w0" not in Redactor([key]).text("failed at MIIEvQIBADANBgkqhkiG9w0!")
