"""The ledger's file: what it refuses by itself, and what a user is told where it cannot be used."""

import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from operator import methodcaller
from pathlib import Path

import pytest

from theory.disk.mounts import is_local
from theory.disk.sqlite import Database
from theory.errors import LedgerFailed, Retry
from theory.ledger import Closing, Ledger
from theory.ledger.database import APPLICATION_ID, LAYOUT, VERSION
from theory.types import Artifact


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "ledger.db"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that every user may look into, as pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path
        path.chmod(0o755)


def run(code: str, *arguments: object) -> str:
    """What a Python process of its own prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def needs_wal(path: Path) -> None:
    """Where the file would have a rollback journal, this test is none."""
    if not is_local(str(path.parent.parent)):
        pytest.skip("the file system is perhaps not of this machine, and then there is no WAL")


def ending(id_: str, cost: int | None = 0, size_bytes: int = 1) -> Closing:
    name = Artifact(f"/artifacts/{id_}", "b3:", size_bytes, "text/plain")
    return Closing(id_, "p", "a/b@1", "mock", "execution.success", cost, {}, (name,), "b3:", 0)


def made(path: Path) -> None:
    """Make a ledger with a plan and 40 executions."""
    with Ledger(path) as ledger:
        ledger.ensure_plan("p")
        for number in range(40):
            ledger.settle(ending(f"e{number}"))


def a_text(path: Path) -> None:
    path.write_bytes(b"shopping list\n" * 100)


def the_half(path: Path) -> None:
    made(path)
    os.truncate(path, path.stat().st_size // 2)


def flipped_bytes(path: Path) -> None:
    made(path)
    data = bytearray(path.read_bytes())
    data[100:] = bytes(byte ^ 0xFF for byte in data[100:])
    path.write_bytes(data)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_dangling_link(path: Path) -> None:
    path.symlink_to("/nowhere/at/all.db")


def of_a_newer_version(path: Path) -> None:
    made(path)
    with closing(sqlite3.connect(path)) as raw:
        raw.execute(f"PRAGMA user_version={VERSION + 1}")


def of_another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE songs (title)")


DAMAGES: dict[Callable[[Path], None], tuple[str, str]] = {
    a_text: ("cannot be used: file is not a database", "move the file away and put back a copy of it"),
    the_half: ("cannot be used: database disk image is malformed", "move the file away and put back a copy"),
    flipped_bytes: ("cannot be used: ", "move the file away and put back a copy"),
    a_folder: ("cannot be used: unable to open database file", "see that its folder exists and is writable"),
    a_dangling_link: ("cannot be used: unable to open database file", "see that its folder exists"),
    of_a_newer_version: ("has format 2, and this theory knows 1", "upgrade theory-core"),
    of_another_program: ("is a database of another program", "set THEORY_HOME to another folder"),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_file_that_is_no_whole_ledger_of_ours_is_refused_untouched_with_the_next_step(
    path: Path, damage: Callable[[Path], None]
) -> None:
    path.parent.mkdir()
    damage(path)
    before = path.read_bytes() if path.is_file() else None
    words, hint = DAMAGES[damage]
    with (
        pytest.raises(LedgerFailed, match=rf"^(the ledger )?{path} {words}") as caught,
        Ledger(path) as ledger,
    ):
        ledger.settle(ending("new"))
    assert caught.value.hint.startswith(hint)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_file_without_a_byte_is_taken_as_new(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    made(path)
    with Ledger(path) as ledger:
        assert ledger.plan("p").events == 41


def test_a_home_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(
        LedgerFailed, match=r"cannot make the folder of the ledger .*/home/ledger\.db: Not a dir"
    ):
        Ledger(tmp_path / "home" / "ledger.db")


def test_a_home_on_a_volume_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").symlink_to("/nowhere/at/all")
    with pytest.raises(
        LedgerFailed, match=r"cannot make the folder of the ledger .*/home/ledger\.db"
    ) as caught:
        Ledger(tmp_path / "home" / "ledger.db")
    assert caught.value.hint.startswith("is its volume mounted?")


def test_a_new_file_is_marked_as_ours_and_with_its_version(path: Path) -> None:
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as raw:
        marks = [raw.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    assert marks == [APPLICATION_ID, VERSION]


@pytest.mark.parametrize("by", ["us", "another program"])
def test_a_file_that_another_process_keeps_locked_is_to_be_tried_again(path: Path, by: str) -> None:
    if by == "us":
        needs_wal(path)
    with Ledger(path, patience_s=0.01) as ledger:
        ledger.ensure_plan("p")
        with closing(sqlite3.connect(path)) as other, open(f"{path}-lock", "wb") as lock:
            if by == "us":
                fcntl.flock(lock, fcntl.LOCK_EX)
            else:
                other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Retry, match=r"kept the ledger .*/ledger\.db locked for 0\.01 s"):
                ledger.settle(ending("a"))
            assert ledger.plan("p").events == 1  # who reads waits for nobody
            other.rollback()
        ledger.settle(ending("a"))
        assert (ledger.plan("p").events, ledger.check_chain("p")) == (2, ())


def test_a_disk_that_takes_no_more_is_told_and_leaves_nothing(path: Path) -> None:
    code = """if True:
        import resource, sys
        from pathlib import Path
        from theory.errors import LedgerFailed
        from theory.ledger import Closing, Ledger
        def ending(id_, text):
            return Closing(id_, "p", "a/b@1", "mock", "execution.success", 0, {"text": text}, (), "b3:", 0)
        path = Path(sys.argv[1])
        ledger = Ledger(path)
        ledger.ensure_plan("p")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        closed = 0
        try:
            while True:
                ledger.settle(ending(f"e{closed}", "x" * 10_000))
                closed += 1
        except LedgerFailed as error:
            print(error.message, "|", error.hint)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        ledger.settle(ending("after", ""))
        print(len(ledger.executions(limit=99)) - closed, ledger.check_chain("p"))
    """
    told, left = run(code, path).splitlines()
    assert f"the ledger {path} cannot be used: " in told
    assert "free s" in told  # "free some space", or "free space" among the things to look at
    assert left == "1 ()"


AS_SOMEBODY_ELSE = """if True:
    import os, sys
    from pathlib import Path
    import theory.ledger.audit, theory.disk.snapshot  # else nobody imports it, who may not read it
    from theory.errors import LedgerFailed
    from theory.ledger import Closing, Ledger
    if os.geteuid() == 0:
        os.setuid(65534)  # root is above permissions
    try:
        ledger = Ledger(Path(sys.argv[1]))
        print([record.execution_id for record in ledger.executions(limit=2)])
        print(ledger.name("/artifacts/e39").path, [state.key for state in ledger.plans()])
        print(ledger.check_chain("p"), ledger.reconcile())
        ledger.reserve("p", "new", 0)
        ledger.settle(Closing("new", "p", "a/b@1", "mock", "execution.success", 0, {}, (), "b3:", 0))
    except LedgerFailed as error:
        print(error.message, "|", error.hint)
