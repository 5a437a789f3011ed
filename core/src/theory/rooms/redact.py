"""Values of secrets, taken out of what a processor or a plugin says.

By value, in the spellings in which values commonly leak, and over the edges of the portions in which bytes
arrive.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from theory.formats.escapes import View
    from theory.types import Json, JsonObject

MASK = "***"
_CUT = "…".encode()  # where a message leaves something out
_BASE64 = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-")
LONG_LINE = 16  # characters of a line that gives a value away by itself
_MAX_HELD = 64 * 1024  # bytes that wait for what comes after them
_MOST_CUTS = 100  # in one message; ours have one or two
MIN_CHARACTERS = 4  # a shorter value stands in every second line; masking it would tell more than it hides


class Redactor:
    """Masks the given values in bytes, text and JSON."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._pattern: re.Pattern[bytes] | None = None
        if values := (*values,):
            self._look_for(values)

    def _look_for(self, values: tuple[str, ...]) -> None:
        spellings = {
            spelling
            for value in values
            for part in _parts(value)
            if len(part) >= MIN_CHARACTERS
            for spelling in _spellings(part)
        }
        # The longest first: a value may be the begin of another one.
        self._spellings = sorted(spellings, key=lambda spelling: (-len(spelling.text), spelling))
        self._pattern = re.compile(b"|".join(map(_expression, self._spellings))) if spellings else None
        # Edges make it six times slower, so it runs only where there is a value.
        self._any = re.compile(b"|".join(re.escape(spelling.text) for spelling in self._spellings))
        self._longest = max((len(spelling.text) for spelling in spellings), default=0)
        self._begun = any(spelling.begun for spelling in spellings)
        self._apart = any(re.search("%[0-9A-Fa-f]{2}", value) for value in values)
        self._starts = frozenset(spelling.text[0] for spelling in spellings)

    def __bool__(self) -> bool:
        return self._pattern is not None

    def finds(self, data: bytes) -> bool:
        """Whether a value is in it."""
        return self._pattern is not None and bool(self._values(self._found(data), self._views(data)))

    def mask(self, data: bytes) -> bytes:
        """The data with every value masked."""
        if self._pattern is None:
            return data
        return self._masked(data, self._values(self._found(data), self._views(data)))

    def text(self, text: str) -> str:
        """The text with every value masked."""
        return (
            self.mask(text.encode("utf-8", "replace")).decode("utf-8", "replace") if self._pattern else text
        )

    def message(self, text: str) -> str:
        """``text`` of a message, also what is left of a value that was cut at an ellipsis."""
        if self._pattern is None:
            return text
        begin, *others = self.mask(text.encode("utf-8", "replace")).split(_CUT, _MOST_CUTS)
        parts = [begin]
        for other in others:
            parts[-1] = self._without_begin(parts[-1])
            parts.append(self._without_end(other))
        return _CUT.join(parts).decode("utf-8", "replace")

    def json(self, value: Json) -> Json:
        """The document with every value masked in its keys, its texts and its numbers."""
        if self._pattern is None:
            return value
        if isinstance(value, dict):
            return self.members(value)
        if isinstance(value, list):
            return [self.json(item) for item in value]
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, (int, float)) and self._pattern.search(repr(value).encode()):
            return MASK
        return value

    def members(self, value: JsonObject) -> JsonObject:
        """``json`` of an object."""
        return {self.text(key): self.json(item) for key, item in value.items()}

    def portion(self, held: bytes, data: bytes) -> tuple[bytes, bytes]:
        """The part of a stream that is safe to show, and the end of it that may be the begin of a value.

        Whatever the portions, together they are what ``mask`` makes of the whole.

        Args:
            held: What the last call held back.
            data: The next portion; the caller shows ``mask(held)`` when the stream ends.
        """
        if self._pattern is None:
            return data, b""
        raw = held + data
        found, read = self._found(raw), [*self._views(raw)]
        doubts = [view.begin(self._doubtful(view.settled, self._found(view.settled))) for view in read]
        doubt = edge = min(self._doubtful(raw, found), *doubts, len(raw))
        values = self._values(found, read)
        while True:  # nothing that belongs together is parted …
            parted = [begin for begin, end in values if begin < edge < end]
            whole = min([edge, *parted, *(view.whole(edge) for view in read)])
            if whole == edge:
                break
            edge = whole
        if len(raw) - edge > _MAX_HELD + self._longest:  # … but for values that overlap on and on
            edge = doubt
        return self._masked(raw[:edge], values), raw[edge:]

    def _views(self, data: bytes) -> Iterator[View]:
        from theory.formats.escapes import views  # noqa: PLC0415 - 5 ms for those who have secrets alone

        return views(data, apart=self._apart)

    def _values(self, found: Iterable[tuple[int, int]], read: Iterable[View]) -> list[tuple[int, int]]:
        """Where values are, one after another, in all readings, if no more bytes come."""
        found = [*found]
        for view in read:
            found += [(view.begin(begin), view.end(end)) for begin, end in self._found(view.text)]
        apart: list[tuple[int, int]] = []
        for begin, end in sorted(found):
            if apart and begin < apart[-1][1]:
                apart[-1] = (apart[-1][0], max(apart[-1][1], end))
            else:
                apart.append((begin, end))
        return apart

    def _found(self, text: bytes) -> list[tuple[int, int]]:
        if self._pattern is None or self._any.search(text) is None:
            return []
        return [match.span() for match in self._pattern.finditer(text)]

    def _doubtful(self, text: bytes, found: Iterable[tuple[int, int]]) -> int:
        """From where on more bytes could make a value of the end, or a longer one of what was ``found``."""
        doubt = self._doubt(text, 0)
        for begin, end in found:
            if begin >= doubt:  # what begins in doubt may be a longer value
                break
            if end >= len(text) - self._longest:  # else it is what it was
                doubt = self._doubt(text, end)
        return doubt

    def _masked(self, raw: bytes, values: Iterable[tuple[int, int]]) -> bytes:
        parts, at = list[bytes](), 0
        for begin, end in values:
            if begin < len(raw):
                parts += raw[at:begin], MASK.encode()
                at = end
        return b"".join([*parts, raw[at:]])

    def _without_begin(self, raw: bytes) -> bytes:
        """Without the begin of a value that ends it, with or without a space behind that."""
        text = raw.rstrip(b" ")
        safe, held = self.portion(b"", text)
        return raw if len(held) < MIN_CHARACTERS else safe + MASK.encode() + raw[len(text) :]

    def _without_end(self, raw: bytes) -> bytes:
        """Without the end of a value that begins it, with or without a space before that."""
        text = raw.lstrip(b" ")
        for spelling in self._spellings:
            for at in range(1, len(spelling.text) - MIN_CHARACTERS + 1):
                if text.startswith(spelling.text[at:]):
                    return raw[: len(raw) - len(text)] + MASK.encode() + text[len(spelling.text) - at :]
        return raw

    def _doubt(self, raw: bytes, at: int) -> int:
        """From where on more bytes could make a value of the end."""
        for start in range(max(at, len(raw) - self._longest), len(raw)):
            if raw[start] in self._starts:
                end = raw[start:]
                if any(
                    spelling.text.startswith(end) and (len(spelling.text) > len(end) or spelling.goes_on)
                    for spelling in self._spellings
                ):
                    return self._edge(raw, at, start)
        return self._edge(raw, at, len(raw))

    def _edge(self, raw: bytes, at: int, start: int) -> int:
        """The same, if the digit before may have some bits of the value."""
        return start - (self._begun and start > at and raw[start - 1] in _BASE64)


