"""The table that streams by: its columns, and what is wrong with its rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from columns import Column, Room
from reading import Reading, RefusedError, Span
from values import BLANKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from reading import Batch, Source

COLUMNS_LIMIT = 20_000
KEPT = 200  # characters that are kept of a column's name or a sampled cell


@dataclass(slots=True)
class Table:
    """The columns of a file or of a part of it, and what is wrong with its rows."""

    columns: list[Column]
    rows: int = 0
    blank_lines: int = 0
    short_rows: int = 0
    long_rows: int = 0
    sample: list[list[str]] = field(default_factory=list)
    open_quote: bool | None = None  # whether the last cell ends in a line break; None before the first cell

    def add(self, batch: Batch, sample_rows: int) -> None:
        """Count the rows of a batch, and keep some as they are until there are `sample_rows`."""
        width = len(self.columns)
        rows, columns = batch.rows, batch.columns
        if len(self.sample) < sample_rows:
            wanted = (row for row in rows or zip(*columns, strict=True) if row)
            fresh = islice(wanted, sample_rows - len(self.sample))
            self.sample.extend([cell[: KEPT + 1] for cell in row[:width]] for row in fresh)
        if columns:
            self.open_quote = False
        else:
            if rows and rows[-1]:
                self.open_quote = rows[-1][-1].endswith(("\n", "\r"))
            if set(map(len, rows)) != {width}:
                rows = self._even(rows, width)
            columns = list(zip(*rows, strict=True))
        if columns:
            self.rows += len(columns[0])
            for column, cells in zip(self.columns, columns, strict=True):
                column.add(cells, roomy=batch.roomy)

    def merge(self, other: Table, sample_rows: int) -> None:
        """Add the rows of the part that follows, which is of no use afterwards."""
        for column, more in zip(self.columns, other.columns, strict=True):
            column.merge(more)
        self.rows += other.rows
        self.blank_lines += other.blank_lines
        self.short_rows += other.short_rows
        self.long_rows += other.long_rows
        self.sample.extend(other.sample[: sample_rows - len(self.sample)])
        self.open_quote = self.open_quote if other.open_quote is None else other.open_quote

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


@dataclass(frozen=True, slots=True)
class Task:
    """What all parts of a file have in common."""

    source: Source
    header: list[str]
    sample_rows: int

    def table(self) -> Table:
        """Make an empty table; a column without a name is called `column_<index>`."""
        room, comma = Room.for_columns(len(self.header)), self.source.delimiter == ";"
        return Table(
            [
                Column(index, name.strip(BLANKS)[:KEPT] or f"column_{index}", room, decimal_comma=comma)
                for index, name in enumerate(self.header, 1)
            ]
        )


@dataclass(frozen=True, slots=True)
class Part:
    """What a span of the file holds."""

    end: int  # where its last record ends, which may be behind the span
    records: int
    table: Table
    fault: RefusedError | None  # instead of the rest


def read_header(source: Source) -> list[str]:
    """Return the first record that is not blank.

    Raises:
        RefusedError: there is none, or it has more than COLUMNS_LIMIT cells.
    """
    for batch in Reading(source, Span(source.encoding.mark)).batches():
        header = next(filter(None, batch.rows), None)
        if header is None:
            continue
        if len(header) > COLUMNS_LIMIT:
            message = f"the header has {len(header):,} columns; at most {COLUMNS_LIMIT:,} can be profiled"
            raise RefusedError(message)
        return header
    message = "the file holds nothing but blank lines: there is not even a header"
    raise RefusedError(message)


def read_part(task: Task, span: Span, report: Callable[[int, int], None] | None = None) -> Part:
    """Read the span; `report` is told after every batch how many bytes and rows there were."""
    table, fault = task.table(), None
    reading = Reading(task.source, span, len(task.header))
    beginning = span.start == task.source.encoding.mark
    try:
        for batch in reading.batches():
            if beginning:
                start = next((index for index, row in enumerate(batch.rows) if row), len(batch.rows))
                table.blank_lines += start
                beginning = start == len(batch.rows)
                del batch.rows[: start + 1]
            table.add(batch, task.sample_rows)
            if report:
                report(reading.bytes_read, table.rows)
    except RefusedError as error:
        fault = error
    for column in table.columns:
        column.settle()
    return Part(reading.end, reading.records, table, fault)
