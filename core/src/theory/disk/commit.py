"""Pieces of work of several threads, committed together to a SQLite file."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from itertools import chain, islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_AT_ONCE = 8  # rows of one statement, which keeps their values until its next use


class Job:
    """A piece of work that waits for a commit."""

    __slots__ = ("error", "is_done", "result", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], object]) -> None:
        self.work = work
        self.result: object = None
        self.error: Exception | None = None
        self.is_done = False

    def do(self, connection: sqlite3.Connection) -> None:
        """Do it, perhaps not for the first time."""
        self.result, self.error = self.work(connection), None


def commit(connection: sqlite3.Connection, jobs: Sequence[Job], *, first: str) -> None:
    """Do these in one transaction, each undone by itself if it raises.

    Args:
        connection: To the file; it is in no transaction, and commits nothing by itself.
        jobs: What to do; one that is alone raises here.
        first: A statement to begin the transaction with, or nothing.
    """
    is_ending = False
    try:
        _begin(connection, first)
        try:
            for job in jobs:
                job.do(connection)
        except Exception:
            if len(jobs) == 1 or not connection.in_transaction:
                raise
            connection.execute("ROLLBACK")
            _begin(connection, first)
            for job in jobs:
                _try(connection, job)
        is_ending = True
        connection.execute("COMMIT")
        for job in jobs:
            job.is_done = True
    except BaseException as error:
        if connection.in_transaction:
            with suppress(sqlite3.Error):  # the first error is the one to tell
                connection.execute("ROLLBACK")
        elif is_ending and not isinstance(error, Exception):  # Ctrl-C, told after COMMIT had done its work
            for job in jobs:
                job.is_done = True
        raise


def insert(connection: sqlite3.Connection, statement: str, rows: Iterable[Sequence[object]]) -> None:
    """Write these rows, several by one statement, in which ``{}`` stands for them.

    Of each row ``executemany`` would let go of the GIL four times, and who has to wait for it waits long.
    """
    rest = iter(rows)
    while batch := list(islice(rest, _AT_ONCE)):
        marks = f"({', '.join('?' * len(batch[0]))})"
        values = tuple(chain.from_iterable(batch))
        connection.execute(statement.format(", ".join([marks] * len(batch))), values)


def _begin(connection: sqlite3.Connection, first: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    if first:
        connection.execute(first)


def _try(connection: sqlite3.Connection, job: Job) -> None:
    connection.execute("SAVEPOINT job")
    try:
        job.do(connection)
    except Exception as error:
        if not connection.in_transaction:  # SQLite gave up all of it: a full disk, say
            raise
        job.error = error
        connection.execute("ROLLBACK TO job")
    connection.execute("RELEASE job")
