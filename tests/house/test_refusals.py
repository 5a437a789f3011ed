"""Every way in which `theory` says no: its code, its exit status, its words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from house.command import EntryMaker, Theory

HELLO = '{"messages":[{"role":"user","content":"Hello!"}]}'
RUN = ("run", "llm/litellm@1", "--adapter", "mock")

REFUSED = {
    "no arguments": (("run",), "ERR_USAGE", 2),
    "an unknown option": ((*RUN, "--nonsense"), "ERR_USAGE", 2),
    "an option without its value": ((*RUN, "--plan"), "ERR_USAGE", 2),
    "a seed that is no number": ((*RUN, "--seed", "seven"), "ERR_USAGE", 2),
    "a seed below zero": ((*RUN, "--seed", "-1"), "ERR_USAGE", 2),
    "an attachment without a name": ((*RUN, "--attach", "photo.jpg"), "ERR_USAGE", 2),
    "two refs": (("run", "llm/litellm@1", "--ref", "text/wordcount@1"), "ERR_USAGE", 2),
    "a word that is no ref": (("run", "litellm", "--adapter", "mock"), "ERR_UNKNOWN_REF", 2),
    "a ref that nobody has": (("run", "llm/litelm@1", "--adapter", "mock"), "ERR_UNKNOWN_REF", 2),
    "a version that nobody has": (("run", "llm/litellm@99", "--adapter", "mock"), "ERR_UNKNOWN_REF", 2),
    "inputs that are not JSON": ((*RUN, "--inputs-json", "{oops"), "ERR_INPUTS", 2),
    "inputs with NaN": ((*RUN, "--inputs-json", '{"messages":NaN}'), "ERR_INPUTS", 2),
    "inputs that are no object": ((*RUN, "--inputs-json", "[]"), "ERR_INPUTS", 2),
    "inputs that break the schema": ((*RUN, "--inputs-json", '{"messages":3}'), "ERR_INPUTS", 2),
    "inputs from a missing file": ((*RUN, "--inputs-json", "@missing.json"), "ERR_INPUTS", 2),
    "an $attach that was not given": (
        (*RUN, "--inputs-json", '{"messages":[{"content":[{"$attach":"x"}]}]}'),
        "ERR_INPUTS",
        2,
    ),
    "an attachment that nothing refers to": (
        (*RUN, "--inputs-json", HELLO, "--attach", "x=here.txt"),
        "ERR_INPUTS",
        2,
    ),
    "an unknown adapter": (
        ("run", "llm/litellm@1", "--adapter", "abacus", "--inputs-json", HELLO),
        "ERR_UNKNOWN_ADAPTER",
        2,
    ),
    "an unknown adapter option": (
        (*RUN, "--inputs-json", HELLO, "-o", "colour=red"),
        "ERR_ADAPTER_OPTIONS",
        2,
    ),
    "a wrong adapter option": (
        (*RUN, "--inputs-json", HELLO, "-o", "cost_micro_usd=much"),
        "ERR_ADAPTER_OPTIONS",
        2,
    ),
    "adapter options that are not JSON": (
        (*RUN, "--inputs-json", HELLO, "--adapter-opts-json", "{"),
        "ERR_ADAPTER_OPTIONS",
        2,
    ),
    "a write prefix outside": (
        (*RUN, "--inputs-json", HELLO, "--write-prefix", "/outputs/"),
        "ERR_WRITE_PREFIX",
        2,
    ),
    "a write prefix with ..": (
        (*RUN, "--inputs-json", HELLO, "--write-prefix", "/artifacts/../etc/"),
        "ERR_WRITE_PREFIX",
        2,
    ),
    "a write prefix kept for inputs": (
        (*RUN, "--inputs-json", HELLO, "--write-prefix", "/artifacts/inputs/"),
        "ERR_WRITE_PREFIX",
        2,
    ),
    "a registry that is not there": (
        (*RUN, "--inputs-json", HELLO, "--registry", "nowhere"),
        "ERR_REGISTRY",
        2,
    ),
    "an entry that needs a Docker image": (
        ("run", "llm/litellm@1", "--adapter", "process", "--inputs-json", HELLO),
        "ERR_MISSING_SECRET",
        2,
    ),
}
OTHERS = {
    "an unknown command": ("frobnicate",),
    "cat of what is not there": ("cat", "/artifacts/outputs/nothing.txt"),
    "get of what is not there": ("get", "/artifacts/outputs/nothing.txt"),
    "show of what is not there": ("show", "01890000-0000-7000-8000-000000000000"),
    "a plan that is not there": ("plan", "show", "nothing"),
    "a limit for a plan that is not there": ("plan", "limit", "nothing", "1"),
    "an amount below zero": ("plan", "create", "p", "--limit", "-1"),
    "an amount that is no number": ("plan", "create", "p", "--limit", "NaN"),
    "an adapter that is not there": ("adapters", "show", "abacus"),
    "an entry that is not there": ("registry", "show", "llm/litelm@1"),
    "a schema that is not there": ("schema", "nothing"),
}


@pytest.mark.parametrize(("arguments", "code", "status"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_with_json_is_one_line_with_code_message_and_hint(
    theory: Theory, arguments: tuple[str, ...], code: str, status: int
) -> None:
    (theory.cwd / "here.txt").write_text("here")
    result = theory("run", "--json", *arguments[1:])
    assert (result.line["status"], result.line["error"]["code"], result.code) == ("error", code, status)
    assert list(result.line) == ["status", "execution_id", "error", "meta"]
    assert {"code", "message", "hint"} <= set(result.line["error"])
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("arguments", "code", "status"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_without_json_is_a_message_on_stderr(
    theory: Theory, arguments: tuple[str, ...], code: str, status: int
) -> None:
    (theory.cwd / "here.txt").write_text("here")
    result = theory(*arguments)
    assert result.code == status, code
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("arguments", OTHERS.values(), ids=OTHERS)
def test_other_commands_refuse_on_stderr_alone(theory: Theory, arguments: tuple[str, ...]) -> None:
    result = theory(*arguments)
    assert (result.code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr


def test_an_option_that_click_refuses_leaves_stdout_one_line_wherever_json_stands(theory: Theory) -> None:
    assert theory("run", "--json", "--nonsense").line["error"]["code"] == "ERR_USAGE"


def test_docker_is_not_asked_where_local_is_not_installed(theory: Theory) -> None:
    result = theory("run", "llm/litellm@1", "--inputs-json", HELLO)
    assert (result.code, result.stdout) == (2, "")
    assert "pip install theory-adapter-local" in result.stderr


def test_a_write_prefix_without_its_slash_is_told_in_the_documents_words(theory: Theory) -> None:
    result = theory(*RUN, "--inputs-json", HELLO, "--write-prefix", "/artifacts/outputs")
    assert result.code == 2
    assert result.stderr.splitlines()[0] == "Error: --write-prefix must end with /"


def test_a_missing_attachment_is_told_in_the_documents_words(theory: Theory) -> None:
    result = theory(
        *RUN, "--attach", "x=path/to/file", "--inputs-json", '{"messages":[{"content":[{"$attach":"x"}]}]}'
    )
    assert result.code == 2
    assert result.stderr.splitlines()[0] == "Error: Attachment file not found: path/to/file"


def test_a_ref_with_a_typing_error_gets_the_near_one(theory: Theory) -> None:
    assert (
        "llm/litellm@1" in theory("run", "llm/litelm@1", "--adapter", "mock", "--json").line["error"]["hint"]
    )


def test_faulty_inputs_are_named_by_json_pointer(theory: Theory) -> None:
    error = theory(*RUN, "--inputs-json", '{"messages":3}', "--json").line["error"]
    assert "/messages" in error["message"]


def test_faulty_json_is_named_by_line_and_column(theory: Theory) -> None:
    error = theory(*RUN, "--inputs-json", '{\n "messages": oops}', "--json").line["error"]
    assert "line 2, column 14" in error["message"]


FAILURES = {
    "exits with a status": ("import sys\nprint('about to fail')\nsys.exit(7)\n", {}, "ERR_PROCESSOR", 1),
    "leaves a link": (
        "import os\nos.symlink('/etc/passwd', os.environ['THEORY_ROOT'] + '/job/out/x')\n",
        {},
        "ERR_OUTPUT_PATH",
        1,
    ),
    "leaves two names that are one": (
        "import os\nfor n in 'aA': open(os.environ['THEORY_ROOT'] + '/job/out/' + n, 'w').close()\n",
        {},
        "ERR_OUTPUT_DUPLICATE",
        1,
    ),
    "breaks its outputs schema": (
        "",
        {"outputs": {"type": "object", "required": ["a.txt"]}},
        "ERR_OUTPUTS",
        1,
    ),
    "takes too long": ("import signal\nsignal.pause()\n", {"runtime": {"timeout": 1}}, "ERR_TIMEOUT", 124),
}


@pytest.mark.parametrize(("program", "fields", "code", "status"), FAILURES.values(), ids=FAILURES)
def test_a_processor_that_fails_has_its_code(
    theory: Theory, entry: EntryMaker, program: str, fields: dict[str, object], code: str, status: int
) -> None:
    root = entry("test/bad@1", program, **fields)
    result = theory("run", "test/bad@1", "--adapter", "process", "--registry", root, "--json")
    assert (result.line["error"]["code"], result.code) == (code, status)


def test_a_failed_processor_shows_its_exit_code_and_the_end_of_its_log(
    theory: Theory, entry: EntryMaker
) -> None:
    root = entry("test/bad@1", FAILURES["exits with a status"][0])
    meta = theory("run", "test/bad@1", "--adapter", "process", "--registry", root, "--json").line["meta"]
    assert meta["exit_code"] == 7
    assert "about to fail" in meta["log_tail"]


def test_a_project_cannot_make_process_the_adapter(theory: Theory) -> None:
    (theory.cwd / "theory.toml").write_text('adapter = "process"\n')
    result = theory("run", "text/wordcount@1", "--inputs-json", '{"text":"a"}', "--json")
    assert result.code != 0
    assert "theory.toml" in result.line["error"]["message"] + result.line["error"]["hint"] + result.stderr


def test_process_runs_no_entry_of_a_folder_that_was_only_found(theory: Theory, entry: EntryMaker) -> None:
    entry("test/found@1", "raise SystemExit(0)\n").rename(theory.cwd / "registry")
    refused = theory("run", "test/found@1", "--adapter", "process", "--json")
    assert refused.code == 2
    assert "--registry" in refused.line["error"]["hint"]
    theory("run", "test/found@1", "--adapter", "process", "--registry", "registry", "--json").ok()


def test_a_folder_that_shadows_an_installed_ref_has_to_be_named(theory: Theory, entry: EntryMaker) -> None:
    entry("text/wordcount@1", "raise SystemExit(0)\n").rename(theory.cwd / "registry")
    refused = theory(
        "run", "text/wordcount@1", "--adapter", "mock", "--inputs-json", '{"text":"a"}', "--json"
    )
    assert refused.line["error"]["code"] == "ERR_REGISTRY"


def test_an_adapter_that_needs_no_docker_refuses_an_entry_without_a_command(
    theory: Theory, entry: EntryMaker
) -> None:
    root = entry("test/image@1", "", command=None)
    document = root / "test" / "image" / "1" / "processor.yaml"
    document.write_text(
        document.read_text().replace('"command": null, ', "").replace(', "command": null', "")
    )
    result = theory("run", "test/image@1", "--adapter", "process", "--registry", root, "--json")
    assert (result.line["error"]["code"], result.code) == ("ERR_UNSUPPORTED", 2)


def test_a_secret_that_is_missing_is_named_before_anything_runs(theory: Theory, entry: EntryMaker) -> None:
    root = entry("test/secret@1", "", secrets=["SOME_API_KEY"])
    result = theory("run", "test/secret@1", "--adapter", "process", "--registry", root, "--json")
    assert (result.line["error"]["code"], result.code) == ("ERR_MISSING_SECRET", 2)
    assert "SOME_API_KEY" in result.line["error"]["message"]


def test_a_secret_reaches_the_processor_and_nothing_else(theory: Theory, entry: EntryMaker) -> None:
    program = (
        "import os, sys\n"
        "print('key is', os.environ['SOME_API_KEY'])\n"
        "sys.exit(len(os.environ['SOME_API_KEY']))\n"
    )
    root = entry("test/secret@1", program, secrets=["SOME_API_KEY"])
    result = theory.with_environ(SOME_API_KEY="hunter2-hunter2")(
        *("run", "test/secret@1", "--adapter", "process", "--registry", root, "--json")
    )
    assert result.line["meta"]["exit_code"] == 15
    assert "hunter2" not in result.stdout + result.stderr
    kept = [path for path in theory.home.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert kept == []
