"""A large file in parts, which several processes read at once; merged in their order, they are one table.

Where the parts end is said by the file alone, so that the same bytes come out however many processes there
are. A part begins where a record seems to begin, which is then checked: the part before it must have ended
right there, else it is read again from where that one ended.
"""

from __future__ import annotations

import csv
import io
import pickle
import subprocess
import sys
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

from reading import LINE_LIMIT, PEEK, RefusedError, Span
from table import Part, Task, read_header, read_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

    from reading import Source
    from table import Table

PAIR = 1 << 25  # bytes of two parts at least; much is spent on the beginning of one, when all values are new
PARTS = 16  # at most
LIKE = 20  # records of the header's width tell that a line in the middle of the file begins one
TRIED = 400  # lines at most
WORKER = Path(__file__).with_name("worker.py")


def read_table(source: Source, sample_rows: int, processes: int, report: Callable[[int, int], None]) -> Table:
    """Read all of the source; `report` is told now and then how many bytes and rows are through.

    Raises:
        RefusedError: there is no header, or far too much of one; or a cell, a line is beyond all measure.
    """
    task = Task(source, read_header(source), sample_rows)
    spans = list(find_spans(task))
    if len(spans) == 1:
        part = read_part(task, spans[0], report)
        table = part.table
        if part.fault:
            raise part.fault
    else:
        table = task.table()
        records, end = 0, spans[0].start
        with closing(read_ahead(task, spans, processes)) as parts:
            for span, ahead in zip(spans, parts, strict=True):
                if end >= span.stop:
                    continue  # all of it is inside the last record
                part = ahead if ahead and end == span.start else read_part(task, Span(end, span.stop))
                if fault := part.fault:
                    raise RefusedError(fault.message, fault.record and records + fault.record)
                table.merge(part.table, sample_rows)
                records, end = records + part.records, part.end
                report(min(end, source.size_bytes), table.rows)
    for column in table.columns:
        column.finish()
    return table


def find_spans(task: Task) -> Iterator[Span]:
    """Cut the file into spans of about one length, each up to where a record seems to begin."""
    source = task.source
    start, number = source.encoding.mark, min(PARTS, 2 * (source.size_bytes // PAIR))
    if source.encoding.codec.startswith("utf-16") or source.encoding.replaced:
        number = 1  # the position of a character cannot be told from its text
    with source.path.open("rb") as file:
        for index in range(1, number):
            file.seek(max(start, source.size_bytes * index // number))
            if not file.readline(LINE_LIMIT).endswith(b"\n"):
                continue
            stop = file.tell()
            lines = io.StringIO(file.read(PEEK).decode(source.encoding.codec, "replace"), newline="")
            skipped = find_record(list(lines), source.delimiter, len(task.header))
            if skipped is not None:
                stop += len(skipped.encode(source.encoding.codec))
                yield Span(start, stop)
                start = stop
    yield Span(start)


def find_record(lines: list[str], delimiter: str, width: int) -> str | None:
    """Return the text before the first of the lines from which on records have the header's width."""
    for index in range(min(len(lines), TRIED)):
        if index and not lines[index - 1].endswith("\n"):
            continue  # behind a CR alone, of which a reading cannot tell whether a LF follows
        rows = islice(csv.reader(islice(lines, index, None), delimiter=delimiter), LIKE + 1)
        *whole, _ = map(len, rows)  # the last one may be cut off
        if set(filter(None, whole)) == {width}:
            return "".join(lines[:index])
    return None


def read_ahead(task: Task, spans: list[Span], processes: int) -> Iterator[Part | None]:
    """Yield the part of each span as other processes read it; None where one of them was lost."""
    workers = list(start_workers(processes)) if processes > 1 else []
    try:
        for index, worker in enumerate(workers):
            give(worker, task, spans[index :: len(workers)])
        for index in range(len(spans)):
            yield take(workers[index % len(workers)]) if workers else None
    finally:
        for worker in workers:
            with worker:
                worker.kill()


def start_workers(number: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start so many processes, or as many as there can be."""
    for _ in range(number):
        try:
            yield subprocess.Popen(  # noqa: S603 - it is ourselves
                [sys.executable, WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        except OSError:
            return


def give(worker: subprocess.Popen[bytes], task: Task, spans: list[Span]) -> None:
    """Tell a worker what to read; one that has ended is noticed when a part is taken."""
    with suppress(BrokenPipeError), cast("IO[bytes]", worker.stdin) as pipe:
        pickle.dump((task, spans), pipe)


def take(worker: subprocess.Popen[bytes]) -> Part | None:
    """Wait for the next part of a worker; None if it has ended before its time."""
    try:
        part: Part = pickle.load(cast("IO[bytes]", worker.stdout))  # noqa: S301 - our own process wrote it
    except (EOFError, pickle.UnpicklingError):
        return None
    return part
