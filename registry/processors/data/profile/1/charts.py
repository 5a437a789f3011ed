"""The small charts of the report, as inline SVG that says in words what it shows."""

from __future__ import annotations

from typing import Any

from escaping import for_html

WIDTH, HEIGHT, STRIP = 320, 92, 18  # units of the view box; the strip of quantiles is below the bars
LEAST = 1.5  # height of the smallest bar that is not nothing


def histogram_chart(
    column: dict[str, Any], names: list[str], ends: list[str], positions: dict[str, float]
) -> str:
    """Draw the bins, and below them where nine tenths of the values are, the middle half, and the median.

    `names` are the bins in words, `ends` the axis, `positions` the quantiles as shares of it.
    """
    counts = column["histogram"]["counts"]
    tallest = max(counts)
    step = WIDTH / len(counts)
    gap = min(2.0, step * 0.2)
    bars = []
    for index, count in enumerate(counts):
        height = max(LEAST, (HEIGHT - 4) * count / tallest) if count else 0
        bars.append(
            f'<rect class="bar" x="{index * step + gap / 2:.2f}" y="{HEIGHT - height:.2f}" '
            f'width="{step - gap:.2f}" height="{height:.2f}" rx="1.5">'
            f"<title>{names[index]}: {count:,}</title></rect>"
        )
    x = {name: WIDTH * share for name, share in positions.items()}
    y = HEIGHT + STRIP / 2 + 1
    strip = (
        f'<line class="range thin" x1="{x["p05"]:.2f}" x2="{x["p95"]:.2f}" y1="{y}" y2="{y}"/>'
        f'<line class="range thick" x1="{x["p25"]:.2f}" x2="{x["p75"]:.2f}" y1="{y}" y2="{y}"/>'
        f'<circle class="middle" cx="{min(max(x["p50"], 5), WIDTH - 5):.2f}" cy="{y}" r="3.5"/>'
    )
    peak = counts.index(tallest)
    title = f"Histogram of {for_html(column['name'])}"
    description = (
        f"{len(counts)} bars, from {ends[0]} to {ends[-1]}; the tallest, {names[peak]}, has "
        f"{tallest:,} values."
    )
    ids = f"t{column['index']} d{column['index']}"
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT + STRIP}" role="img" aria-labelledby="{ids}">'
        f'<title id="t{column["index"]}">{title}</title><desc id="d{column["index"]}">{description}</desc>'
        f'{"".join(bars)}<line class="base" x1="0" x2="{WIDTH}" y1="{HEIGHT + 0.5}" y2="{HEIGHT + 0.5}"/>'
        f"{strip}</svg>"
    )


def share_bar(part: float, whole: float, css: str = "") -> str:
    """Draw a horizontal bar; the figure stands beside it in words, so a screen reader passes over it."""
    width = 100 * part / whole if whole else 0.0
    width = max(width, 0.7) if part else 0.0
    style = f' class="{css}"' if css else ""
    return (
        f'<svg{style} viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true" focusable="false">'
        f'<rect width="{width:.2f}" height="4"/></svg>'
    )
