"""Rounds of measurements in turn, and the table of their ratios."""

from __future__ import annotations

import resource
import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def compare(
    yardstick: str, measured: Mapping[str, Callable[[], object]], rounds: int = 15
) -> dict[str, list[float]]:
    """Time each callable once a round; print medians in ms and the median of the ratios to its yardstick.

    The last column is the same ratio of CPU time, user and system, with that of children: other work on the
    machine spoils it less.

    Returns:
        The seconds of wall clock of each round, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    busy: dict[str, list[float]] = {name: [] for name in measured}
    for number in range(rounds + 1):
        for name, call in measured.items():
            began, spent = time.perf_counter(), _cpu_seconds()
            call()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
                busy[name].append(_cpu_seconds() - spent)
    print(f"{'':40} {'median ms':>10} {'min ms':>8} {'ratio':>6} {'of CPU':>7}")
    for name, times in seconds.items():
        told = statistics.median(times) * 1000, min(times) * 1000
        ratios = ratio(times, seconds[yardstick]), ratio(busy[name], busy[yardstick])
        print("{:40} {:10.1f} {:8.1f} {:6.2f} {:7.2f}".format(name, *told, *ratios))
    return seconds


def ratio(of: list[float], to: list[float]) -> float:
    """The median of the ratios of two measurements that were taken in turn."""
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


def _cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
