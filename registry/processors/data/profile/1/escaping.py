"""Strings from the data, made harmless: no cell may steer the page, the terminal or the reader's eye."""

from __future__ import annotations

import html

SHOWN = 100  # characters of a cell that are shown
C0_END, DEL, C1_END = 0x20, 0x7F, 0xA0
ASTRAL = 0x1_0000
UNSEEN = (
    *range(C0_END),
    *range(DEL, C1_END),
    0x061C, 0x200B, 0x200E, 0x200F,  # marks of direction, and a space of no width
    *range(0x2028, 0x202F),  # line and paragraph separators; embeddings and overrides
    *range(0x2060, 0x2070),  # isolates, invisible operators
    0xFEFF,
    *range(0xFFF9, 0xFFFC),
    *range(0xD800, 0xE000),  # lone surrogates
    *range(0xE0000, 0xE0080),  # tags
)  # fmt: skip
"""Code points that are not seen but change what is: control, direction and format characters.

Source: Unicode 15.1, categories Cc and Cf without the joiners that scripts and emoji need, written out so
that the output does not depend on the Unicode tables of the Python at hand.
"""


def _visible(point: int) -> str:
    if point < C0_END:
        return chr(0x2400 + point)  # the control pictures
    return "\u2421" if point == DEL else f"[U+{point:04X}]"


def _json_escape(point: int) -> str:
    if point < ASTRAL:
        return f"\\u{point:04x}"
    high, low = divmod(point - ASTRAL, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


VISIBLE = {point: _visible(point) for point in UNSEEN}
JSON_ESCAPES = {point: _json_escape(point) for point in UNSEEN if point >= DEL}


def for_html(text: str) -> str:
    """Escape for element content and for quoted attributes; what would be invisible is spelled out."""
    return html.escape(text.translate(VISIBLE), quote=True)


def for_json(document: str) -> str:
    """Escape invisible characters in a JSON text (they can only stand inside its strings)."""
    return document.translate(JSON_ESCAPES)


def cut(text: str, length: int = SHOWN) -> str:
    """Shorten a text for display; an ellipsis tells."""
    return text if len(text) <= length else text[: length - 1] + "\u2026"
