"""The messages of an engine that works at something long: a pull or a build."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

from theory_adapter_local.cancelled import Cancelled
from theory_adapter_local.engine.connection import Lost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from theory import Channel
    from theory_adapter_local.engine.client import Engine

_POLL_S = 0.05
_MOST_LINE = 16 << 20  # bytes; a message has some hundred, with a step's output some thousand


class Failed(Exception):
    """The engine could not do it, and says why.

    Args:
        words: The engine's own.
        exit_code: Of the command that failed in a build.
    """

    def __init__(self, words: str, exit_code: int | None = None) -> None:
        super().__init__(words)
        self.words = words
        self.exit_code = exit_code


def follow(
    engine: Engine,
    path: str,
    *,
    query: Mapping[str, str],
    hear: Callable[[Mapping[str, Any]], None],
    channel: Channel,
    headers: Mapping[str, str] | None = None,
    body: Iterable[bytes] | None = None,
) -> None:
    """Ask for it, and hand on every message until the last.

    Raises:
        Failed: A message is an error.
        Refused, Lost, DockerUnavailable: As ``Engine.stream``.
        Cancelled: The run was cancelled; the engine sees the connection closed, and stops.
    """
    task = _Task(engine, path, query, headers, body, hear)
    task.start()
    while task.is_alive():
        task.join(_POLL_S)
        if channel.wait_cancelled(0):
            task.stop()
            raise Cancelled
    if task.error is not None:
        raise task.error


class _Task(threading.Thread):
    """Reads in a thread of its own: nothing comes for minutes where a registry or a step is slow."""

    def __init__(
        self,
        engine: Engine,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str] | None,
        body: Iterable[bytes] | None,
        hear: Callable[[Mapping[str, Any]], None],
    ) -> None:
        super().__init__(daemon=True)
        self.error: BaseException | None = None
        self._engine = engine
        self._path = path
        self._query = query
        self._headers = headers
        self._body = None if body is None else self._portions(body)
        self._hear = hear
        self._answer: Any = None
        self._stopped = threading.Event()

    def run(self) -> None:
        try:
            with self._engine.stream(
                "POST", self._path, query=self._query, headers=self._headers, body=self._body
            ) as answer:
                self._answer = answer
                line = b""
                while not self._stopped.is_set() and (data := answer.read(65536)):
                    *whole, line = (line + data).split(b"\n")
                    for text in whole:
                        self._take(text)
                    if len(line) > _MOST_LINE:
                        raise Lost(f"{self._path}: the engine sent a message without an end")  # noqa: TRY301 - one way out
                self._take(line)
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            self.error = error

    def stop(self) -> None:
        """End it; what is still sent or read ends with it."""
        self._stopped.set()
        if self._answer is not None:
            self._answer.close()

    def _portions(self, body: Iterable[bytes]) -> Iterable[bytes]:
        for portion in body:
            if self._stopped.is_set():
                raise Cancelled
            yield portion

    def _take(self, text: bytes) -> None:
        if not text.strip() or self._stopped.is_set():
            return
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise Lost(f"{self._path}: the engine sent {text[:80]!r}, which is no message")
        if "error" in message:
            detail = message.get("errorDetail")
            detail = detail if isinstance(detail, dict) else {}
            code = detail.get("code")
            words = str(detail.get("message") or message["error"]).strip()
            raise Failed(words, code if isinstance(code, int) else None)
        self._hear(message)
