"""What is damaged or missing is found, told with all that it affects, and goes to the quarantine."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from core.bed import Fake, done, good, house
from theory.disk.lockfile import LockFile
from theory.errors import Damaged, StoreFailed
from theory.store import blobs
from theory.store.filestore import FileStore
from theory.store.memo import recall
from theory.store.trash import Trash
from theory.upkeep.gc import collect, upkeep_of
from theory.upkeep.repair import repair
from theory.upkeep.verify import Fault, Report, verify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.commandline import Command
    from theory import Runner
    from theory.types import JsonObject

FLIPS = {"house": 40, "long": 1_000}
FILES: dict[str, bytes | str] = {"small.txt": "hello", "large.bin": bytes(range(256)) * 400}
SMALL, LARGE = "/artifacts/outputs/small.txt", "/artifacts/outputs/large.bin"


def look(runner: Runner, *, full: bool = True) -> Report:
    return verify(runner.store, runner.ledger, runner.upkeep, full=full)


def mend(runner: Runner) -> dict[str, str]:
    with upkeep_of(runner) as store:
        return repair(store, look(runner))


def folder_of(runner: Runner) -> FileStore:
    assert isinstance(runner.store, FileStore)
    return runner.store


def flip(content: bytes, bit: int) -> bytes:
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def damage(runner: Runner, cid: str, bit: int = 0) -> None:
    """Flip one bit of a blob, wherever it is."""
    store = folder_of(runner)
    path = Path(store.path(cid))
    if path.exists():
        path.chmod(0o600)
        path.write_bytes(flip(path.read_bytes(), bit))
        return
    name = bytes.fromhex(cid[3:])
    with closing(sqlite3.connect(store.database.path, isolation_level=None)) as raw:
        ((data,),) = raw.execute("SELECT data FROM blobs WHERE name = ?", (name,))
        raw.execute("UPDATE blobs SET data = ? WHERE name = ?", (flip(data, bit), name))


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    with house(tmp_path, Fake(FILES)) as runner:
        yield runner


def run(runner: Runner, **more: Any) -> str:
    """An execution with an attachment; its id."""
    file = runner.settings.home.parent / "attached.txt"
    file.write_text("attached")
    inputs: JsonObject = {"file": {"$attach": "it"}}
    return good(runner.run("test/thing@1", inputs, attachments={"it": file}, **more)).execution_id


def cids(runner: Runner, id_: str) -> dict[str, str]:
    """What an execution needs, by what it is."""
    record = runner.ledger.execution(id_)
    assert record is not None
    names = {"small output": SMALL, "large output": LARGE}
    found = {what: artifact.cid for what, path in names.items() if (artifact := runner.ledger.name(path))}
    (attached,) = runner.ledger.names("/artifacts/inputs/")
    with blobs.read_verified(runner.store, record.blobs["tree"]) as stream:
        files = {path: cid for path, cid, _ in json.load(stream)}
    return {**record.blobs, **found, "input": attached.cid, "file of the entry": files["main.py"]}


WHAT = [
    "entry",
    "tree",
    "inputs",
    "preimage",
    "index",
    "receipt",
    "input",
    "file of the entry",
    "small output",
    "large output",
]


# ---------------------------------------------------------------- finding


def test_a_home_that_is_whole_is_called_whole(runner: Runner) -> None:
    assert look(runner).faults == ()
    run(runner)
    run(runner)
    run(runner, seed=1, memo="off")
    for full in (True, False):
        report = look(runner, full=full)
        assert report.faults == ()
        assert (report.executions, report.memo_records) == (3, 1)
        assert report.blobs == len(list(runner.store.list()))
        assert report.size_bytes == sum(size for _, size in runner.store.list())


def test_failures_and_envelopes_that_are_blobs_are_whole(tmp_path: Path) -> None:
    many = {f"{number:03}{'x' * 80}.txt": str(number) for number in range(500)}
    with house(tmp_path, Fake(many)) as runner:
        id_ = good(runner.run("test/thing@1")).execution_id
        record = runner.ledger.execution(id_)
        assert record is not None
        assert record.envelope_cid is not None
        assert look(runner).faults == ()
        runner.store.delete([record.envelope_cid])
        (fault,) = look(runner).faults
        assert (fault.what, fault.roles, fault.executions) == (record.envelope_cid, ("envelope",), (id_,))
    with house(tmp_path, Fake(act=lambda _: done(3))) as runner:
        assert runner.run("test/thing@1", seed=5).status == "error"
        assert [fault.roles for fault in look(runner).faults] == [("envelope",)]


@pytest.mark.parametrize("what", WHAT)
def test_a_damaged_blob_is_found_with_all_that_it_affects(runner: Runner, what: str) -> None:
    id_ = run(runner)
    cid = cids(runner, id_)[what]
    damage(runner, cid)
    (fault,) = look(runner).faults
    assert (fault.kind, fault.what, fault.fault) == ("blob", cid, "damaged")
    assert fault.executions == (id_,)
    assert ("output" if what.endswith("output") else what) in fault.roles
    assert {"small output": SMALL, "large output": LARGE}.get(what) in (None, *fault.paths)
    assert bool(fault.memo_keys) == what.endswith("output")


@pytest.mark.parametrize("full", [True, False], ids=["full", "quick"])
@pytest.mark.parametrize("what", WHAT)
def test_a_missing_blob_is_found_with_all_that_it_affects(runner: Runner, what: str, full: bool) -> None:
    id_ = run(runner)
    cid = cids(runner, id_)[what]
    runner.store.delete([cid])
    (fault,) = look(runner, full=full).faults
    assert (fault.kind, fault.what, fault.fault) == ("blob", cid, "missing")
    assert fault.executions == (id_,)
    assert ("output" if what.endswith("output") else what) in fault.roles


def test_a_file_that_was_cut_off_is_found_without_reading_it(runner: Runner) -> None:
    run(runner)
    artifact = runner.ledger.name(LARGE)
    assert artifact is not None
    path = Path(folder_of(runner).path(artifact.cid))
    path.chmod(0o600)
    os.truncate(path, 100)
    (fault,) = look(runner, full=False).faults
    assert (fault.fault, fault.what, fault.paths) == ("damaged", artifact.cid, (LARGE,))


def test_a_blob_that_nobody_needs_is_looked_at_too(runner: Runner) -> None:
    run(runner)
    blob = blobs.stage(runner.store, b"nobody's")
    runner.store.put([blob])
    damage(runner, blob.cid)
    (fault,) = look(runner).faults
    assert (fault.what, fault.executions, fault.paths) == (blob.cid, (), ())


def test_a_memo_record_that_is_damaged_or_leans_on_what_is_missing_is_found(runner: Runner) -> None:
    run(runner)
    (key,) = runner.store.memo_list()
    whole = runner.store.memo_get(key)
    assert whole is not None
    runner.store.memo_set(key, whole.replace(b'"small.txt"', b'"Small.txt"'))
    (fault,) = look(runner, full=False).faults
    assert (fault.kind, fault.what, fault.memo_keys) == ("memo", key, (key,))
    other = "b3:" + "7" * 64
    runner.store.memo_delete(key)
    runner.store.memo_set(other, whole)
    (fault,) = look(runner).faults
    assert (fault.kind, fault.what) == ("memo", other)


def test_a_ledger_line_that_was_changed_is_found(runner: Runner) -> None:
    id_ = run(runner)
    runner.close()
    with closing(sqlite3.connect(runner.settings.home / "ledger.db", isolation_level=None)) as raw:
        raw.execute("DROP TRIGGER events_stay")
        raw.execute("UPDATE events SET payload = replace(payload, 'fake', 'fale')")
    faults = look(runner).faults
    assert {fault.kind for fault in faults} == {"ledger"}
    assert (id_,) in {fault.executions for fault in faults}


def test_what_is_in_the_trash_and_needed_is_not_called_missing(runner: Runner) -> None:
    id_ = run(runner)
    store = folder_of(runner)
    trash = Trash(store)
    found = cids(runner, id_)
    batch = trash.begin()
    trash.take_small("blobs", [bytes.fromhex(found["receipt"][3:])], batch)
    trash.take_large([bytes.fromhex(found["large output"][3:])], batch)
    assert store.has([found["receipt"], found["large output"]]) == frozenset()
    assert look(runner).faults == ()
    assert look(runner, full=False).faults == ()


# ---------------------------------------------------------------- bits


def test_every_flipped_bit_of_a_blob_or_record_is_found(
    runner: Runner, request: pytest.FixtureRequest
) -> None:
    run(runner)
    run(runner, seed=1)
    store = folder_of(runner)
    choice = random.Random(5)  # noqa: S311 - a test, the same each time
    tables = {"blobs": list(store.small.all()), "memo": list(store.memo.all())}
    files = [Path(store.path(f"b3:{name.hex()}")) for name, _ in store.files()]
    flips = FLIPS[request.config.getoption("--hypothesis-profile") or "house"]
    with closing(sqlite3.connect(store.database.path, isolation_level=None)) as raw:
        for _ in range(flips):
            where = choice.choice(["blobs", "blobs", "memo", "names", "files"])
            if where == "files":
                file = choice.choice(files)
                content = file.read_bytes()
                file.chmod(0o600)
                file.write_bytes(flip(content, choice.randrange(len(content) * 8)))
                faults = look(runner).faults
                file.write_bytes(content)
            else:
                table, column = ("blobs", "name") if where == "names" else (where, "data")
                name, data = choice.choice(tables[table])
                whole = name if column == "name" else data
                assert isinstance(whole, bytes)
                changed = flip(whole, choice.randrange(len(whole) * 8))
                update = f"UPDATE {table} SET {column} = ? WHERE {column} = ?"  # noqa: S608 - our own words
                raw.execute(update, (changed, whole))
                faults = look(runner).faults
                raw.execute(update, (whole, changed))
            assert faults, where
    assert look(runner).faults == ()


def dump(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as raw:
        return [raw.execute(f"SELECT * FROM {name} ORDER BY name").fetchall() for name in ("blobs", "memo")]  # noqa: S608


def test_a_flipped_bit_anywhere_in_the_database_is_found_or_changes_nothing(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with house(tmp_path, Fake({"a.txt": "x" * 9000})) as runner:
        good(runner.run("test/thing@1"))
    path = tmp_path / "home" / "store" / "small.db"
    whole, rows = path.read_bytes(), dump(path)
    choice = random.Random(7)  # noqa: S311 - as above
    found = 0
    flips = FLIPS[request.config.getoption("--hypothesis-profile") or "house"]
    for _ in range(flips):
        path.write_bytes(flip(whole, choice.randrange(len(whole) * 8)))
        with house(tmp_path) as runner:
            try:
                faults: tuple[Fault, ...] | bool = look(runner).faults
            except Damaged:
                faults = True
        found += bool(faults)
        assert faults or dump(path) == rows
        for end in ("-wal", "-shm"):
            Path(f"{path}{end}").unlink(missing_ok=True)
    assert found > flips / 4


# ---------------------------------------------------------------- repair


@pytest.mark.parametrize("what", [what for what in WHAT if what not in {"index", "receipt"}])
def test_what_was_damaged_is_in_the_quarantine_and_a_later_run_heals_it(runner: Runner, what: str) -> None:
    id_ = run(runner)
    cid = cids(runner, id_)[what]
    damage(runner, cid)
    moved = mend(runner)
    assert set(moved) == {cid, *(runner.store.memo_list() if what.endswith("output") else ()), *moved}
    assert cid in moved
    kept = Path(moved[cid])
    assert kept.parent == folder_of(runner).root / "quarantine"
    assert kept.read_bytes()
    assert {fault.fault for fault in look(runner).faults} == {"missing"}
    run(runner, memo="auto")
    assert look(runner).faults == ()


@pytest.mark.parametrize("what", ["entry", "tree"])
def test_a_run_puts_again_what_its_process_had_found_before_the_repair(runner: Runner, what: str) -> None:
    id_ = run(runner)
    run(runner, memo="off")  # finds there what the first one put
    damage(runner, cids(runner, id_)[what])
    assert mend(runner)
    run(runner, memo="off")
    assert look(runner).faults == ()


def test_a_memo_record_that_leans_on_what_is_missing_is_forgotten(runner: Runner) -> None:
    run(runner)
    artifact = runner.ledger.name(SMALL)
    (key,) = runner.store.memo_list()
    assert artifact is not None
    runner.store.delete([artifact.cid])
    moved = mend(runner)
    assert list(moved) == [key]
    assert json.loads(Path(moved[key]).read_bytes())["memo_key"] == key
    assert list(runner.store.memo_list()) == []


def test_a_damaged_blob_is_never_served_by_the_memo(runner: Runner) -> None:
    run(runner)
    (key,) = runner.store.memo_list()
    assert recall(runner.store, key, "/artifacts/outputs/") is not None
    artifact = runner.ledger.name(LARGE)
    assert artifact is not None
    damage(runner, artifact.cid)
    assert recall(runner.store, key, "/artifacts/outputs/") is None


def test_a_repair_leaves_what_was_healed_meanwhile(runner: Runner) -> None:
    run(runner)
    for path in (SMALL, LARGE):
        artifact = runner.ledger.name(path)
        assert artifact is not None
        damage(runner, artifact.cid)
    report = look(runner)
    run(runner, memo="refresh")
    with upkeep_of(runner) as store:
        moved = repair(store, report)
    assert set(moved) <= set(report.faults[0].memo_keys)
    assert look(runner).faults == ()


def test_a_database_that_is_damaged_in_its_structure_keeps_what_can_be_read(tmp_path: Path) -> None:
    with house(tmp_path, Fake({f"{n}.txt": str(n) * 3000 for n in range(40)})) as runner:
        good(runner.run("test/thing@1"))
    path = tmp_path / "home" / "store" / "small.db"
    pages = bytearray(path.read_bytes())
    before = {name for (name, _) in dump(path)[0]}
    at = 4096 * (len(pages) // 4096 // 2)
    pages[at : at + 4096] = b"\xa5" * 4096
    path.write_bytes(pages)
    with house(tmp_path, Fake({f"{n}.txt": str(n) * 3000 for n in range(40)})) as runner:
        assert "database" in {fault.kind for fault in look(runner).faults}
        moved = mend(runner)
        assert Path(moved[str(path)]).read_bytes() == bytes(pages)
        report = look(runner)
        assert {fault.kind for fault in report.faults} <= {"blob", "memo"}
        there = {bytes.fromhex(cid[3:]) for cid, _ in runner.store.list()}
        assert there <= before
        assert len(there) > len(before) / 2
        mend(runner)
        good(runner.run("test/thing@1"))
        # What is of that one execution alone nobody can make again.
        lost = {role for fault in look(runner).faults for role in fault.roles}
        assert lost <= {"index", "receipt"}


def test_a_database_that_is_none_any_more_is_replaced(tmp_path: Path) -> None:
    with house(tmp_path) as runner:
        good(runner.run("test/thing@1"))
    path = tmp_path / "home" / "store" / "small.db"
    path.write_bytes(b"\xa5" * path.stat().st_size)
    with house(tmp_path) as runner:
        kinds = [fault.kind for fault in look(runner).faults]
        assert "database" in kinds
        mend(runner)
        good(runner.run("test/thing@1", memo="refresh"))
        assert {fault.fault for fault in look(runner).faults} == {"missing"}


def mend_and_die(folder: Path, step: int) -> bool:
    """Repair in a process of its own, killed before this step; False: there are fewer."""
    child = os.fork()
    if not child:
        left = step

        def count(event: str, given: tuple[object, ...]) -> None:
            nonlocal left
            # What Python itself renames is what it has compiled, if it was not there yet.
            ours = event in {"os.rename", "os.remove"} and str(given[0]).startswith(str(folder))
            if ours or event == "sqlite3.connect/handle":
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            with house(folder) as runner:
                sys.addaudithook(count)
                mend(runner)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("what", ["small output", "database"])
def test_what_a_repair_that_was_killed_left_half_done_goes_with_gc(tmp_path: Path, what: str) -> None:
    """At each step: some files are there at one only, and which one that is shifts from run to run."""
    with house(tmp_path, Fake(FILES)) as runner:
        damage(runner, cids(runner, run(runner))["small output"])
    home = tmp_path / "home"
    if what == "database":
        with open(home / "store" / "small.db", "r+b") as file:
            file.seek(4096)
            file.write(b"\xa5" * 4096)
    shutil.copytree(home, tmp_path / "before")
    step, left = 1, set[str]()
    while mend_and_die(tmp_path, step):
        left |= {path.name.partition(".")[2] for path in home.glob("store/tmp/*")}
        with house(tmp_path, Fake(FILES)) as runner:
            mend(runner)
            collect(runner, grace_s=0)
            assert [*home.glob("store/tmp/*"), *home.glob("store/quarantine/*.tmp*")] == []
        shutil.rmtree(home)
        shutil.copytree(tmp_path / "before", home)
        step += 1
    assert left >= ({"tmp"} if what == "small output" else {"tmp", "tmp-lock", "tmp-wal"}), step


# ---------------------------------------------------------------- the command


def test_the_command_says_what_is_wrong_and_ends_with_3(theory: Command, tmp_path: Path) -> None:
    theory("run", "test/thing@1").ok()
    said = theory("verify").ok()
    assert said.out.startswith("whole: ")
    assert theory("verify", "--quick", "--json").ok().line["status"] == "whole"
    with house(tmp_path) as runner:
        artifact = runner.ledger.name("/artifacts/outputs/a.txt")
        assert artifact is not None
        damage(runner, artifact.cid)
    said = theory("verify", "--json")
    assert said.code == 3
    (fault,) = said.line["faults"]
    assert (fault["what"], fault["fault"], fault["paths"]) == (
        artifact.cid,
        "damaged",
        ["/artifacts/outputs/a.txt"],
    )
    said = theory("verify")
    assert said.code == 3
    assert "/artifacts/outputs/a.txt" in said.out
    assert "theory verify --repair" in said.err
    said = theory("verify", "--repair")
    assert (said.code, "quarantine" in said.out) == (3, True)
    theory("run", "test/thing@1").ok()
    theory("verify").ok()


def test_a_damaged_blob_is_never_served_by_cat_or_get(theory: Command, tmp_path: Path) -> None:
    theory("run", "test/thing@1").ok()
    with house(tmp_path) as runner:
        artifact = runner.ledger.name("/artifacts/outputs/a.txt")
        assert artifact is not None
        damage(runner, artifact.cid)
    (tmp_path / "to").mkdir()
    for words in (["cat", artifact.path], ["cat", artifact.cid], ["get", artifact.path, "--to", "to"]):
        said = theory(*words)
        assert (said.code, said.out) == (3, "")
        assert "is damaged" in said.err
    assert list((tmp_path / "to").iterdir()) == []


# ---------------------------------------------------------------- another store


class OnlyAStore:
    """A store as a plugin brings it: it has what ``theory.types.Store`` says, and no more."""

    def __init__(self, store: FileStore) -> None:
        for name in ("url", "open", "has", "list", "memo_get", "memo_list"):
            setattr(self, name, getattr(store, name))


def test_the_store_of_a_plugin_is_looked_at_as_well(runner: Runner) -> None:
    id_ = run(runner)
    found = cids(runner, id_)
    damage(runner, found["small output"])
    damage(runner, found["large output"])
    runner.store.delete([found["input"]])
    store: Any = OnlyAStore(folder_of(runner))
    report = verify(store, runner.ledger, runner.upkeep, full=True)
    told = {fault.what: fault.fault for fault in report.faults}
    assert told == {
        found["small output"]: "damaged",
        found["large output"]: "damaged",
        found["input"]: "missing",
    }
    assert report == dataclasses.replace(look(runner), faults=report.faults)


def test_a_database_that_another_process_does_not_let_go_of_is_told(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(runner)
    store = folder_of(runner)
    found = Report("full", 0, 0, 0, 0, (Fault("database", store.url, "damaged", "a page of it"),))
    monkeypatch.setattr("theory.upkeep.repair.PATIENCE_S", 0)
    with (
        closing(LockFile(f"{store.database.path}-lock")) as lock,
        lock.held(0),
        pytest.raises(StoreFailed, match=r"cannot repair .*small\.db"),
    ):
        repair(store, found)
    assert repair(store, found).keys() == {str(store.database.path)}
    assert verify(store, runner.ledger, runner.upkeep, full=True).faults == ()
