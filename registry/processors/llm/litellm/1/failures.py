"""Every way in which a request fails, with an exit code of its own; docs/how-to/llm.md lists them."""

from __future__ import annotations

import os
import re
from enum import IntEnum
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

WORDS = 400  # characters of a message
KEY_CHARACTERS = 12  # a shorter one is made up, as for a server that asks for none, and may be a word


class Code(IntEnum):
    """The exit codes. They are stable: a script may rely on them."""

    UNKNOWN = 1
    ATTACHMENT = 10
    NO_KEY = 11
    BAD_KEY = 12
    REFUSED = 13
    TOO_LONG = 14
    FILTERED = 15
    RATE_LIMIT = 16
    CUT = 17
    UNREACHABLE = 18
    TIMEOUT = 19
    SERVICE = 20
    MALFORMED = 21
    BROKEN_OFF = 22


# What happened and what to do next; {model} is filled in.
SAYINGS = {
    Code.UNKNOWN: ("LiteLLM failed", "try again, or another model"),
    Code.BAD_KEY: (
        "the provider of {model} refused the key",
        "check the key, and that its account may use this model",
    ),
    Code.REFUSED: (
        "the request was refused",
        "check model and inputs; a model is named as PROVIDER/NAME",
    ),
    Code.TOO_LONG: (
        "the conversation is too long for {model}",
        "send less, or take a model with a longer context",
    ),
    Code.FILTERED: ("the provider's content filter stepped in", "change what the messages ask for"),
    Code.RATE_LIMIT: (
        "too many requests, or no quota left",
        "wait and run again, or check the quota of the account",
    ),
    Code.CUT: (
        "the answer was cut: it reached max_tokens, or the model's own limit",
        "raise max_tokens, or ask for a shorter answer",
    ),
    Code.UNREACHABLE: (
        "no connection to the provider of {model}",
        "check api_base and the network; in a container, 127.0.0.1 is the container itself",
    ),
    Code.TIMEOUT: ("the provider of {model} did not answer in time", "run again, or take a faster model"),
    Code.SERVICE: ("the provider of {model} failed", "run again later"),
    Code.MALFORMED: (
        "the reply is no chat completion",
        "check that api_base is an OpenAI-compatible API, such as http://localhost:8000/v1",
    ),
    Code.BROKEN_OFF: ("the reply broke off before it was complete", "run again"),
}
OF_STATUS = {
    401: Code.BAD_KEY,
    403: Code.BAD_KEY,
    408: Code.TIMEOUT,
    413: Code.TOO_LONG,
    429: Code.RATE_LIMIT,
    504: Code.TIMEOUT,
}
# What OpenAI and those who speak its API say in the body; more exact than the status.
OF_NAME = {
    "content_filter": Code.FILTERED,
    "content_policy_violation": Code.FILTERED,
    "context_length_exceeded": Code.TOO_LONG,
}


class Failure(Exception):
    """What went wrong, in one line that says what to do next.

    Args:
        code: The exit code.
        what: What happened; nothing: what the code says.
        hint: What to do next; nothing: what the code says.
    """

    def __init__(self, code: Code, what: str = "", hint: str = "") -> None:
        self.code = code
        usual = SAYINGS.get(code, ("", ""))
        super().__init__(f"{_one_line(masked(what or usual[0]))}; {hint or usual[1]}")


def masked(text: str) -> str:
    """The text without the keys that this process was given, which a server could send back."""
    for key in _keys():
        text = text.replace(key, "***")
    return text


def begun(text: str) -> int:
    """How many characters at the end of the text may be the beginning of such a key."""
    sizes = range(1, len(text) + 1)
    return max((size for size in sizes for key in _keys() if key.startswith(text[-size:])), default=0)


def _keys() -> list[str]:
    return [
        value for name, value in os.environ.items() if name.endswith("_KEY") and len(value) >= KEY_CHARACTERS
    ]


def failure_of(error: Exception, model: str) -> Failure:
    """What an exception of LiteLLM means.

    Its classes alone do not say: a refused connection and a page of HTML are both an InternalServerError.
    So what counts first is what its HTTP client met, which is somewhere in the chain of causes.
    """
    # LiteLLM has imported both when there is something to explain.
    import httpx  # noqa: PLC0415
    import litellm  # noqa: PLC0415

    chain = list(_causes(error))
    answer = next((one.response for one in chain if isinstance(one, httpx.HTTPStatusError)), None)
    status = getattr(error if answer is None else answer, "status_code", None)
    told = next((one.body for one in chain if isinstance(getattr(one, "body", None), dict)), {})
    known = (
        (Code.TOO_LONG, litellm.ContextWindowExceededError),
        (Code.FILTERED, litellm.ContentPolicyViolationError),
        (Code.UNREACHABLE, (httpx.ConnectError, httpx.ConnectTimeout)),
        (Code.TIMEOUT, httpx.TimeoutException),
        (Code.BROKEN_OFF, httpx.TransportError),
    )
    code = next((code for code, kind in known if any(isinstance(one, kind) for one in chain)), None)
    code = code or OF_NAME.get(str(told.get("code")))
    if code is None and status is not None:
        refused = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
        failed = Code.SERVICE if answer is not None or told else Code.MALFORMED
        code = OF_STATUS.get(status, Code.REFUSED if refused else failed)
    said = told.get("message") or _words(answer, error)
    if answer is None and re.search("(?i)missing .*(key|credentials)", said) and (gone := missing_key(model)):
        return gone
    if code is None:
        code, said = Code.UNKNOWN, f"{type(error).__name__}: {said}"
    return Failure(code, f"{SAYINGS[code][0].format(model=model)}: {said}")


def missing_key(model: str) -> Failure | None:
    """That a key which the model's provider cannot do without is not there."""
    import litellm  # noqa: PLC0415

    missing = [name for name in litellm.validate_environment(model)["missing_keys"] if name.endswith("_KEY")]
    if not missing:
        return None
    name = missing[-1]  # of the two names of Gemini's key the one that our entry knows
    return Failure(Code.NO_KEY, f"{model} needs the secret {name}", f"export {name}=…")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = getattr(error, "original_exception", None) or error.__cause__ or error.__context__


def _words(answer: object, error: Exception) -> str:
    """What the provider says, without what LiteLLM puts around it."""
    try:
        told = answer.json()["error"]  # type: ignore[attr-defined]
        return str(told["message"] if isinstance(told, dict) else told)
    except Exception:  # noqa: BLE001 - there is no such answer, or it has another form
        words = str(error).partition("Traceback (most recent call last)")[0]
        return re.sub(r"^([\w.]*(Error|Timeout|Exception)( Error)?(: | - ))+", "", words)


def _one_line(text: str) -> str:
    """The begin of a text on one line; it ends between words, so that no part of a masked key is left."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= WORDS else f"{line[:WORDS].rpartition(' ')[0]} …"
