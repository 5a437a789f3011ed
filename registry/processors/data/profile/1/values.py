"""What one cell means: missing, a number, a date, a boolean, or just text.

Everything here is decided by ASCII patterns written out below. Python's own parsers accept more than a CSV
should (`1_000`, Arabic digits, `infinity`) and their taste changes between versions, so they only ever see
what a pattern has let through.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MISSING_MARKERS = (
    "NA",
    "N/A",
    "n/a",
    "#N/A",
    "<NA>",
    "NaN",
    "nan",
    "NULL",
    "Null",
    "null",
    "None",
    "-",
    "--",
)
"""Spellings of "no value" beside the empty and the blank cell; those of pandas, and the typist's dashes."""

SHORTENED = "\0"
"""Separates the kept beginning of a long cell from its length and digest; `reading` refuses it in cells."""

BLANKS = " \t\r\n\v\f\xa0"
LARGEST = 1e100
"""A number beyond this is taken for text: its square, summed over a table, must stay a finite double."""

TEXTS = 3
INTEGER_LENGTH = 18  # digits; all of them fit a signed 64-bit integer

TRUE = frozenset(("true", "yes", "y"))
BOOLEANS = tuple(
    form(word) for word in (*sorted(TRUE), "false", "no", "n") for form in (str, str.title, str.upper)
)
FIRSTS = frozenset("0123456789+-. \t")  # what a number or a date begins with, or the blanks before a value
WORDS = frozenset(BOOLEANS)

KIND = re.compile(
    r"""[ \t]*(?:
      (?P<integer>   [+-]?(?:0|[1-9][0-9]{0,17}) )
    | (?P<number>    [+-]?(?:(?:0|[1-9][0-9]{0,99})(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})? )
    | (?P<comma>     [+-]?(?:0|[1-9][0-9]{0,99}),[0-9]+ )
    | (?P<date>      [0-9]{4}-[0-9]{2}-[0-9]{2} | [0-9]{4}/[0-9]{2}/[0-9]{2}
                   | [0-9]{1,2}\.[0-9]{1,2}\.[0-9]{4} )
    | (?P<datetime>  [0-9]{4}-[0-9]{2}-[0-9]{2}[T\ ][0-9]{2}:[0-9]{2}
                     (?: :[0-9]{2} (?:\.[0-9]{1,9})? )? (?: \ ?(?:Z|[+-][0-9]{2}:?[0-9]{2}) )? )
    | (?P<boolean>   WORDS )
    )[ \t]*""".replace("WORDS", "|".join(BOOLEANS)),
    re.VERBOSE,
).fullmatch
LONG_DIGITS = re.compile(r"[+-]?[0-9]{19,}").fullmatch
CLOCK = re.compile(
    r"([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)? ?(Z|[+-][0-9]{2}:?[0-9]{2})?"
).fullmatch
EPOCH_DAY = date(1970, 1, 1).toordinal()
FIRST_SECOND = (1 - EPOCH_DAY) * 86_400  # of the year 1, counted from 1970
END_OF_TIME = (date.max.toordinal() + 1 - EPOCH_DAY) * 86_400  # the second after the year 9999
LAST_HOUR, LAST_MINUTE, LAST_SECOND = 23, 59, 60  # ISO 8601 has leap seconds


@dataclass(slots=True)
class Group:
    """The distinct values of one kind: how each reads, and how often it occurs (two lists, equally long)."""

    values: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Sorted:
    """Distinct cells, sorted by what they mean.

    `number`: as they are; `date`: days since 0001-01-01, which is 1; `datetime`: seconds since 1970, in UTC
    where an offset is written; `boolean`: 0 or 1; text: how many, and the first few.
    """

    number: Group = field(default_factory=Group)
    date: Group = field(default_factory=Group)
    datetime: Group = field(default_factory=Group)
    boolean: Group = field(default_factory=Group)
    text_count: int = 0
    texts: list[str] = field(default_factory=list)  # the first few of them
    fractional: bool = False  # a number was written with a point or an exponent
    offsets: int = 0  # datetimes that carry an offset from UTC


