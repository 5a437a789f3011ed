"""Room 7: the one adapter that was asked for runs the job, while its output streams through here.

Lines, events, redaction, caps and the tail are made once, for all adapters.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from theory.errors import Interrupted, OutOfMemory, PluginFailed, ProcessorFailed, TimedOut
from theory.formats.canon import MAX_INTEGER, BadJson, parse_json
from theory.formats.paths import printable
from theory.types import Image

if TYPE_CHECKING:
    from theory.cancel import Cancellation
    from theory.plugins import Adapter
    from theory.rooms.delivery import Delivery
    from theory.rooms.redact import Redactor
    from theory.types import AdapterInfo, Job, JsonObject, Outcome, Scalar, Secrets, Workspace

NOTE = "theory: "  # begins what an adapter adds to the log by itself; it is never the command's last word
MAX_LINE_BYTES = 64 * 1024  # a longer line is shown in pieces and is no event
ENDED = ("exit", "timeout", "oom", "cancelled")
# What 128 + n means where an adapter has no better words. Source: signal(7) of Linux, where most commands
# run; the names that Python has are those of this machine.
SIGNALS = {
    128 + number: f"ended by {name}"
    for number, name in (
        *(
            (1, "SIGHUP"),
            (2, "SIGINT"),
            (3, "SIGQUIT"),
            (4, "SIGILL"),
            (6, "SIGABRT"),
            (7, "SIGBUS"),
            (8, "SIGFPE"),
        ),
        *((9, "SIGKILL"), (11, "SIGSEGV"), (13, "SIGPIPE"), (15, "SIGTERM"), (24, "SIGXCPU"), (31, "SIGSYS")),
    )
}
TAIL_LINES = 40
TAIL_BYTES = 4096  # of the log's end that a failing envelope carries
_PORTION_BYTES = 16 * 1024  # taken at a time, so that few events are made before somebody looks for room
_MOST_UNREAD_BYTES = 256 * 1024
_LINE_BYTES = 128  # a line beside its bytes: a tuple and the head of an object (sys.getsizeof, CPython 3.11)
_YEAR_S = 366 * 86_400
_LAST_MOMENT = 253_402_300_799  # 9999-12-31T23:59:59Z, the last that RFC 3339 can write


class LogChannel:
    """Core's end of an adapter's line (``theory.types.Channel``).

    Args:
        timeout: Seconds of wall clock that the command has.
        cancellation: How the run is stopped from outside.
        redactor: Masks the job's secrets.
        tell: Gets every event.
    """

    def __init__(
        self, timeout: float, cancellation: Cancellation, redactor: Redactor, tell: Delivery
    ) -> None:
        self._timeout = timeout
        self._cancellation = cancellation
        self._redactor = redactor
        self._tell = tell
        self._lock = threading.Lock()  # never held while anybody waits for a listener
        self._turns = {"stdout": threading.Lock(), "stderr": threading.Lock()}  # one writer at a time
        self._closed = False
        self._held = {"stdout": b"", "stderr": b""}  # may be the begin of a secret
        self._line = {"stdout": b"", "stderr": b""}  # has no end yet
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._unread: list[tuple[str, bytes]] = []  # what nobody hears is read if somebody asks for its end
        self._unread_bytes = 0
        self._deadline: float | None = None

    def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        """Take what the command wrote; wait while a listener has too much to hear already.

        Past the deadline or a cancellation nobody waits for a listener; after ``close`` nothing is taken.
        """
        with self._turns[stream]:
            for at in range(0, len(data), _PORTION_BYTES):
                with self._lock:
                    if self._closed:
                        return
                    part = data[at : at + _PORTION_BYTES]
                    safe, self._held[stream] = self._redactor.portion(self._held[stream], part)
                    self._split(stream, safe)
                self._tell.wait_for_room(self._deadline)

    def started(self) -> None:
        """The command starts now."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._timeout

    @property
    def deadline(self) -> float | None:
        """When the command's time is over."""
        return self._deadline

    def wait_cancelled(self, seconds: float) -> bool:
        """Wait for a cancellation."""
        return self._cancellation.wait(seconds)

    def close(self) -> None:
        """The command is over: what has no line end is a line too."""
        with self._lock:
            self._closed = True
            for stream in ("stdout", "stderr"):
                self._split(stream, self._redactor.mask(self._held[stream]))
                self._held[stream] = b""
                if rest := self._line[stream]:
                    self._line[stream] = b""
                    self._emit(stream, rest)

    def tail(self) -> str:
        """The end of the log, at most 40 lines and 4 KiB, redacted."""
        with self._lock:
            self._read()
            return "\n".join(self._tail).encode()[-TAIL_BYTES:].decode("utf-8", "ignore")

    def _split(self, stream: str, data: bytes) -> None:
        *lines, rest = (self._line[stream] + data).split(b"\n")
        for line in lines:
            for at in range(0, max(1, len(line)), MAX_LINE_BYTES):
                self._emit(stream, line[at : at + MAX_LINE_BYTES])
        while len(rest) > MAX_LINE_BYTES:
            self._emit(stream, rest[:MAX_LINE_BYTES])
            rest = rest[MAX_LINE_BYTES:]
        self._line[stream] = rest

    def _emit(self, stream: str, line: bytes) -> None:
        if self._tell.deaf:
            self._unread.append((stream, line))
            self._unread_bytes += len(line) + _LINE_BYTES
            if self._unread_bytes > _MOST_UNREAD_BYTES:
                self._read()
        else:
            self._pass_on(stream, line)

    def _read(self) -> None:
        for stream, line in self._unread:
            self._pass_on(stream, line)
        self._unread.clear()
        self._unread_bytes = 0

    def _pass_on(self, stream: str, line: bytes) -> None:
        event = _event(line) if stream == "stdout" else None
        if event is None:
            text = line.decode("utf-8", "replace").rstrip("\r")
            self._tail.append(text)
            event = {"event": "log", "stream": stream, "text": text}
        elif not self._tell.deaf:
            # An escape such as \u0073 may have hidden a value from the bytes.
            event = {"event": event["event"], **self._redactor.members(event)}
        self._tell(event, len(line))


