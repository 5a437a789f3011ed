"""`--stream`: tokens as they come to stderr, or with --json events on stdout before the envelope."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from house.command import EntryMaker, Theory

TALKS = """
import json, os, sys
print(json.dumps({"event": "token", "text": "Hi "}))
print(json.dumps({"event": "token", "text": "there"}))
print(json.dumps({"event": "progress", "fraction": 0.5, "message": "half"}))
print("a line for the log")
print("and one on stderr", file=sys.stderr)
with open(os.environ["THEORY_ROOT"] + "/job/out/a.txt", "w") as stream:
    stream.write("done")
"""


def test_events_come_before_the_envelope_one_a_line(theory: Theory, entry: EntryMaker) -> None:
    root = entry("test/talks@1", TALKS)
    result = theory(
        "run", "test/talks@1", "--adapter", "process", "--registry", root, "--stream", "--json"
    ).ok()
    *events, envelope = result.lines
    assert envelope["status"] == "success"
    assert [event["text"] for event in events if event["event"] == "token"] == ["Hi ", "there"]
    assert [event["fraction"] for event in events if event["event"] == "progress"] == [0.5]
    assert any("a line for the log" in str(event) for event in events if event["event"] == "log")


def test_without_json_tokens_go_to_stderr_and_the_envelope_alone_to_stdout(
    theory: Theory, entry: EntryMaker
) -> None:
    # The two pipes have no common order, so what goes to stderr may stand between two tokens.
    root = entry("test/talks@1", TALKS.replace('print("and one on stderr", file=sys.stderr)', ""))
    result = theory("run", "test/talks@1", "--adapter", "process", "--registry", root, "--stream").ok()
    assert result.json["status"] == "success"
    assert "Hi there\n" in result.stderr


def test_without_stream_no_event_is_on_stdout(theory: Theory, entry: EntryMaker) -> None:
    root = entry("test/talks@1", TALKS)
    result = theory("run", "test/talks@1", "--adapter", "process", "--registry", root, "--json").ok()
    assert result.line["status"] == "success"


def test_the_mock_adapter_streams_its_answer(theory: Theory) -> None:
    *events, envelope = theory.hello("--stream", "--json").ok().lines
    assert envelope["status"] == "success"
    answer = theory("cat", envelope["outputs"][0]["path"]).ok().stdout
    assert "".join(event["text"] for event in events if event["event"] == "token") == answer


def test_a_failing_run_streams_and_ends_with_its_envelope(theory: Theory, entry: EntryMaker) -> None:
    root = entry("test/talks@1", TALKS + "sys.exit(3)\n")
    result = theory("run", "test/talks@1", "--adapter", "process", "--registry", root, "--stream", "--json")
    assert result.code == 1
    assert result.lines[0] == {"event": "token", "text": "Hi "} | result.lines[0]
    assert result.lines[-1]["error"]["code"] == "ERR_PROCESSOR"


def test_terminal_sequences_of_a_processor_do_not_reach_the_terminal(
    theory: Theory, entry: EntryMaker
) -> None:
    root = entry("test/paints@1", r"print('{\"event\": \"token\", \"text\": \"\\u001b]0;owned\\u0007red\"}')")
    result = theory("run", "test/paints@1", "--adapter", "process", "--registry", root, "--stream").ok()
    assert "\x1b" not in result.stderr