def sort_values(counts: Mapping[str, int], *, decimal_comma: bool = False) -> Sorted:
    """Sort cells that are not blank by kind; a comma is a decimal point only where the caller says so."""
    groups, cells = Sorted(), list(counts)
    if FIRSTS.isdisjoint(map(itemgetter(0), cells)) and WORDS.isdisjoint(map(str.rstrip, cells)):
        groups.text_count, groups.texts = sum(counts.values()), cells[:TEXTS]
        return groups
    plain = plain_numbers(cells)
    if plain is not None:
        groups.number = Group(plain, list(counts.values()))
        groups.fractional = isinstance(plain[0], float)
        return groups
    for written, count in counts.items():
        match = KIND(written)
        kind, cell = match.lastgroup if match else None, written
        if kind == "comma":
            kind, cell = ("number", written.replace(",", ".")) if decimal_comma else (None, written)
        if kind == "boolean":
            groups.boolean.values.append(cell.strip(BLANKS).lower() in TRUE)
            groups.boolean.counts.append(count)
        elif kind in ("integer", "number"):
            _add_number(groups, cell, count, whole=kind == "integer")
        elif kind == "date":
            _add_date(groups, cell, count)
        elif kind == "datetime":
            _add_datetime(groups, cell, count)
        else:
            _add_text(groups, cell, count)
    if groups.fractional:
        groups.number.values = list(map(float, groups.number.values))
    return groups


def plain_numbers(cells: list[str]) -> list[float] | None:
    """Return the cells as numbers, all int or all float, if all are digits with at most a minus and a point.

    The way for columns of a million different numbers: a few passes in C over the joined bytes instead of a
    pattern a cell. `None` means "look closer", never "not numbers".
    """
    joined = "\n" + "\n".join(cells) + "\n"
    if not joined.isascii():
        return None
    raw = joined.encode()
    points = raw.translate(None, b"0123456789-\n")
    if points.strip(b".") or max(map(len, cells)) > INTEGER_LENGTH or raw.count(b"\n") != len(cells) + 1:
        return None
    for zero in (b"\n0", b"\n-0"):
        if raw.count(zero) != raw.count(zero + b"\n") + raw.count(zero + b"."):
            return None  # a leading zero: a code, not a number
    try:
        return list(map(float if points else int, cells))
    except ValueError:
        return None


def _add_text(groups: Sorted, cell: str, count: int) -> None:
    groups.text_count += count
    if len(groups.texts) < TEXTS:
        groups.texts.append(cell)


def _add_number(groups: Sorted, cell: str, count: int, *, whole: bool) -> None:
    value = int(cell) if whole else float(cell)
    if abs(value) > LARGEST or (not whole and LONG_DIGITS(cell.strip(BLANKS))):
        _add_text(groups, cell, count)
        return
    groups.fractional = groups.fractional or not whole
    groups.number.values.append(value)
    groups.number.counts.append(count)


def _add_date(groups: Sorted, cell: str, count: int) -> None:
    day = day_number(cell.strip(BLANKS))
    if day is None:
        _add_text(groups, cell, count)
        return
    groups.date.values.append(day)
    groups.date.counts.append(count)


def _add_datetime(groups: Sorted, cell: str, count: int) -> None:
    cell = cell.strip(BLANKS)
    day, clock = day_number(cell[:10]), seconds_of_day(cell[11:])
    seconds = (day - EPOCH_DAY) * 86_400 + clock[0] if day and clock else END_OF_TIME
    if clock is None or not FIRST_SECOND <= seconds < END_OF_TIME:  # an offset may lead out of the calendar
        _add_text(groups, cell, count)
        return
    groups.datetime.values.append(seconds)
    groups.datetime.counts.append(count)
    groups.offsets += count if clock[1] else 0


@lru_cache(maxsize=1 << 16)
def day_number(text: str) -> int | None:
    """Count days from 0001-01-01, which is 1; `None` if the calendar has no such day."""
    if "." in text:
        day, month, year = text.split(".")
    else:
        year, month, day = text.replace("/", "-").split("-")
    try:
        return date(int(year), int(month), int(day)).toordinal()
    except ValueError:
        return None


@lru_cache(maxsize=1 << 16)
def seconds_of_day(text: str) -> tuple[float, bool] | None:
    """Read a time of day as seconds since midnight UTC, and whether an offset is written."""
    match = CLOCK(text)
    if match is None:
        return None
    hour, minute, second = int(match[1]), int(match[2]), int(match[3] or 0)
    if hour > LAST_HOUR or minute > LAST_MINUTE or second > LAST_SECOND:
        return None
    seconds: float = hour * 3600 + minute * 60 + second
    if match[4]:
        seconds += int(match[4]) / 10 ** len(match[4])
    offset = match[5]
    if offset and offset != "Z":
        digits = offset[1:].replace(":", "")
        shift = int(digits[:2]) * 3600 + int(digits[2:]) * 60
        seconds += shift if offset[0] == "-" else -shift
    return seconds, bool(offset)
