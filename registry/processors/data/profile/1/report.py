"""The profile as a page: one file, no script, nothing loaded from anywhere."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from charts import histogram_chart, share_bar
from escaping import cut, for_html
from style import CSS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Json = dict[str, Any]

CARDS = 120  # columns with a card of their own; the next ones share a table
LINES = 2_000  # columns in that table
BARS = 6  # values a card shows
SAMPLED = 40  # columns of the sample
LABEL = 60  # characters of a value in a card
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", " ": "space"}
LINE_ENDS = {"lf": "LF", "crlf": "CR LF", "cr": "CR", "mixed": "mixed line ends", "none": "one line"}
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
RIGHT = frozenset(("integer", "number"))
ABOUT, AT_LEAST, MINUS = "\u2248\u2009", "\u2265\u2009", "\u2212"
HARDLY, ROUND = 0.0005, 100  # a share that would read 0.0 %; a number of units that needs no decimal
HUGE, TINY = 1e10, 1e-4  # beyond these a figure is written with an exponent
UNITS, FEW = {"integer": 1, "date": 86_400}, 12  # what a bin holds when it holds one value; so many are named
DECIMALS = ((10_000.0, 0), (100.0, 1), (10.0, 2), (1.0, 3))  # from this size, so many decimals


def write_report(profile: Json) -> str:
    """Return the page."""
    table, columns = profile["table"], profile["columns"]
    name = for_html(table["name"])
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{name} \u2013 data profile</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>",
        f'<p class="kicker">Data profile</p>\n<h1><bdi>{name}</bdi></h1>',
        tiles(table),
        notes(profile["notes"]),
        "<h2>Columns</h2>" if columns else "",
        '<div class="cards">' + "\n".join(map(card, columns[:CARDS])) + "</div>",
        further(columns[CARDS:]),
        sample(profile["sample"], columns),
        footer(table, columns),
        "</main>\n</body>\n</html>\n",
    ]
    return "\n".join(part for part in parts if part)


def tiles(table: Json) -> str:
    """Return the figures of the whole table."""
    delimiter = table["delimiter"]
    encoding = table["encoding"].upper() + (" with BOM" if table["byte_order_mark"] else "")
    facts = (
        ("Rows", f"{table['rows']:,}"),
        ("Columns", f"{table['columns']:,}"),
        ("Missing", percent(table["missing_fraction"], table["missing"])),
        ("Size", size(table["size_bytes"])),
        ("Encoding", encoding),
        ("Delimiter", DELIMITERS.get(delimiter, for_html(delimiter))),
    )
    return (
        '<dl class="tiles">'
        + "".join(f"<div><dt>{term}</dt><dd>{fact}</dd></div>" for term, fact in facts)
        + "</dl>"
    )


def notes(sentences: list[str]) -> str:
    """Return what is worth a remark."""
    if not sentences:
        return ""
    return (
        '<ul class="notes">' + "".join(f"<li>{for_html(sentence)}</li>" for sentence in sentences) + "</ul>"
    )


def card(column: Json) -> str:
    """Return the card of one column."""
    kind, identifier = column["type"], f"c{column['index']}"
    parts = [
        f'<section class="card {kind}" aria-labelledby="{identifier}">',
        f'<header><h3 id="{identifier}"><bdi>{for_html(cut(column["name"], LABEL))}</bdi></h3>',
        f'<span class="badge">{kind}</span></header>',
        f'<div><p class="facts"><span>{different(column)}</span><span>{absent(column)}</span></p>',
        f"{share_bar(column['missing_fraction'], 1, 'gapline')}</div>",
    ]
    if "histogram" in column:
        parts.append(chart(column))
    elif "top" in column:
        parts.append(values(column))
    if "mismatched" in column:
        unfit = column["mismatched"]
        such = ", ".join(f"\u201c<bdi>{for_html(cut(cell, 24))}</bdi>\u201d" for cell in unfit["examples"])
        named = f", such as {such}" if such else ""
        parts.append(f'<p class="odd"><b>{unfit["count"]:,}</b> of another type{named}</p>')
    parts.append(key_figures(column))
    parts.append("</section>")
    return "".join(parts)


def different(column: Json) -> str:
    """Say how many different values there are."""
    if not column["present"]:
        return "no values"
    unique = column["unique"]
    if unique["exact"] and unique["count"] == column["present"] > 1:
        return "all different"
    if unique["count"] == 1:
        return "always the same"
    return f"{'' if unique['exact'] else ABOUT}{unique['count']:,} different"


def absent(column: Json) -> str:
    """Say how many values are missing."""
    if not column["missing"]:
        return "none missing"
    return f"{column['missing']:,} missing ({percent(column['missing_fraction'], column['missing'])})"


def chart(column: Json) -> str:
    """Return the histogram with its axis; bins that hold one integer or one day each are named by it."""
    bins, kind = column["histogram"], column["type"]
    edges, unit = bins["edges"], UNITS.get(kind, 0)
    places = list(map(position, edges))
    single = all(high - low == unit for low, high in pairwise(places))
    labels = list(edge_labels(edges, kind))
    names = (
        labels[:-1]
        if single
        else [low if low == high else f"{low} to {high}" for low, high in pairwise(labels)]
    )
    wide, shift = (places[-1] - places[0]) or 1.0, unit / 2 if single and unit else 0.0
    positions = {
        name: (position(value) + shift - places[0]) / wide if places[-1] > places[0] else 0.5
        for name, value in column["quantiles"].items()
        if name.startswith("p")
    }
    few = single and len(names) <= (FEW if kind in RIGHT else 1)
    ends = names if few else [names[0], names[-1]] if single else [labels[0], labels[-1]]
    axis = "".join(f"<span>{end}</span>" for end in ends)
    css = "axis even" if few else "axis"
    drawing = histogram_chart(column, names, ends, positions)
    return f'<div>{drawing}<p class="{css}" aria-hidden="true">{axis}</p></div>'


def values(column: Json) -> str:
    """Return the most frequent values as bars, or a few examples where none is frequent."""
    top = column["top"]["values"]
    if not top or top[0]["count"] == 1:
        quotes = "".join(f"<li><bdi>{for_html(cut(cell, LABEL))}</bdi></li>" for cell in column["examples"])
        return f'<ul class="quotes" aria-label="Examples">{quotes}</ul>'
    about = "" if column["top"]["exact"] else AT_LEAST
    bars = [
        f"<li><bdi>{for_html(cut(item['value'], LABEL))}</bdi><span>{about}{item['count']:,}</span>"
        f"{share_bar(item['count'], column['present'])}</li>"
        for item in top[:BARS]
    ]
    others = column["present"] - sum(item["count"] for item in top[:BARS])
    if others and column["top"]["exact"]:
        bars.append(
            f'<li class="soft"><span>{column["unique"]["count"] - BARS:,} others</span>'
            f"<span>{others:,}</span></li>"
        )
    return f'<ol class="bars" aria-label="Most frequent values">{"".join(bars)}</ol>'


def key_figures(column: Json) -> str:
    """Return the figures that matter for the column's type."""
    facts: list[tuple[str, str]] = []
    if "histogram" in column:
        quantiles, kind = column["quantiles"], column["type"]
        about = "" if quantiles["exact"] else ABOUT
        facts = [("Min", show(column["min"], kind)), ("Median", about + show(quantiles["p50"], kind))]
        if "mean" in column:
            facts.append(("Mean", show(column["mean"], kind)))
            facts.append(("Max", show(column["max"], kind)))
            facts.append(
                ("Std. dev.", "\u2013" if column["stddev"] is None else show(column["stddev"], kind))
            )
            middle = f"{show(quantiles['p25'], kind)} \u2026 {show(quantiles['p75'], kind)}"
            facts.append(("Middle half", about + middle))
        else:
            facts.append(("Max", show(column["max"], kind)))
    elif "lengths" in column:
        lengths = column["lengths"]
        facts = [
            ("Shortest", f"{lengths['min']:,} char."),
            ("Average", f"{show(lengths['mean'], 'number')} char."),
            ("Longest", f"{lengths['max']:,} char."),
        ]
    elif "true" in column:
        total = column["true"] + column["false"]
        facts = [("True", percent(column["true"] / total, column["true"])),
                 ("False", percent(column["false"] / total, column["false"]))]  # fmt: skip
    return (
        '<dl class="figures">' + "".join(f"<div><dt>{a}</dt><dd>{b}</dd></div>" for a, b in facts) + "</dl>"
        if facts
        else ""
    )


