"""The table that streams by: its columns, and what is wrong with its rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from columns import Column, Room
from reading import RefusedError
from values import BLANKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from reading import Batch, Source

COLUMNS_LIMIT = 20_000
KEPT = 200  # characters that are kept of a column's name or a sampled cell


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

    def add(self, batch: Batch) -> None:
        """Count the rows of a batch."""
        width = len(self.columns)
        rows, columns = batch.rows, batch.columns
        if not columns:
            if set(map(len, rows)) != {width}:
                rows = self._even(rows, width)
            columns = list(zip(*rows, strict=True))
        if columns:
            self.rows += len(columns[0])
            for column, cells in zip(self.columns, columns, strict=True):
                column.add(cells, roomy=batch.roomy)

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
    blank_lines = 0
    for batch in source.batches():
        rows = batch.rows
        last = rows[-1] or last if rows else []
        if table is None:
            start = next((index for index, row in enumerate(rows) if row), len(rows))
            blank_lines += start
            if start == len(rows):
                continue
            table = Table(name_columns(rows[start], source.delimiter), blank_lines=blank_lines)
            del rows[: start + 1]
        if len(table.sample) < sample_rows:
            wanted = (row for row in rows or zip(*batch.columns, strict=True) if row)
            fresh = islice(wanted, sample_rows - len(table.sample))
            table.sample.extend([cell[: KEPT + 1] for cell in row[: len(table.columns)]] for row in fresh)
        table.add(batch)
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
