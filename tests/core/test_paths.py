from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.errors import BadWritePrefix
from theory.formats import paths
from theory.formats.paths import check_write_prefix, collision_key, fault_of_path, fault_of_segment, printable

ID = "01890a5d-ac96-774b-bcce-b302099a8057"

FAULTS = {
    "relative": ("artifacts/a", "does not begin with /artifacts/"),
    "elsewhere": ("/etc/passwd", "does not begin with /artifacts/"),
    "upper case root": ("/Artifacts/a", "does not begin with /artifacts/"),
    "the root itself": ("/artifacts/", "has an empty segment"),
    "empty segment": ("/artifacts/a//b", "has an empty segment"),
    "ends with a slash": ("/artifacts/a/", "has an empty segment"),
    "dot": ("/artifacts/./a", "has a segment '.'"),
    "dot dot": ("/artifacts/a/../../b", "has a segment '..'"),
    "line end": ("/artifacts/a\nb", "has a control or direction-changing character"),
    "NUL": ("/artifacts/a\x00", "has a control or direction-changing character"),
    "C1 control": ("/artifacts/a\x9b", "has a control or direction-changing character"),
    "right to left": ("/artifacts/a\u202egnp.exe", "has a control or direction-changing character"),
    "isolate": ("/artifacts/a\u2066b", "has a control or direction-changing character"),
    "Arabic letter mark": ("/artifacts/a\u061c", "has a control or direction-changing character"),
    "backslash": ("/artifacts/a\\b", "has a slash or backslash inside a name"),
    "percent-encoded": ("/artifacts/a%2Fb", "has a percent-encoded character"),
    "not NFC": ("/artifacts/A\u030a", "is not in Unicode normal form C"),
    "long segment": ("/artifacts/" + "ä" * 128, "has a segment longer than 255 bytes"),
    "long path": ("/artifacts/" + "a/" * 507, "is longer than 1024 bytes"),
    "undecodable byte": ("/artifacts/\udcff", "has a name that is not UTF-8"),
    "lone surrogate": ("/artifacts/\ud800", "has a name that is not UTF-8"),
}


@pytest.mark.parametrize(("path", "fault"), FAULTS.values(), ids=FAULTS.keys())
def test_a_path_that_breaks_a_rule_is_told_which(path: str, fault: str) -> None:
    assert fault_of_path(path) == fault


@given(st.from_regex(paths._PLAIN, fullmatch=True))  # noqa: SLF001 - a law about the two ways
def test_what_is_plain_keeps_every_rule(segment: str) -> None:
    assert paths._fault_of_segment(segment) == ""  # noqa: SLF001 - as above


@pytest.mark.parametrize(
    "path",
    [
        "/artifacts/a",
        "/artifacts/outputs/text/response.txt",
        "/artifacts/é/日本語/😀",
        "/artifacts/..a/b../...",
        "/artifacts/100%/50%2/%zz",
        "/artifacts/a b",
        "/artifacts/" + "a" * 255,
        ("/artifacts/" + "a/" * 506 + "a")[:1024],
    ],
)
def test_a_path_that_keeps_the_rules_has_no_fault(path: str) -> None:
    assert fault_of_path(path) == ""


def test_a_slash_is_no_part_of_a_segment() -> None:
    assert fault_of_segment("a/b") == "has a slash or backslash inside a name"


@given(st.text())
def test_whatever_a_path_holds_the_answer_is_text_that_can_be_shown(text: str) -> None:
    fault_of_path("/artifacts/" + text).encode()
    printable(text).encode()


# ---------------------------------------------------------------- two names that are one


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/artifacts/README.md", "/artifacts/readme.MD"),
        ("/artifacts/straße", "/artifacts/STRASSE"),
        ("/artifacts/ﬁle", "/artifacts/file"),
        ("/artifacts/①", "/artifacts/1"),
        ("/artifacts/Å", "/artifacts/A\u030a"),
        ("/artifacts/ΑΣ", "/artifacts/ας"),
    ],
)
def test_names_that_a_file_system_may_take_for_one_have_one_key(one: str, other: str) -> None:
    assert collision_key(one) == collision_key(other)


