"""Rounds of measurements in turn, and the table of their ratios."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def compare(yardstick: str, measured: Mapping[str, Callable[[], object]], rounds: int = 15) -> None:
    """Time each callable once a round and print medians in ms, and the ratios to its yardstick."""
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    for number in range(rounds + 1):
        for name, call in measured.items():
            began = time.perf_counter()
            call()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    print(f"{'':40} {'median ms':>10} {'min ms':>8} {'ratio':>6}")
    for name, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(times, seconds[yardstick], strict=True))
        print(f"{name:40} {statistics.median(times) * 1000:10.1f} {min(times) * 1000:8.1f} {ratio:6.2f}")