"""


def test_a_read_only_home_can_be_read_and_refuses_to_be_written(open_folder: Path) -> None:
    path = open_folder / "ledger.db"
    made(path)
    for file in open_folder.iterdir():
        file.chmod(0o444)
    open_folder.chmod(0o555)
    *seen, told = run(AS_SOMEBODY_ELSE, path).splitlines()
    assert seen == ["['e39', 'e38']", "/artifacts/e39 ['p']", "() ()"]
    assert f"the ledger {path} cannot be used: " in told
    assert "writable, or set THEORY_HOME to another folder" in told


def test_a_file_that_may_not_be_read_is_named(open_folder: Path) -> None:
    path = open_folder / "ledger.db"
    made(path)
    for file in open_folder.iterdir():
        file.chmod(0)
    told = run(AS_SOMEBODY_ELSE, path)
    assert told.startswith(f"the ledger {path} cannot be used: ")
    assert "writable, or set THEORY_HOME to another folder" in told


def test_a_lost_wal_costs_what_was_in_it_and_breaks_nothing(path: Path) -> None:
    needs_wal(path)
    code = """if True:
        import os, sys
        from pathlib import Path
        sys.path.append(sys.argv[2])
        from test_database import ending
        from theory.ledger import Ledger
        with Ledger(Path(sys.argv[1])) as ledger:
            ledger.ensure_plan("p")
            ledger.settle(ending("a"))
        ledger.settle(ending("b"))
        os._exit(0)  # so that nothing is moved from the WAL to the file
    """
    run(code, path, Path(__file__).parent)
    assert {file.name for file in path.parent.iterdir()} >= {"ledger.db", "ledger.db-wal"}
    for ending_ in ("wal", "shm"):
        Path(f"{path}-{ending_}").unlink()
    with Ledger(path) as ledger:
        assert ledger.execution("b") is None
        ledger.settle(ending("c"))
        assert [record.execution_id for record in ledger.executions(limit=9)] == ["c", "a"]
        assert ledger.check_chain("p") == ()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_closing_costs_one_sync_and_a_reservation_another(path: Path, tmp_path: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        sys.path.append(sys.argv[1])
        from test_database import ending
        from theory.ledger import Ledger
        ledger = Ledger(Path(sys.argv[2]))
        ledger.ensure_plan("p")
        for number in range(int(sys.argv[4])):
            ledger.reserve("p", str(number), int(sys.argv[3]))
            ledger.settle(ending(str(number), int(sys.argv[3])))
    """

    def syncs(executions: int, amount: int) -> int:
        home, trace = path / f"{executions}-{amount}.db", tmp_path / "trace"
        watched = ["strace", "-f", "-o", str(trace), "-e", "trace=fsync,fdatasync,sync_file_range,msync"]
        arguments = [str(Path(__file__).parent), str(home), str(amount), str(executions)]
        subprocess.run([*watched, sys.executable, "-c", code, *arguments], check=True, timeout=60)
        return trace.read_text().count("sync(")

    needs_wal(path)
    path.mkdir(parents=True)
    assert [(syncs(11, amount) - syncs(1, amount)) / 10 for amount in (0, 5)] == [1, 2]


