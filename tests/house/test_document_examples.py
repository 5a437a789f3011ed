"""Every command of the requirements that uses the mock adapter, with `theory run` in front."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from house.command import Theory

MOCK = ("run", "--ref", "llm/litellm@1", "--adapter", "mock")
CID = re.compile(r"b3:[0-9a-f]{64}")
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def inputs(content: Any) -> str:
    return json.dumps({"messages": [{"role": "user", "content": content}]})


def expect_the_documents_envelope(envelope: Any, prefix: str = "/artifacts/outputs/") -> None:
    assert envelope["status"] == "success"
    assert UUID7.fullmatch(envelope["execution_id"])
    response, meta = envelope["outputs"]
    assert response["path"] == f"{prefix}text/response.txt"
    assert response["mime"] == "text/plain"
    assert response["size_bytes"] == 26
    assert meta["path"] == f"{prefix}meta.json"
    assert meta["mime"] == "application/json"
    assert type(meta["size_bytes"]) is int
    assert CID.fullmatch(response["cid"])
    assert CID.fullmatch(meta["cid"])
    assert set(response) == set(meta) == {"path", "cid", "size_bytes", "mime"}
    assert envelope["index_path"] == f"/artifacts/execution/{envelope['execution_id']}/outputs.json"
    assert envelope["receipt_path"] == f"/artifacts/execution/{envelope['execution_id']}/determinism.json"
    assert envelope["meta"]["model"] == "mock-llm"
    assert envelope["meta"]["adapter"] == "mock"
    assert envelope["meta"]["image_digest"] is None
    assert envelope["meta"]["env_fingerprint"].endswith("_llm-litellm")
    assert all(type(envelope["meta"][key]) is int for key in ("tokens_in", "tokens_out", "duration_ms"))


def test_the_quick_start_prints_what_the_document_shows(theory: Theory) -> None:
    result = theory(*MOCK, "--inputs-json", '{"messages":[{"role":"user","content":"Hello!"}]}').ok()
    expect_the_documents_envelope(result.json)
    assert result.json["meta"]["tokens_in"] == 1
    assert result.json["meta"]["tokens_out"] == 5


def test_without_json_the_envelope_is_indented(theory: Theory) -> None:
    result = theory.hello().ok()
    assert result.stdout.startswith('{\n  "status": "success",\n  "execution_id": "')


def test_with_json_the_envelope_is_one_compact_line(theory: Theory) -> None:
    result = theory(*MOCK, "--inputs-json", inputs("What is Theory?"), "--json").ok()
    expect_the_documents_envelope(result.line)
    assert result.stdout == json.dumps(result.line, ensure_ascii=False, separators=(",", ":")) + "\n"
    assert result.line["meta"]["tokens_in"] == 3


def test_the_keys_of_the_envelope_are_in_the_documents_order(theory: Theory) -> None:
    keys = list(theory.hello("--json").ok().line)
    assert keys == ["status", "execution_id", "outputs", "index_path", "receipt_path", "meta"]


def test_a_run_with_a_plan_shows_in_that_plan(theory: Theory) -> None:
    result = theory(*MOCK, "--plan", "my-plan", "--inputs-json", inputs("Hello")).ok()
    expect_the_documents_envelope(result.json)
    assert "my-plan" in result.stderr  # created without a limit, and said so
    assert "my-plan" in theory("plan", "ls").ok().stdout


def test_an_attached_image_reaches_the_inputs_as_an_artifact(theory: Theory) -> None:
    (theory.cwd / "photo.jpg").write_bytes(b"\xff\xd8\xff not really")
    result = theory(
        *MOCK,
        *("--attach", "image=photo.jpg"),
        *("--inputs-json", '{"messages":[{"content":[{"$attach":"image"}]}]}', "--json"),
    ).ok()
    expect_the_documents_envelope(result.line)


def test_two_attachments_go_into_one_message(theory: Theory) -> None:
    (theory.cwd / "report.pdf").write_bytes(b"%PDF-1.7")
    (theory.cwd / "data.csv").write_text("a,b\n1,2\n")
    result = theory(
        *MOCK,
        *("--attach", "doc1=report.pdf", "--attach", "doc2=data.csv"),
        *("--inputs-json", '{"messages":[{"content":[{"$attach":"doc1"},{"$attach":"doc2"}]}]}', "--json"),
    ).ok()
    expect_the_documents_envelope(result.line)


def test_a_write_prefix_moves_every_output(theory: Theory) -> None:
    prefix = "/artifacts/outputs/experiment-1/"
    result = theory(*MOCK, "--write-prefix", prefix, "--inputs-json", inputs("Test"), "--json").ok()
    expect_the_documents_envelope(result.line, prefix)


def test_the_execution_id_takes_its_place_in_a_write_prefix(theory: Theory) -> None:
    result = theory.hello("--write-prefix", "/artifacts/outputs/{execution_id}/", "--json").ok()
    expect_the_documents_envelope(result.line, f"/artifacts/outputs/{result.line['execution_id']}/")


def test_the_ref_may_stand_without_its_option(theory: Theory) -> None:
    result = theory(
        "run", "llm/litellm@1", "--adapter", "mock", "--inputs-json", inputs("Hello!"), "--json"
    ).ok()
    expect_the_documents_envelope(result.line)


def test_the_answer_does_not_depend_on_the_home(theory: Theory) -> None:
    first = theory.hello("--json").ok().line
    second = theory.with_environ(THEORY_HOME=str(theory.cwd / "elsewhere")).hello("--json").ok().line
    assert first["outputs"] == second["outputs"]
    assert first["execution_id"] != second["execution_id"]


@pytest.mark.parametrize("name", ["outputs.json", "determinism.json"])
def test_the_records_of_an_execution_can_be_read(theory: Theory, name: str) -> None:
    envelope = theory.hello("--json", "--seed", "7").ok().line
    record = theory("cat", f"/artifacts/execution/{envelope['execution_id']}/{name}").ok().json
    if name == "outputs.json":
        assert record == {"outputs": envelope["outputs"]}
    else:
        assert record["seed"] == 7
        assert CID.fullmatch(record["memo_key"])
        assert record["env_fingerprint"] == envelope["meta"]["env_fingerprint"]
        assert record["output_cids"] == [output["cid"] for output in envelope["outputs"]]
