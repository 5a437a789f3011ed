"""What the mock adapter promises beyond the contract."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, get_args

import pytest

from theory import Capability, errors, types
from theory.testing.channel import RecordingChannel
from theory_adapter_mock import adapter as mock
from theory_adapter_mock.answer import answer_to

if TYPE_CHECKING:
    from collections.abc import Callable

    from theory.testing.bench import Ran

    Ask = Callable[..., Ran]

HELLO = {"messages": [{"role": "user", "content": "Hello!"}]}
CHAT = {"outputs": {"text/response.txt": "Hello from the mock model!", "meta.json": {"model": "mock-llm"}}}


def test_the_documented_example_has_26_bytes_and_counts_1_and_5_tokens(ask: Ask) -> None:
    outputs = ask(CHAT, inputs=HELLO).outputs()
    assert len(outputs["text/response.txt"]) == 26
    assert json.loads(outputs["meta.json"]) == {"model": "mock-llm", "tokens_in": 1, "tokens_out": 5}


def test_it_pretends_and_offers_every_capability() -> None:
    info = mock.describe_adapter()
    assert info.pretends
    assert info.offers == set(get_args(Capability))


def test_no_answer_depends_on_a_capability_of_the_machine() -> None:
    image = mock.identify(_processor(CHAT), mock.Options())
    assert (image.id[:8], image.digest, image.platform, image.python) == ("mock:b3:", None, "", None)
    assert image == mock.identify(_processor(CHAT), mock.Options())
    assert image != mock.identify(_processor(CHAT), mock.Options(fail="timeout"))


def test_the_answer_of_one_entry_is_never_that_of_another() -> None:
    for number in range(300):  # each is gone before the next comes, so that it may get the place of the last
        text = f"answer {number}"
        assert answer_to(_processor({"outputs": {"a.txt": text}})).texts == {"a.txt": text}


def test_every_option_has_a_line_of_help() -> None:
    import dataclasses

    assert all(field.metadata["help"] for field in dataclasses.fields(mock.Options))


# ---------------------------------------------------------------- answers that the entry gives


def test_a_text_is_written_as_it_is(ask: Ask) -> None:
    assert ask({"outputs": {"a.json": ' {"a": 1}', "é/b.md": "\r\né"}}).outputs() == {
        "a.json": b' {"a": 1}',
        "é/b.md": "\r\né".encode(),
    }


@pytest.mark.parametrize("value", [{"b": [1, None], "a": "é"}, [], 3, 0.5, True, None])
def test_any_other_value_is_written_as_json(ask: Ask, value: Any) -> None:
    data = ask({"outputs": {"a.json": value}}).outputs()["a.json"]
    assert json.loads(data) == value
    assert data.endswith(b"\n")
    assert b"\\u" not in data


@pytest.mark.parametrize(
    "path",
    ["", "/etc/a", "../a", "a/../../b", "a/", "a//b", "./a", "a\0b", "a\\b", "x" * 256, "é" * 128],
    ids=[
        *["empty", "absolute", "parent", "parent inside", "folder", "empty step", "here", "NUL", "backslash"],
        *["256 characters", "256 bytes"],
    ],
)
def test_an_output_outside_its_folder_is_a_fault_of_the_entry(ask: Ask, path: str) -> None:
    with pytest.raises(errors.RegistryFault, match=r"contract/steps@1: adapter\.mock\.outputs: "):
        ask({"outputs": {path: "text"}})


def test_an_output_that_is_a_file_and_a_folder_is_a_fault_of_the_entry(ask: Ask) -> None:
    with pytest.raises(errors.RegistryFault, match="'a' is a file and a folder"):
        ask({"outputs": {"a/b.txt": "", "a": ""}})


def test_outputs_that_are_no_object_are_a_fault_of_the_entry(ask: Ask) -> None:
    with pytest.raises(errors.RegistryFault, match=r"adapter\.mock\.outputs is no object"):
        ask({"outputs": ["a.txt"]})


def test_what_the_adapter_does_not_know_is_a_fault_of_the_entry(ask: Ask) -> None:
    with pytest.raises(errors.RegistryFault, match="'output'"):
        ask({"output": {}})


def test_an_entry_without_an_answer_is_refused_before_anything_is_spent() -> None:
    with pytest.raises(errors.Unsupported, match="at /pattern, ") as caught:
        mock.identify(_processor(None, {"type": "object", "pattern": "^a$"}), mock.Options())
    assert "adapter.mock.outputs" in caught.value.hint


# ---------------------------------------------------------------- tokens


def test_tokens_are_the_words_of_all_texts(ask: Ask) -> None:
    parts = [{"type": "text", "text": "three\nmore words"}, {"$artifact": "/artifacts/x"}, "one"]
    messages = [{"content": "two  words"}, {"content": parts}, {"role": "user"}, "none", {"content": 7}]
    told = {"outputs": {"a.txt": "a b", "b.txt": " c ", "meta.json": {}, "d.json": {"text": "not these"}}}
    meta = json.loads(ask(told, inputs={"messages": messages}).outputs()["meta.json"])
    assert meta == {"tokens_in": 6, "tokens_out": 3}


def test_counts_that_the_entry_gives_stay(ask: Ask) -> None:
    told = {"outputs": {"a.txt": "a b", "meta.json": {"tokens_out": 99}}}
    meta = json.loads(ask(told, inputs=HELLO).outputs()["meta.json"])
    assert meta == {"tokens_out": 99, "tokens_in": 1}


@pytest.mark.parametrize(
    "inputs", [{}, {"messages": "Hello!"}], ids=["no messages", "messages that are no array"]
)
def test_nothing_is_counted_or_streamed_without_messages(ask: Ask, inputs: dict[str, Any]) -> None:
    ran = ask(CHAT, inputs=inputs)
    assert json.loads(ran.outputs()["meta.json"]) == {"model": "mock-llm"}
    assert ran.channel.heard == ("started",)


def test_nothing_is_counted_where_there_is_no_object_for_it(ask: Ask) -> None:
    assert ask({"outputs": {"meta.json": "[]"}}, inputs=HELLO).outputs() == {"meta.json": b"[]"}


def test_the_tokens_that_stream_are_the_text(ask: Ask) -> None:
    text = " Grüße,\n\n  from \tme "
    ran = ask({"outputs": {"a.txt": text}}, inputs=HELLO)
    events = [json.loads(line) for line in ran.channel.output("stdout").splitlines()]
    assert {event["event"] for event in events} == {"token"}
    assert [event["text"] for event in events] == [" ", "Grüße,\n\n  ", "from \t", "me "]


def test_derived_counts_are_true_where_the_schema_allows_them(ask: Ask) -> None:
    meta = {
        "required": ["tokens_in"],
        "properties": {"tokens_in": {"type": "integer"}, "model": {"const": "m"}},
    }
    ran = ask(schema={"required": ["meta.json"], "properties": {"meta.json": meta}}, inputs=HELLO)
    assert json.loads(ran.outputs()["meta.json"]) == {"tokens_in": 1, "model": "m", "tokens_out": 0}


def test_no_count_breaks_the_schema_of_a_derived_answer(ask: Ask) -> None:
    meta = {"properties": {"model": {"const": "m"}}, "additionalProperties": False}
    ran = ask(schema={"required": ["meta.json"], "properties": {"meta.json": meta}}, inputs=HELLO)
    assert json.loads(ran.outputs()["meta.json"]) == {"model": "m"}


# ---------------------------------------------------------------- options


def test_an_execution_costs_what_one_says_even_when_it_fails(ask: Ask) -> None:
    assert ask(CHAT).outcome.cost_micro_usd == 0
    assert ask(CHAT, cost_micro_usd=100).outcome.cost_micro_usd == 100
    assert ask(CHAT, cost_micro_usd=100, fail="timeout").outcome.cost_micro_usd == 100


def test_a_failing_command_says_so_on_stderr_and_leaves_nothing(ask: Ask) -> None:
    ran = ask(CHAT, exit_code=7)
    assert (ran.outcome.ended, ran.outcome.exit_code) == ("exit", 7)
    assert ran.channel.output("stderr") == b"simulated failure: exit_code=7\n"
    assert ran.outputs() == {}


@pytest.mark.parametrize("fail", ["timeout", "oom"])
def test_a_run_can_end_at_once_as_a_real_one_might(ask: Ask, fail: str) -> None:
    ran = ask(CHAT, fail=fail)
    assert (ran.outcome.ended, ran.outcome.exit_code) == (fail, None)
    assert ran.took_s < 5


def test_a_latency_beyond_the_deadline_is_a_timeout(ask: Ask) -> None:
    ran = ask(CHAT, latency_s=60, channel=RecordingChannel(timeout=0.01))
    assert (ran.outcome.ended, ran.outcome.exit_code) == ("timeout", None)
    assert ran.outcome.duration_s >= 0.01


def test_a_latency_is_waited_for(ask: Ask) -> None:
    ran = ask(CHAT, latency_s=0.01)
    assert ran.outcome.exit_code == 0
    assert ran.outcome.duration_s >= 0.01


def test_bad_outputs_are_bad_under_every_schema(ask: Ask) -> None:
    ran = ask(CHAT, fail="outputs")
    assert ran.outcome.exit_code == 0
    assert ran.outputs().keys() == {"meta.json"}
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(ran.outputs()["meta.json"])


def test_a_bad_output_path_has_a_control_character(ask: Ask) -> None:
    assert [path for path in ask(CHAT, fail="output_path").outputs() if "\n" in path] == ["two\nlines.txt"]


def test_a_crash_is_an_exception(ask: Ask) -> None:
    with pytest.raises(RuntimeError, match="breaks down halfway"):
        ask(CHAT, fail="crash")


def test_a_line_can_be_logged(ask: Ask) -> None:
    assert ask(CHAT, log='{"event":"progress","fraction":0.5}').channel.output("stdout") == (
        b'{"event":"progress","fraction":0.5}\n'
    )


@pytest.mark.parametrize(
    "options",
    [
        *[{"cost_micro_usd": -1}, {"cost_micro_usd": 2**53}, {"exit_code": 256}, {"exit_code": -1}],
        *[{"latency_s": -0.1}, {"latency_s": float("nan")}, {"latency_s": float("inf")}],
    ],
    ids=str,
)
def test_an_option_out_of_its_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(
        errors.BadAdapterOptions, match=f"{next(iter(options))} of the mock adapter is .* between 0"
    ):
        mock.Options(**options)


def test_the_plugin_imports_nothing_that_the_run_does_not_need() -> None:
    heavy = [
        "subprocess",
        "tempfile",
        "asyncio",
        "jsonschema",
        "rfc8785",
        "yaml",
        "uuid",
        "theory_adapter_mock.derive",
    ]
    code = (
        f"import theory_adapter_mock.adapter, sys; print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def _processor(told: dict[str, Any] | None, schema: dict[str, Any] | None = None) -> types.Processor:
    from pathlib import Path

    return types.Processor(
        ref=types.Ref("a", "b", 1),
        description="",
        image=types.ImageSource(oci="none"),
        command=None,
        runtime=types.Runtime(),
        adapter={} if told is None else {"mock": told},
        secrets=types.SecretNeeds(),
        determinism="pure",
        reserve_micro_usd=0,
        inputs={},
        outputs=schema or {},
        folder=Path("/nowhere"),
        cid="",
        tree="",
    )
