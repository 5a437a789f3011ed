"""What nothing needs goes to the trash and then away, and nothing else does."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from core.bed import Call, Fake, done, good, house, write_entry
from theory.disk.lockfile import LockFile
from theory.errors import ArtifactNotFound, Busy, Damaged, Unsupported, Usage
from theory.store import blobs
from theory.store.filestore import FileStore
from theory.upkeep import gc, pins
from theory.upkeep.gc import Freed, Policy, collect, undo
from theory.upkeep.verify import verify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.commandline import Command
    from theory import Runner

SMALL, LARGE = b"nobody's", b"nobody's" * 20_000
OUTPUT = "/artifacts/outputs/a.txt"


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    """Each run makes what the one before did not."""

    def act(call: Call) -> object:
        call.channel.started()
        call.write({"a.txt": f"{call.job.seed}", "large.bin": b"%d" % call.job.seed * 70_000})
        return done()

    with house(tmp_path, Fake(act=act)) as runner:
        yield runner


def run(runner: Runner, *seeds: int, ref: str = "test/thing@1", **more: Any) -> list[str]:
    return [good(runner.run(ref, seed=seed, **more)).execution_id for seed in seeds]


def put(runner: Runner, *contents: bytes) -> list[str]:
    staged = [blobs.stage(runner.store, content) for content in contents]
    runner.store.put(staged)
    return [blob.cid for blob in staged]


def folder_of(runner: Runner) -> FileStore:
    assert isinstance(runner.store, FileStore)
    return runner.store


def is_whole(runner: Runner) -> bool:
    return verify(runner.store, runner.ledger, runner.upkeep, full=True).faults == ()


def there(runner: Runner) -> set[str]:
    return {cid for cid, _ in runner.store.list()}


def files_of(root: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")
    }


def seconds_pass(runner: Runner, seconds: float) -> None:
    """All batches of the trash were closed so long ago."""
    for file in (folder_of(runner).root / "trash").glob("*/in-use"):
        os.utime(file, (time.time() - seconds,) * 2)


# ---------------------------------------------------------------- trash, grace, away


def test_only_what_nothing_needs_goes_to_the_trash(runner: Runner) -> None:
    run(runner, 1, 2)
    run(runner, 1)
    needed = there(runner)
    garbage = put(runner, SMALL, LARGE)
    freed = collect(runner)
    assert (freed.trashed_blobs, freed.trashed_bytes) == (2, len(SMALL) + len(LARGE))
    assert (freed.trash_blobs, freed.freed_blobs) == (2, 0)
    assert there(runner) == needed
    assert runner.store.has(garbage) == frozenset()
    assert is_whole(runner)


def test_what_is_in_the_trash_can_still_be_read_and_is_put_again(runner: Runner) -> None:
    run(runner, 1)
    garbage = put(runner, SMALL, LARGE)
    collect(runner)
    for cid, content in zip(garbage, (SMALL, LARGE), strict=True):
        with blobs.read_verified(runner.store, cid) as stream:
            assert stream.read() == content
    assert put(runner, SMALL, LARGE) == garbage
    assert runner.store.has(garbage) == frozenset(garbage)


def test_it_is_deleted_when_the_grace_time_is_over(runner: Runner) -> None:
    run(runner, 1)
    garbage = put(runner, SMALL, LARGE)
    collect(runner)
    seconds_pass(runner, 3500)
    assert collect(runner).freed_blobs == 0
    seconds_pass(runner, 3601)
    freed = collect(runner)
    assert (freed.freed_blobs, freed.freed_bytes) == (2, len(SMALL) + len(LARGE))
    assert (freed.trash_blobs, list((folder_of(runner).root / "trash").iterdir())) == (0, [])
    for cid in garbage:
        with pytest.raises(ArtifactNotFound, match=cid):
            runner.store.open(cid)
    assert is_whole(runner)


def test_without_a_grace_time_it_is_deleted_at_once(runner: Runner) -> None:
    run(runner, 1)
    needed = there(runner)
    put(runner, SMALL, LARGE)
    assert collect(runner, grace_s=0).freed_blobs == 2
    assert there(runner) == needed
    assert collect(runner, grace_s=0) == Freed(unused_bytes=gc.unused_bytes(folder_of(runner)))


def test_undo_puts_everything_back(runner: Runner) -> None:
    run(runner, 1, 2, 3)
    before = there(runner), set(runner.store.memo_list())
    garbage = put(runner, SMALL, LARGE)
    collect(runner, policy=Policy(keep_last=1))
    assert there(runner) < before[0]
    undone = undo(runner)
    assert (undone.executions, undone.trashed_memo) == (2, 2)
    assert (there(runner), set(runner.store.memo_list())) == (before[0] | set(garbage), before[1])
    assert is_whole(runner)
    assert collect(runner).trashed_blobs == 2


def test_a_dry_run_tells_and_writes_nothing(runner: Runner, tmp_path: Path) -> None:
    run(runner, 1, 2)
    put(runner, SMALL)
    collect(runner)
    put(runner, LARGE)
    seconds_pass(runner, 4000)
    before = files_of(tmp_path / "home")
    freed = collect(runner, policy=Policy(keep_last=1), dry_run=True)
    assert files_of(tmp_path / "home") == before
    did = collect(runner, policy=Policy(keep_last=1))
    told = ("executions", "trashed_blobs", "trashed_bytes", "trashed_memo", "freed_blobs", "freed_bytes")
    assert [getattr(freed, name) for name in told] == [getattr(did, name) for name in told]
    assert (freed.executions, freed.freed_blobs) == (1, 1)


def test_what_became_needed_in_the_trash_is_put_back(runner: Runner) -> None:
    (cid,) = put(runner, SMALL)
    run(runner, 1)
    collect(runner)
    assert runner.store.has([cid]) == frozenset()
    pins.pin(runner, cid)
    assert collect(runner, grace_s=0).restored_blobs == 1
    assert runner.store.has([cid]) == frozenset([cid])


def test_foreign_files_are_left_alone(runner: Runner) -> None:
    run(runner, 1)
    put(runner, LARGE)
    root = folder_of(runner).root
    own = [root / "mine.txt", root / "blobs" / "b3" / "mine", root / "tmp" / "mine.txt"]
    for path in own:
        path.write_text("mine")
    (root / "ledgers" / "mine").mkdir()
    collect(runner)
    (root / "trash" / "mine").write_text("mine")
    (batch,) = (path for path in (root / "trash").iterdir() if path.is_dir())
    (batch / "mine").write_text("mine")
    assert collect(runner, grace_s=0).freed_blobs == 1
    assert all(path.read_text() == "mine" for path in [*own, root / "trash" / "mine", batch / "mine"])


def test_the_space_in_the_database_is_given_back(runner: Runner) -> None:
    run(runner, 1)
    put(runner, *(b"%d" % number * 10_000 for number in range(100)))
    assert collect(runner, grace_s=0).unused_bytes > 1_000_000
    path = folder_of(runner).database.path
    assert gc.compact(runner) > 1_000_000
    assert path.stat().st_size < 500_000
    assert gc.unused_bytes(folder_of(runner)) == 0
    assert is_whole(runner)


# ---------------------------------------------------------------- executions


def test_older_executions_give_up_their_files_and_stay_in_the_ledger(runner: Runner) -> None:
    ids = run(runner, 1, 2, 3)
    freed = collect(runner, policy=Policy(keep_last=1), grace_s=0)
    assert (freed.executions, freed.trashed_memo) == (2, 2)
    assert is_whole(runner)
    assert [record.execution_id for record in runner.ledger.executions(limit=9)] == ids[::-1]
    assert runner.stored_envelope(ids[0]) is not None
    assert runner.ledger.check_chain("default") == ()
    for seed, memo in ((3, "hit"), (1, "miss")):
        assert good(runner.run("test/thing@1", seed=seed)).meta["memo"] == memo


def test_the_last_ones_are_counted_for_each_processor(runner: Runner, tmp_path: Path) -> None:
    write_entry(tmp_path / "entries", "test/other@1")
    (other,) = run(runner, 9, ref="test/other@1")
    run(runner, 1, 2, 3)
    freed = collect(runner, policy=Policy(keep_last=2))
    assert freed.executions == 1
    assert other not in runner.upkeep.given_up()


def test_only_executions_that_are_old_and_not_among_the_last_give_up(runner: Runner) -> None:
    run(runner, 1, 2)
    assert collect(runner, policy=Policy(older_than_s=3600)).executions == 0
    assert collect(runner, policy=Policy(keep_last=1, older_than_s=3600)).executions == 0
    assert collect(runner, policy=Policy(keep_last=2, older_than_s=0)).executions == 0
    assert collect(runner, policy=Policy(older_than_s=0)).executions == 2


def test_what_others_need_of_an_execution_that_gave_up_stays(runner: Runner) -> None:
    first, hit = *run(runner, 1), *run(runner, 1)
    runner.upkeep.give_up([first], 1)
    freed = collect(runner, grace_s=0)
    assert freed.trashed_blobs == 1  # its receipt; the other one has the same index
    assert freed.trashed_memo == 0
    assert is_whole(runner)
    assert runner.stored_envelope(hit) is not None
    assert good(runner.run("test/thing@1", seed=1)).meta["memo"] == "hit"


def test_inputs_are_needed_as_long_as_an_execution_is(runner: Runner, tmp_path: Path) -> None:
    file = tmp_path / "attached"
    for content in (b"attached" * 20_000, b"attached"):
        file.write_bytes(content)
        first = run(runner, 1, inputs={"f": {"$attach": "f"}}, attachments={"f": file})
        # The name of the input is the second one's now.
        second = run(runner, 2, inputs={"f": {"$attach": "f"}}, attachments={"f": file})
        runner.upkeep.give_up(second, 1)
        collect(runner, grace_s=0)
        assert is_whole(runner)
        runner.upkeep.give_up(first, 1)
    assert collect(runner, grace_s=0).trashed_blobs > 0


@pytest.mark.parametrize("path", [OUTPUT, "/artifacts/outputs/large.bin"])
def test_who_refers_to_what_is_in_the_trash_has_it_put_again(runner: Runner, path: str) -> None:
    run(runner, 1)
    artifact = runner.ledger.name(path)
    assert artifact is not None
    collect(runner, policy=Policy(keep_last=0))
    assert runner.store.has([artifact.cid]) == frozenset()
    run(runner, 2, inputs={"f": {"$artifact": path, "cid": artifact.cid}}, memo="off")
    assert runner.store.has([artifact.cid]) == frozenset([artifact.cid])
    collect(runner, grace_s=0)
    assert is_whole(runner)


# ---------------------------------------------------------------- pins


def test_what_is_pinned_stays(runner: Runner) -> None:
    ids = run(runner, 1, 2, 3)
    artifact = runner.ledger.name(OUTPUT)
    assert artifact is not None
    pins.pin(runner, ids[0])
    pins.pin(runner, OUTPUT)
    collect(runner, policy=Policy(keep_last=0), grace_s=0)
    assert runner.upkeep.given_up() == frozenset(ids[1:])
    assert runner.store.has([artifact.cid]) == frozenset([artifact.cid])
    assert is_whole(runner)
    pins.drop(runner, OUTPUT)
    pins.drop(runner, ids[0])
    collect(runner, policy=Policy(keep_last=0), grace_s=0)
    assert there(runner) == set()


def test_a_pin_takes_an_execution_out_of_the_trash_but_not_from_beyond(runner: Runner) -> None:
    ids = run(runner, 1, 2)
    collect(runner, policy=Policy(keep_last=1))
    pins.pin(runner, ids[0])
    assert collect(runner, policy=Policy(keep_last=1), grace_s=0).restored_blobs > 0
    assert is_whole(runner)
    pins.drop(runner, ids[0])
    collect(runner, policy=Policy(keep_last=1), grace_s=0)
    with pytest.raises(ArtifactNotFound, match="gone"):
        pins.pin(runner, ids[0])


def test_what_is_not_there_cannot_be_pinned(runner: Runner) -> None:
    run(runner, 1)
    for what in ("/artifacts/nothing", "nobody", "b3:" + "0" * 64):
        with pytest.raises(ArtifactNotFound, match=what):
            pins.pin(runner, what)
    with pytest.raises(ArtifactNotFound, match="is not pinned"):
        pins.drop(runner, OUTPUT)


# ---------------------------------------------------------------- beside others


def test_what_somebody_may_rely_on_is_not_deleted_until_he_is_done(runner: Runner) -> None:
    run(runner, 1)
    store = folder_of(runner)
    with runner.in_use():
        garbage = put(runner, SMALL, LARGE)
        left = store.staging / f"{'ab' * 16}.tmp"
        left.write_text("of somebody who is at it")
        for _ in range(3):
            freed = collect(runner, grace_s=0)
            assert (freed.freed_blobs, freed.temporary_files) == (0, 0)
        with runner.in_use():  # one who comes later does not matter for what is in the trash already
            pass
        for cid in garbage:
            blobs.verify(store, cid)
    freed = collect(runner, grace_s=0)
    assert (freed.freed_blobs, freed.temporary_files) == (2, 1)
    assert not left.exists()


def test_who_came_after_something_went_to_the_trash_does_not_keep_it(runner: Runner) -> None:
    run(runner, 1)
    put(runner, SMALL, LARGE)
    collect(runner)
    seconds_pass(runner, 4000)
    with runner.in_use():
        assert collect(runner).freed_blobs == 2


def test_an_execution_that_runs_meanwhile_loses_nothing(tmp_path: Path) -> None:
    """Its attachment is nobody's until it is closed."""
    file = tmp_path / "attached"
    file.write_bytes(LARGE)

    def act(call: Call) -> object:
        call.channel.started()
        with house(tmp_path) as other:
            freed = collect(other, grace_s=0)
            assert freed.trashed_blobs > 0
            assert freed.freed_blobs == 0
        call.write({"a.txt": (call.workspace.root / call.job.artifacts[0].path[1:]).read_bytes()})
        return done()

    with house(tmp_path, Fake(act=act)) as runner:
        run(runner, 1, inputs={"f": {"$attach": "f"}}, attachments={"f": file})
        assert is_whole(runner)
        assert collect(runner, grace_s=0).restored_blobs > 0
        assert is_whole(runner)
        assert collect(runner, grace_s=0).trash_blobs == 0


