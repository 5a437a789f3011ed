"""kill -9 at any moment of ``theory run``: what was acknowledged is there, and all else leaves no trace.

The long form kills 10,000 times and tells the figures:
``tox -e proofs -- tests/proofs/test_kills.py -s --hypothesis-profile long -o faulthandler_timeout=0``.
"""

from __future__ import annotations

import json
import random
import re
import sys
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from proofs.forks import Forks
from proofs.load import Load, environ_of, write_entries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs Linux"
)  # elsewhere nobody knows who died

IS_LONG = settings().max_examples > 1000  # --hypothesis-profile long
KILLS = 10_000 if IS_LONG else 40
ROUNDS, EACH = (6, 30) if IS_LONG else (2, 20)  # of one home: how often it is judged, and runs in between
LIMIT = 2_000 if IS_LONG else 400  # micro-USD: it is reached now and then
AT_ONCE = 3
ROUNDS_OF_A_MUTANT, EACH_OF_A_MUTANT = 100, 8
# What must have come up before all of it can be believed; the first three in the short form too.
MET = (
    *("acknowledged", "tried again", "charged to the dead"),
    *("cold kills", "memo hits", "refused", "temporary files", "folders of the dead"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_entries(tmp_path)
    return tmp_path


@pytest.fixture
def forks(folder: Path) -> Iterator[Forks]:
    with Forks(environ_of(folder), folder, AT_ONCE) as forks:
        yield forks


def test_what_was_acknowledged_outlives_kill_9_at_any_moment_and_nothing_else_is_left(
    folder: Path, forks: Forks
) -> None:
    began = time.monotonic()
    load = Load(folder, forks, random.Random(None if IS_LONG else 5), limit=LIMIT)  # noqa: S311 - no secret
    homes = 0
    while load.counts["kills"] < KILLS:
        load.begin()
        homes += 1
        for _ in range(ROUNDS):
            load.round(EACH)
            load.counts["temporary files"] += len([*load.home.glob("store/tmp/*")])
            load.counts["folders of the dead"] += len([*load.home.glob("state/*/work")])
            assert load.wrong() == []
        if homes % 2:
            load.finish()
        assert load.left() == []
        load.finish()
        assert (load.wrong(), load.left(), load.wrong()) == ([], [], [])
        _look_with_the_commands(load)
        load.counts["charged to the dead"] += load.dead.total()
        minutes = (time.monotonic() - began) / 60
        print(f"\n{homes} homes, {minutes:.1f} minutes, {dict(load.counts)}", flush=True)  # noqa: T201 - with -s
    assert all(load.counts[what] for what in (MET if IS_LONG else MET[:3])), load.counts


def _look_with_the_commands(load: Load) -> None:
    for arguments in (
        ("verify", "--full"),
        ("plan", "verify"),
        ("plan", "reconcile"),
        ("gc", "--grace", "0"),
    ):
        ended = load.command(*arguments)
        assert ended.status == 0, (arguments, ended)
    for id_, envelope in [*load.told.items()][-2:]:
        assert json.loads(load.command("show", id_).out)["envelope"] == envelope
        assert load.command("cat", envelope["index_path"]).out


@pytest.mark.parametrize(
    ("mutant", "found"),
    [
        ("records_first", "it is not in the store"),
        ("names_before_content", "is damaged"),
        ("names_of_its_own", r"store/tmp/\.part-\w+ is left"),
        ("reservations_of_another", "is still open"),
    ],
)
def test_kill_9_finds_a_store_or_a_ledger_that_breaks_its_promises(
    folder: Path, forks: Forks, mutant: str, found: str
) -> None:
    """The control: otherwise that nothing was found would not mean much."""
    load = Load(folder, forks, random.Random(5), mutant=mutant)  # noqa: S311 - no secret
    load.begin()
    said: list[str] = []
    for _ in range(ROUNDS_OF_A_MUTANT):
        load.round(EACH_OF_A_MUTANT)
        if said := load.wrong() + load.left():
            break
    assert any(re.search(found, fault) for fault in said), (said, load.counts)
