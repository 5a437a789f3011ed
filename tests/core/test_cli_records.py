"""The command line of what looks at the records: explain, replay, plan verify and its neighbours, doctor."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from core.bed import write_entry
from theory.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from core.commandline import Command, Said

RUN = ("run", "test/thing@1", "--json")


def ran(theory: Command, *more: str) -> str:
    return str(theory(*RUN, *more).ok().line["execution_id"])


# ---------------------------------------------------------------- explain


def test_explain_tells_what_differs_for_people_and_for_programs(theory: Command) -> None:
    a = ran(theory, "--inputs-json", '{"x": 1}')
    b = ran(theory, "--inputs-json", '{"x": 2}', "--seed", "3")
    lines = theory("explain", a, b).ok().out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["A", a], ["B", b]]
    assert lines[2] == "the keys differ in inputs, seed"
    assert [line.split() for line in lines[3:5]] == [["inputs", "/x", "1", "2"], ["seed", "0", "3"]]
    document = theory("explain", a, b, "--json").ok().line
    assert (document["equal"], document["components"]) == (False, ["inputs", "seed"])
    assert theory("explain", a, a).ok().out.splitlines()[2] == "the keys are equal"


def test_explain_takes_a_ref_and_inputs_as_run_does(theory: Command, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    asked = ("--inputs-json", '{"f": {"$attach": "f"}}', "--attach", "f=f", "-o", "lines=x", "--no-memo")
    a = ran(theory, *asked)
    document = theory("explain", "test/thing@1", *asked, "--json").ok().line
    assert (document["a"]["execution_id"], document["equal"], document["b"]["memo"]) == (a, True, "off")
    stdin = theory("explain", "test/thing@1", "--inputs-json", "-", "--json", stdin=b'{"y": 1}').ok().line
    assert [each["place"] for each in stdin["differences"]] == ["/f", "/y"]


def test_explain_shows_people_a_hundred_places_and_programs_all(theory: Command) -> None:
    a = ran(theory, "--inputs-json", json.dumps({"x": [0] * 150}))
    b = ran(theory, "--inputs-json", json.dumps({"x": [1] * 150}))
    lines = theory("explain", a, b).ok().out.splitlines()
    assert len([line for line in lines if line.startswith("inputs")]) == 100
    assert "and 50 more, which --json shows" in lines
    assert len(theory("explain", a, b, "--json").ok().line["differences"]) == 150


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("explain", "thing"), "'thing' is neither an execution id nor a ref"),
        (("explain", "01a2049d-b576-7cce-ab94-fe81eb6f6344"), "no execution is called '01a2049d"),
        (("explain", "test/nothing@1"), "no registry has test/nothing@1"),
        (("replay", "thing"), "no execution is called 'thing'"),
        (("replay", "thing", "--runs", "0"), "0 is not in the range"),
        (("plan", "verify", "x"), "there is no plan 'x'"),
        (("plan", "verify", "--against", "nowhere"), "the checkpoint 'nowhere' cannot be read"),
        (("plan", "verify", "--against", "{}"), "what --against names is no checkpoint"),
        (("plan", "report", "x"), "there is no plan 'x'"),
    ],
)
def test_a_request_that_is_wrong_is_one_line_of_json_with_json(
    theory: Command, arguments: tuple[str, ...], message: str
) -> None:
    said = theory(*arguments, "--json")
    assert (said.code, said.line["status"]) == (2, "error")
    assert message in said.line["error"]["message"]
    plain = theory(*arguments)
    assert (plain.code, plain.out) == (2, "")
    assert message in plain.err


# ---------------------------------------------------------------- replay


def test_replay_says_what_is_the_same_and_its_status_is_that_of_diff(theory: Command, tmp_path: Path) -> None:
    a = ran(theory)
    said = theory("replay", a).ok()
    assert [line.split()[1:3] for line in said.out.splitlines()] == [
        ["same", "a.txt"],
        ["same", "inputs.json"],
        ["same", "options.json"],
    ]
    differs = theory("replay", a, "-o", "lines=x", "--runs", "2", "--json")
    assert (differs.code, differs.line["status"]) == (1, "differs")
    assert len(differs.line["runs"]) == 2
    states = {each["path"]: each["state"] for each in differs.line["runs"][0]["outputs"]}
    assert states == {"a.txt": "same", "inputs.json": "same", "options.json": "differs"}
    failed = theory("replay", a, "-o", "exit_code=4")
    assert (failed.code, failed.out) == (1, "")
    assert "test/thing@1 ended with exit status 4" in failed.err
    (tmp_path / "entries" / "test" / "thing" / "1" / "processor.yaml").unlink()
    assert theory("replay", a, "--json").ok().line["status"] == "same"


def test_replay_charges_the_plan_that_is_named(theory: Command) -> None:
    a = ran(theory, "-o", "cost_micro_usd=7")
    theory("replay", a, "--plan", "audits", "-o", "cost_micro_usd=7").ok()
    assert theory("plan", "show", "audits").ok().json["spent_micro_usd"] == 7


def test_a_replay_has_something_to_settle_when_it_is_interrupted(theory: Command) -> None:
    def handler(*_: object) -> None:
        """What theory.__main__ sets for a run."""

    a = ran(theory)
    for command, kept in ((("replay", a), True), (("explain", a), False)):
        signal.signal(signal.SIGTERM, handler)
        theory(*command).ok()
        assert (signal.getsignal(signal.SIGTERM) is handler) == kept


# ---------------------------------------------------------------- plans


@pytest.fixture
def spent(theory: Command) -> Command:
    theory("plan", "create", "demo", "--limit", "1").ok()
    ran(theory, "--plan", "demo", "-o", "cost_micro_usd=30", "--reserve-usd", "0.00001")
    ran(theory, "--plan", "demo", "-o", "cost_micro_usd=30")
    return theory


def tampered(tmp_path: Path, change: str) -> None:
    with closing(sqlite3.connect(tmp_path / "home" / "ledger.db", isolation_level=None)) as raw:
        triggers = raw.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            raw.execute(f"DROP TRIGGER {name}")
        raw.execute(change)
        for _, sql in triggers:
            raw.execute(sql)


def test_verify_walks_one_plan_or_all(spent: Command) -> None:
    lines = [line.split() for line in spent("plan", "verify").ok().out.splitlines()]
    assert [line[:3] for line in lines] == [["demo", "5", "whole"]]
    assert spent("plan", "verify", "demo").ok().out.split() == lines[0]
    document = spent("plan", "verify", "--json").ok().line
    assert (document["status"], document["events"], document["faults"]) == ("whole", 5, [])


def test_a_change_ends_verify_with_its_place(spent: Command, tmp_path: Path) -> None:
    tampered(tmp_path, "UPDATE events SET ts = ts + 1 WHERE seq = 3")
    for arguments in (("plan", "verify"), ("plan", "verify", "demo")):
        said = spent(*arguments)
        assert (said.code, said.out) == (3, "")
        assert "Error: plan 'demo': event 3 was changed: its content does not have its hash" in said.err
    document = spent("plan", "verify", "--json")
    assert (document.code, document.line["status"]) == (3, "damaged")
    assert document.line["faults"][0].startswith("plan 'demo': event 3")


@pytest.mark.parametrize("how", ["file", "text", "-"])
def test_an_end_that_was_cut_off_is_found_with_a_checkpoint(spent: Command, tmp_path: Path, how: str) -> None:
    mark = spent("plan", "checkpoint").ok()
    assert list(mark.line) == ["format", "plans", "rows", "order"]
    (tmp_path / "mark").write_text(mark.out)
    against = {"file": str(tmp_path / "mark"), "text": mark.out, "-": "-"}[how]

    def verify() -> Said:
        return spent("plan", "verify", "--against", against, stdin=mark.out.encode())

    verify().ok()
    ran(spent, "--plan", "demo")
    verify().ok()
    tampered(tmp_path, "DELETE FROM events WHERE seq >= 5")
    said = verify()
    assert said.code == 3
    assert "plan 'demo': it ends with event 4, and the checkpoint has 5: the end was cut off" in said.err


def test_a_checkpoint_of_one_plan_is_small(spent: Command) -> None:
    mark = spent("plan", "checkpoint", "demo").ok().line
    assert (list(mark["plans"]), mark["rows"]) == (["demo"], None)
    assert mark["plans"]["demo"]["head"] == spent("plan", "show", "demo").ok().json["head"]


def test_report_adds_up_by_ref_and_by_day(spent: Command) -> None:
    lines = [line.split() for line in spent("plan", "report", "demo").ok().out.splitlines()]
    assert [line[1:] for line in lines] == [["2", "0", "1", "0.00003", "0.00003", "1", "0.00002"]] * 3
    assert [line[0] for line in lines[:2]] == ["total", "test/thing@1"]
    document = spent("plan", "report", "--json").ok().line
    assert (document["total"]["spent_micro_usd"], document["total"]["saved_micro_usd"]) == (30, 30)
    assert document["by_ref"][0]["ref"] == "test/thing@1"


HOLD = """if True:
    import sys
    from pathlib import Path
    from theory.ledger import Ledger
    ledger = Ledger(Path(sys.argv[1]))
    ledger.reserve("demo", "held", 600)
    print("ready", flush=True)
    input()