def execute(
    job: Job, adapter: Adapter, workspace: Workspace, options: object, secrets: Secrets, channel: LogChannel
) -> Outcome:
    """Run the job; the log is complete when this returns.

    Raises:
        PluginFailed: The adapter raised, ended the process, or answered with what cannot be.
    """
    try:
        outcome = adapter.execute(job, workspace, options, secrets, channel)
    except SystemExit as error:
        raise PluginFailed(
            f"the adapter {adapter.name} called sys.exit", hint="that is a bug in the plugin"
        ) from error
    finally:
        channel.close()
    if fault := _fault(outcome) or _fault_of_files(outcome, adapter.info):
        raise PluginFailed(f"the adapter {adapter.name} answered {fault}", hint="that is a bug in the plugin")
    return outcome


def check_outcome(job: Job, outcome: Outcome, channel: LogChannel, signal: int | None) -> None:
    """Accept a command that ended well.

    Raises:
        ProcessorFailed, OutOfMemory, TimedOut, Interrupted: How it ended, with the end of its log.
    """
    if outcome.ended == "exit" and outcome.exit_code == 0:
        return
    runtime, ref = job.processor.runtime, job.processor.ref
    meta: dict[str, Scalar] = {"exit_code": outcome.exit_code, "log_tail": channel.tail()}
    detail = f": {printable(outcome.message)}" if outcome.message else ""
    if outcome.ended == "cancelled":
        raise Interrupted(f"{ref} was cancelled{detail}", signal=signal or 2, meta=meta)
    if outcome.ended == "timeout":
        raise TimedOut(
            f"{ref} did not end within {runtime.timeout:g} s{detail}",
            hint="--timeout SECONDS gives it more",
            meta=meta,
        )
    if outcome.ended == "oom":
        raise OutOfMemory(
            f"{ref} needed more than its {runtime.memory} MiB of memory{detail}",
            hint="raise runtime.memory in its entry",
            meta=meta,
        )
    lines = (line for line in reversed(channel.tail().splitlines()) if line.strip())
    last = next((line for line in lines if not line.startswith(NOTE)), "")
    said = outcome.message or SIGNALS.get(outcome.exit_code or 0, last)
    raise ProcessorFailed(
        f"{ref} ended with exit status {outcome.exit_code}{f': {printable(said)}' if said else ''}",
        hint="meta.log_tail has the end of its log",
        meta=meta,
    )


def _fault(outcome: Outcome) -> str:
    """What cannot be in an outcome, which would break a record that is for ever; or an empty string."""
    cost = outcome.cost_micro_usd
    if outcome.ended not in ENDED:
        return f"that the command ended as {outcome.ended!r}"
    if outcome.ended == "exit" and type(outcome.exit_code) is not int:
        return f"an exit status of {outcome.exit_code!r}"
    if cost is not None and (type(cost) is not int or not 0 <= cost <= MAX_INTEGER):
        return f"a cost of {cost!r} micro-USD"
    if not (math.isfinite(outcome.duration_s) and 0 <= outcome.duration_s <= _YEAR_S):
        return f"a duration of {outcome.duration_s!r} s"
    if not (math.isfinite(outcome.started_at) and 0 <= outcome.started_at <= _LAST_MOMENT):
        return f"a start at {outcome.started_at!r}"
    return "" if type(outcome.image) in {Image, type(None)} else f"the image {outcome.image!r}"


def _fault_of_files(outcome: Outcome, info: AdapterInfo) -> str:
    """What cannot be in the outputs that an adapter hands over; or an empty string."""
    files: object = outcome.files
    if files is None:
        missing = not info.folders and (outcome.ended, outcome.exit_code) == ("exit", 0)
        return "no files, and has no folder for them" if missing else ""
    if not isinstance(files, Mapping):
        return f"with files of type {type(files).__name__}"
    for name, data in files.items():
        if not (type(name) is str and type(data) is bytes):
            return f"with the file {name!r} of type {type(data).__name__}"
    return ""


def _event(line: bytes) -> JsonObject | None:
    if not line.startswith(b"{") or len(line) >= MAX_LINE_BYTES:
        return None
    try:
        value = parse_json(line)
    except BadJson:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("event"), str) else None