def test_names_that_differ_have_two_keys() -> None:
    assert collision_key("/artifacts/a1") != collision_key("/artifacts/a2")


@given(st.text())
def test_a_key_is_its_own_key_and_that_of_every_normal_form(text: str) -> None:
    key = collision_key(text)
    assert collision_key(key) == key
    assert {collision_key(unicodedata.normalize(form, text)) for form in ("NFC", "NFKC")} == {key}


# ---------------------------------------------------------------- write prefix


@pytest.mark.parametrize("prefix", ["", "/artifacts/outputs", "/artifacts/x/{execution_id}", "x"])
def test_a_prefix_without_its_slash_has_the_message_of_the_document(prefix: str) -> None:
    with pytest.raises(BadWritePrefix, match=r"^--write-prefix must end with /$"):
        check_write_prefix(prefix, ID)


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        ("/", "does not begin with /artifacts/"),
        ("/tmp/", "does not begin with /artifacts/"),  # noqa: S108 - never opened
        ("artifacts/x/", "does not begin with /artifacts/"),
        ("/artifacts/../etc/", r"has a segment '\.\.'"),
        ("/artifacts//", "has an empty segment"),
        ("/artifacts/inputs/", "is kept for"),
        ("/artifacts/inputs/x/", "is kept for"),
        ("/artifacts/execution/", "is kept for"),
        ("/artifacts/EXECUTION/x/", "is kept for"),
        ("/artifacts/\uff49nputs/", "is kept for"),
        ("/artifacts/executio\u207f/", "is kept for"),
        ("/artifacts/{id}/", "has a placeholder other than"),
        ("/artifacts/{execution_id/", "has a placeholder other than"),
        ("/artifacts/{{execution_id}}/", "has a placeholder other than"),
        ("/artifacts/{execution_id.__class__}/", "has a placeholder other than"),
        ("/artifacts/{EXECUTION_ID}/", "has a placeholder other than"),
        ("/artifacts/a\u202eb/", "has a control or direction-changing character"),
        ("/artifacts/" + "a" * 256 + "/", "longer than 255"),
        ("/artifacts/\ud800/", "not UTF-8"),
    ],
)
def test_a_prefix_that_breaks_a_rule_is_refused_with_the_rule(prefix: str, reason: str) -> None:
    with pytest.raises(BadWritePrefix, match=reason) as caught:
        check_write_prefix(prefix, ID)
    caught.value.message.encode()
    assert "\u202e" not in caught.value.message


@pytest.mark.parametrize(
    ("prefix", "filled"),
    [
        ("/artifacts/", "/artifacts/"),
        ("/artifacts/outputs/", "/artifacts/outputs/"),
        ("/artifacts/inputs2/", "/artifacts/inputs2/"),
        ("/artifacts/my/inputs/", "/artifacts/my/inputs/"),
        ("/artifacts/inputst/", "/artifacts/inputst/"),
        ("/artifacts/{execution_id}/", f"/artifacts/{ID}/"),
        ("/artifacts/a-{execution_id}/{execution_id}-b/", f"/artifacts/a-{ID}/{ID}-b/"),
        ("/artifacts/%s/$x/", "/artifacts/%s/$x/"),
    ],
)
def test_the_one_placeholder_is_replaced_and_nothing_else(prefix: str, filled: str) -> None:
    assert check_write_prefix(prefix, ID) == filled


# ---------------------------------------------------------------- shown on a terminal


def test_harmful_characters_are_shown_escaped_and_long_text_is_cut() -> None:
    assert printable("a\x1b[31m\u202eb") == "a\\u001b[31m\\u202eb"
    assert printable("x" * 300) == "x" * 199 + "…"
    assert printable("x" * 200) == "x" * 200
