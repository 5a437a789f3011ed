"""The published processors, really run: `data/profile@1` on the examples, `text/wordcount@1`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from house.command import Theory

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.csv"))
PROFILE = (
    "run",
    "data/profile@1",
    "--adapter",
    "process",
    "--inputs-json",
    '{"table":{"$attach":"table"}}',
    "--json",
)


def test_there_is_an_example() -> None:
    assert EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_is_profiled_into_a_report_that_stands_alone(theory: Theory, example: Path) -> None:
    envelope = theory(*PROFILE, "--attach", f"table={example}", "--save-dir", "saved").ok().line
    by_name = {output["path"].rpartition("/")[2]: output for output in envelope["outputs"]}
    assert {"profile.json", "report.html"} <= set(by_name)
    assert by_name["report.html"]["mime"] == "text/html"
    saved = theory.cwd / "saved" / "artifacts" / "outputs"
    profile = json.loads((saved / "profile.json").read_text())
    header = example.read_text("utf-8-sig").splitlines()[0]
    columns = [column["name"] for column in profile["columns"]]
    assert columns
    assert all(name in header for name in columns)
    report = (saved / "report.html").read_text()
    assert all(name in report for name in columns)
    assert not any(mark in report for mark in ('src="http', "src='http", "@import", '<link rel="stylesheet"'))


def test_a_profile_is_the_same_to_the_byte_when_it_runs_again(theory: Theory) -> None:
    runs = [theory(*PROFILE, "--attach", f"table={EXAMPLES[0]}", "--no-memo").ok().line for _ in range(2)]
    assert runs[0]["outputs"] == runs[1]["outputs"]


def test_a_table_that_is_no_table_is_a_clear_failure(theory: Theory) -> None:
    (theory.cwd / "empty.csv").write_bytes(b"")
    result = theory(*PROFILE, "--attach", "table=empty.csv")
    assert result.code in {0, 1}
    if result.code == 1:
        assert result.line["error"]["code"] == "ERR_PROCESSOR"
        assert "Traceback" not in result.line["meta"]["log_tail"]


def test_words_of_a_file_and_of_a_text_are_counted_alike(theory: Theory) -> None:
    (theory.cwd / "words.txt").write_text("to be or not to be")
    run = ("run", "text/wordcount@1", "--adapter", "process", "--json", "--inputs-json")
    of_text = theory(*run, '{"text":"to be or not to be"}').ok().line
    of_file = theory(*run, '{"file":{"$attach":"words"}}', "--attach", "words=words.txt").ok().line
    counts = [theory("cat", envelope["outputs"][0]["path"]).ok().json for envelope in (of_text, of_file)]
    assert counts[0]["words"] == 6
    assert counts[0]["words"] == counts[1]["words"]


def test_an_attachment_keeps_its_name_and_its_content_address(theory: Theory) -> None:
    (theory.cwd / "words.txt").write_text("to be or not to be")
    run = ("run", "text/wordcount@1", "--adapter", "process", "--json")
    envelope = theory(*run, "--inputs-json", '{"file":{"$attach":"w"}}', "--attach", "w=words.txt").ok().line
    shown = theory("show", envelope["execution_id"]).ok().json
    inputs = theory("cat", shown["blobs"]["inputs"]).ok().json
    assert inputs["file"]["$artifact"] == f"/artifacts/inputs/{inputs['file']['cid']}/words.txt"
    assert inputs["file"]["mime"] == "text/plain"