def test_a_run_puts_again_what_its_process_had_found_before_it_was_taken_away(runner: Runner) -> None:
    run(runner, 1, 2)  # the second one found what the first has put of the entry
    found = there(runner)
    for _ in range(2):
        collect(runner, policy=Policy(older_than_s=0), grace_s=0)
    assert not found & there(runner)
    run(runner, 3)
    assert is_whole(runner)


def test_one_collects_at_a_time(runner: Runner) -> None:
    run(runner, 1)
    with LockFile(f"{folder_of(runner).root}/gc-lock").held(1):
        for call in (lambda: collect(runner), lambda: undo(runner), lambda: pins.pin(runner, OUTPUT)):
            with pytest.raises(Busy, match="another process is at work on the store"):
                call()


# ---------------------------------------------------------------- whose store it is


def test_a_store_that_another_ledger_uses_is_refused(runner: Runner, tmp_path: Path) -> None:
    run(runner, 1)
    other = house(
        tmp_path, environ={"THEORY_HOME": str(tmp_path / "other"), "THEORY_STORE": runner.settings.store}
    )
    with other:
        with pytest.raises(Usage, match=f"no execution of {tmp_path}/other has used the store"):
            collect(other)
        good(other.run("test/thing@1", seed=7))
        for one in (runner, other):
            with pytest.raises(Usage, match="is used by another ledger too") as caught:
                collect(one)
        mark = Path(caught.value.hint.rpartition(" ")[2])
        mark.unlink()
        collect(other)


