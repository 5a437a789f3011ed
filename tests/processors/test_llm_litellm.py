"""`llm/litellm@1`: real LiteLLM in its real environment, against a provider on loopback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from house.command import Theory, environment
from house.wheels import build
from processors.llm_server import PATIENCE, Provider, provider
from processors.runs import CID, ENTRIES, REPOSITORY, Done

KEY = "sk-t3st/Key+of=nobody&0123456789"
OTHER = "other-key-of-nobody-0123456789"
FOLDER = ENTRIES / "llm" / "litellm" / "1"
MINUTES = 300  # seconds: the first run builds the environment
PHOTO = b"\xff\xd8\xff\xe0 not really a photo"
ASK = [{"role": "user", "content": "Hello!"}]
RUN = ("run", "llm/litellm@1", "--adapter", "process", "--json")

Ask = Callable[..., Done]


@pytest.fixture(scope="module")
def server() -> Iterator[Provider]:
    with provider() as running:
        yield running


@pytest.fixture(scope="module")
def theory(server: Provider, tmp_path_factory: pytest.TempPathFactory) -> Theory:
    """`theory` with a home for all tests here, whose environment is built by the first run."""
    prefix = Path(sys.prefix)
    if not (prefix / "bin" / "theory").exists():  # tox has the wheels installed
        wheels: Path = tmp_path_factory.mktemp("wheels")
        build(wheels)
        prefix = environment(tmp_path_factory.mktemp("installed"), *wheels.glob("theory_*.whl"))
    base = tmp_path_factory.mktemp("llm")
    (base / "home").mkdir()
    (base / "cwd").mkdir()
    (base / "home" / ".env").write_text("READ_FROM_DOTENV=1\n")
    index = {
        name: value
        for name, value in os.environ.items()
        if re.match(r"(?i)pip_|ssl_cert|(requests|curl)_ca|\w*_proxy$", name)
    }
    environ = {**index, "OPENAI_API_KEY": KEY, "LITELLM_API_BASE": server.base}
    return Theory(prefix=prefix, home=base / "home", cwd=base / "cwd", environ=environ)


@pytest.fixture(scope="module")
def hello(theory: Theory) -> Any:
    """The envelope of a run with an image, token by token, the model left to the processor."""
    (theory.cwd / "photo.jpg").write_bytes(PHOTO)
    inputs = {"messages": [{"content": ["What is this?", {"$attach": "photo"}]}]}
    options = ("--attach", "photo=photo.jpg", "--inputs-json", json.dumps(inputs), "--stream")
    *events, envelope = theory(*RUN, *options, timeout=MINUTES).ok().lines
    return {**envelope, "events": events}


@pytest.fixture(scope="module")
def held(theory: Theory, server: Provider, hello: Any) -> list[Any]:
    """What a run shows whose provider waits, after the first token, until we have seen it.

    It then sends the key back.
    """
    assert hello["status"] == "success"
    inputs = json.dumps({"model": "openai/held", "messages": ASK})
    shown = []
    with theory.start(*RUN, "--stream", "--inputs-json", inputs) as process:
        assert process.stdout
        for line in process.stdout:
            shown.append(json.loads(line))
            if shown[-1].get("event") == "token":
                server.seen.set()
        process.communicate()
    return shown


@pytest.fixture(scope="module")
def forks(theory: Theory, hello: Any) -> Iterator[subprocess.Popen[str]]:
    assert hello["status"] == "success"
    (complete,) = theory.home.glob("cache/**/environments/*/complete")
    with subprocess.Popen(
        [complete.parent / "bin" / "python", Path(__file__).with_name("llm_fork.py")],
        cwd=FOLDER,
        env={"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(theory.cwd)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        assert process.stdin
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


@pytest.fixture
def ask(forks: subprocess.Popen[str], server: Provider, tmp_path: Path) -> Ask:
    """Run the program on these inputs, with these attached files, as the process adapter runs it."""
    count = 0

    def once(
        name: str | None = "gpt-4o-mini",
        messages: Any = ASK,
        *,
        files: dict[str, bytes] | None = None,
        environ: dict[str, str] | None = None,
        silence_s: float = PATIENCE,
        **inputs: Any,
    ) -> Done:
        nonlocal count
        count += 1
        root = tmp_path / f"run{count}"
        out = root / "job" / "out"
        out.mkdir(parents=True)
        for basename, content in (files or {}).items():
            file = root / "artifacts" / "inputs" / CID / basename
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        if name is not None:
            inputs["model"] = name if "/" in name else f"openai/{name}"
        inputs = {"messages": messages, "api_base": server.base, **inputs}
        (root / "job" / "inputs.json").write_text(json.dumps(inputs))
        variables = {"THEORY_ROOT": str(root), **({"OPENAI_API_KEY": KEY} if environ is None else environ)}
        order = {
            "environ": variables,
            "files": [str(root / "stdout"), str(root / "stderr")],
            "silence_s": silence_s,
        }
        assert forks.stdin
        assert forks.stdout
        forks.stdin.write(json.dumps(order) + "\n")
        forks.stdin.flush()
        code = int(forks.stdout.readline())
        return Done(code, (root / "stdout").read_text(), (root / "stderr").read_text(), out, 0)

    return once


def attached(name: str, mime: str) -> dict[str, str]:
    return {"$artifact": f"/artifacts/inputs/{CID}/{name}", "cid": CID, "mime": mime}


def tokens(done: Done) -> str:
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {event["event"] for event in events} <= {"token"}
    return "".join(event["text"] for event in events)


# ---------------------------------------------------------------- the whole way, through the command


def test_a_run_answers_with_the_text_and_its_meta(theory: Theory, hello: Any) -> None:
    paths = [output["path"] for output in hello["outputs"]]
    assert paths == ["/artifacts/outputs/text/response.txt", "/artifacts/outputs/meta.json"]
    assert theory("cat", hello["outputs"][0]["cid"]).ok().stdout == "Hi there, you."
    assert theory("cat", hello["outputs"][1]["cid"]).ok().json == {
        "model": "gpt-4o-mini",
        "finish_reason": "stop",
        "tokens_in": 1000,
        "tokens_out": 2000,
        "cost_micro_usd": 1350,  # 0.15 USD a million tokens in, 0.60 out
    }
    assert hello["meta"]["model"] == "gpt-4o-mini"
    assert hello["meta"]["cost_micro_usd"] == 1350


def test_the_attached_image_and_the_key_reach_the_provider(server: Provider, hello: Any) -> None:
    assert hello["status"] == "success"
    request = server.asked("gpt-4o-mini")
    text, image = request.body["messages"][0]["content"]
    assert request.body["messages"][0]["role"] == "user"
    assert text == {"type": "text", "text": "What is this?"}
    head, _, data = image["image_url"]["url"].partition(",")
    assert (image["type"], head, b64decode(data)) == ("image_url", "data:image/jpeg;base64", PHOTO)
    assert request.body["stream_options"] == {"include_usage": True}
    assert request.headers["authorization"] == f"Bearer {KEY}"


def test_its_tokens_are_events(hello: Any) -> None:
    told = [event["text"] for event in hello["events"] if event["event"] == "token"]
    assert len(told) == 2
    assert "".join(told) == "Hi there, you."


def test_stream_shows_a_token_before_the_next_one_is_sent(held: list[Any]) -> None:
    assert [event["text"] for event in held if event.get("event") == "token"] == ["Your ", "key is ***."]
    assert held[-1]["status"] == "success"


def test_without_its_key_nothing_runs_and_nothing_is_spent(theory: Theory) -> None:
    result = theory.with_environ(OPENAI_API_KEY="")(*RUN, "--inputs-json", json.dumps({"messages": ASK}))
    assert (result.code, result.line["error"]["code"]) == (2, "ERR_MISSING_SECRET")
    assert "OPENAI_API_KEY" in result.line["error"]["message"]
    assert "OPENAI_API_KEY" in result.line["error"]["hint"]


def test_a_refused_key_fails_with_what_to_do_and_the_key_is_nowhere(
    theory: Theory, server: Provider, hello: Any, held: list[Any]
) -> None:
    # The provider's error has the key in it, plain, in base64 and in URL spelling.
    server.secret = KEY
    inputs = json.dumps({"model": "openai/error-401", "messages": ASK})
    refused = theory(*RUN, "--stream", "--debug", "--inputs-json", inputs)
    assert server.command_lines == []
    envelope = refused.lines[-1]
    assert (refused.code, envelope["error"]["code"]) == (1, "ERR_PROCESSOR")
    assert re.search("refused the key.*you sent .*; check the key", envelope["error"]["message"])
    assert envelope["meta"]["exit_code"] == 12
    assert theory("cat", held[-1]["outputs"][0]["cid"]).ok().stdout == "Your key is ***."

    spellings = [KEY, quote(KEY, safe=""), quote(KEY), b64encode(KEY.encode()).decode(), KEY.encode().hex()]
    shown = theory("show", envelope["execution_id"]).ok()
    for text in (refused.stdout, refused.stderr, json.dumps([hello, held]), shown.stdout, shown.stderr):
        assert not any(spelling in text for spelling in spellings)
    files = [file for file in theory.home.rglob("*") if file.is_file()]
    assert len(files) > 100
    for file in files:
        content = file.read_bytes()
        assert not any(spelling.encode() in content for spelling in spellings), file


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("stream", [True, False, None], ids=["streamed", "whole", "left out"])
def test_an_answer_is_the_same_streamed_and_whole(ask: Ask, server: Provider, *, stream: bool | None) -> None:
    server.requests.clear()
    done = ask(temperature=0.5, max_tokens=9, **({} if stream is None else {"stream": stream}))
    assert (done.exit_code, done.stderr) == (0, "")
    assert done["text/response.txt"] == tokens(done) == "Hi there, you."
    meta = done["meta.json"]
    assert meta.pop("model").startswith("gpt-4o-mini")
    assert meta == {
        "finish_reason": "stop",
        "tokens_in": 1000,
        "tokens_out": 2000,
        "cost_micro_usd": 1350,
    }
    (request,) = server.requests  # once, and never again by itself
    assert request.path == "/v1/chat/completions"
    assert request.body.pop("stream", False) is (stream is not False)
    assert request.body.pop("stream_options", None) == (None if stream is False else {"include_usage": True})
    assert request.body == {
        "model": "gpt-4o-mini",
        "messages": ASK,
        "temperature": 0.5,
        "max_tokens": 9,
    }


def test_a_conversation_keeps_its_roles_and_parts(ask: Ask, server: Provider) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": "Yes?"},
        {"content": ["And", {"type": "image_url", "image_url": {"url": "https://example.invalid/a.png"}}]},
    ]
    server.requests.clear()
    assert ask(messages=messages).exit_code == 0
    sent = server.requests[0].body["messages"]
    assert sent[:2] == messages[:2]
    assert sent[2]["role"] == "user"
    assert sent[2]["content"][0] == {"type": "text", "text": "And"}
    assert sent[2]["content"][1]["image_url"]["url"] == "https://example.invalid/a.png"


def test_attached_files_become_what_a_model_can_read(ask: Ask, server: Provider) -> None:
    files = {"data.csv": b"\xef\xbb\xbfa,b\n1,\xc3\xa9\n", "report.pdf": b"%PDF-1.7", "voice.wav": b"RIFF"}
    parts = [
        attached("data.csv", "text/csv"),
        attached("report.pdf", "application/pdf"),
        attached("voice.wav", "audio/wav"),
    ]
    server.requests.clear()
    assert ask(messages=[{"content": parts}], files=files).exit_code == 0
    text, document, sound = server.requests[0].body["messages"][0]["content"]
    assert text == {"type": "text", "text": '<file name="data.csv">\na,b\n1,é\n\n</file>'}
    assert document["file"]["filename"] == "report.pdf"
    assert document["file"]["file_data"] == "data:application/pdf;base64," + b64encode(b"%PDF-1.7").decode()
    assert sound["input_audio"] == {"data": b64encode(b"RIFF").decode(), "format": "wav"}


@pytest.mark.parametrize(
    ("name", "mime", "content", "said"),
    [
        ("a.zip", "application/zip", b"PK", "a.zip is application/zip, which no model reads"),
        ("a.txt", "text/plain", b"caf\xe9", "a.txt (text/plain) is not UTF-8"),
        ("a.png", "image/png", bytes((20 << 20) + 1), "more than 20 MiB"),
    ],
    ids=["an archive", "another encoding", "too large"],
)
def test_a_file_that_no_model_reads_is_refused_before_anything_is_sent(
    ask: Ask, server: Provider, name: str, mime: str, content: bytes, said: str
) -> None:
    server.requests.clear()
    done = ask(messages=[{"content": [attached(name, mime)]}], files={name: content})
    assert done.exit_code == 10
    assert said in done.stderr
    assert server.requests == []


def test_an_answer_that_utf_8_cannot_hold_is_mended(ask: Ask) -> None:
    assert ask("halves")["text/response.txt"] == "\U0001f600 \ufffd"


def test_a_long_piece_becomes_several_events(ask: Ask) -> None:
    done = ask("long")
    assert done["text/response.txt"] == tokens(done) == "\U0001f600" * 20_000
    assert max(len(line.encode()) for line in done.stdout.splitlines()) < 64 * 1024


def test_an_empty_answer_is_an_answer(ask: Ask) -> None:
    assert ask("blank")["text/response.txt"] == ""


def test_a_model_without_a_price_has_no_cost(ask: Ask) -> None:
    done = ask("nobody-knows-me")
    assert done.exit_code == 0
    assert "no price of openai/nobody-knows-me" in done.stderr
    assert set(done["meta.json"]) == {"model", "finish_reason", "tokens_in", "tokens_out"}


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_what_the_provider_does_not_count_is_not_guessed(ask: Ask, server: Provider, *, stream: bool) -> None:
    server.requests.clear()
    # LiteLLM would fetch it to count its tokens.
    picture = {"type": "image_url", "image_url": {"url": "http://pictures.invalid/a.png", "detail": "high"}}
    done = ask("no-usage", [{"content": ["What is this?", picture]}], stream=stream)
    assert done.exit_code == 0
    assert "does not say its usage" in done.stderr
    assert set(done["meta.json"]) == {"model", "finish_reason"}
    assert len(server.requests) == 1


# ---------------------------------------------------------------- providers and keys


def test_another_provider_gets_its_own_key(ask: Ask, server: Provider) -> None:
    server.requests.clear()
    done = ask(
        "anthropic/claude-sonnet-4-5",
        api_base=server.base.removesuffix("/v1"),
        environ={"OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": OTHER},
    )
    assert (done.exit_code, done.stderr) == (0, "")
    assert done["text/response.txt"] == tokens(done) == "Hi there, you."
    assert done["meta.json"]["cost_micro_usd"] == 33_000  # 3 USD a million tokens in, 15 out
    (request,) = server.requests
    assert request.headers["x-api-key"] == OTHER
    assert KEY not in str(request)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("anthropic/claude-sonnet-4-5", "ANTHROPIC_API_KEY"),
        ("groq/llama-3.3-70b-versatile", "GROQ_API_KEY"),
        ("gemini/gemini-2.5-flash", "GEMINI_API_KEY"),
        ("azure/gpt-4o", "AZURE_API_KEY"),
    ],
)
def test_a_missing_key_is_named_before_anything_is_sent(ask: Ask, model: str, name: str) -> None:
    expect_failure(ask(model, api_base=None), 11, f"{model} needs the secret {name}; export {name}=")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("together_ai/some", "TOGETHERAI_API_KEY"),
        ("perplexity/some", "PERPLEXITYAI_API_KEY"),
        ("cerebras/some", "CEREBRAS_API_KEY"),
        ("anthropic/some", "ANTHROPIC_API_KEY"),
        ("gemini/some", "GEMINI_API_KEY"),
    ],
)
def test_the_key_of_openai_does_not_stand_in_for_another(
    ask: Ask, server: Provider, model: str, name: str
) -> None:
    server.requests.clear()
    expect_failure(ask(model), 11, f"needs the secret {name}; export {name}=")
    assert server.requests == []


def test_the_base_in_the_inputs_wins_over_the_variable(ask: Ask, server: Provider) -> None:
    nowhere = "http://127.0.0.1:1/v1"
    assert ask(environ={"OPENAI_API_KEY": KEY, "LITELLM_API_BASE": nowhere}).exit_code == 0
    only = {"OPENAI_API_KEY": KEY, "LITELLM_API_BASE": server.base}
    assert ask(environ=only, api_base=None).exit_code == 0


def test_a_secret_may_come_in_a_file(ask: Ask, server: Provider, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{OTHER}\n")
    server.requests.clear()
    assert ask(environ={"OPENAI_API_KEY_FILE": str(tmp_path / "key")}).exit_code == 0
    assert server.requests[0].headers["authorization"] == f"Bearer {OTHER}"
    both = {"OPENAI_API_KEY_FILE": str(tmp_path / "key"), "OPENAI_API_KEY": KEY}
    assert ask(environ=both).exit_code == 0
    assert server.requests[1].headers["authorization"] == f"Bearer {KEY}"
    nowhere = {"OPENAI_API_KEY_FILE": str(tmp_path / "nowhere")}
    expect_failure(ask(environ=nowhere), 11, "No such file or directory; put OPENAI_API_KEY there")


def test_another_host_than_the_providers_would_have_been_noticed(ask: Ask) -> None:
    # The guard of llm_fork.py holds for every test here; this one shows that it works.
    done = ask(api_base="http://provider.invalid/v1")
    assert (done.exit_code, done.stderr) == (99, "turned to provider.invalid\n")


# ---------------------------------------------------------------- failures

FAILURES = {
    "error-400": (13, "request was refused"),
    "error-401": (12, "refused the key"),
    "error-403": (12, "refused the key"),
    "error-404": (13, "request was refused"),
    "error-408": (19, "did not answer in time"),
    "error-413": (14, "too long"),
    "error-429": (16, "too many requests"),
    "error-quota": (16, "exceeded your current quota"),
    "error-context": (14, "maximum context length is 8192"),
    "error-policy": (15, "content filter"),
    "error-500": (20, "failed"),
    "error-503": (20, "failed"),
    "error-504": (19, "did not answer in time"),
    "length": (17, "the answer was cut"),
    "content_filter": (15, "content filter"),
    "malformed": (21, "no chat completion"),
    "html": (21, "no chat completion"),
    "empty": (21, "no chat completion"),
    "hangs-up": (22, "broke off"),
    "silent": (19, "did not answer in time"),
}
BROKEN_STREAMS = {
    "cut": (22, "broke off"),
    "ends": (22, "broke off"),
    "garbles": (21, "no chat completion"),
    "overloaded": (20, "overloaded"),
}


def expect_failure(done: Done, code: int, said: str) -> None:
    assert (done.exit_code, done.files) == (code, {}), done.stderr
    assert re.fullmatch(r"[^\n]*[^\n;]; [^\n]+\n", done.stderr), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert KEY not in done.stderr + done.stdout


@pytest.mark.parametrize("model", FAILURES)
def test_a_failure_is_one_line_with_a_code_of_its_own(ask: Ask, model: str) -> None:
    done = ask(model, silence_s=0.2 if model == "silent" else PATIENCE)
    expect_failure(done, *FAILURES[model])


@pytest.mark.parametrize("model", [model for model in FAILURES if not model.startswith("error")])
def test_a_failure_of_a_whole_answer_is_the_same(ask: Ask, model: str) -> None:
    done = ask(model, stream=False, silence_s=0.2 if model == "silent" else PATIENCE)
    expect_failure(done, *FAILURES[model])


@pytest.mark.parametrize("model", BROKEN_STREAMS)
def test_a_stream_that_breaks_is_no_answer(ask: Ask, model: str) -> None:
    done = ask(model)
    expect_failure(done, *BROKEN_STREAMS[model])
    assert tokens(done) == "Hi ther"


def test_a_refused_connection_is_said(ask: Ask) -> None:
    expect_failure(ask(api_base="http://127.0.0.1:1/v1"), 18, "no connection")


def test_a_model_of_no_provider_is_said(ask: Ask) -> None:
    done = ask(None, model="gpt-from-nowhere")
    expect_failure(done, 13, "a model is named as PROVIDER/NAME")


def test_a_long_error_is_cut_between_words_so_that_no_half_of_a_key_is_left(ask: Ask) -> None:
    done = ask("error-long")
    expect_failure(done, 13, " …; check model and inputs")
    whole = {"***", "you", "sent", b64encode(KEY.encode()).decode(), quote(KEY, safe="")}
    assert set(done.stderr.partition(": ")[2].partition(" …")[0].split()) <= whole
    assert len(done.stderr) < 600


def test_a_key_that_comes_back_in_pieces_is_in_no_event(ask: Ask) -> None:
    done = ask("split-key")
    assert tokens(done) == done["text/response.txt"] == "Hi ther***e, you."


def test_a_word_that_stands_in_for_a_key_is_not_masked(ask: Ask) -> None:
    assert ask(environ={"OPENAI_API_KEY": "Hi"})["text/response.txt"] == "Hi there, you."


def test_a_failure_asks_once(ask: Ask, server: Provider) -> None:
    server.requests.clear()
    ask("error-503")
    assert len(server.requests) == 1


# ---------------------------------------------------------------- what it is installed from


def test_every_package_of_the_lock_has_a_version_and_hashes() -> None:
    lock = (FOLDER / "requirements.lock").read_text()
    packages = re.split(r"(?m)^(?=\S)", lock)[1:]
    assert len(packages) > 40
    assert all(re.match(r"[a-z0-9-]+==[\w.]+ ", package) for package in packages)
    assert all("--hash=sha256:" in package for package in packages)
    assert "://" not in lock


def test_the_lock_is_of_the_requirements() -> None:
    wanted = re.findall(r"(?m)^[a-z-]+==\S+", (FOLDER / "requirements.in").read_text())
    assert wanted
    lock = (FOLDER / "requirements.lock").read_text()
    assert all(f"{one} \\\n" in lock for one in wanted)


def test_every_exit_code_is_in_the_guide() -> None:
    codes = dict(re.findall(r"(?m)^    ([A-Z_]+) = (\d+)$", (FOLDER / "failures.py").read_text()))
    guide = (REPOSITORY / "docs" / "how-to" / "llm.md").read_text("utf-8")
    assert len(codes) > 10
    assert sorted(codes.values()) == sorted(re.findall(r"(?m)^\| (\d+) \|", guide))
