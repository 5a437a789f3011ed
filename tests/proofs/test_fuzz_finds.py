# ruff: noqa: SLF001 - two engines for one pattern are compared
"""What fuzzing found and was mended: not only is there an answer (see BOMBS), it is the right one."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.bed import Call, Fake, done, good, house, write_entry
from theory import Failure
from theory.config import load
from theory.entries import tree
from theory.entries.dockerfile import bases_of
from theory.entries.schemas import Mismatch, Schema
from theory.entries.strictyaml import BadYaml, parse_yaml
from theory.errors import RegistryFault, Usage
from theory.formats.canon import MAX_JSON_VALUES, BadJson, most_values, parse_json
from theory.store import blobs
from theory.store.filestore import FileStore
from theory.store.memo import recall, record_of, sealed
from theory_adapter_local.engine.connection import Lost
from theory_adapter_local.images.progress import _Task
from theory_adapter_local.images.pull import Progress

if TYPE_CHECKING:
    import re
    from pathlib import Path

    from theory import Outcome

# ---------------------------------------------------------------- too many values


def test_json_of_too_many_values_is_refused_before_it_is_read() -> None:
    parse_json("[" + "0," * (MAX_JSON_VALUES - 2) + "0]")
    with pytest.raises(BadJson, match="more than 500,000 values, which is the limit"):
        parse_json("[" + "0," * MAX_JSON_VALUES + "0]")


def test_commas_and_brackets_in_a_text_are_no_values() -> None:
    text = json.dumps(["[,{" * 400_000 + '\\" , "', "\\"])
    assert parse_json(text) == json.loads(text)


VALUES = st.recursive(
    st.none() | st.integers(-9, 9) | st.text('a,[{"\\', max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('k,"\\', max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


def values_in(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(values_in, inner))


@given(VALUES)
def test_a_text_never_has_more_values_than_are_counted(value: Any) -> None:
    assert values_in(value) <= most_values(json.dumps(value))


def test_an_output_of_too_many_values_is_checked_by_mime_and_size(tmp_path: Path) -> None:
    schema = {"properties": {"a.json": {"required": ["mime"]}, "b.json": {"type": "array"}}}
    write_entry(tmp_path / "entries", outputs=schema)

    def act(call: Call) -> Outcome:
        call.channel.started()
        call.write({"a.json": "[" + "0," * 500_000 + "0]", "b.json": "[0]"})
        return done()

    with house(tmp_path, Fake(act=act)) as runner:
        good(runner.run("test/thing@1"))


def test_yaml_of_too_many_values_is_refused() -> None:
    with pytest.raises(BadYaml, match="more than 100,000 values"):
        parse_yaml(b"- 0\n" * 100_000)


def test_a_value_below_long_names_has_the_line_of_what_it_is_in() -> None:
    value, lines = parse_yaml(b"? " + b"k" * 400 + b"\n:\n  - a\n  - b\nz: 1\n")
    assert value == {"k" * 400: ["a", "b"], "z": 1}
    assert (lines["/z"], lines[""]) == (5, 1)


def test_a_large_value_that_breaks_its_schema_is_told_one_fault() -> None:
    schema = Schema({"additionalProperties": {"items": {"type": "string"}}})
    with pytest.raises(Mismatch, match='0 is not of type "string"') as caught:
        schema.check({"k": [0] * 200_000})
    assert (caught.value.pointer, caught.value.more) == ("/k/0", 0)


# ---------------------------------------------------------------- .dockerignore

PATTERNS = st.lists(
    st.sampled_from(["*", "**", "**/", "a", "b", "/", "?", "[ab]", "[^a]", "\\*", ".", "é"]),
    min_size=1,
    max_size=6,
)
PATHS = st.lists(st.sampled_from(["a", "b", "/", "ab", ".", "é", "*"]), min_size=1, max_size=8).map("".join)


@given(PATTERNS.map("".join), PATHS)
def test_both_engines_find_the_same_paths(pattern: str, path: str) -> None:
    import re

    try:
        matches = tree._matcher(pattern)
    except re.error:
        return
    plain: re.Pattern[str] = re.compile(tree._regex(pattern), re.DOTALL)
    assert bool(matches(path)) is bool(plain.fullmatch(path))


def test_a_dockerignore_that_is_too_long_is_refused(tmp_path: Path) -> None:
    for text in ("a\n" * 1_001, "#" * 70_000):
        (tmp_path / ".dockerignore").write_text(text)
        with pytest.raises(RegistryFault, match=r"more than 64 KiB, or 1,000 lines"):
            tree.tree_of(tmp_path)


# ---------------------------------------------------------------- Dockerfile, configuration


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("ARG A=x\nFROM ${A:-${B:-y}}\n", ["x"]),
        ("FROM ${A:-${B:-y}}\n", ["y"]),
        ("ARG A=x\nFROM ${A:-${B:-${C:-y@sha256:0}}}\n", [""]),
        ("FROM a\nCOPY --from=" + "9" * 5000 + " a b\n", ["a", "9" * 5000]),
        ("FROM a\nCOPY --from=0 a b\nCOPY --from=1 a b\n", ["a", "1"]),
        ("FROM\\\n a \\\n# no\n  AS b\nFROM b\nFROM\tc\n\\\n", ["a", "c"]),
    ],
    ids=["a value", "a default", "nested too deeply", "a long number", "a stage", "lines that go on"],
)
def test_the_bases_of_a_dockerfile_are_what_they_were(text: str, names: list[str]) -> None:
    assert [base.name for base in bases_of(text)] == names


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 30_000, "a = " + "9" * 5000, "a." * 400 + "b = 1", "#" * 70_000]
)
def test_a_configuration_that_no_parser_should_read_is_refused_by_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "theory.toml").write_text(text)
    with pytest.raises(Usage, match=r"theory\.toml (is not TOML|has more than 64 KiB)"):
        load({"HOME": str(tmp_path)}, tmp_path)


@pytest.mark.parametrize(
    ("ours", "taken"),
    [("", True), ("# theory\n", True), ("[tool.theory]\n", False), ('[ "tool" . theory ]\n', False)],
)
def test_a_large_pyproject_is_nobodys_business_unless_it_speaks_to_us(
    ours: str, taken: bool, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text("# no\n" * 20_000 + ours)
    if taken:
        load({"HOME": str(tmp_path)}, tmp_path)
        return
    with pytest.raises(Usage, match=r"pyproject\.toml has more than 64 KiB"):
        load({"HOME": str(tmp_path)}, tmp_path)


# ---------------------------------------------------------------- records, an engine's messages

RECORD: dict[str, Any] = {
    "memo_key": "b3:" + "0" * 64,
    "source_execution_id": "x",
    "outputs": [],
    "meta": {"a": 1.5},
    "image_digest": None,
    "platform": "linux/amd64",
    "cost_micro_usd": 0,
}


@pytest.mark.parametrize(
    "change",
    [
        {"meta": [1]},
        {"meta": {"a": {}}},
        {"cost_micro_usd": -1},
        {"cost_micro_usd": True},
        {"platform": None},
        {"outputs": [{"path": "a", "cid": "b3:0", "size_bytes": 0, "mime": "x"}]},
        {"outputs": [{"path": "a", "cid": "b3:" + "0" * 64, "size_bytes": 0, "mime": {}}]},
        {"source_execution_id": 5},
    ],
    ids=str,
)
def test_a_memo_record_of_somebody_elses_making_is_not_served(change: dict[str, Any], tmp_path: Path) -> None:
    assert record_of(sealed(RECORD)).meta == {"a": 1.5}
    with pytest.raises(ValueError, match="of another form"):
        record_of(sealed({**RECORD, **change}))
    store = FileStore(tmp_path)
    store.put([blobs.stage(store, io.BytesIO(b""))])
    store.memo_set(RECORD["memo_key"], sealed({**RECORD, **change}))
    assert recall(store, RECORD["memo_key"], "/artifacts/outputs/") is None


class Said:
    """An engine that says this, and a channel."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def stream(self, *_: object, **__: object) -> io.BytesIO:
        return io.BytesIO(self.data)

    def write(self, *_: object) -> None:
        """Take the log."""


