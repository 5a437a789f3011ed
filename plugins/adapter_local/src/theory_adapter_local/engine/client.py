"""Docker's engine, or Podman's in its place, over its own API: what every run needs, and nothing heavy.

    engine = engine_of()
    engine.call("GET", "/images/python:3.11-slim/json")["Id"]
    with engine.stream("GET", "/containers/NAME/archive", query={"path": "/job/out"}) as answer:
        tarfile.open(fileobj=answer, mode="r|")

The ``docker`` package would cost 120 ms of imports on the way of every run (2026-11). Paths and queries are
plain text here; they are quoted on their way out.
"""

from __future__ import annotations

import atexit
import json
import os
import time
from contextlib import closing
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import quote

from theory_adapter_local.engine import faults
from theory_adapter_local.engine.connect import connect
from theory_adapter_local.engine.connection import Connection, Lost, TooSlow
from theory_adapter_local.engine.find import endpoints_of
from theory_adapter_local.engine.frames import Attached
from theory_adapter_local.engine.http1 import Answer, head_of, length_of, read_head, send_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from theory import JsonObject
    from theory_adapter_local.engine.endpoint import Endpoint

__all__ = ["Attached", "Engine", "Lost", "Refused", "engine_of"]

# The API of Docker 27 (2024) is the newest that this was written for; an engine that is newer speaks it too.
# Docker 19.03 (2019) is the oldest whose API has all that is used here: device requests came last.
NEWEST_API, OLDEST_API = (1, 47), (1, 40)
_MOST_JSON = 64 << 20  # bytes of an answer that ``call`` decodes; a list of 10,000 containers has 20 MB
_MOST_WORDS = 64 << 10  # bytes of an error that are read
_MOST_IDLE = 8  # connections kept; a run has three at once
_PORTION = 64 << 10
_BOTH = {"stream": "1", "stdout": "1", "stderr": "1"}
_LOOK_S = 2.0  # for an engine that is known to answer, normally in 1 ms
_START_S = 30.0  # until a stream begins, after which it may be silent for ever

_engines: dict[tuple[int, tuple[Endpoint, ...]], Engine] = {}