def test_a_home_that_was_moved_is_the_same_and_a_copy_is_another(tmp_path: Path) -> None:
    store = tmp_path / "store"

    def at(name: str) -> Runner:
        environ = {"THEORY_HOME": str(tmp_path / name), "THEORY_STORE": store.as_uri()}
        return house(tmp_path, environ=environ)

    with at("first") as runner:
        run(runner, 1)
        collect(runner)
    (tmp_path / "first").rename(tmp_path / "second")
    with at("second") as runner:
        run(runner, 2)
        collect(runner)
    shutil.copytree(tmp_path / "second", tmp_path / "copy")
    with at("copy") as runner:
        run(runner, 3)
        with pytest.raises(Usage, match=f"{tmp_path}/second/ledger.db"):
            collect(runner)


def test_a_home_with_its_own_store_can_be_copied(tmp_path: Path) -> None:
    with house(tmp_path) as runner:
        run(runner, 1)
    shutil.copytree(tmp_path / "home", tmp_path / "copy")
    with house(tmp_path, environ={"THEORY_HOME": str(tmp_path / "copy")}) as runner:
        run(runner, 2)
        collect(runner)


def test_a_store_of_a_plugin_is_refused(tmp_path: Path) -> None:
    class Other:
        url = "other:"
        put = memo_get = None

    class Plugin:
        @staticmethod
        def open_store(url: str) -> object:
            return Other() if url == "other:" else None

    from theory import hookimpl

    Plugin.open_store = staticmethod(hookimpl(Plugin.open_store))  # type: ignore[method-assign]
    runner = house(tmp_path, environ={"THEORY_STORE": "other:"}, stores_other=Plugin())
    with runner, pytest.raises(Unsupported, match="other: is kept by a plugin"):
        collect(runner)


