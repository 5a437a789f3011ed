"""Summaries of bounded size for what does not fit: distinct counts, quantiles, frequent values, moments.

All are deterministic: no seed, no `hash()`, no dependence on the order of a set. The same cells in the same
order give the same bytes on every machine and every Python.
"""

from __future__ import annotations

import math
import sys
from array import array
from hashlib import blake2b
from operator import mul, sub
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SUMS = 1 << 32  # a CRC-32 is below it


class Smallest:
    """The k smallest of the different integers that were added."""

    def __init__(self, k: int) -> None:
        """Keep `k` integers, 8 bytes each."""
        self.k = k
        self.kept = array("Q")
        self.fresh: set[int] = set()

    @property
    def bound(self) -> float:
        """What is not below it need not be added."""
        return self.kept[-1] if len(self.kept) == self.k else math.inf

    def add(self, numbers: set[int]) -> None:
        """Add integers, each below `bound`."""
        self.fresh |= numbers
        if 4 * len(self.fresh) > self.k or len(self.kept) < self.k:
            self.settle()

    def settle(self) -> array[int]:
        """Return the k smallest so far, in ascending order."""
        if self.fresh:
            self.fresh.difference_update(self.kept)
            self.kept = array("Q", sorted([*self.kept, *sorted(self.fresh)])[: self.k])
            self.fresh = set()
        return self.kept


class Distinct:
    """How many different strings there were: the k smallest of their hashes tell (KMV).

    Exact up to k - 1, by 8 bytes of BLAKE2b. Beyond, the standard error is 1 / sqrt(k - 2), and CRC-32 will
    do, eight times as fast: it spreads cells that are alike (counters, dates, codes) as evenly as chance or
    better, for it is linear; measured for twenty such families of up to a million cells, 2026-11-22.
    Source: Bar-Yossef et al., "Counting distinct elements in a data stream", 2002; Beyer et al., SIGMOD 2007.
    """

    def __init__(self, k: int) -> None:
        """Keep `k` hashes of both kinds."""
        self.k = k
        self.digests = Smallest(k)
        self.sums = Smallest(k)

    def add(self, cells: Sequence[bytes]) -> None:
        """Take note of the cells; one that was here before changes nothing."""
        if self.exact:
            digests = b"".join([blake2b(cell, digest_size=8).digest() for cell in set(cells)])
            hashes = array("Q", digests)
            if sys.byteorder == "big":
                hashes.byteswap()
            self.digests.add(set(hashes))
        bound = self.sums.bound
        self.sums.add({number for number in map(crc32, cells) if number < bound})

    def merge(self, other: Distinct) -> None:
        """Add the cells of another one of the same `k`."""
        self.digests.add(set(other.digests.settle()))
        self.sums.add(set(other.sums.settle()))

    @property
    def exact(self) -> bool:
        """Whether `count` is exact (but for two strings of one hash)."""
        return len(self.digests.settle()) < self.k

    @property
    def count(self) -> int:
        """The number of different cells, or its estimate."""
        if self.exact:
            return len(self.digests.settle())
        sums = (self.k - 1) * SUMS // (self.sums.settle()[-1] + 1)
        return sums + sums**2 // (2 * SUMS) + sums**3 // (3 * SUMS**2)  # some strings share a sum

    @property
    def relative_error(self) -> float:
        """One standard error, as a fraction of the count."""
        return 0.0 if self.exact else 1 / math.sqrt(self.k - 2)


