"""A language model on Modal: as in a container here, its tokens as they come, and no key to be seen."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from core.bed import read
from parity.parity import Way, answer, run
from processors.llm_server import Provider, provider
from theory import Runner, Success
from theory.types import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from modal_emulator.handle import Handle

KEY = "sk-t3st/Key+of=nobody&0123456789"
SPELLINGS = [KEY, quote(KEY, safe=""), quote(KEY), b64encode(KEY.encode()).decode(), KEY.encode().hex()]
LLM = "llm/litellm@1"
THERE = Way("modal", "sandbox")
ASK = [{"role": "user", "content": "Hello!"}]


@pytest.fixture(scope="module")
def server() -> Iterator[Provider]:
    with provider() as running:
        yield running


@pytest.fixture(scope="module")
def llm(runner: Runner, server: Provider) -> Iterator[Runner]:
    """The same home; a key, and where to ask."""
    environ = {"OPENAI_API_KEY": KEY, "LITELLM_API_BASE": server.base}
    with Runner(runner.settings, plugins=runner.plugins, environ=environ) as with_key:
        yield with_key


def test_the_answer_its_cost_and_its_tokens_come_back(llm: Runner, server: Provider, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"\xff\xd8\xff\xe0 not really a photo")
    inputs = {"messages": [{"content": ["What is this?", {"$attach": "photo"}]}]}
    heard: list[Any] = []
    envelope = run(llm, THERE, LLM, inputs, attachments={"photo": photo}, listen=heard.append)
    assert isinstance(envelope, Success), envelope
    assert read(llm, envelope.outputs[0].path) == b"Hi there, you."
    assert envelope.meta["model"] == "gpt-4o-mini"
    tokens = [event["text"] for event in heard if event.get("event") == "token"]
    assert (len(tokens), "".join(tokens)) == (2, "Hi there, you.")
    assert server.asked("gpt-4o-mini").headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(("model", "status"), [("error-401", 12), ("error-429", 16)])
def test_a_provider_that_refuses_ends_the_run_with_its_reason(llm: Runner, model: str, status: int) -> None:
    envelope = run(llm, THERE, LLM, {"model": f"openai/{model}", "messages": ASK})
    assert isinstance(envelope, Failure)
    assert (envelope.code, envelope.meta["exit_code"]) == ("ERR_PROCESSOR", status)


def test_without_its_key_nothing_is_asked_of_modal(runner: Runner, modal: Handle) -> None:
    before = len(modal.requests())
    refused = answer(runner, run(runner, THERE, LLM, {"messages": ASK}))
    assert (refused["code"], refused["exit"]) == ("ERR_MISSING_SECRET", 2)
    assert len(modal.requests()) == before


def test_the_key_is_nowhere_to_be_seen(llm: Runner, modal: Handle) -> None:
    said = json.dumps([modal.requests(), modal.shown("sandboxes"), modal.shown("secrets")])
    files = [file for file in llm.settings.home.rglob("*") if file.is_file()]
    assert len(files) > 5
    for text in (said, *(file.read_bytes().decode("latin-1") for file in files)):
        assert [spelling for spelling in SPELLINGS if spelling in text] == []
