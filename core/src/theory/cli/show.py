"""What the command line says, and where: answers to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from theory.errors import SaveFailed
from theory.formats import wire
from theory.formats.canon import compact
from theory.formats.paths import HARMFUL, spelled_out
from theory.request import new_execution_id
from theory.types import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from theory.errors import TheoryError
    from theory.types import Envelope, JsonObject

_LONGEST = 2000  # characters of a message of the command line itself, which may repeat an argument
_SEQUENCE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|[\]P^_].*?(\x07|\x1b\\|$)|.)", re.DOTALL)


def say(text: str) -> None:
    """A line for people, on stderr; where it has gone, there is nobody to tell."""
    with suppress(OSError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def answer(document: object, *, as_json: bool) -> None:
    """The answer, on stdout: one compact line, or indented."""
    text = compact(document) if as_json else json.dumps(document, ensure_ascii=False, indent=2)
    # JSON may spell any character so: the value is the same, and a line is one line to every reader.
    _write(spelled_out(text))


def tell(lines: Iterable[str]) -> None:
    """Lines for people who asked for them, on stdout, one after another."""
    for line in lines:
        _write(clean(line))


def _write(text: str) -> None:
    """Lines on stdout, in UTF-8 whatever the locale is."""
    with standard_output() as stream:
        stream.write(text.encode("utf-8", "replace") + b"\n")


@contextmanager
def standard_output() -> Iterator[IO[bytes]]:
    """Bytes for stdout; one that takes no more ends the command."""
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SystemExit(refused_answer(error)) from None


def refused_answer(error: OSError) -> int:
    """Say that standard output takes nothing, a full disk, say; the exit status."""
    silence()
    say(f"Error: cannot write to standard output: {error.strerror}")
    say("Hint: send it elsewhere; what has run is kept, and theory show ID prints its envelope")
    return SaveFailed.exit_code


def silence() -> None:
    """Let nothing more come out on stdout: what waits in its buffer might, at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def answer_envelope(envelope: Envelope, *, as_json: bool) -> int:
    """Print an envelope as ``run`` promises; the exit status."""
    if as_json or not isinstance(envelope, Failure):
        answer(wire.envelope_document(envelope), as_json=as_json)
    else:
        say(f"Error: {spelled_out(envelope.message)}")
        if envelope.hint:
            say(f"Hint: {spelled_out(envelope.hint)}")
    return envelope.exit_code


def fail(error: TheoryError, *, as_json: bool, execution_id: str = "") -> int:
    """Print an error of the command line itself; the exit status."""
    message = error.message if len(error.message) <= _LONGEST else error.message[: _LONGEST - 1] + "…"
    id_ = execution_id or new_execution_id()
    envelope = Failure(id_, error.code, message, error.hint, error.meta, error.exit_code)
    try:
        return answer_envelope(envelope, as_json=as_json)
    except BrokenPipeError:  # who asked has gone; the status is all that is left to tell
        silence()
        return error.exit_code


def clean(text: str) -> str:
    """Text from outside without all that steers a terminal; tabs and newlines stay."""
    return "".join(
        part if part in "\t\n" else HARMFUL.sub("", part)
        for part in re.split(r"([\t\n])", _SEQUENCE.sub("", text))
    )


def table(rows: Iterable[Sequence[str]], heading: Sequence[str]) -> None:
    """Aligned columns on stdout; nothing but the rows where nobody reads a heading (a pipe)."""
    lines = [list(map(clean, row)) for row in rows]
    if sys.stdout.isatty() and lines:
        lines.insert(0, [word.upper() for word in heading])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    if lines:
        _write("\n".join("  ".join(cells).rstrip() for cells in padded))


class Events:
    """What a run tells while it goes on.

    Args:
        stream: Tokens and all other events, as they come.
        as_json: Streamed events are lines of JSON on stdout; else all is for people, on stderr.
        quiet: Only warnings.
    """

    def __init__(self, *, stream: bool, as_json: bool, quiet: bool) -> None:
        self._stream = stream
        self._as_json = as_json
        self._quiet = quiet
        self._live = sys.stderr.isatty() and not quiet
        self._open = ""  # "text" or "progress": the line that stderr is in the middle of

    def __call__(self, event: JsonObject) -> None:
        """Show one event."""
        if self._stream and self._as_json:
            answer(event, as_json=True)
            return
        kind = event["event"]
        if kind == "warning":
            self._line(f"Warning: {clean(str(event.get('message', '')))}")
        elif kind == "token" and self._stream:
            self._begin("text")
            sys.stderr.write(clean(str(event.get("text", ""))))
            sys.stderr.flush()
        elif kind == "progress" and self._live:
            fraction = event.get("fraction")
            share = f"{fraction:4.0%} " if isinstance(fraction, (int, float)) else ""
            self._begin("progress")
            sys.stderr.write(f"\r\x1b[K{share}{clean(str(event.get('message', '')))[:70]}")
            sys.stderr.flush()
        elif kind == "log" and not self._quiet:
            self._line(clean(str(event.get("text", ""))))

    def close(self) -> None:
        """End the line that is open."""
        with suppress(OSError):  # as ``say``
            self._begin("")

    def _line(self, text: str) -> None:
        self._begin("")
        say(text)

    def _begin(self, what: str) -> None:
        if self._open == what:
            return
        if self._open == "progress":
            sys.stderr.write("\r\x1b[K")
        elif self._open == "text":
            sys.stderr.write("\n")
        sys.stderr.flush()
        self._open = what