def further(columns: list[Json]) -> str:
    """Return a table of the columns that have no card."""
    if not columns:
        return ""
    head = "".join(
        f'<th scope="col">{word}</th>'
        for word in ("#", "Column", "Type", "Different", "Missing", "From", "To")
    )
    lines = []
    for column in columns[:LINES]:
        ends = [show(column[end], column["type"]) if end in column else "" for end in ("min", "max")]
        cells = (column["type"], different(column), absent(column), *ends)
        lines.append(
            f"<tr><td>{column['index']:,}</td>"
            f'<th scope="row"><bdi>{for_html(cut(column["name"], LABEL))}</bdi></th>'
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    left = len(columns) - LINES
    more = f'<p class="soft">{left:,} more columns are in profile.json.</p>' if left > 0 else ""
    return region("Further columns", f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>") + more


def sample(rows: list[list[str]], columns: list[Json]) -> str:
    """Return the first rows as they are in the file."""
    if not rows:
        return ""
    shown = columns[:SAMPLED]
    css = ['class="right"' if column["type"] in RIGHT else "" for column in shown]
    head = "".join(
        f'<th scope="col" {style}><bdi>{for_html(cut(column["name"], LABEL))}</bdi></th>'
        for column, style in zip(shown, css, strict=True)
    )
    body = []
    for number, row in enumerate(rows, 1):
        cells = [*row[: len(shown)], *[""] * (len(shown) - len(row))]
        tds = "".join(f"<td {style}>{plain(cell)}</td>" for cell, style in zip(cells, css, strict=True))
        body.append(f'<tr><th scope="row">{number}</th>{tds}</tr>')
    corner = '<th scope="col"><span class="unseen">Row</span></th>'
    some = f' <span class="soft">(the first {SAMPLED} columns)</span>' if len(columns) > SAMPLED else ""
    return region("First rows", f"<thead><tr>{corner}{head}</tr></thead><tbody>{''.join(body)}</tbody>", some)


def region(title: str, table: str, suffix: str = "") -> str:
    """Return a heading and a table that scrolls sideways, by keyboard too."""
    return (
        f"<h2>{title}{suffix}</h2>"
        f'<div class="scroll" role="region" aria-label="{title}" tabindex="0"><table>{table}</table></div>'
    )


def plain(cell: str) -> str:
    """Return a cell of the sample."""
    return f"<bdi>{for_html(cell)}</bdi>" if cell else '<span class="none">empty</span>'


def footer(table: Json, columns: list[Json]) -> str:
    """Return where it comes from, and what the signs mean."""
    lines = [f"{for_html(table['cid'])} \u00b7 {LINE_ENDS[table['line_ends']]} \u00b7 data/profile@1"]
    if any(
        not column["unique"]["exact"] or not column["top"]["exact"]
        for column in columns
        if "unique" in column
    ):
        lines.append("\u2248 is an estimate, \u2265 a lower bound; profile.json has the error of each.")
    if any("histogram" in column for column in columns):
        lines.append(
            "Below a histogram: the line holds 90 % of the values, the bar 50 %, the ring is the median."
        )
    return "<footer>" + "".join(f"<p>{line}</p>" for line in lines) + "</footer>"


def edge_labels(edges: list[Any], kind: str) -> Iterator[str]:
    """Yield the edges of bins in words; times without the part that never changes."""
    midnight = kind == "datetime" and all("T00:00:00" in edge for edge in edges)
    for edge in edges:
        yield edge[:10] if midnight else show(edge, kind)


def show(value: float | str, kind: str) -> str:
    """Spell a figure for people."""
    if isinstance(value, str):
        return for_html(value.replace("T", " ", 1))
    magnitude = abs(value)
    if magnitude >= HUGE or 0 < magnitude < TINY:
        return f"{value:.4g}".replace("e+", "e").replace("e-0", "e-").replace("-", MINUS)
    if isinstance(value, int) or (kind == "integer" and value == int(value)):
        return f"{int(value):,}".replace("-", MINUS)
    places = next((places for least, places in DECIMALS if magnitude >= least), 4)
    text = f"{value:,.{places}f}"
    return (text.rstrip("0").rstrip(".") if places else text).replace("-", MINUS) or "0"


def position(value: float | str) -> float:
    """Place a figure on an axis."""
    if isinstance(value, str):
        moment = datetime.fromisoformat(value.removesuffix("Z"))
        return moment.toordinal() * 86_400 + moment.hour * 3600 + moment.minute * 60 + moment.second
    return float(value)


def percent(share: float, count: int) -> str:
    """Spell a share; something is never 0 %, and never rounds up to all."""
    if count and share < HARDLY:
        return "&lt; 0.1 %"
    if 1 - HARDLY < share < 1:
        return "&gt; 99.9 %"
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def size(size_bytes: int) -> str:
    """Spell a number of bytes in decimal units."""
    units: Iterable[tuple[int, str]] = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
    for factor, unit in units:
        if size_bytes >= factor:
            number = size_bytes / factor
            return f"{number:,.{0 if number >= ROUND else 1}f} {unit}"
    return f"{size_bytes:,} bytes"
