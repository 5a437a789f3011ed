"""Pieces of work that share a commit: all of them in one transaction, and none at another's expense."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.disk.commit import Job, commit, insert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOUCH = "PRAGMA user_version=7"


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE songs (title TEXT UNIQUE)")
        yield connection


def adding(title: str) -> Callable[[sqlite3.Connection], str]:
    def work(connection: sqlite3.Connection) -> str:
        connection.execute(f"INSERT INTO songs VALUES ('{title}')")  # noqa: S608 - it is read back from the trace
        return title

    return work


def told(connection: sqlite3.Connection, *jobs: Job, first: str = "") -> list[str]:
    """What SQLite is told, one word of each statement."""
    seen: list[str] = []
    connection.set_trace_callback(lambda statement: seen.append(statement.split()[0]))
    commit(connection, jobs, first=first)
    connection.set_trace_callback(None)
    return seen


def test_where_none_raises_each_costs_no_statement_but_its_own(connection: sqlite3.Connection) -> None:
    jobs = [Job(adding(title)) for title in "abc"]
    assert told(connection, *jobs) == ["BEGIN", "INSERT", "INSERT", "INSERT", "COMMIT"]
    assert [(job.result, job.error, job.is_done) for job in jobs] == [(title, None, True) for title in "abc"]


def test_one_that_raises_is_undone_alone_and_the_transaction_begins_again_as_it_began(
    connection: sqlite3.Connection,
) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        adding("half")(connection)
        raise KeyError("stop")

    jobs = [Job(adding("a")), Job(fail), Job(adding("b")), Job(adding("a"))]
    seen = told(connection, *jobs, first=TOUCH)
    assert [word for word in seen if word not in {"INSERT", "SAVEPOINT", "RELEASE"}] == [
        *("BEGIN", "PRAGMA", "ROLLBACK"),
        *("BEGIN", "PRAGMA", "ROLLBACK", "ROLLBACK", "COMMIT"),  # of two alone
    ]
    assert [type(job.error) for job in jobs] == [type(None), KeyError, type(None), sqlite3.IntegrityError]
    assert [job.result for job in jobs] == ["a", None, "b", None]
    assert all(job.is_done for job in jobs)
    assert connection.execute("SELECT title FROM songs").fetchall() == [("a",), ("b",)]


def test_one_that_is_alone_raises_and_nothing_is_left(connection: sqlite3.Connection) -> None:
    commit(connection, [Job(adding("a"))], first="")
    job = Job(adding("a"))
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        commit(connection, [job], first="")
    assert not job.is_done
    assert not connection.in_transaction


@given(st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=3)), max_size=40))
def test_rows_that_are_inserted_together_are_those_inserted_one_by_one(rows: list[tuple[int, bytes]]) -> None:
    found = []
    for portions in ([rows], [[row] for row in rows]):
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            connection.execute("CREATE TABLE t (name PRIMARY KEY, data)")
            for portion in portions:
                insert(connection, "INSERT OR REPLACE INTO t VALUES {}", iter(portion))
            found.append(connection.execute("SELECT * FROM t ORDER BY name").fetchall())
    assert found[0] == found[1] == sorted(dict(rows).items())