def test_a_record_that_cannot_be_read_stops_it(runner: Runner) -> None:
    ids = run(runner, 1)
    put(runner, SMALL)
    record = runner.ledger.execution(ids[0])
    assert record is not None
    store = folder_of(runner)
    store.database.write(
        lambda connection: connection.execute(
            "UPDATE blobs SET data = x'00' WHERE name = ?", (bytes.fromhex(record.blobs["tree"][3:]),)
        )
    )
    with pytest.raises(Damaged, match="names others that are needed"):
        collect(runner)
    assert store.has(put(runner, SMALL))


@pytest.mark.parametrize("dry_run", [True, False])
def test_an_event_that_is_not_what_was_written_stops_it(runner: Runner, dry_run: bool) -> None:
    run(runner, 1, 2)
    with closing(sqlite3.connect(runner.settings.home / "ledger.db", isolation_level=None)) as raw:
        raw.execute("DROP TRIGGER events_stay")
        raw.execute("UPDATE events SET payload = '{' WHERE kind = 'execution.success'")
    with pytest.raises(Damaged, match=r"the record of execution .* is damaged"):
        collect(runner, policy=Policy(keep_last=1), dry_run=dry_run)


# ---------------------------------------------------------------- what the dead left


def test_folders_of_dead_executions_go_when_nobody_will_ask_for_them(runner: Runner, tmp_path: Path) -> None:
    (closed,) = run(runner, 1)
    states = tmp_path / "home" / "state"
    for name in (closed, "dead", "half"):
        (states / name / "adapter").mkdir(parents=True)
        (states / name / "adapter" / "call").write_text("x")
        (states / name / "lock").touch()
    shutil.rmtree(states / "half" / "adapter")
    (states / "half" / "lock").rename(states / "half" / "lock.1.abcd")
    assert collect(runner).states == 2
    assert [path.name for path in states.iterdir()] == ["dead"]
    week = time.time() - 8 * 86_400
    for path in (states / "dead" / "adapter", states / "dead"):
        os.utime(path, (week, week))
    assert collect(runner).states == 1
    assert list(states.iterdir()) == []


