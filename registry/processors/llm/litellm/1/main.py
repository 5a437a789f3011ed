"""Chat completion through LiteLLM: one request, never repeated by itself.

Reads ``job/inputs.json``, prints the tokens as events as they come, and leaves ``text/response.txt`` and
``meta.json``. Talks to the provider of the model, or to ``api_base``, and to nobody else.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from failures import Code, Failure, begun, failure_of, masked, missing_key
from messages import conversation

if TYPE_CHECKING:
    from types import ModuleType

MODEL = "openai/gpt-4o-mini"  # where the inputs name none: cheap, and it sees images
SILENCE_S = 280.0  # seconds between two bytes of a reply; below the entry's 300, so that it is us who end it
PIECE = 4096  # characters of one event; core takes a line of 64 KiB, and JSON makes up to 12 bytes of one
OPENAI = {"openai", "text-completion-openai", "custom_openai"}


def main() -> int:
    """Answer the inputs; the exit code."""
    root = os.environ.get("THEORY_ROOT", "")
    inputs = json.loads(Path(f"{root}/job/inputs.json").read_bytes())
    try:
        take_secrets()
        messages = conversation(inputs["messages"])
        text, meta = complete(import_litellm(), messages, inputs)
    except Failure as failure:
        note(str(failure))
        return failure.code
    out = Path(f"{root}/job/out")
    (out / "text").mkdir(parents=True, exist_ok=True)
    (out / "text" / "response.txt").write_text(text, encoding="utf-8", newline="")
    (out / "meta.json").write_text(json.dumps(meta, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


def take_secrets() -> None:
    """Put what the file named by ``X_API_KEY_FILE`` holds into ``X_API_KEY``, and the like.

    Raises:
        Failure: There is no such file.
    """
    for variable, file in list(os.environ.items()):
        name = re.fullmatch(r"(\w+_API_(?:KEY|BASE|VERSION))_FILE", variable)
        if name and not os.environ.get(name[1]):
            try:
                os.environ[name[1]] = Path(file).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise Failure(
                    Code.NO_KEY, f"{variable} names {file}, but: {error.strerror}", f"put {name[1]} there"
                ) from None


def import_litellm() -> ModuleType:
    """LiteLLM, told to fetch nothing, read no .env file, and keep quiet."""
    os.environ |= {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it fetches its prices while it is imported
        "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",  # the same
        "LITELLM_MODE": "PRODUCTION",  # else it reads .env
    }
    logging.disable()  # it logs with tracebacks what it also raises
    warnings.simplefilter("ignore")
    import litellm  # noqa: PLC0415 - takes two seconds, and reads the variables above

    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.disable_token_counter = True  # would fetch images to guess at what a reply does not say
    return litellm


def complete(
    litellm: ModuleType, messages: list[dict[str, Any]], inputs: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """The answer and what meta.json says about it.

    Raises:
        Failure: There is no answer, or not all of it.
    """
    model, streams = inputs.get("model", MODEL), inputs.get("stream", True)
    options: dict[str, Any] = {name: inputs[name] for name in ("temperature", "max_tokens") if name in inputs}
    if streams:
        options |= {"stream": True, "stream_options": {"include_usage": True}}
    api_base = inputs.get("api_base") or os.environ.get("LITELLM_API_BASE") or None
    if api_base is None and (failure := missing_key(model)):  # a server of one's own may need none
        raise failure
    try:
        if litellm.get_llm_provider(model)[1] not in OPENAI:
            os.environ.pop("OPENAI_API_KEY", None)  # LiteLLM would send it to a provider whose own is missing
        reply = litellm.completion(
            model=model,
            messages=messages,
            api_base=api_base,
            timeout=SILENCE_S,
            max_retries=0,
            **options,
        )
        if streams:
            reply = collected(litellm, reply)
        choice = reply.choices[0]
    except Failure:
        raise
    except Exception as error:  # noqa: BLE001 - LiteLLM raises whatever its providers' code does
        raise failure_of(error, model) from None
    text = clean(choice.message.content or "")
    if not streams:
        say(text)
    if choice.finish_reason == "length":
        raise Failure(Code.CUT)
    if choice.finish_reason == "content_filter":
        raise Failure(Code.FILTERED)
    meta = {"model": clean(reply.model or model), "finish_reason": clean(choice.finish_reason)}
    return text, meta | counted(litellm, reply, model)


def collected(litellm: ModuleType, stream: Any) -> Any:  # noqa: ANN401 - classes of LiteLLM, imported late
    """The whole reply of a stream, each token said as it came."""
    held = ""  # what may be the beginning of a key that a server sends back in pieces
    for chunk in stream:
        if chunk.choices:
            held = clean(held + (chunk.choices[0].delta.content or ""))
            ready = len(held) - begun(held)
            say(held[:ready])
            held = held[ready:]
    say(held)
    # LiteLLM ends every stream with "stop", also one that just ended; these are what the provider said.
    if not (stream.received_finish_reason or stream.intermittent_finish_reason):
        if any(chunk.choices for chunk in stream.chunks):
            raise Failure(Code.BROKEN_OFF)
        raise Failure(Code.MALFORMED)
    return litellm.stream_chunk_builder(stream.chunks)


def say(text: str) -> None:
    """Print a piece of the answer as an event."""
    for at in range(0, len(text), PIECE):
        sys.stdout.write(json.dumps({"event": "token", "text": text[at : at + PIECE]}) + "\n")
        sys.stdout.flush()


def note(line: str) -> None:
    """Print a line for the log."""
    sys.stderr.write(f"{line}\n")


def counted(litellm: ModuleType, reply: Any, model: str) -> dict[str, int]:  # noqa: ANN401 - as above
    """Tokens as the provider counts them, and their price; what is unknown is left out, not guessed."""
    usage = getattr(reply, "usage", None)
    if not (usage and usage.prompt_tokens):
        note("the reply does not say its usage, so tokens and cost are unknown")
        return {}
    meta = {"tokens_in": usage.prompt_tokens, "tokens_out": usage.completion_tokens}
    try:
        dollars = litellm.completion_cost(reply, model=model)
    except Exception:  # noqa: BLE001 - it raises Exception itself for a model without a price
        note(f"LiteLLM knows no price of {model}, so the cost is unknown")
        return meta
    # Up to whole micro-USD; the inner rounding takes away what is only the error of a float.
    return meta | {"cost_micro_usd": math.ceil(round(dollars * 1_000_000, 3))}


def clean(text: str) -> str:
    """The text as UTF-8 can hold it, without a key that a server sent back."""
    return masked(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def leave(code: int) -> NoReturn:
    """End at once: LiteLLM's threads and event loops would take their time, and make noise."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
