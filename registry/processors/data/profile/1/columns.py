"""What is remembered of a column while the table streams by."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from operator import itemgetter, mul
from typing import TYPE_CHECKING

from lanes import begins_blank, joined, numbers, suspects, times
from reading import ROOMY
from sketches import Distinct, Frequent, Moments, Ranks
from values import BLANKS, MISSING_MARKERS, SHORTENED, Group, Sorted, sort_values

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from lanes import Numbers

MISSING, FIRST_BLANKS = frozenset(("", *MISSING_MARKERS)), frozenset(BLANKS)
EXAMPLES = 3
FIRST_LOOK = 1024  # different cells after which their length is looked at


@dataclass(frozen=True, slots=True)
class Room:
    """What one column may keep, so that all of them together stay below some 100 MiB."""

    cells: int  # different cells counted exactly
    characters: int  # of these cells together
    kept: int  # characters of one cell; a longer one is kept as its beginning, length and digest
    hashes: int
    values: int  # in one level of the quantile sketch
    frequent: int

    @classmethod
    def for_columns(cls, number: int) -> Room:
        """Share the room among `number` columns."""
        return cls(
            cells=max(32, min(16_384, 800_000 // number)),
            characters=max(2_000, min(1_000_000, 20_000_000 // number)),
            kept=max(64, min(ROOMY, 1_000_000 // number)),
            hashes=max(128, min(8192, 2_000_000 // number)),
            values=max(32, min(2048, 400_000 // number)),
            frequent=max(8, min(512, 80_000 // number)),
        )


@dataclass(slots=True)
class Spread:
    """The values of one kind in a column: extremes, moments, order (`pairs` is exact, `ranks` is not)."""

    low: float
    high: float
    moments: Moments = field(default_factory=Moments)
    pairs: list[tuple[float, int]] | None = None
    ranks: Ranks | None = None

    @property
    def exact(self) -> bool:
        """Whether `weighted` is all values with their true counts."""
        return self.pairs is not None or (self.ranks is not None and not self.ranks.error)

    @property
    def rank_error(self) -> float:
        """By which share of the values a quantile may be off at worst."""
        return self.ranks.error / self.ranks.count if self.ranks else 0.0

    def ranks_of(self, room: Room) -> Ranks:
        """Return `ranks`, made if there are none yet."""
        self.ranks = self.ranks or Ranks(room.values)
        return self.ranks

    def weighted(self) -> list[tuple[float, int]]:
        """Return (value, weight) pairs in ascending order."""
        return self.ranks.weighted() if self.ranks else (self.pairs or [])


@dataclass(slots=True)
class Lengths:
    """Characters of the present cells."""

    low: int = 0
    high: int = 0
    total: int = 0


@dataclass(slots=True)
class Column:
    """One column: while it has few different cells they are simply counted, which is exact and the work of C.

    Where they become many, the counts are emptied into sketches. From then on cells wait until there are
    enough for a batch, and a lane says what they mean all at once.
    """

    index: int  # from 1
    name: str
    room: Room
    decimal_comma: bool
    counts: Counter[str] = field(default_factory=Counter)
    look: int = FIRST_LOOK
    waiting: list[str] = field(default_factory=list)
    shortened: bool = False  # a cell that waits is not as it is in the file
    markers: Counter[str] = field(default_factory=Counter)
    present: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    booleans: Counter[bool] = field(default_factory=Counter)
    spreads: dict[str, Spread] = field(default_factory=dict)
    lengths: Lengths = field(default_factory=Lengths)
    fractional: bool = False
    offsets: int = 0
    examples: list[str] = field(default_factory=list)
    unfit: list[str] = field(default_factory=list)  # the first cells that are text
    distinct: Distinct | None = None
    frequent: Frequent | None = None

    def add(self, cells: Sequence[str], *, roomy: bool) -> None:
        """Count the cells of a batch; only if `roomy` may one be longer than ROOMY."""
        kept = self.room.kept
        if (roomy or kept < ROOMY) and max(map(len, cells)) > kept:
            cells = [cell if len(cell) <= kept else shorten(cell, kept) for cell in cells]
            self.shortened = True
        if self.distinct:
            self.waiting.extend(cells)
            if roomy or len(self.waiting) >= self.room.cells:
                self._stream()
            return
        counts = self.counts
        counts.update(cells)
        if len(counts) >= self.look or len(counts) >= self.room.cells:
            if len(counts) >= self.room.cells or sum(map(len, counts)) > self.room.characters:
                self._empty()
            else:
                self.look = 2 * len(counts)

    def finish(self) -> None:
        """Take in what is still only counted; nothing is added afterwards."""
        if self.distinct:
            self._stream()
        else:
            self._take(self.counts, exact=True)

    @property
    def missing(self) -> int:
        """Cells without a value, after `finish`."""
        return self.markers.total()

    def _empty(self) -> None:
        self.distinct, self.frequent = Distinct(self.room.hashes), Frequent(self.room.frequent)
        counts, self.counts = self.counts, Counter()
        self._take(counts, exact=False)
        self.shortened = False

    def _stream(self) -> None:
        """Take in the waiting cells: all at once if a lane knows them, else one by one."""
        cells, self.waiting = self.waiting, []
        counts = Counter(cells)
        if self.shortened:
            self.shortened = False
            self._take(counts, exact=False)
            return
        raw, gaps = joined(cells), {gap for gap in MISSING if gap in counts}
        if begins_blank(raw):
            gaps = find_gaps(counts)
        if gaps:
            self._leave_out(gaps, counts)
            cells = [cell for cell in cells if cell in counts]
            raw = joined(cells)
        if not cells:
            return
        sizes, characters = set(map(len, cells)), len(raw if raw.isascii() else raw.decode())
        longest = max(sizes)
        self._note(cells, len(cells), Lengths(min(sizes), longest, characters - len(cells) - 1))
        self._sketch(raw[1:-1].split(b"\0"), counts)
        if found := numbers(cells, raw, longest):
            self._add_numbers(found)
        elif dated := times(cells, raw):
            kind, values, offsets = dated
            self.offsets += len(values) if offsets else 0
            self._widen(kind, min(values), max(values), len(values)).ranks_of(self.room).add_each(values)
        else:
            special = suspects(cells, raw) if len(self.unfit) == EXAMPLES else cells
            self.kinds["text"] += len(cells) - len(special)
            self._sort(sort_values(Counter(special), decimal_comma=self.decimal_comma), exact=False)

    def _take(self, counts: Counter[str], *, exact: bool) -> None:
        """Take in cells that are counted."""
        self._leave_out(find_gaps(counts), counts)
        if not counts:
            return
        sizes = list(map(len, counts))
        if max(sizes) > self.room.kept:
            sizes = list(map(true_length, counts))
        characters = sum(map(mul, sizes, counts.values()))
        self._note(counts, counts.total(), Lengths(min(sizes), max(sizes), characters))
        if self.distinct:
            self._sketch(list(map(str.encode, counts)), counts)
        self._sort(sort_values(counts, decimal_comma=self.decimal_comma), exact=exact)

    def _leave_out(self, gaps: set[str], counts: Counter[str]) -> None:
        for gap in gaps:
            self.markers[gap if gap in MISSING else ""] += counts.pop(gap)

    def _note(self, cells: Collection[str], number: int, sizes: Lengths) -> None:
        """Take note of so many cells that are present, whatever they mean, and how long they are."""
        if len(self.examples) < EXAMPLES:
            fresh = dict.fromkeys(cell for cell in cells if cell not in self.examples)
            self.examples.extend(islice(fresh, EXAMPLES - len(self.examples)))
        lengths = self.lengths
        lengths.low = min(sizes.low, lengths.low) if self.present else sizes.low
        lengths.high = max(sizes.high, lengths.high)
        lengths.total += sizes.total
        self.present += number

    def _sketch(self, parts: list[bytes], counts: Counter[str]) -> None:
        if self.distinct and self.frequent:
            self.distinct.add(parts)
            self.frequent.add(counts)

    def _sort(self, groups: Sorted, *, exact: bool) -> None:
        self.kinds["text"] += groups.text_count
        fresh = [text for text in groups.texts if text not in self.unfit]
        self.unfit.extend(fresh[: max(0, EXAMPLES - len(self.unfit))])
        self.fractional = self.fractional or groups.fractional
        self.offsets += groups.offsets
        for value, number in zip(groups.boolean.values, groups.boolean.counts, strict=True):
            self.kinds["boolean"] += number
            self.booleans[bool(value)] += number
        for kind, group in (("number", groups.number), ("date", groups.date), ("datetime", groups.datetime)):
            if group.values:
                self._spread(kind, group, exact=exact)

    def _spread(self, kind: str, group: Group, *, exact: bool) -> None:
        spread = self._widen(kind, min(group.values), max(group.values), sum(group.counts))
        spread.moments.add(group.values, group.counts)
        if exact:
            spread.pairs = sorted(zip(group.values, group.counts, strict=True))
        else:
            spread.ranks_of(self.room).add(group.values, group.counts)

    def _add_numbers(self, found: Numbers) -> None:
        values, unit = found.values, found.unit
        low, high = min(values), max(values)
        if unit > 1:  # else they stay integers, of which a double would lose digits
            low, high = low / unit, high / unit
        self.fractional = self.fractional or found.fractional
        spread = self._widen("number", low, high, len(values))
        if found.integers:
            spread.moments.add_integers(found.integers, unit)
        else:
            spread.moments.add(values, [1] * len(values))
        spread.ranks_of(self.room).add_each([value / unit for value in values] if unit > 1 else values)

    def _widen(self, kind: str, low: float, high: float, number: int) -> Spread:
        self.kinds[kind] += number
        spread = self.spreads.setdefault(kind, Spread(low, high))
        spread.low, spread.high = min(spread.low, low), max(spread.high, high)
        return spread


def find_gaps(cells: Collection[str]) -> set[str]:
    """Return the spellings of a missing value that are among the cells."""
    gaps = set(MISSING.intersection(cells))
    if not FIRST_BLANKS.isdisjoint(map(itemgetter(slice(1)), cells)):
        gaps.update(cell for cell in cells if not cell.strip(BLANKS))
    return gaps


def shorten(cell: str, kept: int) -> str:
    """Replace a long cell by its beginning, its length and a digest: as distinct as before, and small."""
    digest = blake2b(cell.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{cell[:kept]}{SHORTENED}{len(cell)}{SHORTENED}{digest}"


def true_length(cell: str) -> int:
    """Return the length that the cell has in the file, in characters."""
    return int(cell.split(SHORTENED)[1]) if SHORTENED in cell else len(cell)
