"""The entries that we publish, in the images of their own Dockerfiles: the same bytes, and no key is seen."""

from __future__ import annotations

import json
import re
import secrets
import sys
import time
from base64 import b64decode, b64encode
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from house.command import Theory, environment
from house.wheels import build
from processors.llm_server import Provider, provider
from processors.runs import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theory_adapter_local.engine.client import Engine

KEY = "sk-t3st/Key+of=nobody&0123456789"
SPELLINGS = [KEY, quote(KEY, safe=""), quote(KEY), b64encode(KEY.encode()).decode(), KEY.encode().hex()]
MINUTES = 300  # seconds: the first run builds the image
PHOTO = b"\xff\xd8\xff\xe0 not really a photo"
ASK = [{"role": "user", "content": "Hello!"}]
# The provider is on the loopback of this machine.
LLM = ("run", "llm/litellm@1", "--adapter", "local", "-o", "network=host", "--json")
TRIPS = (REPOSITORY / "examples" / "bike_trips.csv").read_bytes()
ODD = 'né,"a ""b""",c\n1,,2026-01-01\n\n-2.5,x,2026-02-30\n3,"l\nl",\n'.encode("cp1252")


def execution_id() -> str:
    """A new UUIDv7 (RFC 9562, 5.7)."""
    digits = f"{time.time_ns() // 1_000_000:012x}7{secrets.token_hex(2)[:3]}8{secrets.token_hex(8)[:15]}"
    return re.sub("(.{8})(.{4})(.{4})(.{4})(.{12})", r"\1-\2-\3-\4-\5", digits)


@pytest.fixture(scope="module")
def server() -> Iterator[Provider]:
    with provider() as running:
        yield running


@pytest.fixture(scope="module")
def theory(
    engine: Engine, base_image: str, server: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Theory]:
    """`theory` with a home for all tests here; the images that they build go with them."""
    assert base_image
    prefix = Path(sys.prefix)
    if not (prefix / "bin" / "theory").exists():  # tox has the wheels installed
        wheels: Path = tmp_path_factory.mktemp("wheels")
        build(wheels)
        prefix = environment(tmp_path_factory.mktemp("installed"), *wheels.glob("theory_*.whl"))
    base = tmp_path_factory.mktemp("containers")
    (base / "home").mkdir()
    (base / "cwd").mkdir()
    environ = {"DOCKER_HOST": engine.host, "OPENAI_API_KEY": KEY, "LITELLM_API_BASE": server.base}
    before = images(engine)
    yield Theory(prefix=prefix, home=base / "home", cwd=base / "cwd", environ=environ)
    from theory_adapter_local.engine.client import Refused

    for image in images(engine) - before:
        with suppress(Refused):  # somebody else's, who uses it
            engine.call("DELETE", f"/images/{image}")


def images(engine: Engine) -> set[str]:
    """The names of all images of the entries that run here."""
    return {
        name
        for image in engine.call("GET", "/images/json")
        for name in image["RepoTags"] or []
        if name.startswith(("theory/data-profile:", "theory/text-wordcount:", "theory/llm-litellm:"))
    }


# ---------------------------------------------------------------- one program, two adapters


