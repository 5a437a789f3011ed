"""Every bad request, as a user meets it: its code, exit status 2, words that name the place, a next step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from core.bed import Fake, house, write_entry
from theory import Failure
from theory.request import is_execution_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from core.commandline import Command
    from theory import Runner

SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "text": {"type": "string", "maxLength": 10_000},
        "a/b": {"type": "array", "items": {"maximum": 3}},
        "file": {"type": "object", "required": ["$artifact"]},
        "part": {
            "oneOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "required": ["kind", "text"],
                    "properties": {"kind": {"const": "text"}, "text": {"type": "string"}},
                },
                {
                    "type": "object",
                    "required": ["kind", "url"],
                    "properties": {"kind": {"const": "image"}, "url": {"type": "string"}},
                },
            ]
        },
    },
}
RUN = ("run", "test/strict@1")
DEEP = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"
ARTIFACT = "/artifacts/outputs/a.txt"

# inputs on standard input: what the message says
INPUTS: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "the inputs are empty, which is not JSON"),
    "a word": ('{\n "text": oops}', "expecting value at line 2, column 10"),
    "half an object": ('{"text": "a"', "at line 1, column 13"),
    "two documents": ("{} {}", "extra data at line 1, column 4"),
    "the same key twice": (
        '{"x": [{"a/b": 1, "a/b": 2}]}',
        "the key 'a/b' stands twice in one object at /x/0/a~1b",
    ),
    "NaN": ('{"x": {"y": NaN}}', "NaN or an infinite number, which JSON does not have at /x/y"),
    "a number without end": (
        '{"x": [1, -1e999]}',
        "NaN or an infinite number, which JSON does not have at /x/1",
    ),
    "100,000 levels": (DEEP, "nested deeper than 64 levels"),
    "65 levels": ('{"a":' + "[" * 64 + "]" * 64 + "}", "nested deeper than 64 levels at /a/0/0/0"),
    "more than 16 MiB": (b'{"text": "' + b"a" * 2**24 + b'"}', "which is over the limit of 16,777,216"),
    "2^53": (
        '{"n": {"m": 9007199254740992}}',
        "an integer beyond 2^53-1 has no exact JSON; send it as a string at /n/m",
    ),
    "an integer of 1,000 digits": ('{"n": ' + "9" * 1000 + "}", "99999999999999999999… has 1,000 digits"),
    "half a surrogate pair": (r'{"text": "\ud800"}', "a lone surrogate, which is no character at /text"),
    "a byte order mark": (b'\xef\xbb\xbf{"text": "a"}', "a byte order mark, which is not JSON"),
    "another encoding": ('{"text": "é"}'.encode("latin-1"), "byte 10 is not UTF-8"),
    "UTF-16": ('{"text": "a"}'.encode("utf-16"), "byte 0 is not UTF-8"),
    "a list": ("[1]", "the inputs are a list, not a JSON object"),
    "null": ("null", "the inputs are one value, not a JSON object"),
    "a wrong type": ('{"text": 1}', 'the inputs of test/strict@1 at /text: 1 is not of type "string"'),
    "an item of a key with a slash": ('{"a/b": [1, 5]}', "at /a~1b/1: 5 is greater than the maximum of 3"),
    "an unknown key": (
        '{"txet": "a"}',
        "at /txet: additional properties are not allowed ('txet' was unexpected)",
    ),
    "no branch at all": ('{"part": 5}', 'at /part: 5 is not of type "string", and 5 is not of type "object"'),
    "the wrong member of a branch": (
        '{"part": {"kind": "image", "url": 1}}',
        "at /part/url: 1 is not of type",
    ),
    "a branch with a member too few": (
        '{"part": {"kind": "text"}}',
        'at /part: "text" is a required property',
    ),
    "a kind that no branch has": (
        '{"part": {"kind": "sound"}}',
        'at /part/kind: it is none of "text", "image"',
    ),
    "$attach with a number": ('{"file": {"$attach": 1}}', '/file is not of the form {"$attach": "name"}'),
    "$attach with more": (
        '{"file": {"$attach": "a", "x": 1}}',
        '/file is not of the form {"$attach": "name"}',
    ),
    "$attach without a name": ('{"file": {"$attach": ""}}', '/file is not of the form {"$attach": "name"}'),
    "$attach of what is not given": (
        '{"file": {"$attach": "b"}}',
        "/file refers to the attachment 'b', which was not given",
    ),
    "$artifact with a number": ('{"file": {"$artifact": 1}}', '/file is not of the form {"$artifact"'),
    "$artifact with more": (
        f'{{"file": {{"$artifact": "{ARTIFACT}", "size_bytes": 1}}}}',
        "/file is not of the form",
    ),
    "$artifact with no cid": (
        f'{{"file": {{"$artifact": "{ARTIFACT}", "cid": "sha256:0"}}}}',
        "/file is not of the form",
    ),
    "$artifact outside": (
        '{"file": {"$artifact": "/etc/passwd"}}',
        "'/etc/passwd' at /file does not begin with /artifacts/",
    ),
    "$artifact upwards": ('{"file": {"$artifact": "/artifacts/../x"}}', "at /file has a segment '..'"),
    "$artifact that turns text around": (
        '{"file": {"$artifact": "/artifacts/a\u202eb"}}',
        r"'/artifacts/a\u202eb' at /file has a control",
    ),
    "$artifact with a NUL": (
        r'{"file": {"$artifact": "/artifacts/a\u0000"}}',
        r"'/artifacts/a\u0000' at /file has a control",
    ),
}

# code, words, arguments
COMMANDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "inputs from a missing file": (
        "ERR_INPUTS",
        "the file of --inputs-json, 'no.json', cannot be read: No such",
        ("--inputs-json", "@no.json"),
    ),
    "inputs from a folder": ("ERR_INPUTS", "'.', cannot be read: Is a directory", ("--inputs-json", "@.")),
    "inputs from nowhere": (
        "ERR_INPUTS",
        "the file of --inputs-json, '', cannot be read",
        ("--inputs-json", "@"),
    ),
    "inputs with a NUL": (
        "ERR_INPUTS",
        r"'a\u0000b', cannot be read: embedded null byte",
        ("--inputs-json", "@a\0b"),
    ),
    "an attachment that nothing refers to": (
        "ERR_INPUTS",
        "nothing in the inputs refers to the attachment 'x'",
        ("--attach", "x=a"),
    ),
    "an attachment twice": (
        "ERR_USAGE",
        "two attachments are called 'x'",
        ("--attach", "x=a", "--attach", "x=b"),
    ),
    "an attachment without =": ("ERR_USAGE", "--attach 'x' is not NAME=PATH", ("--attach", "x")),
    "an attachment without a name": ("ERR_USAGE", "--attach '=a' is not NAME=PATH", ("--attach", "=a")),
    "an attachment without a path": ("ERR_USAGE", "--attach 'x=' is not NAME=PATH", ("--attach", "x=")),
    "an empty attachment": ("ERR_USAGE", "--attach is empty", ("--attach", "")),
    "two readers of standard input": (
        "ERR_USAGE",
        "standard input can be read only once",
        ("--attach", "x=-", "--inputs-json", "-"),
    ),
    "an adapter that nobody has": (
        "ERR_UNKNOWN_ADAPTER",
        "no adapter 'abacus' is installed",
        ("--adapter", "abacus"),
    ),
    "an adapter of ours that is not here": (
        "ERR_UNKNOWN_ADAPTER",
        "no adapter 'modal' is installed",
        ("--adapter", "modal"),
    ),
    "an empty adapter": ("ERR_USAGE", "--adapter is empty", ("--adapter", "")),
    "an option that the adapter has not": (
        "ERR_ADAPTER_OPTIONS",
        "the adapter fake has no option 'colour'",
        ("-o", "colour=red"),
    ),
    "an option with a control character": (
        "ERR_ADAPTER_OPTIONS",
        r"has no option 'a\u001bb'",
        ("-o", "a\x1bb=1"),
    ),
    "an option of a wrong type": (
        "ERR_ADAPTER_OPTIONS",
        'the option exit_code of the adapter fake takes integer, not "1.5"',
        ("-o", "exit_code=1.5"),
    ),
    "an option of a wrong type in JSON": (
        "ERR_ADAPTER_OPTIONS",
        "the option exit_code of the adapter fake takes integer, not true",
        ("--adapter-opts-json", '{"exit_code": true}'),
    ),
    "an option out of range": (
        "ERR_ADAPTER_OPTIONS",
        "takes integer, not ",
        ("-o", "exit_code=9007199254740992"),
    ),
    "an option without a value": (
        "ERR_ADAPTER_OPTIONS",
        "-o 'exit_code' is not KEY=VALUE",
        ("-o", "exit_code"),
    ),
    "options with a key twice": (
        "ERR_ADAPTER_OPTIONS",
        "the key 'x' stands twice in one object at /x",
        ("--adapter-opts-json", '{"x": 1, "x": 2}'),
    ),
    "options that are no JSON": (
        "ERR_ADAPTER_OPTIONS",
        "expecting property name enclosed in double quotes at line 1, column 2",
        ("--adapter-opts-json", "{"),
    ),
    "options that are a list": (
        "ERR_ADAPTER_OPTIONS",
        "--adapter-opts-json is not a JSON object",
        ("--adapter-opts-json", "[]"),
    ),
    "an empty plan": ("ERR_USAGE", "--plan is empty", ("--plan", "")),
    "a plan with a line end": ("ERR_USAGE", r"the plan key 'a\u000ab' has a control", ("--plan", "a\nb")),
    "a plan that is too long": (
        "ERR_USAGE",
        "has 129 characters, and 1 to 128 are allowed",
        ("--plan", "p" * 129),
    ),
    "a plan that is not UTF-8": ("ERR_USAGE", "the plan key 'a?' has a control", ("--plan", "a\udce9")),
    "a seed below zero": ("ERR_USAGE", "the seed -1 is not between 0 and 2^53-1", ("--seed", "-1")),
    "a seed of 2^53": (
        "ERR_USAGE",
        "the seed 9007199254740992 is not between",
        ("--seed", "9007199254740992"),
    ),
    "half a seed": ("ERR_USAGE", "invalid value for '--seed': '1.5'", ("--seed", "1.5")),
    "a seed that is a word": ("ERR_USAGE", "invalid value for '--seed': 'x'", ("--seed", "x")),
    "no amount with an exponent": (
        "ERR_USAGE",
        "--reserve-usd: '1e3' is not an amount in USD",
        ("--reserve-usd", "1e3"),
    ),
    "an amount below zero": (
        "ERR_USAGE",
        "--reserve-usd: '-1' is not an amount in USD",
        ("--reserve-usd", "-1"),
    ),
    "an amount that is no number": (
        "ERR_USAGE",
        "--reserve-usd: 'NaN' is not an amount in USD",
        ("--reserve-usd", "NaN"),
    ),
    "an amount of 2^63": (
        "ERR_USAGE",
        "'9223372036854775808' is more than the ledger can hold",
        ("--reserve-usd", "9223372036854775808"),
    ),
    "an amount too fine": (
        "ERR_USAGE",
        "'0.0000001' has more than 6 decimals",
        ("--reserve-usd", "0.0000001"),
    ),
    "no time": ("ERR_USAGE", "the timeout 0.0 is not between 0 and 86,400 seconds", ("--timeout", "0")),
    "time that runs back": ("ERR_USAGE", "the timeout -1.0 is not between", ("--timeout", "-1")),
    "time that is no number": ("ERR_USAGE", "the timeout nan is not between", ("--timeout", "NaN")),
    "time without end": ("ERR_USAGE", "the timeout inf is not between", ("--timeout", "inf")),
    "a time that is a word": ("ERR_USAGE", "invalid value for '--timeout': 'a'", ("--timeout", "a")),
    "a prefix without its slash": (
        "ERR_WRITE_PREFIX",
        "--write-prefix must end with /",
        ("--write-prefix", "/artifacts/x"),
    ),
    "a prefix upwards": ("ERR_WRITE_PREFIX", "has a segment '..'", ("--write-prefix", "/artifacts/../x/")),
    "a prefix with another placeholder": (
        "ERR_WRITE_PREFIX",
        "has a placeholder other than {execution_id}",
        ("--write-prefix", "/artifacts/{ref}/"),
    ),
    "half a placeholder": (
        "ERR_WRITE_PREFIX",
        "has a placeholder other than {execution_id}",
        ("--write-prefix", "/artifacts/{execution_id/"),
    ),
    "a prefix of core's own": (
        "ERR_WRITE_PREFIX",
        "is kept for inputs",
        ("--write-prefix", "/artifacts/execution/x/"),
    ),
    "the same in capitals": (
        "ERR_WRITE_PREFIX",
        "is kept for inputs",
        ("--write-prefix", "/artifacts/INPUTS/"),
    ),
    "a prefix elsewhere": (
        "ERR_WRITE_PREFIX",
        "does not begin with /artifacts/",
        ("--write-prefix", "/outputs/"),
    ),
    "a prefix that is too long": (
        "ERR_WRITE_PREFIX",
        "is longer than 1024 bytes",
        ("--write-prefix", "/artifacts/" + "abc/" * 260),
    ),
    "a segment that is too long": (
        "ERR_WRITE_PREFIX",
        "has a segment longer than 255 bytes",
        ("--write-prefix", "/artifacts/" + "a" * 256 + "/"),
    ),
    "a prefix with an escape": (
        "ERR_WRITE_PREFIX",
        r"/artifacts/\u001b/ has a control",
        ("--write-prefix", "/artifacts/\x1b/"),
    ),
    "a prefix that turns text around": (
        "ERR_WRITE_PREFIX",
        r"/artifacts/\u202e/ has a control",
        ("--write-prefix", "/artifacts/\u202e/"),
    ),
    "an empty ref": ("ERR_USAGE", "--ref is empty", ("--ref", "")),
    "two refs": ("ERR_USAGE", "two refs: 'test/strict@1' and --ref 'a/b@1'", ("--ref", "a/b@1")),
    "an id that is none": (
        "ERR_USAGE",
        r"'\u001b[31m' is not an execution id",
        ("--execution-id", "\x1b[31m"),
    ),
    "a store that nobody has": (
        "ERR_UNKNOWN_ADAPTER",
        "no store 'ftp' is installed",
        ("--store", "ftp://host/x"),
    ),
    "a store by its scheme alone": ("ERR_UNKNOWN_ADAPTER", "no store 's3' is installed", ("--store", "s3:")),
    "a registry that is not there": ("ERR_REGISTRY", r"nowhere is not a folder", ("--registry", "nowhere")),
    "an empty registry": ("ERR_USAGE", "--registry is empty", ("--registry", "")),
    "a folder with a NUL": ("ERR_USAGE", r"--save-dir 'a\u0000' has a NUL character", ("--save-dir", "a\0")),
    "a file with a NUL": (
        "ERR_USAGE",
        r"--save-first 'a\u0000' has a NUL character",
        ("--save-first", "a\0"),
    ),
    "an option that there is not": ("ERR_USAGE", "no such option '--sead'", ("--sead", "1")),
    "an argument that is not UTF-8": ("ERR_USAGE", "no such option '--?'", ("--\udce9",)),
}
REFS: dict[str, tuple[str, str]] = {
    "test/strict": ("'test/strict' is not a processor reference", "did you mean test/strict@1?"),
    "Test/Strict@1": ("'Test/Strict@1' is not a processor reference", "did you mean test/strict@1?"),
    "test/strict@0": ("'test/strict@0' is not a processor reference", "write namespace/name@version"),
    "strict@1": ("'strict@1' is not a processor reference", "write namespace/name@version"),
    "../strict@1": ("'../strict@1' is not a processor reference", "write namespace/name@version"),
    "test/strict@2": ("no registry has test/strict@2", "did you mean test/strict@1"),
    "test/stirct@1": ("no registry has test/stirct@1", "did you mean test/strict@1"),
    "a\x1b[31m/b@1": (r"'a\x1b[31m/b@1' is not a processor reference", "write namespace/name@version"),
}


@pytest.fixture
def strict(theory: Command, tmp_path: Path) -> Command:
    write_entry(tmp_path / "entries", "test/strict@1", inputs=SCHEMA)
    return theory


def refused(strict: Command, *arguments: str, code: str, stdin: bytes | None = None) -> dict[str, Any]:
    """The error of a command line, which is one line of JSON, and a message on stderr without it."""
    told = strict(*arguments, "--json", stdin=stdin)
    error: dict[str, Any] = told.line["error"]
    assert (error["code"], told.code, told.err) == (code, 2, ""), told
    assert is_execution_id(told.line["execution_id"])
    assert error["hint"], error
    assert len(error["message"]) < 2500
    said = strict(*arguments, stdin=stdin)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("Error: ")
    assert "\nHint: " in said.err
    assert not {"\x1b", "\0", "\u202e"} & set(said.err)
    return error


@pytest.mark.parametrize(("text", "message"), INPUTS.values(), ids=INPUTS)
def test_inputs_that_cannot_be_used_are_refused_with_their_place(
    strict: Command, text: str | bytes, message: str
) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    file = "inputs.json"  # 16 MiB are more than a pipe holds
    with open(file, "wb") as stream:
        stream.write(data)
    error = refused(strict, *RUN, "--inputs-json", f"@{file}", code="ERR_INPUTS")
    assert message in error["message"]


@pytest.mark.parametrize(("code", "message", "arguments"), COMMANDS.values(), ids=COMMANDS)
def test_a_command_line_that_cannot_be_run_is_refused_by_name(
    strict: Command, code: str, message: str, arguments: tuple[str, ...]
) -> None:
    assert message in refused(strict, *RUN, *arguments, code=code)["message"]


def test_a_mistyped_option_gets_the_nearest_one(strict: Command) -> None:
    error = refused(strict, *RUN, "--sead", "1", code="ERR_USAGE")
    assert "--seed" in error["hint"]


@pytest.mark.parametrize("ref", REFS)
def test_a_ref_that_leads_nowhere_gets_the_nearest_one(strict: Command, ref: str) -> None:
    error = refused(strict, "run", ref, code="ERR_UNKNOWN_REF")
    message, hint = REFS[ref]
    assert error["message"] == message
    assert error["hint"].startswith(hint)


def test_standard_input_that_is_empty_is_said_to_be(strict: Command) -> None:
    error = refused(strict, *RUN, "--inputs-json", "-", code="ERR_INPUTS", stdin=b"")
    assert error["message"] == "the inputs are empty, which is not JSON"


@pytest.mark.parametrize(
    "option", ["--adapter", "--plan", "--write-prefix", "--inputs-json", "--store", "-o"]
)
def test_an_option_that_was_given_nothing_is_refused_by_name(strict: Command, option: str) -> None:
    assert refused(strict, *RUN, option, "", code="ERR_USAGE")["message"] == f"{option} is empty"


def test_an_artifact_is_refused_when_its_name_means_other_bytes_by_now(strict: Command) -> None:
    made = strict("run", "test/thing@1", "--json").ok().line["outputs"][0]
    inputs = {"file": {"$artifact": made["path"], "cid": "b3:" + "0" * 64}}
    error = refused(strict, *RUN, "--inputs-json", json.dumps(inputs), code="ERR_INPUTS")
    assert error["message"].startswith(f"the artifact {made['path']} is {made['cid']}, not b3:000")
    inputs["file"]["$artifact"] = "/artifacts/outputs/gone.txt"
    error = refused(strict, *RUN, "--inputs-json", json.dumps(inputs), code="ERR_ARTIFACT_NOT_FOUND")
    assert error["message"] == "no artifact is called /artifacts/outputs/gone.txt"


def test_an_adapter_that_is_broken_says_whose_it_is(strict: Command) -> None:
    told = strict(*RUN, "--adapter", "broken", "--json")
    assert (told.line["error"]["code"], told.code) == ("ERR_PLUGIN", 69)
    assert "'broken' of theory-cli-fake cannot be imported: RuntimeError" in told.line["error"]["message"]
    assert told.line["error"]["hint"] == "pip install --upgrade theory-cli-fake, or uninstall it"


# ---------------------------------------------------------------- the other commands

OTHERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "a prefix that is no world path": ("'outputs' is not the beginning of a world path", ("ls", "outputs")),
    "a limit that SQLite cannot hold": (
        "9223372036854775808 is not in the range",
        ("ls", "--limit", "9223372036854775808"),
    ),
    "an artifact without a name": ("no artifact is called ''", ("cat", "")),
    "an execution without an id": ("no execution is called ''", ("show", "")),
    "an artifact with an escape": (r"no artifact is called 'a\u001b[31m'", ("cat", "a\x1b[31m")),
    "an amount below zero": ("the limit: '-1' is not an amount in USD", ("plan", "limit", "default", "-1")),
    "a plan that is not there": (r"there is no plan 'a\u001b'", ("plan", "show", "a\x1b")),
    "a folder whose name is too long": ("is not a folder", ("registry", "check", "9" * 400)),
    "a target whose name is too long": ("is not a folder", ("get", "/artifacts/x", "--to", "9" * 400)),
    "an empty folder": ("DIR is empty", ("registry", "check", "")),
    "an empty store": ("--store is empty", ("show", "x", "--store", "")),
}


@pytest.mark.parametrize(("message", "arguments"), OTHERS.values(), ids=OTHERS)
def test_other_commands_refuse_in_the_same_words(
    theory: Command, message: str, arguments: tuple[str, ...]
) -> None:
    said = theory(*arguments)
    assert (said.code, said.out) == (2, "")
    assert message in said.err.splitlines()[0]
    assert "\nHint: " in said.err


def test_what_reads_blobs_takes_the_store_that_they_are_in(theory: Command, tmp_path: Path) -> None:
    store = str(tmp_path / "elsewhere")
    made = theory("run", "test/thing@1", "--store", store, "--json").ok().line
    path = made["outputs"][0]["path"]
    assert theory("cat", path).code == 2
    assert theory("cat", path, "--store", store).ok().out == "hello\n"
    theory("get", path, "--store", store).ok()
    assert (tmp_path / "a.txt").read_text() == "hello\n"
    assert theory("show", made["execution_id"], "--store", store).ok().json["envelope"] == made


def test_a_name_with_odd_characters_steers_no_terminal_and_ends_no_line(theory: Command) -> None:
    odd = "\x85\u2028\u202e\x9b31m"
    told = theory("run", "test/thing@1", odd, "--json")
    assert not set(odd) - set("31m") & set(told.out)
    assert len(told.out.splitlines()) == 1
    assert not set(odd) - set("31m") & set(theory("schema", odd).err)


def test_an_error_that_nobody_reads_still_has_its_status_and_no_traceback(theory: Command) -> None:
    del theory  # its surroundings are enough
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "theory", "run", "--json", "--nonsense"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (2, b"")


# ---------------------------------------------------------------- from Python


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    with house(tmp_path, Fake()) as opened:
        yield opened


PYTHON: dict[str, tuple[dict[str, Any], str]] = {
    "a ref of bytes": ({"ref": b"test/thing@1"}, "the ref is of type bytes, not text"),
    "no ref": ({"ref": None}, "the ref is of type NoneType, not text"),
    "an adapter that is a number": ({"adapter": 5}, "the adapter is of type int, not text"),
    "a plan that is a number": ({"plan": 5}, "the plan is of type int, not text"),
    "a prefix that is a number": ({"write_prefix": 5}, "the write prefix is of type int, not text"),
    "a time that is a word": ({"timeout": "a"}, "the timeout 'a' is not between 0 and 86,400 seconds"),
    "a time that is true": ({"timeout": True}, "the timeout True is not between"),
    "a seed that is a word": ({"seed": "1"}, "the seed '1' is not between 0 and 2^53-1"),
    "a memo that may be": ({"memo": "maybe"}, "memo is 'maybe'"),
    "a memo that is a list": ({"memo": ["on"]}, "memo is ['on']"),
    "an amount of half": ({"reserve_micro_usd": 0.5}, "the amount to reserve, 0.5, is not between"),
    "an id that is a number": ({"execution_id": 5}, "5 is not an execution id"),
    "an attachment that is a number": ({"attachments": {"x": 5}}, "the attachment 'x' is 5, not a path"),
    "an attachment without a name": ({"attachments": {"": "a"}}, "the attachment '' is 'a', not a path"),
    "attachments that are a list": (
        {"attachments": ["x"]},
        "the attachments are of type list, not a mapping",
    ),
    "options that are a list": ({"options": ["x"]}, "the options are ['x'], not a mapping by name"),
    "an option that is a number": ({"options": {5: 1}}, "the options are {5: 1}, not a mapping by name"),
}


@pytest.mark.parametrize(("given", "message"), PYTHON.values(), ids=PYTHON)
def test_an_argument_of_a_wrong_type_is_the_callers_fault_not_ours(
    runner: Runner, given: dict[str, Any], message: str
) -> None:
    envelope = runner.run(**{"ref": "test/thing@1", **given})
    assert isinstance(envelope, Failure)
    assert (envelope.code, envelope.exit_code) == ("ERR_USAGE", 2)
    assert envelope.message.startswith(message)
    assert envelope.hint
    assert is_execution_id(envelope.execution_id)


@pytest.mark.parametrize(
    "inputs", [5, [1], {1: 2}, {"a": b"x"}, {"a": {1}}, {"a": float("nan")}, bytearray(b"{}")]
)
def test_inputs_that_are_no_json_are_refused_from_python_too(runner: Runner, inputs: Any) -> None:
    envelope = runner.run("test/thing@1", inputs)
    assert isinstance(envelope, Failure)
    assert (envelope.code, envelope.exit_code) == ("ERR_INPUTS", 2)


def test_a_plan_that_cannot_be_is_refused_before_an_attachment_is_read(runner: Runner) -> None:
    envelope = runner.run(
        "test/thing@1", {"f": {"$attach": "f"}}, attachments={"f": "not-there"}, plan="a\nb"
    )
    assert isinstance(envelope, Failure)
    assert envelope.message.startswith("the plan key")


# ---------------------------------------------------------------- the same execution again


def test_a_closed_execution_answers_again_only_for_the_inputs_that_it_had(
    runner: Runner, tmp_path: Path
) -> None:
    schema = {"properties": {"n": {"default": 1}, "f": {"type": "object"}}}
    write_entry(tmp_path / "entries", "test/again@1", inputs=schema)
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    attach: dict[str, Any] = {"f": {"$attach": "f"}}
    first = runner.run("test/again@1", attach, attachments={"f": str(tmp_path / "a")})

    def again(inputs: dict[str, Any], file: str) -> object:
        attachments = {"f": str(tmp_path / file)}
        return runner.run("test/again@1", inputs, attachments=attachments, execution_id=first.execution_id)

    assert again(attach, "a") == first
    assert again({**attach, "n": 1}, "a") == first  # as the default says
    for inputs, file in (({**attach, "n": 2}, "a"), ({**attach, "n": True}, "a"), (attach, "b")):
        refusal = again(inputs, file)
        assert isinstance(refusal, Failure)
        assert (refusal.code, refusal.message) == (
            "ERR_USAGE",
            f"execution {first.execution_id} had other inputs",
        )
    (tmp_path / "a").write_text("its content is not read again")
    assert again(attach, "a") == first


def test_a_closed_execution_answers_again_only_for_the_seed_that_it_had(
    runner: Runner, tmp_path: Path
) -> None:
    write_entry(tmp_path / "entries", "test/again@1")
    first = runner.run("test/again@1", {}, seed=3)
    assert runner.run("test/again@1", {}, seed=3, execution_id=first.execution_id) == first
    refusal = runner.run("test/again@1", {}, execution_id=first.execution_id)
    assert isinstance(refusal, Failure)
    assert refusal.message == f"execution {first.execution_id} had the seed 3"
