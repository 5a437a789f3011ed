"""What a whole batch of cells means, found with a few passes in C instead of a pattern a cell.

A lane answers only where it is certain to say what `values.sort_values` would say of each cell; `None` means
"look closer". It is given cells that are not missing, also joined by NUL, which `reading` refuses in a file,
as one piece of bytes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import repeat
from operator import sub
from typing import TYPE_CHECKING

from values import BLANKS, INTEGER_LENGTH, LARGEST, WORDS, day_number

if TYPE_CHECKING:
    from collections.abc import Sequence

DIGITS = b"0123456789"
LONGEST_NUMBER = 100  # characters, so that its value stays below LARGEST
LONG_EXPONENT = re.compile(rb"[eE][+-]?[0-9]{4}").search
FIGURES = b"0123456789+-.,:/eETZ \t"
"""The bytes that numbers and dates are made of."""

DATES = {b"0000-00-00", b"0000/00/00", b"00.00.0000"}
CLOCKS = {b"00:00", b"00:00:00", b"00:00:00.000", b"00:00:00.000000"}
SHAPES = {
    *DATES,
    *(b"0000-00-00" + gap + clock + zone for gap in (b"T", b" ") for clock in CLOCKS for zone in (b"", b"Z")),
}
"""Dates and times with each digit a zero; those that `datetime.fromisoformat` of Python 3.10 reads."""

BLANK_BEGINNINGS = tuple((blank.encode(), f"\0{blank}".encode()) for blank in BLANKS)
ZEROS = bytes.maketrans(DIGITS, b"0" * 10)
DAY = 86_400  # seconds
EPOCH = datetime.fromisoformat("1970-01-01")  # naive, as the cells are


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers as `values`, each divided by `unit`."""

    values: Sequence[float]
    fractional: bool  # some are written with a point or an exponent
    integers: Sequence[int] = ()  # the values once more, where all are; their sums are exact
    unit: int = 1


def joined(cells: Sequence[str]) -> bytes:
    """Return the cells as one piece, a NUL before and behind each."""
    return ("\0" + "\0".join(cells) + "\0").encode()


def begins_blank(raw: bytes) -> bool:
    """Tell whether a cell begins with a blank; a single byte, which is often not there, is found fastest."""
    return any(blank in raw and beginning in raw for blank, beginning in BLANK_BEGINNINGS)


def numbers(cells: Sequence[str], raw: bytes, longest: int) -> Numbers | None:
    """Return the cells, the longest of `longest` characters, as numbers if all are."""
    signs = raw.translate(None, b"0123456789-\0")
    if signs.strip(b".+eE") or longest > LONGEST_NUMBER or b"\0+" in raw or has_codes(raw):
        return None
    points = signs.count(b".")
    if longest > INTEGER_LENGTH and points < len(cells):
        return None  # perhaps digits that are no integer of 64 bits
    try:
        if not signs:
            integers = json.loads(b"[" + raw[1:-1].replace(b"\0", b",") + b"]")
            return Numbers(integers, fractional=False, integers=integers)
        if points == len(cells) == len(signs) and longest <= INTEGER_LENGTH:
            decimals = len(cells[0]) - 1 - cells[0].index(".")
            if raw.translate(ZEROS).count(b"." + b"0" * decimals + b"\0") == len(cells):
                integers = list(map(int, raw.replace(b".", b"").decode()[1:-1].split("\0")))
                return Numbers(integers, fractional=True, integers=integers, unit=10**decimals)
    except (ValueError, IndexError):
        return None
    return floats(cells, raw)


def floats(cells: Sequence[str], raw: bytes) -> Numbers | None:
    """Return cells that are made of digits, signs, points and exponents as numbers if all are."""
    try:
        values = list(map(float, cells))
    except ValueError:
        return None
    if LONG_EXPONENT(raw) or max(map(abs, values)) > LARGEST:
        return None
    return Numbers(values, fractional=True)


def has_codes(raw: bytes) -> bool:
    """Tell whether a number may begin with a zero that says nothing: then it is a code."""
    return any(
        zero in raw and raw.count(zero) != sum(raw.count(zero + after) for after in (b"\0", b".", b"e", b"E"))
        for zero in (b"\x000", b"\0-0")
    )


def times(cells: Sequence[str], raw: bytes) -> tuple[str, list[float], bool] | None:
    """Return kind, values (of the same meaning as in `values.Sorted`) and whether all carry an offset."""
    shape = cells[0].encode().translate(ZEROS)
    if shape not in SHAPES or raw.translate(ZEROS).count(shape + b"\0") * (len(shape) + 1) != len(raw) - 1:
        return None
    if shape in DATES:
        days = {cell: day_number(cell) for cell in set(cells)}
        return None if None in days.values() else ("date", [days[cell] or 0 for cell in cells], False)
    if b"T24:" in raw or b" 24:" in raw:
        return None  # midnight of the next day, says only a newer Python
    zone = shape.endswith(b"Z")
    try:
        moments = map(datetime.fromisoformat, [cell[:-1] for cell in cells] if zone else cells)
        since = map(sub, moments, repeat(EPOCH))
        if b"." in shape:
            return "datetime", list(map(timedelta.total_seconds, since)), zone
        return "datetime", [delta.days * DAY + delta.seconds for delta in since], zone
    except ValueError:
        return None


def suspects(cells: Sequence[str], raw: bytes) -> list[str]:
    """Return the cells that may be something else than text; all others are text for certain."""
    found = []
    rest = raw.translate(None, FIGURES)
    if b"\0\0" in rest:
        found = [cell for cell, left in zip(cells, rest[1:-1].split(b"\0"), strict=True) if not left]
    if any(edge in raw for edge in (b"\0 ", b"\0\t", b" \0", b"\t\0")):
        found += [cell for cell in cells if cell.strip(BLANKS) in WORDS]
    elif not WORDS.isdisjoint(cells):
        found += [cell for cell in cells if cell in WORDS]
    return found