@pytest.mark.parametrize(
    ("ref", "inputs", "content"),
    [
        ("data/profile@1", {"table": {"$attach": "file"}}, TRIPS),
        ("data/profile@1", {"table": {"$attach": "file"}, "sample_rows": 2}, ODD),
        ("text/wordcount@1", {"file": {"$attach": "file"}}, "to be or not to bé\n".encode() * 1000),
        ("text/wordcount@1", {"text": "to be or not to be"}, None),
    ],
    ids=["a table", "an odd table", "a file", "a text"],
)
def test_a_container_gives_the_bytes_that_a_process_gives(
    theory: Theory, tmp_path: Path, ref: str, inputs: Any, content: bytes | None
) -> None:
    attached: tuple[str, ...] = ()
    if content is not None:
        (tmp_path / "some file.csv").write_bytes(content)
        attached = ("--attach", f"file={tmp_path / 'some file.csv'}")
    envelopes, indexes, saved = {}, {}, {}
    for adapter in ("local", "process"):
        folder = tmp_path / adapter
        options = ("--adapter", adapter, "--no-memo", "--save-dir", folder, *attached)
        given = ("--json", "--inputs-json", json.dumps(inputs))
        envelope = envelopes[adapter] = theory("run", ref, *options, *given, timeout=MINUTES).ok().line
        indexes[adapter] = theory("cat", envelope["index_path"]).ok().stdout
        files = (file for file in folder.rglob("*") if file.is_file())
        saved[adapter] = {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
        assert envelope["meta"]["adapter"] == adapter
    assert re.fullmatch("sha256:[0-9a-f]{64}", envelopes["local"]["meta"]["image_digest"])
    assert envelopes["local"]["outputs"] == envelopes["process"]["outputs"]
    assert indexes["local"] == indexes["process"]
    assert saved["local"] == saved["process"]
    assert len(saved["local"]) == len(envelopes["local"]["outputs"]) > 0


# ---------------------------------------------------------------- a language model


@pytest.fixture(scope="module")
def hello(theory: Theory) -> Any:
    """The envelope and the events of a run with an image; the model is left to the processor."""
    (theory.cwd / "photo.jpg").write_bytes(PHOTO)
    inputs = {"messages": [{"content": ["What is this?", {"$attach": "photo"}]}]}
    options = ("--attach", "photo=photo.jpg", "--inputs-json", json.dumps(inputs), "--stream")
    *events, envelope = theory(*LLM, *options, timeout=MINUTES).ok().lines
    return {**envelope, "events": events}


@pytest.fixture(scope="module")
def held(theory: Theory, server: Provider, engine: Engine, hello: Any) -> Any:
    """What is shown of a run and its container, while the provider waits until we have seen the first token.

    It then sends the key back.
    """
    assert hello["status"] == "success"
    server.secret = KEY
    name = execution_id()
    container = f"/containers/theory-{name}"
    inputs = json.dumps({"model": "openai/held", "messages": ASK})
    shown: list[Any] = []
    seen: list[Any] = []
    with theory.start(*LLM, "--stream", "--execution-id", name, "--inputs-json", inputs) as process:
        assert process.stdout
        for line in process.stdout:
            shown.append(json.loads(line))
            if shown[-1].get("event") == "token" and not seen:
                seen.append(engine.call("GET", f"{container}/json"))
                seen.append(engine.call("GET", f"{container}/top", query={"ps_args": "auxeww"}))
                server.seen.set()
        process.communicate()
    seen.append(engine.call("GET", f"/images/{seen[0]['Image']}/json"))
    seen.append(engine.call("GET", f"/images/{seen[0]['Image']}/history"))
    return {"shown": shown, "seen": seen}


def test_a_run_in_a_container_answers_with_the_text_its_meta_and_its_tokens(
    theory: Theory, hello: Any
) -> None:
    assert [output["path"] for output in hello["outputs"]] == [
        "/artifacts/outputs/text/response.txt",
        "/artifacts/outputs/meta.json",
    ]
    assert theory("cat", hello["outputs"][0]["cid"]).ok().stdout == "Hi there, you."
    assert hello["meta"]["adapter"] == "local"
    assert hello["meta"]["model"] == "gpt-4o-mini"
    assert hello["meta"]["cost_micro_usd"] == 1350
    told = [event["text"] for event in hello["events"] if event["event"] == "token"]
    assert (len(told), "".join(told)) == (2, "Hi there, you.")


def test_the_attached_image_and_the_key_reach_the_provider_from_a_container(
    server: Provider, hello: Any
) -> None:
    assert hello["status"] == "success"
    request = server.asked("gpt-4o-mini")
    text, image = request.body["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is this?"}
    head, _, data = image["image_url"]["url"].partition(",")
    assert (image["type"], head, b64decode(data)) == ("image_url", "data:image/jpeg;base64", PHOTO)
    assert request.headers["authorization"] == f"Bearer {KEY}"


def test_a_token_of_a_container_is_shown_before_the_next_one_is_sent(held: Any) -> None:
    shown = held["shown"]
    assert [event["text"] for event in shown if event.get("event") == "token"] == ["Your ", "key is ***."]
    assert shown[-1]["status"] == "success"


def test_an_answer_as_a_whole_is_the_same_and_is_no_token_stream(
    theory: Theory, server: Provider, hello: Any
) -> None:
    inputs = json.dumps({"model": "openai/whole", "messages": ASK, "stream": False})
    envelope = theory(*LLM, "--inputs-json", inputs).ok().line
    assert envelope["outputs"][0] == hello["outputs"][0]
    assert not server.asked("whole").body.get("stream", False)


@pytest.mark.parametrize(
    ("model", "status", "said"),
    [
        ("error-401", 12, "refused the key.*; check the key"),
        ("error-429", 16, "too many requests"),
    ],
    ids=["refused key", "rate limit"],
)
def test_a_provider_that_refuses_ends_the_run_with_its_reason_and_without_the_key(
    theory: Theory, hello: Any, model: str, status: int, said: str
) -> None:
    assert hello["status"] == "success"
    inputs = json.dumps({"model": f"openai/{model}", "messages": ASK})
    refused = theory(*LLM, "--stream", "--debug", "--inputs-json", inputs)
    envelope = refused.lines[-1]
    assert (refused.code, envelope["error"]["code"]) == (1, "ERR_PROCESSOR")
    assert envelope["meta"]["exit_code"] == status
    assert re.search(said, envelope["error"]["message"])
    expect_no_key(refused.stdout + refused.stderr)
    expect_no_key(theory("show", envelope["execution_id"]).ok().stdout)


def test_without_its_key_no_container_is_made(theory: Theory, engine: Engine) -> None:
    name = execution_id()
    inputs = json.dumps({"messages": ASK})
    result = theory.with_environ(OPENAI_API_KEY="")(*LLM, "--execution-id", name, "--inputs-json", inputs)
    assert (result.code, result.line["error"]["code"]) == (2, "ERR_MISSING_SECRET")
    assert "OPENAI_API_KEY" in result.line["error"]["message"]
    filters = json.dumps({"label": [f"theory.execution={name}"]})
    assert engine.call("GET", "/containers/json", query={"all": "1", "filters": filters}) == []


def test_the_key_is_nowhere_to_be_seen(theory: Theory, server: Provider, hello: Any, held: Any) -> None:
    inspected, processes, *_ = held["seen"]
    assert inspected["State"]["Running"]
    assert any("main.py" in " ".join(process) for process in processes["Processes"])
    assert server.command_lines == []
    expect_no_key(json.dumps([hello, held], ensure_ascii=False))
    files = [file for file in theory.home.rglob("*") if file.is_file()]  # records, ledger, store, cache
    assert len(files) > 10
    for file in files:
        expect_no_key(file.read_bytes().decode("latin-1"))


def expect_no_key(text: str) -> None:
    assert [spelling for spelling in SPELLINGS if spelling in text] == []
