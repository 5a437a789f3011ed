"""Values of secrets, taken out of what a processor or a plugin says.

By value, in the spellings in which values commonly leak, and over the edges of the portions in which bytes arrive.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MASK = "***"
MIN_CHARACTERS = 4  # a shorter value stands in every second line; masking it would tell more than it hides


class Redactor:
    """Masks the given values in bytes and text."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        spellings = {spelling for value in values if len(value) >= MIN_CHARACTERS for spelling in _spellings(value)}
        self._spellings = sorted(spellings, key=lambda spelling: (-len(spelling), spelling))
        self._pattern = re.compile(b"|".join(map(re.escape, self._spellings))) if spellings else None
        self._longest = max(map(len, self._spellings), default=0)

    def bytes(self, data: bytes) -> bytes:
        """The data with every value masked."""
        return self._pattern.sub(MASK.encode(), data) if self._pattern else data

    def text(self, text: str) -> str:
        """The text with every value masked."""
        return self.bytes(text.encode("utf-8", "replace")).decode() if self._pattern else text

    def portion(self, held: bytes, data: bytes) -> tuple[bytes, bytes]:
        """The part of a stream that is safe to show, and the end of it that may be the begin of a value.

        Args:
            held: What the last call held back.
            data: The next portion; the caller shows ``bytes(held)`` when the stream ends.
        """
        if self._pattern is None:
            return data, b""
        masked = self._pattern.sub(MASK.encode(), held + data)
        for size in range(min(self._longest - 1, len(masked)), 0, -1):
            end = masked[-size:]
            if any(spelling.startswith(end) for spelling in self._spellings):
                return masked[:-size], end
        return masked, b""


def _spellings(value: str) -> Iterable[bytes]:
    import base64  # noqa: PLC0415 - only where there are secrets
    from urllib.parse import quote, quote_plus  # noqa: PLC0415 - as above

    raw = value.encode("utf-8", "surrogateescape")
    yield raw
    yield json.dumps(value)[1:-1].encode()
    yield json.dumps(value, ensure_ascii=False)[1:-1].encode("utf-8", "surrogateescape")
    yield quote(raw, safe="").encode()
    yield quote_plus(raw).encode()
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for shift in range(3):
            # Inside a longer text the value may begin at any of three places of a base64 group; the characters at
            # its edges mix with their neighbours and are left out.
            coded = encode(b"\0" * shift + raw)
            begin = (0, 2, 3)[shift]
            end = len(coded) - (0, 4, 4)[-(len(raw) + shift) % 3]
            if end - begin >= MIN_CHARACTERS:
                yield coded[begin:end]
