"""The profile as a JSON document: figures read from the columns, in an order that never changes."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from datetime import date, datetime, timedelta
from heapq import nsmallest
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from escaping import cut, for_json
from values import END_OF_TIME, FIRST_SECOND, SHORTENED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from columns import Column, Spread
    from reading import Source
    from table import Table

Json = dict[str, Any]

MAJORITY_PERCENT = 95
"""A column has the type that this share of its present values has; the others are counted as mismatched."""

QUANTILES = (5, 25, 50, 75, 95)  # percent
DIGITS = 12  # significant digits of a computed figure; what is beyond may depend on the order of the rows
BINS = 20  # a histogram has about so many
TOP, TOP_WIDE, WIDE = 10, 3, 1_000  # top values of a column; fewer in tables that have many columns
NUMBER = re.compile(r"[0-9]*\.?[0-9]+").fullmatch
DAY_STEPS = (1, 2, 7, 14, 30, 91, 182, 365)
SECOND_STEPS = (1, 2, 5, 10, 30, 60, 300, 600, 1_800, 3_600, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800)
SECONDS_A_DAY = 86_400
EPOCH = datetime.fromisoformat("1970-01-01")  # naive: what the cells say, without a time zone
LAST_DAY = date.max.toordinal()


def describe(table: Table, source: Source, name: str, cid: str) -> Json:
    """Return the whole profile; `profile.json` is its text."""
    columns = [describe_column(column, table) for column in table.columns]
    missing = sum(column.missing for column in table.columns)
    cells = table.rows * len(table.columns)
    return {
        "table": {
            "name": cut(name),
            "cid": cid,
            "size_bytes": source.size_bytes,
            "encoding": source.encoding.name,
            "byte_order_mark": source.encoding.mark > 0,
            "delimiter": source.delimiter,
            "line_ends": source.encoding.line_ends,
            "rows": table.rows,
            "columns": len(table.columns),
            "missing": missing,
            "missing_fraction": fraction(missing, cells),
            "blank_lines": table.blank_lines,
            "short_rows": table.short_rows,
            "long_rows": table.long_rows,
            "replaced_characters": source.encoding.replaced,
        },
        "notes": list(remarks(table, source)),
        "columns": columns,
        "sample": [[cut(cell) for cell in row] for row in table.sample],
    }


def spell(profile: Json) -> str:
    """Write the profile as JSON: indented, but a column or a sampled row is one line."""
    lines = [
        "{",
        '"table": ' + _json(profile["table"], indent=2) + ",",
        '"notes": ' + _json(profile["notes"]) + ",",
    ]
    for key in ("columns", "sample"):
        lines.append(f'"{key}": [')
        lines.append(",\n".join(_json(item) for item in profile[key]))
        lines.append("]," if key == "columns" else "]")
    lines.append("}\n")
    return "\n".join(line for line in lines if line)


def remarks(table: Table, source: Source) -> Iterator[str]:
    """Tell in sentences what a reader of the file should know."""
    encoding = source.encoding
    names = [column.name for column in table.columns]
    repeated = len(names) - len(set(names))
    guess = encoding.name in ("cp1252", "latin-1")
    ends = "Lines end in more than one way (a line break inside a quoted cell counts too)."
    headless = "A column's name is a number: perhaps the file has no header and this is its first row."
    sentences = (
        (guess, f"The file is not UTF-8; it was read as {encoding.name}, which is a guess."),
        (
            encoding.replaced,
            f"Characters that could not be decoded and were replaced: {encoding.replaced:,}.",
        ),
        (encoding.line_ends == "mixed", ends),
        (
            table.short_rows,
            f"Rows with fewer cells than the header, filled up as missing: {table.short_rows:,}.",
        ),
        (table.long_rows, f"Rows with more cells than the header, the surplus ignored: {table.long_rows:,}."),
        (table.blank_lines, f"Blank lines, skipped: {table.blank_lines:,}."),
        (repeated, f"Column names that occur before in the header: {repeated:,}."),
        (any(map(NUMBER, names)), headless),
        (table.open_quote, "The last cell ends in a line break: perhaps a quote is never closed."),
        (not table.rows, "There is a header and no row."),
    )
    return (sentence for applies, sentence in sentences if applies)


def describe_column(column: Column, table: Table) -> Json:
    """Return what is known of a column; a key is there when it means something for the column's type."""
    kind, fit = settle_type(column)
    document: Json = {
        "index": column.index,
        "name": column.name,
        "type": kind,
        "present": column.present,
        "missing": column.missing,
        "missing_fraction": fraction(column.missing, table.rows),
    }
    if column.missing:
        markers = sorted(column.markers.items(), key=lambda item: (-item[1], item[0]))
        document["missing_markers"] = {marker: count for marker, count in markers if count}
    if not column.present:
        return document
    document["unique"] = unique(column)
    document["kinds"] = {name: column.kinds[name] for name in sorted(column.kinds) if column.kinds[name]}
    if fit < column.present:
        document["mismatched"] = {"count": column.present - fit, "examples": list(map(shown, column.unfit))}
    if kind == "boolean":
        document.update({"true": column.booleans[True], "false": column.booleans[False]})
    elif kind == "text":
        lengths = column.lengths
        mean = rounded(lengths.total / column.present)
        document["lengths"] = {"min": lengths.low, "max": lengths.high, "mean": mean}
    else:
        document.update(figures(column, kind))
    document["top"] = top_values(column, TOP if len(table.columns) <= WIDE else TOP_WIDE)
    document["examples"] = list(map(shown, column.examples))
    return document