def test_threads_that_close_at_once_share_a_commit_and_one_that_fails_fails_alone(path: Path) -> None:
    started, go_on = threading.Event(), threading.Event()

    def clock() -> float:
        started.set()
        assert go_on.wait(60)
        return 0.0

    with Ledger(path) as ledger:
        ledger.ensure_plan("p")
        ledger.settle(ending("closed"))
    commits: list[str] = []
    with Ledger(path, clock=clock) as ledger, ThreadPoolExecutor(5) as pool:
        ledger.plan("p")
        connection = ledger._database._files.connections[False]  # noqa: SLF001 - to see its commits
        connection.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)
        first = pool.submit(ledger.settle, ending("first"))
        assert started.wait(60)
        others = [pool.submit(ledger.settle, ending(id_, size_bytes=size)) for id_, size in CLOSINGS]
        deadline = time.monotonic() + 60
        while len(ledger._database._waiting) < len(others):  # noqa: SLF001 - until all of them wait
            assert time.monotonic() < deadline
        go_on.set()
        first.result()
        faults = [type(other.exception()) for other in others]
        connection.set_trace_callback(None)
        assert faults == [type(None), LedgerFailed, OverflowError, type(None)]
        assert commits == ["COMMIT", "COMMIT"]
        ids = [record.execution_id for record in ledger.executions(limit=9)]
        assert (sorted(ids), ledger.check_chain("p")) == (["closed", "first", "one", "two"], ())
        assert ledger.name("/artifacts/too large") is None


CLOSINGS = (("one", 1), ("closed", 1), ("too large", 2**64), ("two", 1))


def test_an_event_that_is_written_cannot_be_changed_or_removed_by_accident(path: Path) -> None:
    made(path)
    with closing(Database(path, LAYOUT)) as database:
        for statement, words in (("UPDATE events SET ts = 1", "changed"), ("DELETE FROM events", "removed")):
            with pytest.raises(LedgerFailed, match=f"events are never {words}"):
                database.write(methodcaller("execute", statement))


@pytest.mark.parametrize("amount", [-1, 2**53, 1.5, "many"])
def test_the_file_itself_refuses_what_is_no_amount(path: Path, amount: object) -> None:
    query = "INSERT INTO plans (key, spent_micro_usd) VALUES ('p', ?)"
    with (
        closing(Database(path, LAYOUT)) as database,
        pytest.raises(LedgerFailed, match="CHECK constraint failed"),
    ):
        database.write(lambda connection: connection.execute(query, (amount,)))
