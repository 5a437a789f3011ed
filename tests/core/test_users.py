"""The marks of ledgers in a store: made at once or not at all, whatever ends who makes them."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from theory.store.users import enroll, is_enrolled, others

if TYPE_CHECKING:
    from pathlib import Path

# Ends at the given one of the calls that change a folder or make something durable.
DYING = """
import os, sys
from pathlib import Path
from theory.store.users import enroll
last, count = int(sys.argv[2]), 0
def dying(call):
    def counted(*given, **more):
        global count
        count += 1
        if count == last:
            os._exit(9)
        return call(*given, **more)
    return counted
for name in ("open", "write", "fsync", "replace", "link", "unlink", "mkdir", "fchmod", "close"):
    setattr(os, name, dying(getattr(os, name)))
enroll(Path(sys.argv[1], "store"), Path(sys.argv[1], "home"))
"""


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    store = tmp_path / "store"
    (store / "tmp").mkdir(parents=True)
    return store, tmp_path / "home"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_who_dies_as_it_leaves_its_mark_leaves_nothing_that_gc_would_not_know(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    store, home = folders
    status = last = 0
    while status != 0 or not last:
        last += 1
        status = subprocess.run([sys.executable, "-c", DYING, tmp_path, str(last)], check=False).returncode
        assert status in {0, 9}
        if (store / "ledgers").exists():
            assert [*others(store, home)] == []  # nobody else uses the store
        assert {path.name for path in home.glob("*")} <= {"ledger.id"}
        assert not [*store.glob("ledgers/*.tmp")]  # in tmp gc finds them
    assert last > 8
    assert is_enrolled(store, home)
    assert len((home / "ledger.id").read_text()) == 32


def test_all_who_begin_at_once_have_one_id(folders: tuple[Path, Path]) -> None:
    store, home = folders
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: enroll(store, home), range(50)))
    assert len(os.listdir(store / "ledgers")) == 1
    assert files(home) == {"ledger.id"}


def test_an_id_that_is_half_written_is_written_anew(folders: tuple[Path, Path]) -> None:
    store, home = folders
    home.mkdir()
    (home / "ledger.id").write_text("0a1b")
    assert not is_enrolled(store, home)
    enroll(store, home)
    assert is_enrolled(store, home)
    assert len((home / "ledger.id").read_text()) == 32
    assert [*others(store, home)] == []
