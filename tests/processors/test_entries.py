"""Every published entry: its schemas are schemas, and what its program writes is what they say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry

from processors.runs import CID, ENTRIES, REPOSITORY, Run, entry

if TYPE_CHECKING:
    from pathlib import Path

REFS = sorted(
    "{}/{}@{}".format(*path.parent.relative_to(ENTRIES).parts)
    for path in ENTRIES.glob("*/*/*/processor.yaml")
)
STAND_IN = {
    "$artifact": f"/artifacts/inputs/b3:{'0' * 64}/x.csv",
    "cid": "b3:" + "0" * 64,
    "mime": "text/csv",
}
IMAGE = {"$artifact": f"/artifacts/inputs/{CID}/photo.jpg", "cid": CID, "mime": "image/jpeg"}


def check(ref: str, which: str, document: Any) -> None:
    Draft202012Validator(entry(ref)[which], registry=Registry()).validate(document)


def test_the_published_processors_are_these() -> None:
    assert REFS == ["data/profile@1", "llm/litellm@1", "text/wordcount@1"]


@pytest.mark.parametrize("ref", REFS)
def test_an_entry_lies_where_its_ref_says(ref: str) -> None:
    assert entry(ref)["ref"] == ref
    assert (ENTRIES / ref.replace("@", "/") / entry(ref)["image"]["dockerfile"]).is_file()


@pytest.mark.parametrize("which", ["inputs", "outputs"])
@pytest.mark.parametrize("ref", REFS)
def test_a_schema_is_a_schema(ref: str, which: str) -> None:
    Draft202012Validator.check_schema(entry(ref)[which])


@pytest.mark.parametrize("which", ["inputs", "outputs"])
@pytest.mark.parametrize("ref", REFS)
def test_a_reference_stays_in_its_document(ref: str, which: str) -> None:
    assert all(target.startswith("#/$defs/") for target in references(entry(ref)[which]))


def references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [target for item in schema for target in references(item)]
    if not isinstance(schema, dict):
        return []
    own = [schema["$ref"]] if isinstance(schema.get("$ref"), str) else []
    return own + [target for item in schema.values() for target in references(item)]


@pytest.mark.parametrize(
    ("ref", "inputs"),
    [
        pytest.param("data/profile@1", {"table": STAND_IN}, id="a table not yet hashed"),
        pytest.param(
            "data/profile@1", {"table": STAND_IN, "delimiter": "\t", "sample_rows": 0}, id="all of profile"
        ),
        pytest.param("text/wordcount@1", {"text": ""}, id="an empty text"),
        pytest.param("text/wordcount@1", {"file": STAND_IN}, id="a file"),
        pytest.param("llm/litellm@1", {"messages": [{"role": "user", "content": "Hello!"}]}, id="hello"),
        pytest.param("llm/litellm@1", {"messages": [{"content": [IMAGE]}]}, id="an attachment alone"),
        pytest.param("llm/litellm@1", {"messages": [{"content": [IMAGE, IMAGE]}]}, id="two attachments"),
        pytest.param(
            "llm/litellm@1",
            {
                "model": "openai/gpt-4o-mini",
                "temperature": 0,
                "max_tokens": 9,
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {
                        "content": [
                            "What is this?",
                            {"type": "text", "text": "And this?"},
                            {"type": "image_url", "image_url": {"url": "https://example.invalid/a.png"}},
                            IMAGE,
                        ]
                    },
                ],
            },
            id="parts of every kind",
        ),
    ],
)
def test_good_inputs_are_accepted(ref: str, inputs: dict[str, Any]) -> None:
    check(ref, "inputs", inputs)


@pytest.mark.parametrize(
    ("ref", "inputs"),
    [
        pytest.param("data/profile@1", {}, id="no table"),
        pytest.param("data/profile@1", {"table": "x.csv"}, id="a path in place of a file"),
        pytest.param("data/profile@1", {"table": STAND_IN, "sep": ";"}, id="a word that is not known"),
        pytest.param("data/profile@1", {"table": STAND_IN, "delimiter": ";;"}, id="two characters"),
        pytest.param("data/profile@1", {"table": STAND_IN, "delimiter": '"'}, id="the quote as delimiter"),
        pytest.param("data/profile@1", {"table": STAND_IN, "sample_rows": -1}, id="fewer than no rows"),
        pytest.param("text/wordcount@1", {}, id="neither text nor file"),
        pytest.param("text/wordcount@1", {"text": "a", "file": STAND_IN}, id="both text and file"),
        pytest.param("llm/litellm@1", {}, id="no messages"),
        pytest.param("llm/litellm@1", {"messages": []}, id="an empty conversation"),
        pytest.param(
            "llm/litellm@1", {"messages": [{"role": "robot", "content": "x"}]}, id="a role nobody has"
        ),
        pytest.param(
            "llm/litellm@1", {"messages": [{"content": [{"type": "text"}]}]}, id="a text part without text"
        ),
    ],
)
def test_bad_inputs_are_refused(ref: str, inputs: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        check(ref, "inputs", inputs)


TABLES = {
    "the example": REPOSITORY / "examples" / "bike_trips.csv",
    "no rows": "a,b\n",
    "every kind": (
        "i;n;d;t;b;x;e\n1;1,5;2024-01-01;2024-01-01T10:00Z;yes;a;\n"
        "2;2.5;2024-01-02;2024-01-01 11:00;no;b;NA\n"
    ),
    "misfits": "a,b\n" + "1,x\n" * 99 + "?,y\n",
    "estimates": "a,b\n" + "".join(f"{n},w{n}\n" for n in range(40_000)),
}


@pytest.mark.parametrize("content", TABLES.values(), ids=TABLES)
def test_what_profile_writes_is_what_its_entry_says(run: Run, content: str | Path) -> None:
    check("data/profile@1", "outputs", run("data/profile@1", content).document())


def test_a_profile_too_large_to_read_is_still_what_the_entry_says(run: Run) -> None:
    width, names = 12_000, [f"c{index}" for index in range(12_000)]
    document = run("data/profile@1", ",".join(names) + "\n" + (",".join("7" * width) + "\n") * 2).document()
    assert set(document["profile.json"]) == {"mime", "size_bytes"}
    check("data/profile@1", "outputs", document)


@pytest.mark.parametrize("text", ["", "to be or not to be"], ids=["nothing", "words"])
def test_what_wordcount_writes_is_what_its_entry_says(run: Run, text: str) -> None:
    check("text/wordcount@1", "outputs", run("text/wordcount@1", text=text).document())


def test_what_the_mock_answers_is_what_the_entry_says() -> None:
    files = entry("llm/litellm@1")["adapter"]["mock"]["outputs"]
    response = files["text/response.txt"].encode()
    assert len(response) == 26
    meta = {**files["meta.json"], "tokens_in": 1, "tokens_out": 5}
    document = {"text/response.txt": {"mime": "text/plain", "size_bytes": len(response)}, "meta.json": meta}
    check("llm/litellm@1", "outputs", document)


@pytest.mark.parametrize("ref", REFS)
def test_an_image_does_not_run_as_root(ref: str) -> None:
    dockerfile = (ENTRIES / ref.replace("@", "/") / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"(?m)^USER (?!0|root)\S+$", dockerfile)