@pytest.mark.parametrize(
    "text", [b"x", b"[]", b"5", b'"error"', b"\xff", b"[" * 100_000, b"1" * 5000], ids=repr
)
def test_what_is_no_message_of_an_engine_is_a_broken_connection(text: bytes) -> None:
    engine: Any = Said(text)
    task = _Task(engine, "/build", {}, None, None, print)
    task.run()
    with pytest.raises(Lost, match="which is no message"):
        raise task.error or AssertionError


@pytest.mark.parametrize("detail", [5, [], {"current": "x"}, {"total": None}, None])
def test_a_pull_goes_on_whatever_its_progress_is(detail: Any) -> None:
    progress = Progress("x", Said(b""), lambda: 100.0)  # type: ignore[arg-type]  # the same
    layers: list[Any] = ["a", [], None]
    for layer in layers:
        progress.hear({"status": "Downloading", "id": layer, "progressDetail": detail})
    progress.hear({"status": "Pull complete", "id": "a"})


def test_a_name_that_is_nothing_but_accents_is_refused(tmp_path: Path) -> None:
    with house(tmp_path) as runner:
        envelope = runner.run(
            "test/thing@1", {"a": {"$attach": "x"}}, attachments={"x": "\u0300\u0316" * 25_000}
        )
    assert isinstance(envelope, Failure)
    assert envelope.code == "ERR_ATTACHMENT_NOT_FOUND"
