"""What an execution costs in syncs: one each for its blobs, its memo record and its commits to the ledger."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core.bed import Fake, good, house, write_entry
from theory.disk import durable, sqlite
from theory.disk.commit import commit
from theory.disk.mounts import is_local

if TYPE_CHECKING:
    import sqlite3

    from theory.disk.commit import Job

RUN = """
import sys
from pathlib import Path
from core.bed import good, house
with house(Path(sys.argv[1])) as runner:
    for seed in range(int(sys.argv[2])):
        assert good(runner.run("test/thing@1", {}, seed=seed)).meta["memo"] == "miss"
"""
COSTS = pytest.mark.parametrize(
    ("micro_usd", "expected"), [(0, 3), (5, 4)], ids=["free", "with a reservation"]
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if not is_local(str(tmp_path)):
        pytest.skip("the file system may be of another machine")
    return tmp_path


def entry(folder: Path, micro_usd: int) -> None:
    write_entry(folder / "entries", cost={"reserve_micro_usd": micro_usd})


@COSTS
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_an_execution_costs_so_many_syncs(folder: Path, micro_usd: int, expected: int) -> None:
    tests = str(Path(__file__).parent.parent)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}

    def syncs(executions: int) -> int:
        home, trace = folder / str(executions), folder / "trace"
        entry(home, micro_usd)
        calls = "trace=fsync,fdatasync,sync,syncfs,msync,sync_file_range"
        command = ["strace", "-f", "-o", str(trace), "-e", calls, sys.executable, "-c", RUN, str(home)]
        subprocess.run([*command, str(executions)], check=True, timeout=120, env=environ)
        return sum("sync" in line for line in trace.read_text().splitlines())

    assert round((syncs(13) - syncs(3)) / 10) == expected  # a checkpoint may add two in all


@COSTS
def test_an_execution_makes_so_many_commits_and_syncs_nothing_else(
    folder: Path, micro_usd: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same where nobody has strace: what one commit costs, test_sqlite says."""
    seen: list[str] = []
    sync = durable.sync

    def counted(connection: sqlite3.Connection, jobs: list[Job], *, first: str) -> None:
        seen.append("commit")
        commit(connection, jobs, first=first)

    def counted_sync(descriptor: int) -> None:
        seen.append("sync")
        sync(descriptor)

    monkeypatch.setattr(sqlite, "commit", counted)
    monkeypatch.setattr(durable, "sync", counted_sync)
    entry(folder, micro_usd)
    with house(folder, Fake()) as runner:
        good(runner.run("test/thing@1", {}, seed=1))
        before = len(seen)
        good(runner.run("test/thing@1", {}, seed=2))
        assert seen[before:] == ["commit"] * expected