def _parts(value: str) -> Iterable[str]:
    """A value, also without the white space around it, and the long lines of one such as a PEM key."""
    yield from {value, value.strip(), *(line for line in value.split("\n") if len(line) >= LONG_LINE)}


class _Spelling(NamedTuple):
    """What a value looks like, and whether the base64 digit before or after it has some bits of it too."""

    text: bytes
    begun: bool = False
    goes_on: bool = False


def _expression(spelling: _Spelling) -> bytes:
    edge = b"[A-Za-z0-9+/_-]?"
    return edge * spelling.begun + re.escape(spelling.text) + edge * spelling.goes_on


def _spellings(value: str) -> Iterable[_Spelling]:
    yield from map(_Spelling, _plain(value))
    yield from _base64(value.encode("utf-8", "surrogateescape"))


def _base64(raw: bytes) -> Iterable[_Spelling]:
    import base64  # noqa: PLC0415 - only where there are secrets

    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for shift in range(3):
            # Inside a longer text the value may begin at any of three places of a base64 group. The digits
            # at its edges have bits of its neighbours too, so they may be any.
            padding = -(len(raw) + shift) % 3
            coded = encode(b"\0" * shift + raw)
            text = coded[(0, 2, 3)[shift] : len(coded) - (0, 2, 3)[padding]]
            if len(text) >= MIN_CHARACTERS:
                yield _Spelling(text, shift > 0, padding > 0)


def _plain(value: str) -> Iterable[bytes]:
    from urllib.parse import quote, quote_plus  # noqa: PLC0415 - as above

    raw = value.encode("utf-8", "surrogateescape")
    yield raw
    yield json.dumps(value)[1:-1].encode()
    yield json.dumps(value, ensure_ascii=False)[1:-1].encode("utf-8", "surrogateescape")
    yield json.dumps(value)[1:-1].replace("/", "\\/").encode()
    yield repr(value)[1:-1].encode("utf-8", "surrogateescape")
    yield quote(raw).encode()
    yield quote(raw, safe="").encode()
    yield quote_plus(raw).encode()
    yield raw.replace(b" ", b"+")
    yield ascii(value)[1:-1].encode()
    yield raw.replace(b"~", b"~0").replace(b"/", b"~1")  # RFC 6901: a JSON pointer
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
