"""Each option of `theory run`, its default and what it refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from house.command import EntryMaker, Theory

HELLO = '{"messages":[{"role":"user","content":"Hello!"}]}'
MOCK = ("run", "llm/litellm@1", "--adapter", "mock", "--json")


def test_inputs_may_come_from_a_file(theory: Theory) -> None:
    (theory.cwd / "inputs.json").write_text(HELLO)
    assert theory(*MOCK, "--inputs-json", "@inputs.json").ok().line["meta"]["tokens_in"] == 1


def test_inputs_may_come_from_stdin(theory: Theory) -> None:
    assert theory(*MOCK, "--inputs-json", "-", stdin=HELLO).ok().line["meta"]["tokens_in"] == 1


def test_inputs_are_an_empty_object_unless_told(theory: Theory) -> None:
    error = theory(*MOCK).line["error"]
    assert error["code"] == "ERR_INPUTS"
    assert "messages" in error["message"]


def test_an_attachment_may_come_from_stdin(theory: Theory) -> None:
    result = theory(
        *("run", "text/wordcount@1", "--adapter", "process", "--json", "--attach", "words=-"),
        *("--inputs-json", '{"file":{"$attach":"words"}}'),
        stdin="to be or not to be\n",
    ).ok()
    counts = theory("cat", result.line["outputs"][0]["path"]).ok().json
    assert counts["words"] == 6


@pytest.mark.parametrize(
    "options",
    [("--adapter-opts-json", '{"cost_micro_usd":100}'), ("-o", "cost_micro_usd=100")],
    ids=["as JSON", "as key=value"],
)
def test_an_adapters_option_reaches_it(theory: Theory, options: tuple[str, ...]) -> None:
    assert theory(*MOCK, "--inputs-json", HELLO, *options).ok().line["meta"]["cost_micro_usd"] == 100


def test_the_seed_is_in_the_receipt(theory: Theory) -> None:
    envelope = theory(*MOCK, "--inputs-json", HELLO, "--seed", "9007199254740991").ok().line
    assert theory("cat", envelope["receipt_path"]).ok().json["seed"] == 9007199254740991


def test_an_execution_id_that_is_closed_answers_with_its_envelope(theory: Theory) -> None:
    first = theory(*MOCK, "--inputs-json", HELLO).ok()
    again = theory(*MOCK, "--inputs-json", HELLO, "--execution-id", first.line["execution_id"]).ok()
    assert again.line == first.line


def test_the_adapter_is_local_unless_told(theory: Theory) -> None:
    result = theory("run", "llm/litellm@1", "--inputs-json", HELLO, "--json")
    assert result.code == 2
    assert result.line["error"]["code"] == "ERR_UNKNOWN_ADAPTER"
    assert "'local'" in result.line["error"]["message"]
    assert "pip install theory-adapter-local" in result.line["error"]["hint"]


@pytest.mark.parametrize("spelling", ["file://{}", "file:{}", "{}"])
def test_a_store_can_be_chosen(theory: Theory, spelling: str) -> None:
    elsewhere = theory.cwd / "elsewhere"
    theory(*MOCK, "--inputs-json", HELLO, "--store", spelling.format(elsewhere)).ok()
    assert (elsewhere / "small.db").stat().st_size > 0


def test_a_registry_folder_can_be_named(theory: Theory, entry: EntryMaker) -> None:
    root = entry("test/note@1", "open('/dev/null')\n")
    result = theory("run", "test/note@1", "--adapter", "mock", "--registry", root, "--json")
    assert result.line["execution_id"]
    assert result.line.get("error", {}).get("code") != "ERR_UNKNOWN_REF"


def test_a_timeout_ends_the_command(theory: Theory, entry: EntryMaker) -> None:
    root = entry("test/forever@1", "import signal\nsignal.pause()\n")
    result = theory(
        *("run", "test/forever@1", "--adapter", "process", "--registry", root, "--timeout", "1", "--json"),
    )
    assert result.code == 124
    assert result.line["error"]["code"] == "ERR_TIMEOUT"


def test_quiet_keeps_the_log_of_the_processor_to_itself(theory: Theory, entry: EntryMaker) -> None:
    root = entry("test/chats@1", "print('so it goes')\n")
    run = ("run", "test/chats@1", "--adapter", "process", "--registry", root, "--json")
    assert "so it goes" in theory(*run).ok().stderr
    assert "so it goes" not in theory(*run, "--quiet").ok().stderr


def test_help_names_every_option_of_the_document(theory: Theory) -> None:
    shown = theory("run", "--help").ok().stdout
    documented = (
        "--ref --adapter --plan --write-prefix --inputs-json --adapter-opts-json --attach --json --save-dir "
        "--save-first --stream --seed --timeout --memo --no-memo --refresh --execution-id --store --registry "
        "--build --quiet --debug --reserve-usd"
    )
    assert [option for option in documented.split() if option not in shown] == []


def test_stdout_is_the_envelope_and_nothing_else(theory: Theory) -> None:
    result = theory(
        "run", "llm/litellm@1", "--adapter", "mock", "--inputs-json", HELLO, "--stream", "--plan", "p"
    )
    assert json.loads(result.ok().stdout)["status"] == "success"
