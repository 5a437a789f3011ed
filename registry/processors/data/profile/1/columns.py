"""What is remembered of a column while the table streams by, and the table that does the streaming."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from operator import itemgetter, mul
from typing import TYPE_CHECKING

from reading import ROOMY, RefusedError, Source
from sketches import Distinct, Frequent, Moments, Ranks
from values import BLANKS, MISSING_MARKERS, SHORTENED, Group, Sorted, sort_values

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COLUMNS_LIMIT = 20_000
KEPT = 200  # characters that are kept of a column's name or a sampled cell
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
        return self.ranks.error / self.moments.count if self.ranks else 0.0

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

    Where they become many, the counts are emptied into sketches and counting begins anew.
    """

    index: int  # from 1
    name: str
    room: Room
    decimal_comma: bool
    counts: Counter[str] = field(default_factory=Counter)
    look: int = FIRST_LOOK
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
        """Count the cells of a batch."""
        kept = self.room.kept
        if (roomy or kept < ROOMY) and max(map(len, cells)) > kept:
            cells = [cell if len(cell) <= kept else shorten(cell, kept) for cell in cells]
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
            self._empty()
        else:
            self._take(exact=True)

    @property
    def missing(self) -> int:
        """Cells without a value, after `finish`."""
        return self.markers.total()

    def _empty(self) -> None:
        if self.distinct is None:
            self.distinct, self.frequent = Distinct(self.room.hashes), Frequent(self.room.frequent)
        self._take(exact=False)
        self.counts = Counter()
        self.look = FIRST_LOOK

    def _take(self, *, exact: bool) -> None:
        counts = self.counts
        if not MISSING.isdisjoint(counts):
            for marker in ("", *MISSING_MARKERS):
                if marker in counts:
                    self.markers[marker] += counts.pop(marker)
        if not FIRST_BLANKS.isdisjoint(map(itemgetter(0), counts)):
            for blank in [cell for cell in counts if not cell.strip(BLANKS)]:
                self.markers[""] += counts.pop(blank)
        if not counts:
            return
        cells, numbers = list(counts), list(counts.values())
        self._measure(cells, numbers)
        if self.distinct and self.frequent:
            self.distinct.add(cells)
            self.frequent.add(counts)
        self._sort(sort_values(counts, decimal_comma=self.decimal_comma), exact=exact)

    def _measure(self, cells: list[str], numbers: list[int]) -> None:
        if len(self.examples) < EXAMPLES:
            fresh = (cell for cell in cells if cell not in self.examples)
            self.examples.extend(islice(fresh, EXAMPLES - len(self.examples)))
        sizes = list(map(len, cells))
        if max(sizes) > self.room.kept:
            sizes = list(map(true_length, cells))
        self.lengths.total += sum(map(mul, sizes, numbers))
        if self.present:
            sizes.extend((self.lengths.low, self.lengths.high))
        self.lengths.low, self.lengths.high = min(sizes), max(sizes)
        self.present += sum(numbers)

    def _sort(self, groups: Sorted, *, exact: bool) -> None:
        self.kinds["text"] += groups.text_count
        self.unfit.extend(groups.texts[: max(0, EXAMPLES - len(self.unfit))])
        self.fractional = self.fractional or groups.fractional
        self.offsets += groups.offsets
        for value, number in zip(groups.boolean.values, groups.boolean.counts, strict=True):
            self.kinds["boolean"] += number
            self.booleans[bool(value)] += number
        for kind, group in (("number", groups.number), ("date", groups.date), ("datetime", groups.datetime)):
            if group.values:
                self.kinds[kind] += sum(group.counts)
                self._spread(kind, group, exact=exact)

    def _spread(self, kind: str, group: Group, *, exact: bool) -> None:
        low, high = min(group.values), max(group.values)
        spread = self.spreads.setdefault(kind, Spread(low, high))
        spread.low, spread.high = min(spread.low, low), max(spread.high, high)
        spread.moments.add(group.values, group.counts)
        if exact:
            spread.pairs = sorted(zip(group.values, group.counts, strict=True))
        else:
            spread.ranks = spread.ranks or Ranks(self.room.values)
            spread.ranks.add(group.values, group.counts)


@dataclass(slots=True)
class Table:
    """The columns of a file, and what is wrong with its rows."""

    columns: list[Column]
    rows: int = 0
    blank_lines: int = 0
    short_rows: int = 0
    long_rows: int = 0
    sample: list[list[str]] = field(default_factory=list)
    open_quote: bool = False

    def add(self, rows: list[list[str]], *, roomy: bool) -> None:
        """Count the rows of a batch."""
        width = len(self.columns)
        if set(map(len, rows)) != {width}:
            rows = self._even(rows, width)
        if rows:
            self.rows += len(rows)
            for column, cells in zip(self.columns, zip(*rows, strict=True), strict=True):
                column.add(cells, roomy=roomy)

    def _even(self, rows: list[list[str]], width: int) -> list[list[str]]:
        even = []
        for row in rows:
            if not row:
                self.blank_lines += 1
                continue
            if len(row) < width:
                self.short_rows += 1
                row.extend([""] * (width - len(row)))
            elif len(row) > width:
                self.long_rows += 1
                del row[width:]
            even.append(row)
        return even


def read_table(source: Source, sample_rows: int, report: Callable[[int], None]) -> Table:
    """Read all of the source; `report` is told the number of rows after every batch.

    Raises:
        RefusedError: there is no header, or far too much of one.
    """
    table: Table | None = None
    last: list[str] = []
    for rows, roomy in source.batches():
        last = rows[-1] or last
        if table is None:
            start = next((index for index, row in enumerate(rows) if row), len(rows))
            if start == len(rows):
                continue
            table = Table(name_columns(rows[start], source.delimiter), blank_lines=start)
            del rows[: start + 1]
        if len(table.sample) < sample_rows:
            wanted = (row for row in rows if row)
            fresh = islice(wanted, sample_rows - len(table.sample))
            table.sample.extend([cell[: KEPT + 1] for cell in row[: len(table.columns)]] for row in fresh)
        table.add(rows, roomy=roomy)
        report(table.rows)
    if table is None:
        message = "the file holds nothing but blank lines: there is not even a header"
        raise RefusedError(message)
    table.open_quote = bool(last) and last[-1].endswith(("\n", "\r"))
    for column in table.columns:
        column.finish()
    return table


def name_columns(header: list[str], delimiter: str) -> list[Column]:
    """Make the columns of a header; one without a name is called `column_<index>`.

    Raises:
        RefusedError: there are more than COLUMNS_LIMIT.
    """
    if len(header) > COLUMNS_LIMIT:
        message = f"the header has {len(header):,} columns; at most {COLUMNS_LIMIT:,} can be profiled"
        raise RefusedError(message)
    room = Room.for_columns(len(header))
    return [
        Column(index, name.strip(BLANKS)[:KEPT] or f"column_{index}", room, decimal_comma=delimiter == ";")
        for index, name in enumerate(header, 1)
    ]


def shorten(cell: str, kept: int) -> str:
    """Replace a long cell by its beginning, its length and a digest: as distinct as before, and small."""
    digest = blake2b(cell.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{cell[:kept]}{SHORTENED}{len(cell)}{SHORTENED}{digest}"


def true_length(cell: str) -> int:
    """Return the length that the cell has in the file, in characters."""
    return int(cell.split(SHORTENED)[1]) if SHORTENED in cell else len(cell)