DIE = """
import os, signal, sqlite3, sys
from pathlib import Path
from core.bed import house
from theory.disk import sqlite
from theory.upkeep import gc
from theory.upkeep.gc import Policy

folder, at, undoing = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "undo"
step = 0

def counted(call):
    def counting(*arguments, **named):
        global step
        step += 1
        if step == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)
    return counting

for name in ("rename", "unlink", "replace", "mkdir", "rmdir", "utime", "link"):
    setattr(os, name, counted(getattr(os, name)))
sqlite.commit = counted(sqlite.commit)
with house(folder) as runner:
    if undoing:
        gc.undo(runner)
    else:
        gc.collect(runner, policy=Policy(keep_last=1), grace_s=0)
print(step)
"""


@pytest.mark.parametrize("doing", ["collect", "undo"])
def test_killed_at_any_step_it_loses_nothing_and_the_next_one_goes_on(
    runner: Runner, tmp_path: Path, doing: str, request: pytest.FixtureRequest
) -> None:
    """Every seventh step; all of them in the long form (``--hypothesis-profile long``)."""
    stride = 1 if request.config.getoption("--hypothesis-profile") == "long" else 7
    ids = run(runner, 1, 2)
    put(runner, SMALL, LARGE)
    if doing == "undo":
        collect(runner, policy=Policy(keep_last=1))
    runner.close()
    tests = str(Path(__file__).parent.parent)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
    shutil.copytree(tmp_path / "home", tmp_path / "before")
    for at in range(3, 300, stride):
        done = subprocess.run(
            [sys.executable, "-c", DIE, str(tmp_path), str(at), doing],
            env=environ,
            check=False,
            timeout=60,
            stdout=subprocess.DEVNULL,
        )
        with house(tmp_path) as again:
            assert is_whole(again), at
            collect(again, grace_s=0)
            assert is_whole(again), at
            given_up = again.upkeep.given_up()
            assert given_up <= {ids[0]}
            needed = there(again)
            assert collect(again, grace_s=0).freed_blobs == 0
            assert there(again) == needed
            assert list((tmp_path / "home" / "store" / "trash").iterdir()) == []
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        shutil.rmtree(tmp_path / "home")
        shutil.copytree(tmp_path / "before", tmp_path / "home")
    else:
        raise AssertionError
    assert at > stride


