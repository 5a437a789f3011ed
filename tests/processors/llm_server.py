"""A provider of language models on loopback: OpenAI's chat API, and Anthropic's, as far as a test needs them.

The model's name says how it behaves; see ``Provider.reply``.
"""

from __future__ import annotations

import json
import socket
import threading
from base64 import b64encode
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 60  # seconds that a held reply waits for its test
USAGE = {"prompt_tokens": 1000, "completion_tokens": 2000, "total_tokens": 3000}
ERRORS = {
    "context": (400, "context_length_exceeded", "This model's maximum context length is 8192 tokens."),
    "policy": (
        *(400, "content_policy_violation"),
        "Your request was rejected as a result of our safety system. (content_policy_violation)",
    ),
    "quota": (429, "insufficient_quota", "You exceeded your current quota."),
}
NO_REPLIES = {"malformed": b"{this is no JSON", "html": b"<html>Welcome to nginx</html>"}
PIECES = {
    "": ("Hi ther", "e, you."),
    "blank": ("", ""),
    "long": ("\U0001f600" * 20_000, ""),
    "halves": ("\ud83d", "\ude00 \ud800"),  # between two halves of a character, and a lone one
    "held": ("Your ", "key is {key}."),
}
FINISHES = {"length": "length", "content_filter": "content_filter"}
EVENTS: dict[str, Any] = {  # in the middle of a stream
    "garbles": "{this is no JSON",
    "overloaded": {"error": {"message": "overloaded", "type": "server_error", "code": None}},
}


@dataclass
class Request:
    """What the provider was sent."""

    path: str
    headers: dict[str, str]  # names in lower case
    body: Any


@dataclass
class Provider:
    """A running server, all that it was sent, and what a test holds back."""

    server: ThreadingHTTPServer
    requests: list[Request] = field(default_factory=list)
    seen: threading.Event = field(default_factory=threading.Event)  # set by a test: it has token 1
    closing: threading.Event = field(default_factory=threading.Event)
    secret: str = ""  # must not be in the command line of any process while a request is answered
    command_lines: list[bytes] = field(default_factory=list)  # … that had it

    @property
    def base(self) -> str:
        """What to give as api_base."""
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def look_around(self) -> None:
        """Note each process that has the secret among its arguments, where the system shows them."""
        for file in Path("/proc").glob("[0-9]*/cmdline") if self.secret else ():
            with suppress(OSError):
                if self.secret.encode() in (line := file.read_bytes()):
                    self.command_lines.append(line)

    def asked(self, model: str) -> Request:
        """The one request for this model."""
        (found,) = [request for request in self.requests if request.body.get("model") == model]
        return found


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    provider: Provider


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def provider(self) -> Provider:
        assert isinstance(self.server, _Server)
        return self.server.provider

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.provider.requests.append(Request(self.path, headers, body))
        self.provider.look_around()
        if self.path.endswith("/messages"):
            self._anthropic(body["model"])
        else:
            self._openai(body["model"], streams=body.get("stream", False))

    def _openai(self, model: str, *, streams: bool) -> None:
        key = self.headers.get("authorization", "").removeprefix("Bearer ")
        if model.startswith("error-"):
            rest = model.removeprefix("error-")
            status, code, words = ERRORS.get(rest) or (400 if rest == "long" else int(rest), None, "no")
            echo = f"you sent {key} {b64encode(key.encode()).decode()} {quote(key, safe='')} "
            words = echo * 9 if rest == "long" else f"{words} {echo}"
            error = {"message": words, "type": "x", "code": code, "param": None}
            self._send(status, {"error": error})
        elif model in NO_REPLIES:
            self._send(200, NO_REPLIES[model])
        elif model in {"silent", "hangs-up"}:
            if model == "silent":
                self.provider.closing.wait(PATIENCE)
            self._hang_up()
        elif streams:
            self._stream(model, *PIECES.get(model, PIECES[""]), key=key)
        else:
            self._whole(model, "".join(PIECES.get(model, PIECES[""])))

    def _whole(self, model: str, answer: str) -> None:
        message = {"role": "assistant", "content": answer}
        choice = {"index": 0, "message": message, "finish_reason": FINISHES.get(model, "stop")}
        reply = {**_named(model), "object": "chat.completion", "choices": [choice], "usage": USAGE}
        if model == "empty":
            reply["choices"] = []
        if model == "no-usage":
            del reply["usage"]
        self._send(200, reply)

    def _stream(self, model: str, first: str, second: str, *, key: str) -> None:
        self._begin_stream()
        if model != "empty":
            self._chunk(model, delta={"role": "assistant", "content": ""})
            self._chunk(model, delta={"content": first})
            for at in range(0, len(key), 5) if model == "split-key" else ():
                self._chunk(model, delta={"content": key[at : at + 5]})
            if model == "held":
                assert self.provider.seen.wait(PATIENCE), "the first token was not seen"
            if model == "cut":
                return self._hang_up()
            if model == "ends":
                return self._end_stream()
            if model in EVENTS:
                self._event(EVENTS[model])
            self._chunk(model, delta={"content": second.format(key=key)})
            self._chunk(model, finish_reason=FINISHES.get(model, "stop"))
        if model != "no-usage":
            self._event({**_named(model), "object": "chat.completion.chunk", "choices": [], "usage": USAGE})
        self._event("[DONE]")
        return self._end_stream()

    def _chunk(self, model: str, **choice: Any) -> None:
        choices = [{"index": 0, "delta": {}, "finish_reason": None, **choice}]
        self._event({**_named(model), "object": "chat.completion.chunk", "choices": choices})

    def _anthropic(self, model: str) -> None:
        self._begin_stream()
        usage = {"input_tokens": 1000, "output_tokens": 1}
        message: dict[str, Any] = {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "content": [],
            "usage": usage,
        }
        message |= {"model": model, "stop_reason": None}
        self._typed("message_start", message=message)
        self._typed("content_block_start", index=0, content_block={"type": "text", "text": ""})
        for text in PIECES[""]:
            self._typed("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
        self._typed("content_block_stop", index=0)
        self._typed("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2000})
        self._typed("message_stop")
        self._end_stream()

    def _typed(self, kind: str, **members: Any) -> None:
        self._event({"type": kind, **members}, name=kind)

    def _send(self, status: int, body: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def _event(self, data: Any, name: str = "") -> None:
        text = data if isinstance(data, str) else json.dumps(data)
        line = (f"event: {name}\n" if name else "") + f"data: {text}\n\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line.encode()))
        self.wfile.flush()

    def _end_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def _hang_up(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


def _named(model: str) -> dict[str, Any]:
    return {"id": "chat-1", "created": 1, "model": f"{model}-2026-01-01"}


@contextmanager
def provider() -> Iterator[Provider]:
    """A provider that answers as long as the block lasts."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.provider = running = Provider(server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield running
    finally:
        running.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
