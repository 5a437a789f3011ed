"""Bytes as they read once escapes are undone: those of JSON, Python and C, and the percent signs of URLs."""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPTH = 2  # escapes within escapes: a line of JSON that quotes an answer in JSON, or an address in it
_LETTERS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
# What makes an escape of the byte before it, and what could, or be half of a character, if more bytes came.
_KINDS = {
    rb"\\": (
        rb"u(?:d[89ab]H{2}\\ud[c-f]H{2}|H{4}|(?:000H|0010)H{4})|xH{2}|[\"'\\/bfnrt]",
        rb"(?:u(?:H{0,3}|0(?:0(?:0H{0,4}|10H{0,3}))?|d[89ab]H{2}(?:\\(?:u(?:d(?:[c-f]H?)?)?)?)?)|xH?)?\Z",
    ),
    rb"%": (rb"H{2}", rb"H?\Z"),
}


def _compiled(*firsts: bytes) -> re.Pattern[bytes]:
    """Finds escapes that begin with these; one that is not whole yet is in a group."""
    rests = (b"(?<=%s)(?:(%s)|%s)" % (first, *reversed(_KINDS[first])) for first in firsts)
    rest = b"|".join(rests).replace(b"H", b"[0-9a-f]")
    return re.compile(b"[%s](?i:%s)" % (b"".join(firsts), rest))  # a set in front is found fast


_ANY, _APART = (_compiled(*_KINDS),), tuple(map(_compiled, _KINDS))


class View:
    """What some bytes read when escapes are undone once.

    Args:
        source: The bytes, or a view of them.
        kind: Which escapes.

    Attributes:
        text: What they read; a last escape that is not whole stands in it as it is.
    """

    text: bytes

    def __init__(self, source: bytes | View, kind: re.Pattern[bytes]) -> None:
        self._source = source if isinstance(source, View) else None
        self._data = source.text if isinstance(source, View) else source
        self._kind = kind
        known: dict[bytes, bytes] = {}
        begun = len(self._data)

        def meant(match: re.Match[bytes]) -> bytes:
            nonlocal begun
            escape = match[0]
            if match.lastindex is not None:  # nothing comes after it
                begun = match.start()
                return escape
            if (found := known.get(escape)) is None:
                found = known[escape] = _meant(escape)
            return found

        self.text = kind.sub(meant, self._data)
        self._settled = len(self.text) - (len(self._data) - begun)
        if self._source is not None:
            self._settled = min(self._settled, self._read_at(self._source._settled))  # noqa: SLF001 - of its own kind

    @property
    def settled(self) -> bytes:
        """What is read whatever bytes may come."""
        return self.text[: self._settled]

    @property
    def is_other(self) -> bool:
        """Whether it is, or may become, another text than that of its source."""
        return self._settled < len(self.text) or self.text != self._data

    def begin(self, at: int) -> int:
        """Where what is read from here on begins among the bytes."""
        if at < len(self.text):
            places = self._places
            number = bisect_right(places.reads, at) - 1
            if number >= 0:
                read_end = places.read_ends[number]
                at = places.begins[number] if at < read_end else places.ends[number] + at - read_end
        else:
            at = len(self._data)
        return at if self._source is None else self._source.begin(at)

    def end(self, at: int) -> int:
        """Where what is read before here ends among the bytes."""
        if at < len(self.text):
            places = self._places
            number = bisect_right(places.reads, at - 1) - 1
            if number >= 0:
                at = places.ends[number] + max(0, at - places.read_ends[number])
        else:
            at = len(self._data)
        return at if self._source is None else self._source.end(at)

    def whole(self, edge: int) -> int:
        """The last place among the bytes, up to this one, that parts no escape."""
        at = edge
        if self._source is not None:
            edge = self._source.whole(edge)
            at = self._source._read_at(edge)  # noqa: SLF001 - of its own kind
        if at == len(self._data):
            return edge
        number = bisect_right(self._places.begins, at - 1) - 1
        if number < 0 or at >= self._places.ends[number]:
            return edge
        begin = self._places.begins[number]
        return begin if self._source is None else self._source.begin(begin)

    def _read_at(self, at: int) -> int:
        """Where the byte at this place of the source is read."""
        if at == len(self._data):
            return len(self.text)
        places = self._places
        number = bisect_right(places.begins, at) - 1
        if number < 0:
            return at
        end = places.ends[number]
        return places.reads[number] if at < end else places.read_ends[number] + at - end

    @cached_property
    def _places(self) -> _Places:
        """Only for those who have found something: to know them takes three times as long as to read."""
        places, read, last = _Places([], [], [], []), 0, 0
        for match in self._kind.finditer(self._data):
            if match.lastindex is not None:
                break
            read += match.start() - last
            places.begins.append(match.start())
            places.ends.append(last := match.end())
            places.reads.append(read)
            places.read_ends.append(read := read + len(_meant(match[0])))
        return places


class _Places(NamedTuple):
    """Of each escape: where it begins and ends in the source, and where in the text."""

    begins: list[int]
    ends: list[int]
    reads: list[int]
    read_ends: list[int]


def views(data: bytes, *, apart: bool = False) -> Iterator[View]:
    """Every way to read the bytes with escapes undone up to ``DEPTH`` times.

    Args:
        data: The bytes.
        apart: Undo those of either kind by themselves, too: for a text in which one kind stands for itself.
    """
    level: list[bytes | View] = [data] if b"\\" in data or b"%" in data else []
    for _ in range(DEPTH):
        read = [View(source, kind) for source in level for kind in (_APART if apart else _ANY)]
        level = [view for view in read if view.is_other]
        yield from (view for view in read if view.is_other)


def _meant(escape: bytes) -> bytes:
    if escape.startswith(b"%"):
        return bytes.fromhex(escape[1:].decode())
    kind, digits = escape[1:2], escape[2:].lower().decode()
    if kind == b"x":
        return bytes.fromhex(digits)
    if not digits:
        return _LETTERS.get(kind, kind)
    high, _, low = digits.partition("\\u")
    if low:
        return bytes.fromhex(high + low).decode("utf-16-be").encode()
    number = int(high, 16)
    try:
        return chr(number).encode("utf-8", "surrogateescape")  # PEP 383: a byte that is no UTF-8
    except UnicodeEncodeError:
        return chr(number).encode("utf-8", "surrogatepass")
