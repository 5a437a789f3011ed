"""World paths: which names an artifact may have, and which two names are one on some file system.

Source: design decision in docs/reference/formats.md. Bidirectional characters as listed in Unicode UAX #9
(they make a name look like another one on a terminal).
"""

from __future__ import annotations

import re
import unicodedata

from theory.errors import BadWritePrefix

ROOT = "/artifacts/"
INPUTS = "/artifacts/inputs/"
EXECUTIONS = "/artifacts/execution/"
DEFAULT_PREFIX = "/artifacts/outputs/"
MAX_SEGMENT_BYTES = 255
MAX_PATH_BYTES = 1024

# Control characters, the separators that end a line in some readers, and everything that turns text around.
HARMFUL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
SURROGATE = re.compile(r"[\ud800-\udfff]")  # what Python makes of bytes that are not UTF-8
_PLAIN = re.compile(r"[A-Za-z0-9_:+~-][A-Za-z0-9._:+~ -]{0,254}")  # a segment that surely has no fault
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")


def fault_of_path(path: str) -> str:
    """What is wrong with a world path, or an empty string."""
    if not path.startswith(ROOT):
        return f"does not begin with {ROOT}"
    if len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} bytes"
    for segment in path[1:].split("/"):
        if fault := fault_of_segment(segment):
            return fault
    return ""


def fault_of_segment(segment: str) -> str:
    """What is wrong with one segment of a world path, or an empty string."""
    return "" if _PLAIN.fullmatch(segment) else _fault_of_segment(segment)


def _fault_of_segment(segment: str) -> str:
    if len(segment) > MAX_SEGMENT_BYTES:  # normalising takes the square of a run of accents
        return f"has a segment longer than {MAX_SEGMENT_BYTES} bytes"
    rules = (
        (not segment, "has an empty segment"),
        (segment in {".", ".."}, f"has a segment {segment!r}"),
        (SURROGATE.search(segment), "has a name that is not UTF-8"),
        (
            len(segment.encode("utf-8", "surrogatepass")) > MAX_SEGMENT_BYTES,
            f"has a segment longer than {MAX_SEGMENT_BYTES} bytes",
        ),
        (HARMFUL.search(segment), "has a control or direction-changing character"),
        ("\\" in segment or "/" in segment, "has a slash or backslash inside a name"),
        (_PERCENT.search(segment), "has a percent-encoded character"),
        (not unicodedata.is_normalized("NFC", segment), "is not in Unicode normal form C"),
    )
    return next((fault for broken, fault in rules if broken), "")


def collision_key(path: str) -> str:
    """Equal for two paths that a case-insensitive or normalising file system takes for one."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())


def check_write_prefix(prefix: str, execution_id: str) -> str:
    """The prefix with ``{execution_id}`` put in, once it keeps the rules.

    Raises:
        BadWritePrefix: It does not end with a slash, leaves ``/artifacts/``, or is kept for core.
    """
    if not prefix.endswith("/"):
        raise BadWritePrefix("--write-prefix must end with /", hint=f"--write-prefix {printable(prefix)}/")
    filled = prefix.replace("{execution_id}", execution_id)
    fault = "" if filled == ROOT else fault_of_path(filled[:-1])
    if not fault and ("{" in filled or "}" in filled):
        fault = "has a placeholder other than {execution_id}"
    if not fault and collision_key(filled).startswith((INPUTS, EXECUTIONS)):
        fault = "is kept for inputs and for records of executions"
    if fault:
        raise BadWritePrefix(
            f"--write-prefix {printable(prefix)} {fault}",
            hint=f"take a folder below {ROOT}, such as {DEFAULT_PREFIX}",
        )
    return filled


URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+://)(?:[^/?#]*@)?([^?#]*)")


def without_credentials(source: str) -> str:
    """A path as it is; a URI without user, query and fragment, which may hold what nobody else should see."""
    match = URI.match(source)
    return match[1] + match[2] if match else source


def printable(text: str) -> str:
    """Text from outside, made safe to show: harmful characters escaped, 200 characters at most."""
    safe = HARMFUL.sub(lambda match: f"\\u{ord(match[0]):04x}", text.encode("utf-8", "replace").decode())
    return safe if len(safe) <= 200 else safe[:199] + "…"  # noqa: PLR2004


def spelled_out(text: str) -> str:
    """All of a text, with what steers a terminal spelled as JSON spells it; newlines stay."""
    return HARMFUL.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)


def quoted(text: str) -> str:
    """The same in quotation marks, for a message; a backslash in it stays one."""
    return f"'{printable(text)}'"
