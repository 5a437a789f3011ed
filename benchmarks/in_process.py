"""Executions and memo hits a second in one process, each one durable, serial and by eight threads.

Beside them what the disk allows at most, pairs of commits one after the other, as each of them takes; and
memo look-ups alone, which read a record and verify the bytes that it names.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from theory import Runner
from theory.store.memo import recall

if TYPE_CHECKING:
    from collections.abc import Callable

    from theory.types import MemoPolicy

INPUTS = {"messages": [{"role": "user", "content": "Hello!"}]}
COUNT, ROUNDS = 1000, 3
PREFIX = "/artifacts/outputs/"


def rate(work: Callable[[], object], threads: int = 1) -> float:
    """How many a second."""
    began = time.perf_counter()
    if threads == 1:
        for _ in range(COUNT):
            work()
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda _: work(), range(COUNT)))
    return COUNT / (time.perf_counter() - began)


def two_commits(folder: Path) -> Callable[[], None]:
    """Bare SQLite, as durable as the store and the ledger are."""
    databases = []
    for name in ("one", "two"):
        database = sqlite3.connect(folder / name, isolation_level=None, check_same_thread=False)
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "CREATE TABLE rows (data)"):
            database.execute(statement)
        databases.append(database)

    def commit() -> None:
        for database in databases:
            database.execute("INSERT INTO rows VALUES (?)", (b"x" * 2000,))

    return commit


def main() -> None:
    """Measure."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["THEORY_HOME"] = home
        with Runner() as runner:

            def once(memo: MemoPolicy) -> None:
                envelope = runner.run("llm/litellm@1", INPUTS, adapter="mock", memo=memo)
                assert envelope.status == "success", envelope

            once("on")
            (key,) = runner.store.memo_list()
            bare = two_commits(Path(home))
            ways: tuple[tuple[str, Callable[[], object], int], ...] = (
                ("two bare commits", bare, 1),
                ("executions, serial", partial(once, "off"), 1),
                ("executions, 8 threads", partial(once, "off"), 8),
                ("memo hits, serial", partial(once, "on"), 1),
                ("memo hits, 8 threads", partial(once, "on"), 8),
                ("memo look-ups, serial", partial(recall, runner.store, key, PREFIX), 1),
            )
            for name, work, threads in ways:
                rates = [rate(work, threads) for _ in range(ROUNDS)]
                print(f"{name:24}" + "".join(f"{one:8.0f}" for one in rates) + " a second")


if __name__ == "__main__":
    main()