def settle_type(column: Column) -> tuple[str, int]:
    """Return the column's type and how many values have it."""
    if not column.present:
        return "empty", 0
    kind, fit = max(((name, column.kinds[name]) for name in sorted(column.kinds)), key=lambda item: item[1])
    if kind == "text" or fit * 100 < column.present * MAJORITY_PERCENT:
        return "text", column.present
    if kind == "number" and not column.fractional:
        kind = "integer"
    return kind, fit


def unique(column: Column) -> Json:
    """Return how many different values there are."""
    if column.distinct is None:
        return {"count": len(column.counts), "exact": True}
    if column.distinct.exact:
        return {"count": column.distinct.count, "exact": True}
    count = min(column.distinct.count, column.present)
    return {"count": count, "exact": False, "relative_error": round(column.distinct.relative_error, 4)}


def top_values(column: Column, number: int) -> Json:
    """Return the most frequent values; a count may be too low by `error`, never too high."""
    counts, error = (column.frequent.counts, column.frequent.error) if column.frequent else (column.counts, 0)
    best = nsmallest(number, counts.items(), key=lambda item: (-item[1], item[0]))
    values = [{"value": shown(cell), "count": count} for cell, count in best if count >= error]
    return {"exact": not error, "error": error, "values": values}


def figures(column: Column, kind: str) -> Json:
    """Return extremes, quantiles and histogram of numbers, dates or datetimes."""
    spread = column.spreads["number" if kind == "integer" else kind]
    moments, pairs = spread.moments, spread.weighted()
    document: Json = {"min": value(spread.low, kind, column), "max": value(spread.high, kind, column)}
    if kind in ("integer", "number"):
        document["mean"] = rounded(moments.mean)
        document["stddev"] = None if moments.stddev is None else rounded(moments.stddev)
    elif kind == "datetime":
        offsets = column.offsets
        document["offsets"] = (
            "none" if not offsets else "all" if offsets == column.kinds["datetime"] else "some"
        )
    quantiles: Json = {"exact": spread.exact}
    if not spread.exact:
        quantiles["rank_error"] = round(spread.rank_error, 6)
    ends = list(accumulate(weight for _, weight in pairs))
    for percent in QUANTILES:
        quantiles[f"p{percent:02}"] = quantile(pairs, ends, percent, kind, column)
    document["quantiles"] = quantiles
    document["histogram"] = histogram(spread, pairs, kind, column)
    return document