class Refused(Exception):
    """The engine answered with an error; ``message`` is its own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{message} ({status})")
        self.status = status
        self.message = message


class Engine:
    """One engine that answered; every method may be called from any thread, and after a fork.

    Raises:
        DockerUnavailable: There is none.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.host = endpoint.host  # as DOCKER_HOST spells it
        self.is_local = endpoint.scheme == "unix"
        self._idle: list[Connection] = []
        self._asked: dict[str, JsonObject] = {}
        self._prefix = ""
        try:
            api, self.is_podman = self._ping()
        except BaseException:
            self.close()
            raise
        self.api = "{}.{}".format(*min(api, NEWEST_API))  # the version that is spoken
        self._prefix = f"/v{self.api}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which another program finds this engine, over those that it inherits."""
        return self.endpoint.environment

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: JsonObject | None = None,
        timeout_s: float | None = 30.0,
    ) -> Any:  # noqa: ANN401 - JSON, which the caller knows
        """Ask, and give the decoded answer; None if it is empty.

        Args:
            method: As HTTP has it.
            path: Below the version, as plain text.
            query: As plain text.
            body: Sent as JSON.
            timeout_s: Seconds until the whole answer must be there; None: for ever.

        Raises:
            Refused: The engine answered with an error.
            Lost: The connection broke, or there was no answer in time.
            DockerUnavailable: The engine cannot be reached.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        data = bytearray()
        with self._ask(
            method, path, query=query, body=body, timeout_s=timeout_s, deadline=deadline
        ) as answer:
            while portion := answer.read(_PORTION):
                data += portion
                if len(data) > _MOST_JSON:
                    raise Lost(f"{method} {path}: the answer has more than {_MOST_JSON >> 20} MiB")
        if not data.strip():
            return None
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Lost(f"{method} {path}: the answer is not JSON: {bytes(data[:80])!r}") from error

    def stream(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: JsonObject | bytes | IO[bytes] | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Ask, and read the answer as it comes: ``status``, ``headers`` (lower case), ``read(n)``; a context.

        Args:
            method: As HTTP has it.
            path: Below the version, as plain text.
            query: As plain text.
            body: JSON, bytes, a file, or portions of bytes.
            headers: Further ones.
            timeout_s: Seconds in which nothing may come or go; None: for ever.

        Raises:
            Refused: The engine answered with an error.
            Lost: The connection broke, or was silent for too long; while reading, too.
            DockerUnavailable: The engine cannot be reached.
        """
        return self._ask(method, path, query=query, body=body, headers=headers, timeout_s=timeout_s)

    def attach(self, container: str) -> Attached:
        """Both streams of a container that is not started yet; what it writes waits until it is read.

        Raises:
            Refused: There is no such container, for example.
            Lost: The connection broke.
            DockerUnavailable: The engine cannot be reached.
        """
        return Attached(
            self._ask(
                "POST",
                f"/containers/{container}/attach",
                query=_BOTH,
                headers={"Connection": "Upgrade", "Upgrade": "tcp"},
                timeout_s=_START_S,
                is_last=True,
            )
        )

    def logs(self, container: str, since: float) -> Attached:
        """What the engine kept of both streams since then, and what is written from now on.

        Args:
            container: It may be running, or stopped.
            since: Seconds since the epoch, by the engine's clock.

        Raises:
            Refused: There is no such container, for example, or nothing is kept.
            Lost: The connection broke.
            DockerUnavailable: The engine cannot be reached.
        """
        query = {**_BOTH, "follow": "1", "since": f"{since:.9f}"}
        answer = self._ask(
            "GET", f"/containers/{container}/logs", query=query, timeout_s=_START_S, is_last=True
        )
        return Attached(answer)

    def answers(self) -> bool:
        """Whether there is an engine now, found out within 2 s (30 by ssh) on a connection of its own."""
        patience = faults.PROBE_S["ssh"] if self.endpoint.scheme == "ssh" else _LOOK_S
        try:
            connection = connect(self.endpoint, patience)
        except OSError:
            return False
        try:
            connection.deadline = time.monotonic() + patience
            connection.send(head_of("GET", "/_ping", {"Host": self.endpoint.authority}))
            return read_head(connection)[0] == 200  # noqa: PLR2004 - RFC 9110: it is well
        except Lost:
            return False
        finally:
            connection.close()

    def info(self) -> JsonObject:
        """What the engine says of itself and its machine; asked once."""
        return self._once("/info")

    def version(self) -> JsonObject:
        """Which engine this is; asked once, as it costs 9 ms."""
        return self._once("/version")

    def close(self) -> None:
        """Close what is idle. The engine can still be used."""
        while self._idle:
            self._idle.pop().close()

    def _once(self, path: str) -> JsonObject:
        if path not in self._asked:
            self._asked[path] = cast("JsonObject", self.call("GET", path))
        return self._asked[path]

    def _ping(self) -> tuple[tuple[int, int], bool]:
        patience = faults.PROBE_S[self.endpoint.scheme]
        deadline = time.monotonic() + patience
        try:
            with self._ask("GET", "/_ping", timeout_s=patience, deadline=deadline) as answer:
                answer.read(_PORTION)
        except Lost as error:
            raise faults.no_answer(self.endpoint, error) from error
        except Refused as error:
            raise faults.refusal(self.endpoint, error.status, error.message) from error
        api = answer.headers.get("api-version", "")
        major, _, minor = api.partition(".")
        is_version = len(api) < 10 and api.isascii() and major.isdecimal() and minor.isdecimal()  # noqa: PLR2004 - 1.41
        numbers = (int(major), int(minor)) if is_version else (0, 0)
        if numbers < OLDEST_API:
            raise faults.too_old(self.endpoint, api, "{}.{}".format(*OLDEST_API))
        return numbers, "libpod-api-version" in answer.headers

    # ---------------------------------------------------------------- one request

    def _ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None,
        deadline: float | None = None,
        is_last: bool = False,
    ) -> Answer:
        target = self._prefix + quote(path, safe="/:@")
        if query:
            target += "?" + "&".join(f"{quote(key, safe='')}={quote(query[key], safe='')}" for key in query)
        told = {"Host": self.endpoint.authority, "User-Agent": "theory", **(headers or {})}
        content = b"" if body is None else body
        if isinstance(body, dict):
            told["Content-Type"] = "application/json"
            content = json.dumps(body).encode()
        length = len(content) if isinstance(content, bytes) else length_of(content)
        if length is None:
            told["Transfer-Encoding"] = "chunked"
        elif length or method in {"POST", "PUT"}:
            told["Content-Length"] = str(length)
        head = head_of(method, target, told)

        def exchange(connection: Connection) -> Answer:
            connection.subject = f"{method} {path}"
            connection.deadline = deadline
            connection.sock.settimeout(timeout_s)
            send_request(connection, head, cast("bytes", content), length)
            return Answer(connection, method, None if is_last else self._spare)

        answer = self._exchange(exchange, timeout_s, is_safe=method in {"GET", "HEAD"})
        if answer.status < 400:  # noqa: PLR2004 - RFC 9110, 15.5: from here on they are errors
            return answer
        with closing(answer):
            raise Refused(answer.status, _words(answer))

    def _exchange(
        self, exchange: Callable[[Connection], Answer], timeout_s: float | None, *, is_safe: bool
    ) -> Answer:
        """Do it on an idle connection, or a new one.

        The engine may close an idle one at any time. What it cannot have seen, or only reads, is sent again.
        """
        while True:
            connection, was_idle = self._connection(timeout_s)
            try:
                return exchange(connection)
            except TooSlow:
                connection.close()
                raise
            except Lost:
                connection.close()
                if not was_idle or (connection.sent and not is_safe):
                    raise
            except BaseException:
                connection.close()
                raise

    def _connection(self, timeout_s: float | None) -> tuple[Connection, bool]:
        """A connection, and whether it was idle."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if connection.is_idle():
                return connection, True
            connection.close()
        patience = faults.PROBE_S[self.endpoint.scheme]
        try:
            return connect(self.endpoint, patience if timeout_s is None else min(patience, timeout_s)), False
        except OSError as error:
            raise faults.no_connection(self.endpoint, error) from error

    def _spare(self, connection: Connection) -> None:
        if len(self._idle) < _MOST_IDLE:
            self._idle.append(connection)
        else:
            connection.close()


def engine_of(environ: Mapping[str, str] = os.environ) -> Engine:
    """The engine that Docker's own command would use, else Podman's; one object a process and engine.

    Raises:
        DockerUnavailable: None answers; the hint says why.
    """
    found = endpoints_of(environ)
    known = _engines.get((os.getpid(), found))
    if known is not None:
        return known
    reasons = []
    for endpoint in found:
        try:
            engine = Engine(endpoint)
        except faults.DockerUnavailable as error:
            reasons.append(error)
        else:
            return _engines.setdefault((os.getpid(), found), engine)
    raise reasons[0] if reasons else faults.none_found(environ)


@atexit.register
def _close_all() -> None:
    for engine in tuple(_engines.values()):
        engine.close()


def _words(answer: Answer) -> str:
    """What an error says. Docker and Podman wrap it as {"message": …}; others may send anything."""
    text = answer.read_exactly(_MOST_WORDS).decode("utf-8", "replace").strip()
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return text or f"it answers {answer.status}"
