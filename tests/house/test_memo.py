"""Equal work is done once: hit and miss, as the command line shows them, on processors that really run."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from house.command import EntryMaker, Theory

COUNT = (
    "run",
    "text/wordcount@1",
    "--adapter",
    "process",
    "--inputs-json",
    '{"text":"to be or not to be"}',
    "--json",
)
HELLO = '{"messages":[{"role":"user","content":"Hello!"}]}'


def test_the_second_run_of_equal_work_is_a_hit_with_equal_outputs(theory: Theory) -> None:
    first, second = theory(*COUNT).ok().line, theory(*COUNT).ok().line
    assert (first["meta"]["memo"], second["meta"]["memo"]) == ("miss", "hit")
    assert first["outputs"] == second["outputs"]
    assert first["execution_id"] != second["execution_id"]
    assert second["meta"]["cost_micro_usd"] == 0


def test_a_hit_names_the_execution_that_it_comes_from(theory: Theory) -> None:
    first, second = theory(*COUNT).ok().line, theory(*COUNT).ok().line
    receipts = [theory("cat", envelope["receipt_path"]).ok().json for envelope in (first, second)]
    assert receipts[0]["memo_key"] == receipts[1]["memo_key"]
    assert [receipt["source_execution_id"] for receipt in receipts] == [None, first["execution_id"]]
    assert receipts[0]["output_cids"] == receipts[1]["output_cids"]


def test_a_hit_writes_below_its_own_prefix(theory: Theory) -> None:
    theory(*COUNT).ok()
    second = theory(*COUNT, "--write-prefix", "/artifacts/outputs/again/").ok().line
    assert second["meta"]["memo"] == "hit"
    assert second["outputs"][0]["path"].startswith("/artifacts/outputs/again/")


def test_no_memo_neither_looks_nor_remembers(theory: Theory) -> None:
    assert theory(*COUNT, "--no-memo").ok().line["meta"]["memo"] == "off"
    assert theory(*COUNT).ok().line["meta"]["memo"] == "miss"
    assert theory(*COUNT, "--no-memo").ok().line["meta"]["memo"] == "off"


def test_refresh_runs_again_and_overwrites(theory: Theory, entry: EntryMaker) -> None:
    program = (
        "import os, time\nopen(os.environ['THEORY_ROOT'] + '/job/out/t', 'w').write(str(time.time_ns()))\n"
    )
    root = entry("test/clock@1", program, determinism="pure")
    run = ("run", "test/clock@1", "--adapter", "process", "--registry", root, "--json")
    first, fresh, third = theory(*run).ok().line, theory(*run, "--refresh").ok().line, theory(*run).ok().line
    assert [envelope["meta"]["memo"] for envelope in (first, fresh, third)] == ["miss", "miss", "hit"]
    assert first["outputs"] != fresh["outputs"]
    assert third["outputs"] == fresh["outputs"]


def test_what_is_not_deterministic_is_remembered_only_when_asked(theory: Theory, entry: EntryMaker) -> None:
    root = entry("test/dice@1", "", determinism="nondeterministic")
    run = ("run", "test/dice@1", "--adapter", "process", "--registry", root, "--json")
    assert [theory(*run).ok().line["meta"]["memo"] for _ in range(2)] == ["off", "off"]
    assert [theory(*run, "--memo").ok().line["meta"]["memo"] for _ in range(2)] == ["miss", "hit"]


@pytest.mark.parametrize(
    "other",
    [("--seed", "8"), ("--inputs-json", '{"text":"something else"}')],
    ids=["another seed", "other inputs"],
)
def test_other_work_is_no_hit(theory: Theory, other: tuple[str, ...]) -> None:
    theory(*COUNT).ok()
    assert theory(*COUNT, *other).ok().line["meta"]["memo"] == "miss"


def test_what_was_pretended_never_serves_a_real_run(theory: Theory) -> None:
    pretended = (
        "run",
        "text/wordcount@1",
        "--adapter",
        "mock",
        "--inputs-json",
        '{"text":"to be or not to be"}',
        "--json",
    )
    theory(*pretended).ok()
    assert theory(*COUNT).ok().line["meta"]["memo"] == "miss"


def test_a_blob_that_is_damaged_is_not_served(theory: Theory) -> None:
    first = theory(*COUNT).ok().line
    digest = first["outputs"][0]["cid"].removeprefix("b3:")
    damaged = b"x" * first["outputs"][0]["size_bytes"]
    with closing(sqlite3.connect(theory.home / "store" / "small.db", isolation_level=None)) as raw:
        raw.execute("UPDATE blobs SET data = ? WHERE name = ?", (damaged, bytes.fromhex(digest)))
    second = theory(*COUNT).ok().line
    assert second["meta"]["memo"] == "miss"
    assert second["outputs"] == first["outputs"]
    assert theory("cat", first["outputs"][0]["path"]).ok().json


def test_a_failure_is_not_remembered(theory: Theory, entry: EntryMaker) -> None:
    flag = theory.cwd / "flag"
    program = f"import os, sys\nsys.exit(0 if os.path.exists({str(flag)!r}) else 1)\n"
    root = entry("test/later@1", program, determinism="pure")
    run = ("run", "test/later@1", "--adapter", "process", "--registry", root, "--json")
    assert theory(*run).code == 1
    flag.touch()
    assert theory(*run).ok().line["meta"]["memo"] == "miss"
