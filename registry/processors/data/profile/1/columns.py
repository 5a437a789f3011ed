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
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from lanes import Numbers

MISSING, FIRST_BLANKS = frozenset(("", *MISSING_MARKERS)), frozenset(BLANKS)
EXAMPLES = 3
FIRST_LOOK = 1024  # different cells after which their length is looked at
WAITING = 8192  # cells that a lane is given at once


@dataclass(frozen=True, slots=True)
class Room:
    """What one column may keep, so that all of them together stay below some 50 MiB.

    Where two processes read a file's parts, four such tables are in memory at once.
    """

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
            cells=max(32, min(16_384, 400_000 // number)),
            characters=max(2_000, min(1_000_000, 10_000_000 // number)),
            kept=max(64, min(ROOMY, 500_000 // number)),
            hashes=max(128, min(8192, 1_000_000 // number)),
            values=max(32, min(2048, 200_000 // number)),
            frequent=max(8, min(512, 40_000 // number)),
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

    def merge(self, other: Spread, room: Room) -> None:
        """Add the values of another one that has no `pairs`."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.moments.merge(other.moments)
        self.ranks_of(room).merge(other.ranks_of(room))


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
    enough for a batch, and a lane says what they mean all at once. They wait as one piece of text: cells of
    their own would lie scattered among those of all other columns, which is slow to walk through.
    """

    index: int  # from 1
    name: str
    room: Room
    decimal_comma: bool
    counts: Counter[str] = field(default_factory=Counter)
    look: int = FIRST_LOOK
    waiting: list[str] = field(default_factory=list)  # cells joined by NUL
    awaited: int = 0  # how many cells are waiting
    extent: int = 0  # how many characters these are
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
            self.settle()
            short = (cell if len(cell) <= kept else shorten(cell, kept) for cell in cells)
            self._merge_counts(Counter(short))
        elif self.distinct or len(self.counts) > FIRST_LOOK:
            text = "\0".join(cells)
            self.waiting.append(text)
            self.awaited += len(cells)
            self.extent += len(text)
            if self.awaited >= min(WAITING, self.room.cells) or self.extent > self.room.characters:
                self.settle()
        else:
            self._count(cells)

    def settle(self) -> None:
        """Take in the cells that wait."""
        if self.awaited:
            cells = "\0".join(self.waiting).split("\0")
            self.waiting, self.awaited, self.extent = [], 0, 0
            (self._stream if self.distinct else self._count)(cells)

    def merge(self, other: Column) -> None:
        """Add the cells that another one has seen further down; it is settled, and of no use afterwards."""
        if other.distinct and other.frequent:
            if not self.distinct:
                self._empty()
            self._merge(other, other.distinct, other.frequent)
        else:
            self._merge_counts(other.counts)

    def finish(self) -> None:
        """Take in what is still only counted; nothing is added afterwards."""
        self.settle()
        if not self.distinct:
            self._take(self.counts, exact=True)

    @property
    def missing(self) -> int:
        """Cells without a value, after `finish`."""
        return self.markers.total()

    def _count(self, cells: Iterable[str] | Mapping[str, int]) -> None:
        counts = self.counts
        counts.update(cells)
        if len(counts) >= self.look or len(counts) >= self.room.cells:
            if len(counts) >= self.room.cells or sum(map(len, counts)) > self.room.characters:
                self._empty()
            else:
                self.look = 2 * len(counts)

    def _merge_counts(self, counts: Counter[str]) -> None:
        if self.distinct:
            self._take(counts, exact=False)
        else:
            self._count(counts)

    def _merge(self, other: Column, distinct: Distinct, frequent: Frequent) -> None:
        if other.present:
            self._note(other.examples, other.present, other.lengths)
        self._note_unfit(other.unfit)
        self.markers.update(other.markers)
        self.kinds.update(other.kinds)
        self.booleans.update(other.booleans)
        self.fractional = self.fractional or other.fractional
        self.offsets += other.offsets
        for kind, spread in other.spreads.items():
            self.spreads.setdefault(kind, Spread(spread.low, spread.high)).merge(spread, self.room)
        if self.distinct and self.frequent:
            self.distinct.merge(distinct)
            self.frequent.merge(frequent)

    def _empty(self) -> None:
        self.distinct, self.frequent = Distinct(self.room.hashes), Frequent(self.room.frequent)
        counts, self.counts = self.counts, Counter()
        self._take(counts, exact=False)

    def _stream(self, cells: list[str]) -> None:
        """Take in cells: all at once if a lane knows them, else one by one."""
        counts = Counter(cells)
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
            values.sort()
            self.offsets += len(values) if offsets else 0
            self._widen(kind, values[0], values[-1], len(values)).ranks_of(self.room).add_each(values)
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
        cells = list(counts)
        if dated := times(cells, joined(cells)):
            kind, values, offsets = dated
            groups = Sorted(offsets=counts.total() if offsets else 0)
            setattr(groups, kind, Group(values, list(counts.values())))
        else:
            groups = sort_values(counts, decimal_comma=self.decimal_comma)
        self._sort(groups, exact=exact)

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

    def _note_unfit(self, texts: list[str]) -> None:
        fresh = [text for text in texts if text not in self.unfit]
        self.unfit.extend(fresh[: max(0, EXAMPLES - len(self.unfit))])

    def _sketch(self, parts: list[bytes], counts: Counter[str]) -> None:
        if self.distinct and self.frequent:
            self.distinct.add(parts)
            self.frequent.add(counts)

    def _sort(self, groups: Sorted, *, exact: bool) -> None:
        self.kinds["text"] += groups.text_count
        self._note_unfit(groups.texts)
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
        values, unit = sorted(found.values), found.unit
        low, high = values[0], values[-1]
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
