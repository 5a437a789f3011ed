# ruff: noqa: SLF001 - who waits for whom, and what is committed when, is seen from inside alone
"""A database file is shared by threads, processes and forks, and durable at every commit."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from theory.disk import mounts
from theory.disk.lockfile import LockFile
from theory.disk.mounts import is_local
from theory.disk.sqlite import Database, Layout
from theory.errors import Retry, StoreFailed

if TYPE_CHECKING:
    from collections.abc import Callable

LAYOUT = Layout(
    application_id=0x1234,
    version=2,
    schema=("CREATE TABLE songs (title TEXT UNIQUE)",),
    noun="the songbook",
    failed=StoreFailed,
    elsewhere="sing another song",
)
# A file system that nobody has ever heard of; what is on it is treated as on one of a network.
ROLLBACK = """
import theory.disk.mounts
theory.disk.mounts.LOCAL = frozenset()
"""
OPEN = """
import os, sys
from pathlib import Path
from theory.errors import StoreFailed
from theory.disk.sqlite import Database, Layout
layout = Layout(0x1234, 2, ("CREATE TABLE songs (title TEXT UNIQUE)",), "the songbook", StoreFailed, "sing")
database = Database(Path(sys.argv[1]), layout)
def add(title):
    database.write(lambda connection: connection.execute("INSERT INTO songs VALUES (?)", (title,)))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "songs.db"


