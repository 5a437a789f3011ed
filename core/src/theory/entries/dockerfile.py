"""The images that a Dockerfile takes from elsewhere.

Source: https://docs.docker.com/reference/dockerfile (parser directives, line continuation, here-documents,
ARG before FROM, COPY --from, RUN --mount).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_HEREDOC = re.compile(r"(?<!\S)\d*<<-?([\"']?)([A-Za-z_]\w*)\1(?!\S)")  # a word of its own
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::?([-+])((?:[^{}]|\{[^{}]*\})*))?\})")
_WORD = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""")
_FROM = re.compile(r"(?:--platform=(\S+)\s+)?(\S+)(?:\s+as\s+(\S+))?\s*", re.IGNORECASE)
_COPY_FROM = re.compile(r"--from=(\S+)")
_MOUNT_FROM = re.compile(r"(?<!\S)--mount=\S*?\bfrom=([^,\s]+)")


class Base(NamedTuple):
    """An image that a build begins with or copies from."""

    name: str  # as it stands there, its variables replaced; "" where one has no value
    platform: str  # what --platform says; "" where it says nothing, or a variable of the builder's

    @property
    def is_pinned(self) -> bool:
        """Whether the name says what is in it."""
        return "@sha256:" in self.name or "@sha512:" in self.name


def bases_of(text: str) -> tuple[Base, ...]:
    r"""Every image that comes from elsewhere, once each; neither stages nor ``scratch``.

    >>> bases_of("ARG TAG=3.11\nFROM python:$TAG AS one\nFROM one\nCOPY --from=0 /a /b\n")
    (Base(name='python:3.11', platform=''),)
    """
    arguments: dict[str, str] = {}
    stages: set[str] = set()
    count = 0
    found: dict[Base, None] = {}
    for word, rest in _instructions(text):
        names: list[tuple[str, str]] = []
        if word == "ARG" and not count:
            arguments.update(_arguments(rest, arguments))
        elif word == "FROM" and (match := _FROM.fullmatch(rest)):
            names = [(_replaced(match[2], arguments), _replaced(match[1] or "", arguments))]
        elif word in {"COPY", "ADD"}:
            names = [(name, "") for name in _COPY_FROM.findall(rest)]
        elif word == "RUN":
            names = [(name, "") for name in _MOUNT_FROM.findall(rest)]
        for name, platform in names:
            is_stage = name.lower() in stages or (word != "FROM" and _is_below(name, count))
            if not is_stage and name.lower() != "scratch":
                found[Base(name, platform)] = None
        if word == "FROM":
            count += 1
            if (match := _FROM.fullmatch(rest)) and match[3]:
                stages.add(match[3].lower())
    return tuple(found)


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each instruction in capitals with what follows it: continued lines joined, here-documents left out."""
    lines = _Lines(text.removeprefix("\ufeff").splitlines())
    escape = _escape(text)
    for line in lines:
        parts = [line.strip()]
        if not parts[0] or parts[0].startswith("#"):
            continue
        while parts[-1].endswith(escape):
            parts[-1] = parts[-1][:-1]
            following = next(
                (more for more in lines if more.strip() and not more.lstrip().startswith("#")), None
            )
            if following is None:
                break
            parts.append(following.rstrip())  # as it is indented, since that may be all that parts two words
        word, *more = "".join(parts).split(maxsplit=1) or [""]
        word, rest = word.upper(), "".join(more)
        if word in {"RUN", "COPY", "ADD"}:
            for _, end in _HEREDOC.findall(rest):
                lines.skip_to(end)
        yield word, rest.strip()


class _Lines:
    """The lines of a file, one after another."""

    def __init__(self, lines: list[str]) -> None:
        self._lines, self._next = lines, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._next == len(self._lines):
            raise StopIteration
        self._next += 1
        return self._lines[self._next - 1]

    def skip_to(self, end: str) -> None:
        """Go on after this line; where there is none, it was no here-document, and nothing is left out."""
        for number in range(self._next, len(self._lines)):
            if self._lines[number].strip("\t") == end:
                self._next = number + 1
                return


def _is_below(name: str, count: int) -> bool:
    """Whether this is the number of one of so many stages; int() takes quadratic time."""
    return name.isdecimal() and len(name) <= len(str(count)) and int(name) < count


def _escape(text: str) -> str:
    for line in text.removeprefix("\ufeff").splitlines():
        match = re.fullmatch(r"#\s*(\w+)\s*=\s*(\S+).*", line.strip())
        if match is None:
            break
        if match[1].lower() == "escape":
            return match[2]
    return "\\"


def _arguments(rest: str, known: Mapping[str, str]) -> dict[str, str]:
    values = {}
    for word in _WORD.findall(rest):
        name, equals, value = word.partition("=")
        if equals:
            values[name] = _replaced(re.sub(r"[\"']", "", value), known)
    return values


def _replaced(text: str, arguments: Mapping[str, str]) -> str:
    """The text with its variables replaced; "" where one has no value here."""
    missing = False

    def value(match: re.Match[str]) -> str:
        nonlocal missing
        known = arguments.get(match[1] or match[2], "")
        if match[3]:
            return _replaced(match[4], arguments) if bool(known) == (match[3] == "+") else known
        missing = missing or not known
        return known

    text = _VARIABLE.sub(value, re.sub(r"[\"']", "", text))
    return "" if missing or "$" in text else text  # what is nested too deeply to be read has no value here
