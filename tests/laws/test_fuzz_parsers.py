# ruff: noqa: PT017, RUF005 - an error is one of two right answers; lists of odd things are easier to read in parts
"""Whatever text comes in: an answer that is right, or the named refusal; no other error, and no hang."""

from __future__ import annotations

import json
import posixpath
import re
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import jsonschema
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from theory.config import load
from theory.entries.schemachecks import faults_of_schema, misplaced_defaults
from theory.entries.schemas import BadSchema, Mismatch, Schema, at
from theory.entries.strictyaml import BadYaml, parse_yaml
from theory.errors import BadAdapterOptions, BadInputs, BadWritePrefix, TheoryError, UnknownRef, Usage
from theory.formats import paths, wire
from theory.formats.canon import MAX_INTEGER, BadJson, canonical, check_json, parse_json
from theory.formats.money import micro_usd, usd
from theory.options import options_of
from theory.request import check_plan_key
from theory.rooms.inputs import check_inputs
from theory.types import ImageSource, Processor, Ref, Runtime, SecretNeeds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from theory.types import JsonObject

GUARD_S = 20  # far more than any of these takes, even on a busy machine: a guard, no measure


@contextmanager
def guarded() -> Iterator[None]:
    """A hang ends the test, with the place where it hangs."""

    def hangs(*_: object) -> None:
        raise TimeoutError("a hang")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(GUARD_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


TEXT = st.text(st.characters(), max_size=40)  # lone surrogates, controls and all
SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-(2**54), 2**54)
    | st.floats()
    | st.sampled_from(["", "a", "$ref", "é", "e\u0301", "\ud800", "\0", "/artifacts/a", "b3:" + "0" * 64])
    | TEXT
)
KEYS = TEXT | st.sampled_from(["$attach", "$artifact", "cid", "mime", "a/b", "~", "", "__proto__"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


# ---------------------------------------------------------------- JSON and YAML

PIECES = st.sampled_from(
    [
        *'{}[]:,"\\ \n\t-+.eE019',
        "null",
        "true",
        "NaN",
        "-Infinity",
        '"a"',
        '"a":',
        r"\ud83d",
        r"\u0000",
        "1e400",
    ]
    + ["9007199254740993", "\ufeff", "\x00", "\u2028", "9" * 400, "[" * 100, "//", "'"]
)
ALMOST_JSON = st.lists(PIECES, max_size=30).map("".join) | VALUES.map(json.dumps) | TEXT


def strictly_read(text: str) -> Any:
    """The value as the standard library reads it, where nothing in it is against our rules."""
    twice: list[str] = []

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            twice.append("a key")
        return dict(pairs)

    value = json.loads(text, object_pairs_hook=members, parse_constant=twice.append)
    if twice:
        raise ValueError(twice[0])
    check_json(value)
    return value


@given(ALMOST_JSON)
@example('{"a": {"b": 1, "b": 2}}')
@example("[" * 100_000)
def test_json_is_read_as_the_standard_library_reads_it_or_refused(text: str) -> None:
    try:
        expected, fault = strictly_read(text), False
    except (ValueError, RecursionError):
        expected, fault = None, True
    with guarded():
        if fault:
            with pytest.raises(BadJson, match=r"."):
                parse_json(text)
        else:
            value = parse_json(text)
            assert value == expected
            assert parse_json(canonical(value)) == value


@given(st.binary(max_size=60) | ALMOST_JSON.map(lambda text: text.encode("utf-16", "surrogatepass")))
def test_bytes_are_json_of_ours_only_in_utf_8(data: bytes) -> None:
    try:
        value = parse_json(data)
    except BadJson:
        return
    assert parse_json(data.decode("utf-8")) == value


YAML_PIECES = st.sampled_from(
    [
        *"\n\n\n  \t-:?[]{},#&*!|>'\"%@`~",
        "a",
        "b: ",
        "- ",
        "  ",
        "key: value\n",
        "&a ",
        "*a",
        "!!str ",
        "<<: ",
    ]
    + [
        "---\n",
        "...\n",
        "0x1F",
        "0o7",
        ".nan",
        "1e3",
        '"\\u0000"',
        '"\\ud800"',
        "é",
        "\x85",
        "\u2028",
        "\x07",
        "? ",
    ]
    + ["[" * 70, "9007199254740993", "true", "null"]
)


@given(
    st.lists(YAML_PIECES, max_size=25).map(lambda pieces: "".join(pieces).encode()) | st.binary(max_size=40)
)
@example(b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n")
def test_yaml_is_json_of_ours_or_refused_with_a_line(data: bytes) -> None:
    with guarded():
        try:
            value, lines = parse_yaml(data)
        except BadYaml as error:
            assert 1 <= error.line <= len(data.splitlines()) + 1
            assert str(error)
            return
    assert lines[""] >= 1
    try:
        check_json(value)
    except BadJson as error:  # a double such as 1e999 or 9e19; the registry says where
        assert isinstance(at({"": value}, "/" + error.pointer), float)
        return
    again, _ = parse_yaml(canonical(value))
    assert again == value


# ---------------------------------------------------------------- what is typed


@given(
    st.from_regex(r"[a-zA-Z0-9_/@.-]{0,12}", fullmatch=True)
    | TEXT
    | st.builds("{}/{}@{}".format, TEXT, TEXT, SCALARS)
)
def test_a_ref_is_spelled_in_one_way(text: str) -> None:
    try:
        ref = Ref.parse(text)
    except UnknownRef as error:
        assert error.hint
    else:
        assert str(ref) == text


SEGMENTS = st.sampled_from(
    ["", ".", "..", "a", "é", "e\u0301", "%41", "{execution_id}", "{x}", "inputs", "a\\b", "\x1b"]
)
PATHS = st.lists(SEGMENTS | TEXT, max_size=5).map(lambda steps: "/artifacts/" + "/".join(steps)) | TEXT


@given(PATHS)
def test_a_world_path_that_passes_names_one_file_below_artifacts(path: str) -> None:
    if paths.fault_of_path(path) == "":
        assert posixpath.normpath(path) == path
        assert path.startswith("/artifacts/")
        assert len(path.encode("utf-8")) <= 1024
        assert not paths.HARMFUL.search(path)


@given(PATHS | PATHS.map(lambda path: path + "/"))
def test_a_write_prefix_is_a_folder_of_the_users_own_or_refused(prefix: str) -> None:
    try:
        filled = paths.check_write_prefix(prefix, "01890a5d-ac96-774b-bcce-b302099a8057")
    except BadWritePrefix as error:
        assert error.hint
        return
    assert paths.fault_of_path(filled + "x") == ""
    assert not paths.collision_key(filled).startswith(("/artifacts/inputs/", "/artifacts/execution/"))
    assert "{" not in filled


@given(st.from_regex(r"[0-9]{0,12}\.?[0-9]{0,8}", fullmatch=True) | TEXT | st.floats().map(str))
def test_an_amount_is_exact_or_refused(text: str) -> None:
    try:
        micro = micro_usd(text)
    except ValueError as error:
        assert not isinstance(error, UnicodeError)
        return
    assert Decimal(text) * 1_000_000 == micro
    assert 0 <= micro <= MAX_INTEGER
    assert micro_usd(usd(micro)) == micro


@given(TEXT | st.text("ab -é", max_size=130))
def test_a_plan_key_that_passes_is_one_line_that_a_terminal_can_show(key: str) -> None:
    try:
        check_plan_key(key)
    except Usage as error:
        assert error.hint
        return
    assert key == key.strip() == "".join(key.splitlines())
    assert 1 <= len(key) <= 128
    assert key.encode()


@dataclass(frozen=True)
class Options:
    """One of each kind."""

    name: str = ""
    count: int = 0
    share: float = 0.0
    loud: bool = False
    mode: Literal["fast", "slow"] = "fast"
    level: int | None = None


@given(
    st.dictionaries(
        st.sampled_from(["name", "count", "share", "loud", "mode", "level"]) | TEXT, VALUES, max_size=3
    )
)
def test_options_have_the_types_that_they_say_or_are_refused(wanted: dict[str, Any]) -> None:
    try:
        found = options_of("x", Options, wanted)
    except BadAdapterOptions as error:
        assert error.hint
        assert len(error.message) < 2000
        return
    assert isinstance(found, Options)
    kinds = (type(found.name), type(found.count), type(found.share), type(found.loud))
    assert kinds == (str, int, float, bool)
    assert found.mode in {"fast", "slow"}
    assert abs(found.count) <= MAX_INTEGER
    assert found.share - found.share == 0


# ---------------------------------------------------------------- schemas and inputs

KEYWORDS = st.sampled_from(
    [
        "type",
        "properties",
        "items",
        "required",
        "enum",
        "const",
        "$ref",
        "$defs",
        "anyOf",
        "oneOf",
        "not",
        "default",
    ]
    + [
        "pattern",
        "patternProperties",
        "additionalProperties",
        "minimum",
        "maxLength",
        "$id",
        "$anchor",
        "$schema",
    ]
    + ["if", "then", "prefixItems", "dependentSchemas", "unevaluatedProperties", "$dynamicRef", "format", "x"]
)
WORDS: st.SearchStrategy[Any] = st.sampled_from(
    [
        "string",
        "object",
        "#",
        "#/$defs/a",
        "#/properties/a",
        "#nope",
        "http://127.0.0.1:9/x",
        "file:///etc/passwd",
    ]
    + [
        "(?=a)",
        "(a+)+$",
        "(",
        "[",
        "a{1000}{1000}",
        "^a$",
        0,
        1,
        -1,
        True,
        False,
        None,
        1.5,
        ["a"],
        ["string"],
        [],
    ]
    + [{}, "urn:x", "https://json-schema.org/draft/2020-12/schema", "%41", "#/a%20b"]
)
SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    WORDS,
    lambda inner: (
        st.dictionaries(KEYWORDS | st.sampled_from(["a", "b"]), inner, max_size=4)
        | st.lists(inner, max_size=3)
    ),
    max_leaves=10,
).filter(lambda value: isinstance(value, dict))
DOCUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from(["", "a", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaab"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(SCHEMAS, DOCUMENTS)
@example({"$ref": "#"}, {"a": 1})
@example({"properties": {"a": {"$ref": "#", "default": {}}}}, {"a": {}})
def test_any_object_is_a_schema_or_has_named_faults(document: JsonObject, value: Any) -> None:
    with guarded():
        try:
            schema = Schema(document)
        except BadSchema as error:
            assert faults_of_schema(document)
            assert str(error)
            return
        assert faults_of_schema(document) == []
        assert all(
            at(document, pointer) is not None or pointer for pointer, _ in misplaced_defaults(document)
        )
        jsonschema.Draft202012Validator.check_schema(document)
        filled = schema.with_defaults(value)
        try:
            schema.check(filled)
        except Mismatch as fault:
            assert str(fault)
            assert next(schema.faults(filled), None)
        else:
            assert not list(schema.faults(filled))


def processor(tmp_path: Path, inputs: JsonObject) -> Processor:
    ref = Ref("a", "b", 1)
    return Processor(
        ref, "", ImageSource("D"), None, Runtime(), {}, SecretNeeds(), "pure", 0, inputs, {}, tmp_path, "", ""
    )


@given(
    VALUES | ALMOST_JSON,
    st.dictionaries(
        st.sampled_from(["a", "", "é"]) | TEXT,
        st.sampled_from(["a", "-", "x/é", "s3://k@h/f?q"]) | TEXT,
        max_size=2,
    ),
)
def test_inputs_are_taken_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, raw: Any, attachments: dict[str, str]
) -> None:
    entry = processor(tmp_path_factory.getbasetemp(), {"type": "object"})
    with guarded():
        try:
            inputs = check_inputs(entry, raw, attachments)
        except TheoryError as error:
            assert error.exit_code == 2
            assert error.hint or isinstance(error, BadInputs)
            assert len(error.message) < 2500
            return
    assert {found.name for found in inputs.attachments} == set(attachments)


# ---------------------------------------------------------------- what was written, and a configuration

ARTIFACTS = st.fixed_dictionaries(
    {"path": st.text(), "cid": st.text(), "size_bytes": st.integers(), "mime": st.text()}
)
META = st.dictionaries(
    st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(max_size=5), max_size=3
)
SUCCESSES = st.fixed_dictionaries(
    {
        "status": st.just("success"),
        "execution_id": st.text(),
        "outputs": st.lists(ARTIFACTS, max_size=3),
        "index_path": st.text(),
        "receipt_path": st.text(),
        "meta": META,
    }
)
FAILURES = st.fixed_dictionaries(
    {
        "status": st.just("error"),
        "execution_id": st.text(),
        "error": st.fixed_dictionaries(
            {"code": st.text(), "message": st.text(), "hint": st.text(), "exit_status": st.integers()}
        ),
        "meta": META,
    }
)


@given(SUCCESSES | FAILURES)
def test_an_envelope_is_read_as_it_was_written(document: dict[str, Any]) -> None:
    assert wire.envelope_document(wire.envelope_of(document)) == document


@given(SUCCESSES | FAILURES, st.data())
def test_an_envelope_that_lacks_a_member_is_refused_by_its_name(
    document: dict[str, Any], data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(sorted(document)))
    del document[gone]
    with pytest.raises(KeyError, match=re.escape(gone)):
        wire.envelope_of(document)


NAMES = st.sampled_from(["status", "outputs", "error", "meta", "execution_id", "memo_key", "path", "cid"])
FORMS: st.SearchStrategy[Any] = st.recursive(
    SCALARS | st.just("success"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=8),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, FORMS, max_size=8))
def test_a_record_of_another_form_raises_nothing_but_what_its_readers_catch(document: dict[str, Any]) -> None:
    for read in (wire.envelope_of, wire.memo_of, wire.artifact_of):
        try:
            read(document)
        except (KeyError, TypeError):
            continue


@given(
    st.lists(
        st.sampled_from(
            [
                'adapter = "x"\n',
                "adapter = 1\n",
                "[adapters]\n",
                "[adapters.x]\n",
                "a = 1\n",
                'registry = ["r"]\n',
            ]
        )
        | st.sampled_from(
            [
                'store = "s3:"\n',
                "registry = 5\n",
                "[tool.theory]\n",
                "home = 1979-05-27\n",
                "\x00",
                'plan = "\\u0000"\n',
            ]
        )
        | TEXT,
        max_size=5,
    ),
    st.dictionaries(
        st.sampled_from(
            ["THEORY_STORE", "THEORY_HOME", "THEORY_REGISTRY", "THEORY_ADAPTER", "XDG_DATA_HOME"]
        ),
        TEXT,
        max_size=3,
    ),
)
def test_a_configuration_is_read_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str], environ: dict[str, str]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "configured"
    folder.mkdir(exist_ok=True)
    (folder / "theory.toml").write_bytes("".join(pieces).encode("utf-8", "surrogatepass"))
    try:
        settings = load({"HOME": str(folder), **environ}, folder)
    except Usage as error:
        assert error.message
        return
    assert settings.home.is_absolute()
    assert ":" in settings.store