# ---------------------------------------------------------------- the commands


def test_the_commands_do_all_that(theory: Command) -> None:
    first, second = (
        theory("run", "test/thing@1", "--json", "--seed", str(seed), "-o", f"lines={seed}")
        .ok()
        .line["execution_id"]
        for seed in (1, 2)
    )
    theory("keep", first).ok()
    theory("keep", OUTPUT).ok()
    assert [line.split()[0] for line in theory("keep").ok().out.splitlines()] == [OUTPUT, first]
    assert theory("gc", "--keep-last", "0", "--dry-run", "--json").ok().line["executions"] == 1
    assert "that would give up their files: 1" in theory("gc", "--keep-last", "0", "--dry-run").ok().out
    told = theory("gc", "--keep-last", "0", "--grace", "0").ok().out
    assert "gave up their files: 1" in told
    assert "deleted: " in told
    theory("cat", OUTPUT).ok()
    theory("verify").ok()
    theory("keep", "--drop", first).ok()
    theory("gc", "--older-than", "0", "--json").ok()
    assert "taken back: 1" in theory("gc", "--undo").ok().out
    theory("verify").ok()
    assert theory("gc", "--compact", "--json").ok().line["status"] == "collected"
    assert second != first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gc", "--older-than", "30"], "is not a duration such as 90s"),
        (["gc", "--grace", "-1h"], "is not a duration"),
        (["gc", "--keep-last", "-1"], "keep-last"),
        (["gc", "--undo", "--dry-run"], "--undo stands alone"),
        (["keep", "--drop"], "--drop needs an ID or a PATH"),
        (["keep", "nothing"], "no execution and no artifact is called 'nothing'"),
        (["keep", "--drop", "nothing"], "'nothing' is not pinned"),
        (["gc", "--store", "/nowhere"], "there is no store /nowhere yet"),
    ],
)
def test_what_makes_no_sense_is_refused(theory: Command, words: list[str], message: str) -> None:
    theory("run", "test/thing@1").ok()
    said = theory(*words)
    assert said.code == 2
    assert message in said.err
    assert "Hint: " in said.err