"""


@pytest.fixture
def holder(spent: Command, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has reserved something and waits."""
    del spent
    command = [sys.executable, "-c", HOLD, str(tmp_path / "home" / "ledger.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child
        child.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_reconcile_closes_what_the_dead_hold_and_says_which(
    spent: Command, holder: subprocess.Popen[str]
) -> None:
    assert spent("plan", "reconcile").ok().out == ""
    assert signs(spent)["reservation"] == [
        ["ok", f"0.0006 USD of plan 'demo' for execution held, held by the process {holder.pid}, which lives"]
    ]
    holder.kill()
    holder.wait()
    ((state, told),) = signs(spent)["reservation"]
    assert state == "warning"
    assert told.endswith("which is dead: theory plan reconcile charges it, as the next run does")
    assert spent("plan", "reconcile").ok().out.split() == ["held", "demo", "0.0006"]
    assert spent("plan", "reconcile").ok().out == ""
    spent("plan", "verify").ok()


# ---------------------------------------------------------------- doctor


def signs(theory: Command) -> dict[str, list[list[str]]]:
    """What the doctor says, by subject."""
    found: dict[str, list[list[str]]] = {}
    for line in theory("doctor").out.splitlines():
        subject, state, *told = (part for part in line.split("  ") if part)
        found.setdefault(subject.strip(), []).append([state.strip(), " ".join(told).strip()])
    return found


def test_the_doctor_makes_nothing(theory: Command, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    said = signs(theory)
    assert said["home"] == [["ok", f"{tmp_path / 'home'}, which the first run makes"]]
    assert said["reservations"] == [["ok", "none is open"]]
    assert sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts) == before


def test_the_doctor_lists_disks_databases_leases_and_the_clock(theory: Command, tmp_path: Path) -> None:
    ran(theory)
    said = signs(theory)
    version = sqlite3.sqlite_version
    with Ledger(tmp_path / "home" / "ledger.db") as ledger:
        mode = ledger.read("PRAGMA journal_mode")[0][0]
    journal = "WAL" if mode == "wal" else "rollback"
    assert said["ledger's SQLite"] == said["store's SQLite"] == [["ok", f"{version}, {journal} journal"]]
    assert said["temporary files"] == [["ok", "0 in the store's tmp, 0 bytes"]]
    assert said["leases"] == [["ok", "0 executions are running"]]
    for subject in ("home's disk", "store's disk", "clock", "ledger"):
        assert said[subject][0][0] == "ok", said


def test_the_doctor_tells_of_what_was_left_behind(theory: Command, tmp_path: Path) -> None:
    id_ = ran(theory)
    old = tmp_path / "home" / "store" / "tmp" / "left"
    old.write_bytes(b"12345")
    os.utime(old, (1, 1))
    left = tmp_path / "home" / "state" / id_ / "adapter"
    left.mkdir(parents=True)
    (left / "job").write_text("x")
    said: dict[str, Any] = signs(theory)
    assert said["temporary files"][0][0] == "warning"
    assert said["temporary files"][0][1].startswith("1 in the store's tmp, 5 bytes; 1 are older than an hour")
    assert said["leases"][0][0] == "warning"
    assert said["leases"][0][1].startswith("an execution died and left something in")
    assert theory("doctor").code == 69  # for the broken adapter alone: a warning is nothing wrong


def test_another_entry_of_the_same_ref_is_told_by_explain(theory: Command, tmp_path: Path) -> None:
    a = ran(theory)
    write_entry(tmp_path / "entries", determinism="seeded")
    assert theory("explain", a, ran(theory)).ok().out.splitlines()[2] == "the keys differ in determinism"