def quantile(
    pairs: list[tuple[float, int]], ends: list[int], percent: int, kind: str, column: Column
) -> float | str:
    """Interpolate between the two values next to the rank; for dates the earlier one is taken."""
    rank, rest = divmod((ends[-1] - 1) * percent, 100)
    low = pairs[bisect_right(ends, rank)][0]
    if kind in ("date", "datetime"):
        return value(low, kind, column)
    high = pairs[bisect_right(ends, min(rank + 1, ends[-1] - 1))][0]
    if not rest or low == high:
        return value(low, kind, column)
    return rounded(low + (high - low) * (rest / 100))


def histogram(spread: Spread, pairs: list[tuple[float, int]], kind: str, column: Column) -> Json:
    """Count the values between round edges; a bin has its lower edge, the last one both."""
    edges = list(bin_edges(spread.low, spread.high, kind))
    counts = [0] * (len(edges) - 1)
    for number, weight in pairs:
        counts[min(max(bisect_right(edges, number) - 1, 0), len(counts) - 1)] += weight
    return {"exact": spread.exact, "edges": [value(edge, kind, column) for edge in edges], "counts": counts}


def bin_edges(low: float, high: float, kind: str) -> Iterator[float]:
    """Yield round numbers, evenly spaced, from the last one up to `low` to the first one beyond `high`."""
    if low == high:
        yield from (low, high)
        return
    if kind in ("date", "datetime"):
        steps, year = (DAY_STEPS, 365) if kind == "date" else (SECOND_STEPS, 365 * SECONDS_A_DAY)
        least = (high - low) / BINS
        step = next((step for step in steps if step >= least), 0) or year * -int(-least // year)
        first, last = (1, LAST_DAY) if kind == "date" else (FIRST_SECOND, END_OF_TIME - 1)
        edge = int(low // step) * step if kind == "datetime" else int(low)
        while edge <= high:
            yield max(edge, first)
            edge += step
        yield max(min(edge, last), high)
        return
    least, whole = (high - low) / BINS, kind == "integer"
    exponent = int(f"{least:e}".partition("e")[2])
    digit = next(digit for digit in (1, 2, 5, 10) if digit * float(f"1e{exponent}") >= least * (1 - 1e-12))
    if whole:
        exponent, digit = (exponent, digit) if exponent >= 0 else (0, 1)
    scale = 10 ** abs(exponent)
    step = digit * scale if exponent >= 0 else digit / scale
    index = int(low // step)
    while True:
        edge = index * digit * scale if exponent >= 0 else index * digit / scale
        yield edge
        if edge > high:
            return
        index += 1


def value(number: float, kind: str, column: Column) -> float | str:
    """Spell a value of the column: an integer, a double, or an ISO 8601 text."""
    if kind == "date":
        return date.fromordinal(int(number)).isoformat()
    if kind == "datetime":
        micros = round(number * 1_000_000)
        text = (EPOCH + timedelta(microseconds=micros)).isoformat()
        return text + "Z" if column.offsets else text
    return int(number) if kind == "integer" else float(number) + 0.0  # no minus zero


def rounded(number: float) -> float:
    """Round a computed figure to DIGITS significant digits."""
    return float(f"{number:.{DIGITS}g}") + 0.0


def fraction(part: int, whole: int) -> float:
    """Return the share, rounded to a millionth; 0 of nothing is 0."""
    return round(part / whole, 6) if whole else 0.0


def shown(cell: str) -> str:
    """Return what is shown of a cell."""
    kept, shortened, _ = cell.partition(SHORTENED)
    return cut(kept + "\u2026" if shortened else kept)


def _json(item: object, indent: int | None = None) -> str:
    separators = (",", ": ") if indent else (", ", ": ")
    return for_json(
        json.dumps(item, ensure_ascii=False, allow_nan=False, indent=indent, separators=separators)
    )