class Ranks:
    """Values in order, thinned out where there are too many: quantiles and histograms are read from it.

    Level i holds values that stand for 2**i each. A level that is full is sorted and every second value moves
    up, the odd ones and the even ones in turn; each such step moves the rank of any value by at most 2**i,
    and these add up to `error`. Weights are kept exactly: they always sum to the number of values added.
    Source: Manku, Rajagopalan, Lindsay, SIGMOD 1998, with the levels of Karnin, Lang, Liberty, FOCS 2016.
    """

    def __init__(self, capacity: int) -> None:
        """Let a level hold up to `capacity` values, 8 bytes each."""
        self.capacity = capacity
        self.levels: list[array[float]] = []
        self.turns: list[int] = []
        self.error = 0  # in ranks, at worst
        self.count = 0

    def add(self, values: Sequence[float], counts: Sequence[int]) -> None:
        """Add each value as often as its count says."""
        self.count += sum(counts)
        for level in range(max(counts).bit_length()):
            bit = 1 << level
            self._extend(level, [value for value, count in zip(values, counts, strict=True) if count & bit])
        self._settle()

    def add_each(self, values: Sequence[float]) -> None:
        """Add each value once."""
        self.count += len(values)
        if len(values) < self.capacity:
            self._extend(0, values)
        else:  # a level is full
            self._extend(0, ())
            self._thin(0, values)
        self._settle()

    def merge(self, other: Ranks) -> None:
        """Add the values of another one of the same capacity."""
        self.count += other.count
        self.error += other.error
        for level, values in enumerate(other.levels):
            self._extend(level, values)
        self._settle()

    def _settle(self) -> None:
        level = 0
        while level < len(self.levels):
            if len(self.levels[level]) >= self.capacity:
                self._thin(level)
            level += 1

    def _extend(self, level: int, values: Sequence[float]) -> None:
        while len(self.levels) <= level:
            self.levels.append(array("d"))
            self.turns.append(len(self.turns) % 2)  # levels that began alike would all favour the small
        self.levels[level].extend(values)

    def _thin(self, level: int, more: Sequence[float] = ()) -> None:
        ordered = sorted([*self.levels[level], *more])
        rest = [ordered.pop()] if len(ordered) % 2 else []
        self.levels[level] = array("d", rest)
        self._extend(level + 1, ordered[self.turns[level] :: 2])
        self.turns[level] ^= 1
        self.error += 1 << level

    def weighted(self) -> list[tuple[float, int]]:
        """Return (value, weight) pairs in ascending order."""
        return sorted((value, 1 << level) for level, values in enumerate(self.levels) for value in values)


class Frequent:
    """The most frequent cells, each count at most `error` too low.

    Source: Misra and Gries 1982, merged as in Agarwal et al., "Mergeable summaries", PODS 2012.
    """

    def __init__(self, capacity: int) -> None:
        """Keep up to `capacity` cells."""
        self.capacity = capacity
        self.counts: dict[str, int] = {}
        self.error = 0

    def add(self, counts: Mapping[str, int]) -> None:
        """Add the cells with their counts."""
        merged = dict(counts)
        for cell, count in self.counts.items():
            merged[cell] = merged.get(cell, 0) + count
        if len(merged) > self.capacity:
            ordered = sorted(merged.values(), reverse=True)
            cut = ordered[self.capacity]
            some_stay = ordered[0] > cut  # not where all cells are different
            merged = {cell: count - cut for cell, count in merged.items() if count > cut} if some_stay else {}
            self.error += cut
        self.counts = merged

    def merge(self, other: Frequent) -> None:
        """Add the cells of another one of the same capacity."""
        self.add(other.counts)
        self.error += other.error


class Moments:
    """Count, mean and standard deviation, without the cancellation of a sum of squares.

    Every batch is summed with `math.fsum`, which rounds once (and alike on every Python, unlike `sum`), then
    merged.
    Source: Chan, Golub, LeVeque, "Updating formulae", 1979.
    """

    def __init__(self, count: int = 0, mean: float = 0.0, squares: float = 0.0) -> None:
        """Begin with nothing counted, or with the figures of `count` values."""
        self.count = count
        self.mean = mean
        self.squares = squares  # sum of squared distances from the mean

    def add(self, values: Sequence[float], counts: Sequence[int]) -> None:
        """Add each value as often as its count says."""
        count = sum(counts)
        mean = math.fsum(map(mul, values, counts)) / count
        distances = list(map(sub, values, [mean] * len(values)))
        squares = math.fsum(map(mul, map(mul, distances, distances), counts))
        self.merge(Moments(count, mean, squares))

    def add_integers(self, values: Sequence[int], unit: int) -> None:
        """Add each value divided by `unit`; the sums are exact."""
        count, total = len(values), sum(values)
        squares = count * sum(map(mul, values, values)) - total * total
        self.merge(Moments(count, total / (count * unit), squares / (count * unit * unit)))

    def merge(self, other: Moments) -> None:
        """Add the values of another one."""
        total, shift = self.count + other.count, other.mean - self.mean
        if other.count:
            self.mean += shift * other.count / total
            self.squares += other.squares + shift * shift * self.count * other.count / total
        self.count = total

    @property
    def stddev(self) -> float | None:
        """The sample standard deviation (n - 1), for two values or more."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else None
