"""The command line, in process: one answer on stdout, everything else on stderr, the right status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

from core.bed import write_entry
from theory.cancel import Cancellation
from theory.cli import COMMANDS, run_command_line
from theory.cli.show import Events, clean

if TYPE_CHECKING:
    from core.commandline import Command, Said

RUN = ("run", "test/thing@1")


# ---------------------------------------------------------------- run


def test_json_is_one_compact_line_and_without_it_the_same_indented(theory: Command) -> None:
    compact, indented = theory(*RUN, "--json").ok(), theory(*RUN).ok()
    assert compact.line.keys() == indented.json.keys()
    assert indented.out.startswith('{\n  "status": "success",\n')
    assert compact.err == indented.err == ""


def test_the_ref_is_an_argument_or_an_option(theory: Command) -> None:
    assert theory("run", "--ref", "test/thing@1", "--json").ok().line["status"] == "success"
    assert theory(*RUN, "--ref", "test/thing@1").code == 0
    assert theory(*RUN, "--ref", "other/thing@1", "--json").line["error"]["code"] == "ERR_USAGE"


def outputs(said: Said) -> dict[str, str]:
    return {output["path"].rpartition("/")[2]: output["cid"] for output in said.ok().line["outputs"]}


def saved(theory: Command, *arguments: str | Path, stdin: bytes | None = None) -> dict[str, Any]:
    """The JSON outputs of a run, by name."""
    theory(*RUN, "--json", "--save-dir", "saved", *arguments, stdin=stdin).ok()
    folder = Path("saved/artifacts/outputs")
    return {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}


def test_inputs_come_from_the_line_a_file_or_standard_input(theory: Command) -> None:
    Path("in.json").write_text('{"from": "file"}')
    assert saved(theory)["inputs"] == {}
    assert saved(theory, "--inputs-json", '{"from":"line"}')["inputs"] == {"from": "line"}
    assert saved(theory, "--inputs-json", "@in.json")["inputs"] == {"from": "file"}
    assert saved(theory, "--inputs-json", "-", stdin=b'{"from":"stdin"}')["inputs"] == {"from": "stdin"}


def test_options_come_as_json_or_one_by_one_and_build_is_one_of_them(theory: Command) -> None:
    given = ("--adapter-opts-json", '{"cost_micro_usd": 1}', "-o", "lines=a", "--build")
    expected = {"cost_micro_usd": 1, "lines": "a", "exit_code": 0, "build": True}
    assert saved(theory, *given)["options"] == expected


@pytest.mark.parametrize(
    "given",
    [
        ("--adapter-opts-json", '{"exit_code": 0}', "-o", "exit_code=1"),
        ("-o", "exit_code=0", "-o", "exit_code=1"),
    ],
    ids=["in both forms", "twice in one form"],
)
def test_an_option_of_the_adapter_that_is_given_twice_is_refused(
    theory: Command, given: tuple[str, ...]
) -> None:
    error = theory(*RUN, *given, "--json").line["error"]
    assert (error["code"], error["message"]) == (
        "ERR_ADAPTER_OPTIONS",
        "the option 'exit_code' is given twice",
    )


def test_an_attachment_may_be_standard_input(theory: Command) -> None:
    given = ("--attach", "f=-", "--inputs-json", '{"f":{"$attach":"f"}}')
    found = saved(theory, *given, stdin=b"x")["inputs"]["f"]
    assert found["$artifact"].endswith("/f")


def test_the_first_output_is_saved_as_a_file(theory: Command) -> None:
    theory(*RUN, "--save-first", "first.txt").ok()
    assert Path("first.txt").read_text() == "hello\n"


def test_memo_options_choose_the_policy(theory: Command) -> None:
    said = [
        theory(*RUN, "--json", *more).line["meta"]["memo"]
        for more in ((), (), ("--no-memo",), ("--refresh",))
    ]
    assert said == ["miss", "hit", "off", "miss"]
    assert theory(*RUN, "--refresh", "--no-memo", "--json").line["error"]["code"] == "ERR_USAGE"


def test_an_execution_can_be_asked_for_again(theory: Command) -> None:
    first = theory(*RUN, "--json", "-o", "exit_code=7")
    again = theory(*RUN, "--json", "--execution-id", first.line["execution_id"])
    assert (first.code, again.code) == (1, 1)
    assert again.line == first.line
    assert first.line["meta"]["exit_code"] == 7


def test_money_plan_prefix_seed_time_store_and_registry_are_passed_on(
    theory: Command, tmp_path: Path
) -> None:
    write_entry(tmp_path / "more", "more/thing@2")
    said = theory(
        *("run", "more/thing@2", "--registry", "more", "--store", "other-store", "--json"),
        *(
            "--plan",
            "team",
            "--reserve-usd",
            "0.5",
            "-o",
            "cost_micro_usd=9",
            "--write-prefix",
            "/artifacts/p/",
        ),
        *("--seed", "7", "--timeout", "9.5", "--quiet"),
    )
    assert said.ok().line["outputs"][0]["path"] == "/artifacts/p/a.txt"
    assert "the plan 'team' is new" in said.err
    assert theory("plan", "show", "team").json["spent_micro_usd"] == 9
    assert (tmp_path / "other-store" / "format").exists()
    receipt = theory("show", said.line["execution_id"], "--debug")
    assert receipt.code in {0, 2}


@pytest.mark.parametrize("spelling", ["{}", "file:{}", "file://{}", "relative"])
def test_a_store_is_a_folder_or_a_url(theory: Command, tmp_path: Path, spelling: str) -> None:
    theory(*RUN, "--store", spelling.format(tmp_path / "relative")).ok()
    assert (tmp_path / "relative" / "format").exists()


def test_logs_go_to_stderr_without_what_steers_a_terminal(theory: Command) -> None:
    lines = r"\x1b[31mred\x1b[0m \x1b]0;title\x07x\u202ey\n"
    said = theory(*RUN, "-o", f"lines={lines}").ok()
    assert said.err == "red xy\n"
    assert theory(*RUN, "--no-memo", "--quiet", "-o", "lines=x").ok().err == ""


def test_stream_shows_tokens_on_stderr_or_every_event_as_a_line(theory: Command) -> None:
    lines = r'{"event":"token","text":"Hi"}\n{"event":"token","text":" there"}\nlog\n'
    said = theory(*RUN, "--stream", "-o", f"lines={lines}").ok()
    assert said.err == "Hi there\nlog\n"
    said = theory(*RUN, "--stream", "--json", "--no-memo", "-o", f"lines={lines}").ok()
    documents = [json.loads(line) for line in said.out.splitlines()]
    assert [d.get("event") for d in documents] == ["token", "token", "log", None]
    assert documents[-1]["status"] == "success"


WRONG = {
    "no ref": (("run",), 2, "ERR_USAGE"),
    "no such option": ((*RUN, "--colour"), 2, "ERR_USAGE"),
    "two refs": ((*RUN, "x/y@1"), 2, "ERR_USAGE"),
    "no seed": ((*RUN, "--seed", "x"), 2, "ERR_USAGE"),
    "bad ref": (("run", "x"), 2, "ERR_UNKNOWN_REF"),
    "unknown ref": (("run", "test/thin@1"), 2, "ERR_UNKNOWN_REF"),
    "unknown adapter": ((*RUN, "--adapter", "none"), 2, "ERR_UNKNOWN_ADAPTER"),
    "broken adapter": ((*RUN, "--adapter", "broken"), 69, "ERR_PLUGIN"),
    "unknown option": ((*RUN, "-o", "colour=1"), 2, "ERR_ADAPTER_OPTIONS"),
    "option without value": ((*RUN, "-o", "colour"), 2, "ERR_ADAPTER_OPTIONS"),
    "options are no JSON": ((*RUN, "--adapter-opts-json", "{"), 2, "ERR_ADAPTER_OPTIONS"),
    "options are no object": ((*RUN, "--adapter-opts-json", "[]"), 2, "ERR_ADAPTER_OPTIONS"),
    "inputs are no JSON": ((*RUN, "--inputs-json", "{"), 2, "ERR_INPUTS"),
    "no file of inputs": ((*RUN, "--inputs-json", "@none.json"), 2, "ERR_INPUTS"),
    "inputs are a folder": ((*RUN, "--inputs-json", "@."), 2, "ERR_INPUTS"),
    "attachment without path": ((*RUN, "--attach", "f"), 2, "ERR_USAGE"),
    "attachment twice": ((*RUN, "--attach", "f=a", "--attach", "f=b"), 2, "ERR_USAGE"),
    "stdin twice": ((*RUN, "--attach", "f=-", "--inputs-json", "-"), 2, "ERR_USAGE"),
    "unused attachment": ((*RUN, "--attach", "f=a"), 2, "ERR_INPUTS"),
    "bad prefix": ((*RUN, "--write-prefix", "/artifacts/x"), 2, "ERR_WRITE_PREFIX"),
    "bad amount": ((*RUN, "--reserve-usd", "much"), 2, "ERR_USAGE"),
    "bad time": ((*RUN, "--timeout", "0"), 2, "ERR_USAGE"),
    "bad id": ((*RUN, "--execution-id", "x"), 2, "ERR_USAGE"),
    "no registry": ((*RUN, "--registry", "none"), 2, "ERR_REGISTRY"),
    "save to a file's folder": ((*RUN, "--save-dir", "file"), 2, "ERR_USAGE"),
    "save to a folder": ((*RUN, "--save-first", "."), 2, "ERR_USAGE"),
    "save to a device": ((*RUN, "--save-first", "/dev/null"), 2, "ERR_USAGE"),
    "no store of ours": ((*RUN, "--store", "site"), 3, "ERR_STORE"),
    "a store that nobody brings": ((*RUN, "--store", "s3://bucket"), 2, "ERR_UNKNOWN_ADAPTER"),
    "the processor fails": ((*RUN, "-o", "exit_code=3"), 1, "ERR_PROCESSOR"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_every_failure_is_one_line_of_json_or_an_error_on_stderr(theory: Command, wrong: str) -> None:
    arguments, code, name = WRONG[wrong]
    Path("file").touch()
    said = theory(*arguments, "--json")
    assert said.code == code, said
    assert said.line["status"] == "error"
    assert said.line["error"]["code"] == name
    assert said.line["execution_id"]
    assert "Traceback" not in said.err
    plain = theory(*arguments)
    assert (plain.code, plain.out) == (code, "")
    assert plain.err.startswith("Error: ") or "\nError: " in plain.err
    assert "\x1b" not in plain.err


def test_debug_shows_the_traceback_of_an_error(theory: Command) -> None:
    assert "BadInputs" in theory(*RUN, "--inputs-json", "{", "--debug").err
    assert "Usage" in theory(*RUN, "--seed", "-1", "--debug").err


@pytest.mark.usefixtures("theory")
def test_standard_input_that_is_closed_is_an_error_with_a_name() -> None:
    before = os.dup(0)
    os.close(0)
    try:
        code = run_command_line([*RUN, "--json", "--inputs-json", "-"], Cancellation())
    finally:
        os.dup2(before, 0)
        os.close(before)
    assert code == 2


def test_a_signal_while_standard_input_is_read_gives_its_own_status(
    capfd: pytest.CaptureFixture[str],
) -> None:
    reading, writing = os.pipe()
    before = os.dup(0)
    os.dup2(reading, 0)
    cancellation = Cancellation()
    cancellation.set(signal.SIGTERM)
    try:
        code = run_command_line([*RUN, "--json", "--inputs-json", "-"], cancellation)
    finally:
        os.dup2(before, 0)
        for descriptor in (before, reading, writing):
            os.close(descriptor)
    assert code == 143
    assert json.loads(capfd.readouterr().out)["error"]["code"] == "ERR_INTERRUPTED"


def test_outputs_that_cannot_be_saved_leave_the_execution_closed(theory: Command) -> None:
    Path("saved/artifacts/outputs/a.txt").mkdir(parents=True)
    said = theory(*RUN, "--json", "--save-dir", "saved")
    assert (said.code, said.line["error"]["code"]) == (3, "ERR_SAVE")
    assert theory("show", said.line["execution_id"]).ok().json["kind"] == "execution.success"


def test_our_own_bug_is_one_answer_and_a_traceback(theory: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("theory.config.load", lambda *_: 1 / 0)  # there is no bug that we know of
    said = theory(*RUN, "--json")
    assert (said.code, said.line["error"]["code"]) == (70, "ERR_INTERNAL")
    assert "ZeroDivisionError" in said.err


# ---------------------------------------------------------------- looking


def test_what_was_made_can_be_listed_shown_read_and_copied(theory: Command) -> None:
    made = theory(*RUN, "--json").ok().line
    id_ = made["execution_id"]
    row = theory("ls").ok().out.split()
    assert row[1:5] == [id_, "test/thing@1", "fake", "success"]
    assert theory("ls", "--limit", "0").code == 2
    names = theory("ls", "/artifacts/outputs/a").ok().out.split()
    assert names == ["6", made["outputs"][0]["cid"], "/artifacts/outputs/a.txt"]
    shown = theory("show", id_).ok().json
    assert shown["envelope"] == made
    assert shown["blobs"].keys() >= {"entry", "tree", "inputs", "preimage", "index", "receipt"}
    assert theory("cat", "/artifacts/outputs/a.txt").ok().out == "hello\n"
    assert theory("cat", made["outputs"][0]["cid"]).ok().out == "hello\n"
    Path("to").mkdir()
    theory("get", "/artifacts/outputs/a.txt", made["index_path"], "--to", "to").ok()
    assert sorted(os.listdir("to")) == ["a.txt", "outputs.json"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "01890a5d-ac96-774b-bcce-b302099a8057"),
        ("cat", "/artifacts/outputs/none"),
        ("cat", "b3:" + "0" * 64),
        ("get", "/artifacts/outputs/none"),
        ("plan", "show", "none"),
        ("plan", "limit", "none", "1"),
        ("ls", "--plan", "none"),
    ],
    ids=" ".join,
)
def test_what_is_not_there_is_named(theory: Command, arguments: tuple[str, ...]) -> None:
    said = theory(*arguments)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("Error: ")


def test_two_artifacts_that_would_be_one_file_are_refused(theory: Command) -> None:
    said = theory("get", "/artifacts/a/x", "/artifacts/b/x")
    assert said.code == 2
    assert "would both become 'x'" in said.err
    assert theory("get", "/artifacts/a/x", "--to", "none").code == 2


def test_damage_is_told_by_cat(theory: Command, tmp_path: Path) -> None:
    inputs = json.dumps({"text": "a" * 100_000})  # large enough to be a file of its own
    outputs = theory(*RUN, "--inputs-json", inputs, "--json").ok().line["outputs"]
    (cid,) = (output["cid"][3:] for output in outputs if output["path"].endswith("/inputs.json"))
    blob = tmp_path / "home" / "store" / "blobs" / "b3" / cid[:2] / cid
    blob.chmod(0o644)
    blob.write_text("HELLO\n")
    said = theory("cat", "/artifacts/outputs/inputs.json")
    assert said.code == 3
    assert "is damaged" in said.err


def test_plans_are_made_limited_and_listed(theory: Command) -> None:
    assert (
        theory("plan", "create", "team", "--limit", "0.5").ok().err
        == "created plan team with a limit of 0.5 USD\n"
    )
    assert theory("plan", "create", "team").code == 2
    assert theory("plan", "create", "bad", "--limit", "x").code == 2
    theory("plan", "limit", "team", "2").ok()
    assert theory("plan", "show", "team").ok().json["limit_micro_usd"] == 2_000_000
    theory("plan", "limit", "team", "none").ok()
    assert theory("plan", "ls").ok().out.split() == ["team", "none", "0.00", "0.00"]


def test_registries_are_listed_shown_and_checked(theory: Command, tmp_path: Path) -> None:
    assert "test/thing@1" in theory("registry", "ls").ok().out
    assert theory("registry", "show", "test/thing@1").ok().json["entry"]["ref"] == "test/thing@1"
    assert theory("registry", "show", "test/none@1").code == 2
    said = theory("registry", "check", "entries")
    assert (said.code, said.err) == (0, "1 entry, 0 faults\n")
    (tmp_path / "entries" / "test" / "thing" / "1" / "processor.yaml").write_text("ref: x\n")
    said = theory("registry", "check", "entries")
    assert said.code == 2
    assert "processor.yaml:1: " in said.out
    assert theory("registry", "check", "none").code == 2


def test_adapters_and_plugins_are_listed_the_broken_ones_with_the_reason(theory: Command) -> None:
    said = theory("adapters", "ls")
    assert "fakes" in said.ok().out
    assert "broken: 'broken' of theory-cli-fake cannot be imported" in said.out
    assert "\x1b" not in said.out
    shown = theory("adapters", "show", "fake").ok().json
    assert shown["options"]["cost_micro_usd"] == {"type": "integer", "default": "0", "help": "what it costs"}
    assert theory("adapters", "show", "none").code == 2
    said = theory("plugins")
    assert said.code == 69
    assert ["theory.adapters", "fake"] in [line.split()[:2] for line in said.out.splitlines()]
    assert "broken: 'broken' of theory-cli-fake cannot be imported" in said.out


def test_the_doctor_looks_at_the_house(theory: Command) -> None:
    said = theory("doctor")
    assert said.code == 69  # because of the broken adapter
    for subject in ("python", "sqlite", "home", "store", "ledger", "registries", "broken: adapter broken"):
        assert f"\n{subject}" in "\n" + said.out


def test_the_doctor_tells_of_a_store_that_no_run_can_use(theory: Command, tmp_path: Path) -> None:
    theory(*RUN).ok()
    (database,) = tmp_path.rglob("small.db")
    for file in database.parent.glob("small.db*"):
        file.unlink()
    database.write_bytes(b"garbage" * 1000)
    (line,) = (line for line in theory("doctor").out.splitlines() if line.startswith("store "))
    assert "wrong" in line
    assert "small.db" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="runs as root")
def test_the_doctor_tells_of_a_home_that_cannot_be_written(theory: Command, tmp_path: Path) -> None:
    theory(*RUN).ok()
    (database,) = tmp_path.rglob("ledger.db")
    database.parent.chmod(0o500)
    try:
        (line,) = (line for line in theory("doctor").out.splitlines() if line.startswith("home "))
    finally:
        database.parent.chmod(0o700)
    assert "wrong" in line


def test_settings_are_shown_with_their_origin(theory: Command) -> None:
    rows = [line.split() for line in theory("config").ok().out.splitlines()]
    assert ["adapter", "fake", "THEORY_ADAPTER"] in rows
    assert ["plan", "default", "default"] in rows


@pytest.mark.parametrize("name", ["entry", "envelope", "index", "receipt"])
def test_schemas_are_printed(theory: Command, name: str) -> None:
    assert theory("schema", name).ok().json["$schema"].startswith("https://json-schema.org/")


def test_a_schema_that_is_not_there_is_refused(theory: Command) -> None:
    assert "there are entry, envelope, index, receipt" in theory("schema", "../x").err


# ---------------------------------------------------------------- the group itself


def test_a_wrong_command_gets_a_near_match(theory: Command) -> None:
    said = theory("rnu")
    assert said.code == 2
    assert "did you mean theory run?" in said.err
    assert theory("xyzzy").code == 2
    assert theory("--colour").code == 2


def test_help_and_version_are_answers(theory: Command) -> None:
    assert "Commands:" in theory("--help").ok().out
    assert theory("--version").ok().out.startswith("theory, version ")
    assert "--inputs-json" in theory("run", "--help").ok().out
    assert theory().code == 2


def test_the_short_help_in_the_table_is_the_first_line_of_each_command() -> None:
    for name, (module, text) in COMMANDS.items():
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        assert (command.help or "").partition("\n")[0] == text


def test_a_command_of_a_plugin_is_imported_when_it_is_called(theory: Command, tmp_path: Path) -> None:
    (tmp_path / "site" / "theory_cli_more.py").write_text(
        "import click\n@click.command()\ndef hello():\n    click.echo('hi')\n"
    )
    points = tmp_path / "site" / "theory_cli_fake-1.0.dist-info" / "entry_points.txt"
    points.write_text("[theory.commands]\nhello = theory_cli_more:hello\nno = theory_cli_none\n")
    assert "From theory-cli-fake." in theory("--help").ok().out
    assert theory("hello").ok().out == "hi\n"
    assert theory("no").code == 69


# ---------------------------------------------------------------- what is shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[2J\x1b[31mred\x1b[0m", "red"),
        ("\x1b]8;;http://x\x07link\x1b]8;;\x1b\\", "link"),
        ("a\rb\x00c\x7fd\x9be", "abcde"),
        ("a\u202eb\u2066c", "abc"),
    ],
    ids=["plain", "CSI", "OSC", "controls", "bidi"],
)
def test_what_steers_a_terminal_is_taken_out(text: str, shown: str) -> None:
    assert clean(text) == shown


@pytest.mark.parametrize("fraction", [0.4, 1, True, "half", None, 1e308, -5], ids=str)
def test_any_progress_can_be_shown(fraction: object, capsys: pytest.CaptureFixture[str]) -> None:
    events = Events(stream=False, as_json=False, quiet=False)
    events._live = True  # noqa: SLF001 - as on a terminal
    events({"event": "progress", "fraction": fraction, "message": "page \x1b[2J4"})  # type: ignore[dict-item]  # any JSON
    events.close()
    said = capsys.readouterr().err
    assert "page 4" in said
    assert len(said) < 120


# ---------------------------------------------------------------- what a first user tried


@pytest.mark.parametrize(
    "option", ["--save-dir", "--save-first", "--plan", "--store", "--write-prefix", "--ref"]
)
def test_an_option_that_is_given_nothing_is_refused(theory: Command, option: str) -> None:
    said = theory("run", "test/thing@1", "--json", option, "")
    assert (said.code, said.line["error"]["message"]) == (2, f"{option} is empty")


def test_json_with_a_value_is_a_usage_error_in_json(theory: Command) -> None:
    assert theory("run", "test/thing@1", "--json=1").line["error"]["code"] == "ERR_USAGE"


def test_an_execution_of_another_processor_does_not_answer(theory: Command, tmp_path: Path) -> None:
    write_entry(tmp_path / "entries", ref="test/other@1")
    done = theory("run", "test/thing@1", "--json").line
    said = theory("run", "test/other@1", "--json", "--execution-id", done["execution_id"])
    assert said.code == 2
    assert "was one of test/thing@1, not of test/other@1" in said.line["error"]["message"]


def test_a_cost_above_its_reservation_is_said(theory: Command) -> None:
    said = theory("run", "test/thing@1", "-o", "cost_micro_usd=150", "--reserve-usd", "0.0001")
    assert said.code == 0
    assert "Warning: it cost 0.00015 USD, and 0.0001 were reserved" in said.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux: /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [("run", "test/thing@1", "--json"), ("cat", "/artifacts/outputs/a.txt"), ("ls",), ("--help",)],
    ids=["run", "cat", "ls", "help"],
)
def test_a_full_disk_behind_stdout_is_no_bug_of_ours(theory: Command, arguments: tuple[str, ...]) -> None:
    theory(*RUN).ok()
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "theory", *arguments],
            env=environ,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        3,
        "Error: cannot write to standard output: No space left on device",
    )
    assert "success" in theory("ls").out