@pytest.fixture(params=["wal", "rollback"])
def database(path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Database:
    if request.param == "rollback":
        monkeypatch.setattr(mounts, "LOCAL", frozenset())
    elif not is_local(str(path.parent.parent)):
        pytest.skip("the file system may be of another machine")
    return Database(path, LAYOUT, patience_s=20)


def adding(title: str) -> Callable[[sqlite3.Connection], None]:
    def work(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO songs VALUES (?)", (title,))

    return work


def titles(database: Database) -> list[str]:
    return sorted(title for (title,) in database.read("SELECT title FROM songs"))


def start(script: str, path: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", script, str(path), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(script: str, path: Path, *arguments: object) -> str:
    with start(script, path, *arguments) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    return out


# ---------------------------------------------------------------- what is promised


def test_reading_makes_nothing(path: Path, database: Database) -> None:
    assert database.read("SELECT title FROM songs") == []
    assert not path.parent.exists()


def test_what_was_written_is_read_by_another_object(path: Path, database: Database) -> None:
    database.write(adding("hey jude"))
    assert titles(Database(path, LAYOUT)) == ["hey jude"]


def test_a_write_returns_what_its_work_returns(database: Database) -> None:
    assert database.write(lambda connection: connection.execute("SELECT 6 * 7").fetchone()) == (42,)


def test_a_work_that_raises_leaves_nothing(database: Database) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        adding("half")(connection)
        raise KeyError("stop")

    database.open()
    with pytest.raises(KeyError, match="stop"):
        database.write(fail)
    database.write(adding("whole"))
    assert titles(database) == ["whole"]


def test_an_error_of_sqlite_is_told_in_our_words(database: Database) -> None:
    database.write(adding("twice"))
    with pytest.raises(
        StoreFailed, match=r"the songbook .*songs\.db cannot be used: UNIQUE constraint failed"
    ):
        database.write(adding("twice"))
    with pytest.raises(StoreFailed, match="no such table"):
        database.read("SELECT * FROM poems")
    assert titles(database) == ["twice"]


def test_each_mode_is_as_durable_as_it_can_be(database: Database) -> None:
    database.write(adding("a"))
    (mode,) = database.read("PRAGMA journal_mode")
    assert (mode, database.read("PRAGMA synchronous")) in [(("wal",), [(2,)]), (("persist",), [(3,)])]


def test_a_closed_database_is_opened_by_its_next_use(database: Database) -> None:
    database.write(adding("a"))
    database.close()
    assert titles(database) == ["a"]
    database.close()
    database.write(adding("b"))
    assert titles(database) == ["a", "b"]


def test_what_nobody_closes_is_closed_with_its_owner(path: Path, database: Database) -> None:
    database.write(adding("a"))
    again = Database(path, LAYOUT)
    assert titles(again) == ["a"]
    files = {entry.name for entry in path.parent.iterdir()}
    assert files >= {"songs.db"}
    script = OPEN + "add('b'); del database; print(sorted(os.listdir(Path(sys.argv[1]).parent)))"
    other = path.parent / "other" / "songs.db"
    assert run(script, other) == "['songs.db', 'songs.db-lock']\n"


# ---------------------------------------------------------------- one commit for many


def group(database: Database, works: list[Callable[[sqlite3.Connection], object]]) -> list[object]:
    """Let all these wait while a first one holds the transaction: then they are done together."""
    running, go_on = threading.Event(), threading.Event()

    def first(_: sqlite3.Connection) -> None:
        running.set()
        assert go_on.wait(60)

    def outcome(work: Callable[[sqlite3.Connection], object]) -> object:
        try:
            return database.write(work)
        except BaseException as error:  # noqa: BLE001 - it is the outcome
            return error

    with ThreadPoolExecutor(len(works) + 1) as pool:
        leader = pool.submit(database.write, first)
        assert running.wait(60)
        futures = [pool.submit(outcome, work) for work in works]
        while len(database._waiting) < len(works):
            assert not leader.done()
        go_on.set()
        return [future.result() for future in futures]


def commits(database: Database, seen: list[str]) -> None:
    """Note what the writing connection is told."""
    database.open()
    database._files.connections[False].set_trace_callback(seen.append)


def test_threads_that_write_at_once_share_a_commit_and_keep_their_own_results(database: Database) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        adding("half")(connection)
        raise KeyError("stop")

    def counted(connection: sqlite3.Connection) -> int:
        adding("b")(connection)
        return 7

    seen: list[str] = []
    commits(database, seen)
    results = group(database, [adding("a"), fail, counted, adding("a")])
    assert (results[1].args, results[2]) == (("stop",), 7)  # type: ignore[attr-defined]  # a KeyError
    refused = [result for result in (results[0], results[3]) if result is not None]
    assert [type(error) for error in refused] == [StoreFailed]
    assert titles(database) == ["a", "b"]
    assert seen.count("COMMIT") == 2  # the first one's, and one for all others


def test_a_group_that_sqlite_gives_up_is_done_one_by_one(database: Database) -> None:
    def spoil(connection: sqlite3.Connection) -> None:
        connection.execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    results = group(database, [adding("a"), spoil, adding("b")])
    assert [result for result in results if result is None] == [None, None]
    assert "disk is full" in str(results[1])
    assert titles(database) == ["a", "b"]


class Pressed(sqlite3.Connection):
    """Ctrl-C during each COMMIT but the first: Python tells of it when SQLite has returned."""

    commits = 0

    def execute(self, statement: str, *rest: object) -> sqlite3.Cursor:
        cursor = super().execute(statement, *rest)  # type: ignore[arg-type]  # the same
        self.commits += statement == "COMMIT"
        if statement == "COMMIT" and self.commits > 1:
            raise KeyboardInterrupt
        return cursor


def test_ctrl_c_while_a_group_commits_stops_one_thread_and_nothing_is_done_twice(
    path: Path, database: Database
) -> None:
    database.open()
    database._files.drop(spare=False)
    pressed = sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Pressed)
    database._files.connections[False] = pressed
    results = group(database, [adding("a"), adding("b"), adding("c")])
    assert sorted(map(repr, results)) == ["KeyboardInterrupt()", "None", "None"]
    assert titles(database) == ["a", "b", "c"]
    assert pressed.commits == 2


def test_ctrl_c_in_the_middle_of_a_work_undoes_it_and_the_next_goes_on(database: Database) -> None:
    def work(connection: sqlite3.Connection) -> None:
        adding("half")(connection)
        raise KeyboardInterrupt("pressed")

    with pytest.raises(KeyboardInterrupt, match="pressed"):
        database.write(work)
    database.write(adding("whole"))
    assert titles(database) == ["whole"]


def test_a_reader_does_not_wait_for_a_writer_of_the_same_process(path: Path) -> None:
    if not is_local(str(path.parent.parent)):
        pytest.skip("the file system may be of another machine")
    database = Database(path, LAYOUT)
    database.write(adding("before"))

    def work(connection: sqlite3.Connection) -> list[str]:
        adding("after")(connection)
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(titles, database).result(60)

    assert database.write(work) == ["before"]
    assert titles(database) == ["after", "before"]


# ---------------------------------------------------------------- others at the same time

MANY = """
for number in range(50):
    add(f"{sys.argv[2]}.{number}")
print("done")
"""


@pytest.mark.parametrize("before", ["", ROLLBACK], ids=["wal", "rollback"])
def test_processes_that_start_together_share_the_file(path: Path, before: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        said = list(pool.map(lambda number: run(before + OPEN + MANY, path, number), range(3)))
    assert said == ["done\n"] * 3
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT count(*) FROM songs").fetchone() == (150,)
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_fork_opens_the_file_anew_and_leaves_its_parent_alone(database: Database) -> None:
    database.write(adding("parent"))
    child = os.fork()
    if not child:
        database.write(adding("child"))
        database.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    database.write(adding("parent again"))
    assert titles(database) == ["child", "parent", "parent again"]


FORK_AND_DIE = """
def work(connection):
    read_end, write_end = os.pipe()
    if not os.fork():
        os.close(1), os.close(2)
        os.read(read_end, 1)  # until the test has looked: nobody writes, it ends with the last of its writers
        os._exit(0)
    os._exit(0)
database.write(work)
"""


def test_a_child_that_outlives_its_parent_keeps_no_lock(path: Path) -> None:
    script = OPEN + "add('a')" + FORK_AND_DIE
    keeper, kept = os.pipe()
    script = script.replace("read_end, write_end = os.pipe()", f"read_end = {keeper}; os.close({kept})")
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60, pass_fds=(keeper, kept))
    database = Database(path, LAYOUT, patience_s=20)
    database.write(adding("b"))  # while the child lives
    assert titles(database) == ["a", "b"]
    os.close(kept)
    os.close(keeper)


def test_a_file_that_another_keeps_locked_is_to_be_tried_again(path: Path, database: Database) -> None:
    database.write(adding("a"))
    impatient = Database(path, LAYOUT, patience_s=0.01)
    assert titles(impatient) == ["a"]

    def work(_: sqlite3.Connection) -> None:
        with pytest.raises(Retry, match=r"kept the songbook .*/songs\.db locked for 0\.01 s"):
            impatient.write(adding("b"))

    database.write(work)
    impatient.write(adding("c"))
    assert titles(database) == ["a", "c"]


def test_in_wal_mode_whoever_writes_or_checkpoints_holds_the_lock(path: Path) -> None:
    """Two at once could corrupt the file, in SQLite before 3.51.3."""
    if not is_local(str(path.parent.parent)):
        pytest.skip("the file system may be of another machine")
    database = Database(path, LAYOUT)
    database.open()
    seen: list[tuple[str, bool]] = []

    def look(statement: str) -> None:
        lock = LockFile(f"{path}-lock")
        try:
            with lock.held(0):
                seen.append((statement, False))
        except TimeoutError:
            seen.append((statement, True))
        finally:
            lock.close()

    database._files.connections[False].set_trace_callback(look)
    database.write(lambda connection: connection.execute("INSERT INTO songs VALUES (?)", (bytes(2**24),)))
    statements = [statement for statement, _ in seen]
    assert (statements[0], statements[-2]) == ("BEGIN IMMEDIATE", "COMMIT")  # and what begins the WAL anew
    assert all(is_held for _, is_held in seen)


def test_a_lock_file_that_somebody_removed_is_made_again(path: Path) -> None:
    one, other = Database(path, LAYOUT, patience_s=0.01), Database(path, LAYOUT, patience_s=0.01)
    one.write(adding("a"))
    other.write(adding("b"))
    lock = Path(f"{path}-lock")
    if not lock.exists():
        pytest.skip("the file system may be of another machine")
    lock.unlink()
    one.write(adding("c"))

    def work(_: sqlite3.Connection) -> None:
        with pytest.raises(Retry, match="locked"):
            other.write(adding("d"))

    one.write(work)
    assert lock.exists()


# ---------------------------------------------------------------- what is refused


def test_a_database_of_another_program_is_refused_untouched(path: Path, database: Database) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE songs (title)")
    before = path.read_bytes()
    with pytest.raises(StoreFailed, match=r"songs\.db is a database of another program") as caught:
        database.open()
    assert (path.read_bytes(), caught.value.hint) == (before, "sing another song")


def test_a_newer_version_is_refused_untouched(path: Path, database: Database) -> None:
    database.open()
    database.close()
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA user_version=3")
    before = path.read_bytes()
    for call in (database.open, lambda: titles(database), lambda: database.write(adding("a"))):
        with pytest.raises(StoreFailed, match=r"songs\.db has format 3, and this theory knows 2"):
            call()
    assert path.read_bytes() == before


def test_a_wal_is_refused_where_nobody_knows_the_file_system(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(path, LAYOUT)
    database.write(adding("a"))
    database.close()
    if not Path(f"{path}-lock").exists():
        pytest.skip("the file system may be of another machine")
    monkeypatch.setattr(mounts, "LOCAL", frozenset())
    for call in (lambda: titles(database), lambda: database.write(adding("b"))):
        with pytest.raises(StoreFailed, match="was made on a local disk") as caught:
            call()
        assert "open it where it was made" in caught.value.hint


def test_a_rollback_journal_stays_one_on_a_local_disk(path: Path) -> None:
    run(ROLLBACK + OPEN + "add('a')", path)
    database = Database(path, LAYOUT)
    database.write(adding("b"))
    assert (titles(database), database.read("PRAGMA journal_mode")) == (["a", "b"], [("persist",)])


def test_what_fails_after_a_commit_does_not_undo_it_nor_do_it_twice(path: Path) -> None:
    database, runs = Database(path, LAYOUT), {"a": 0, "b": 0}
    database.open()

    def losing_the_wal(title: str) -> Callable[[sqlite3.Connection], None]:
        def work(connection: sqlite3.Connection) -> None:
            runs[title] += 1
            adding(title)(connection)
            Path(f"{path}-wal").unlink(missing_ok=True)  # so its size cannot be asked for afterwards

        return work

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda title: database.write(losing_the_wal(title)), runs)) == [None, None]
    assert runs == {"a": 1, "b": 1}
    assert sorted(database.read("SELECT title FROM songs")) == [("a",), ("b",)]


def test_damage_that_sqlite_cannot_even_word_is_a_failure_with_its_place(
    database: Database, path: Path
) -> None:
    database.write(adding("a"))
    database.close()
    data = path.read_bytes()
    assert data.count(b"CREATE TABLE") == 1
    path.write_bytes(data.replace(b"CREATE TABLE", b"CREAT\xff TABLE"))
    for use in (lambda: database.read("SELECT 1"), lambda: database.write(adding("b"))):
        with pytest.raises(LAYOUT.failed, match=r"songs\.db cannot be used: .* malformed"):
            use()


@pytest.fixture
def open_folder() -> Path:
    """One that every user may look into, as pytest's own are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    return folder


READ_ONLY = """
import theory.disk.snapshot  # imported late otherwise, by nobody, who may not read it
if os.getuid() == 0:
    os.setuid(65534)
print(database.read("SELECT title FROM songs"))
try:
    add("b")
except StoreFailed as error:
    print(error.hint)
"""


@pytest.mark.parametrize("left", [True, False], ids=["a WAL is left there", "no WAL"])
def test_a_file_that_cannot_be_written_can_be_read(open_folder: Path, left: bool) -> None:
    path = open_folder / "songs.db"
    run(OPEN + "add('a')" + ("; sys.stdout.flush(); os._exit(0)" if left else ""), path)
    for file in open_folder.iterdir():
        file.chmod(0o444)
    open_folder.chmod(0o555)
    try:
        rows, hint = run(OPEN + READ_ONLY, path).splitlines()
    finally:
        open_folder.chmod(0o755)
        shutil.rmtree(open_folder)
    assert (rows, "writable" in hint) == ("[('a',)]", True)


READ_TWICE = """
import theory.disk.snapshot  # as above
if os.getuid() == 0:
    os.setuid(65534)
print(database.read("SELECT title FROM songs"), flush=True)
sys.stdin.readline()
print(database.read("SELECT title FROM songs"))
"""


def test_who_may_only_read_sees_what_its_owner_writes_later(open_folder: Path) -> None:
    path = open_folder / "songs.db"
    run(OPEN + "add('a')", path)
    path.chmod(0o444)
    open_folder.chmod(0o555)
    command = [sys.executable, "-c", OPEN + READ_TWICE, str(path)]
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "[('a',)]\n"
            open_folder.chmod(0o755)
            path.chmod(0o644)
            run(OPEN + "add('b')", path)
            assert reader.communicate("\n", timeout=60)[0] == "[('a',), ('b',)]\n"
    finally:
        shutil.rmtree(open_folder)


# ---------------------------------------------------------------- syncs

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def syncs(script: str, path: Path, trace: Path, *arguments: object) -> int:
    calls = "trace=fsync,fdatasync,msync,sync_file_range,sync,syncfs"
    watched = ["strace", "-f", "-o", str(trace), "-e", calls]
    command = [*watched, sys.executable, "-c", script, str(path), *map(str, arguments)]
    subprocess.run(command, check=True, timeout=60)
    return trace.read_text().count("sync(")


@needs_strace
@pytest.mark.parametrize(("before", "each"), [("", 1), (ROLLBACK, 5)], ids=["wal", "rollback"])
def test_a_commit_costs_one_sync_or_five(tmp_path: Path, before: str, each: int) -> None:
    script = before + OPEN + "for number in range(int(sys.argv[2])): add(str(number))"
    few, more = (syncs(script, tmp_path / f"{count}.db", tmp_path / "trace", count) for count in (1, 21))
    assert (more - few) / 20 == each


@needs_strace
@pytest.mark.parametrize("before", ["", ROLLBACK], ids=["wal", "rollback"])
def test_the_first_write_makes_durable_what_it_finds(tmp_path: Path, before: str) -> None:
    """It may be of a process that died before its sync, and live in memory alone."""
    path, trace = tmp_path / "songs.db", tmp_path / "trace"
    run(before + OPEN + "add('a'); os._exit(0)", path)
    reading = before + OPEN + "database.read('SELECT 1'); {} os._exit(0)"
    nothing = "database.write(lambda connection: None);"
    assert syncs(reading.format(""), path, trace) == 0
    once = syncs(reading.format(nothing), path, trace)
    assert once > 0
    assert syncs(reading.format(nothing * 2), path, trace) == once


def test_a_large_commit_leaves_no_large_wal_to_be_read_at_the_next_start(path: Path) -> None:
    if not is_local(str(path.parent.parent)):
        pytest.skip("the file system may be of another machine")
    database = Database(path, LAYOUT)
    database.write(lambda connection: connection.execute("INSERT INTO songs VALUES (?)", (bytes(2**24),)))
    assert Path(f"{path}-wal").stat().st_size <= 2**20
