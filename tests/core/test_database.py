"""The ledger's file is opened, made durable, shared and refused as promised."""

import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from theory.errors import LedgerFailed, Retry
from theory.ledger.database import APPLICATION_ID, VERSION, Database


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


def test_a_new_file_is_marked_as_ours_and_with_its_version(path: Path) -> None:
    Database(path).close()
    with closing(sqlite3.connect(path)) as raw:
        marks = [raw.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    assert marks == [APPLICATION_ID, VERSION]


def test_every_commit_is_made_with_the_promised_care(path: Path) -> None:
    with closing(Database(path)) as database:
        care = [
            database.read(f"PRAGMA {name}")[0][0] for name in ("journal_mode", "synchronous", "fullfsync")
        ]
    assert care == ["persist", 3, 1]


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs Linux with strace")
def test_a_commit_costs_five_syncs(path: Path, tmp_path: Path) -> None:
    code = """if True:
        import sys; from pathlib import Path; from theory.ledger.database import Database
        database = Database(Path(sys.argv[1]))
        for number in range(int(sys.argv[2])):
            with database.transaction() as connection:
                connection.execute("INSERT INTO plans (key) VALUES (?)", (str(number),))
    """

    def syncs(commits: int) -> int:
        home, trace = path.with_name(f"{commits}.db"), tmp_path / "trace"
        watched = ["strace", "-f", "-o", str(trace), "-e", "trace=fsync,fdatasync"]
        command = [*watched, sys.executable, "-c", code, str(home)]
        subprocess.run([*command, str(commits)], check=True, timeout=60)
        return trace.read_text().count("sync(")

    path.parent.mkdir()
    assert (syncs(11) - syncs(1)) / 10 == 5


def test_a_database_of_another_program_is_refused_untouched(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE songs (title)")
    before = path.read_bytes()
    with pytest.raises(LedgerFailed, match=r"ledger\.db is a database of another program"):
        Database(path)
    assert path.read_bytes() == before


def test_a_newer_version_is_refused_untouched(path: Path) -> None:
    Database(path).close()
    with closing(sqlite3.connect(path)) as raw:
        raw.execute(f"PRAGMA user_version={VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(LedgerFailed, match=r"ledger\.db has format 2, and this theory knows 1") as caught:
        Database(path)
    assert (path.read_bytes(), caught.value.hint) == (before, "upgrade theory-core; the file was not touched")


def test_a_file_that_is_no_database_is_named_with_the_next_step(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"shopping list\n" * 100)
    with pytest.raises(LedgerFailed, match=r"ledger\.db cannot be used: file is not a database") as caught:
        Database(path)
    assert caught.value.hint.startswith("move the file away and put back a copy")


def test_a_damaged_file_is_named_with_the_next_step(path: Path) -> None:
    Database(path).close()
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * (path.stat().st_size - 100))
    with pytest.raises(LedgerFailed, match=r"ledger\.db cannot be used: .*malformed") as caught:
        Database(path).read("SELECT * FROM plans")
    assert caught.value.hint == "move the file away and put back a copy of it"


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(LedgerFailed, match=r"cannot make the folder of the ledger .*/home/ledger\.db"):
        Database(tmp_path / "home" / "ledger.db")


def test_a_file_that_another_process_keeps_locked_is_to_be_tried_again(path: Path) -> None:
    with closing(Database(path, patience_s=0.01)) as database, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(Retry, match=r"kept the ledger .*/ledger\.db locked for 0\.01 s"),
            database.transaction(),
        ):
            pass
        other.rollback()
        with database.transaction() as connection:
            connection.execute("INSERT INTO plans (key) VALUES ('later')")
        assert database.read("SELECT key FROM plans") == [("later",)]


def test_a_block_that_raises_leaves_nothing(path: Path) -> None:
    def fail(database: Database) -> None:
        with database.transaction() as connection:
            connection.execute("INSERT INTO plans (key) VALUES ('half')")
            raise KeyError("stop")

    with closing(Database(path)) as database:
        with pytest.raises(KeyError, match="stop"):
            fail(database)
        assert database.read("SELECT * FROM plans") == []


def test_a_disk_that_takes_no_more_is_told_and_leaves_nothing(path: Path) -> None:
    code = """if True:
        import resource, sys
        from pathlib import Path
        from theory.ledger.database import Database
        from theory.errors import LedgerFailed
        path = Path(sys.argv[1])
        database = Database(path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5000, resource.RLIM_INFINITY))
        try:
            with database.transaction() as connection:
                for number in range(1000):
                    connection.execute("INSERT INTO plans (key) VALUES (?)", (f"{number}" * 100,))
        except LedgerFailed as error:
            print(error.message, "|", error.hint)
        print(database.read("SELECT count(*) FROM plans"))
    """
    told, left = run(code, path).splitlines()
    assert f"the ledger {path} cannot be used: " in told
    assert "free s" in told  # "free some space", or "free space" among the things to look at
    assert left == "[(0,)]"


def test_a_read_only_home_can_be_read_and_refuses_to_be_written(open_folder: Path) -> None:
    path = open_folder / "ledger.db"
    with closing(Database(path)) as database, database.transaction() as connection:
        connection.execute("INSERT INTO plans (key) VALUES ('old')")
    for file in open_folder.iterdir():
        file.chmod(0o444)
    open_folder.chmod(0o555)
    code = """if True:
        import os, sys
        from pathlib import Path
        from theory.ledger.database import Database
        from theory.errors import LedgerFailed
        if os.geteuid() == 0:
            os.setuid(65534)  # root is above permissions
        database = Database(Path(sys.argv[1]))
        print(database.read("SELECT key FROM plans"))
        try:
            with database.transaction() as connection:
                connection.execute("INSERT INTO plans (key) VALUES ('new')")
        except LedgerFailed as error:
            print(error.message, "|", error.hint)
    """
    read, told = run(code, path).splitlines()
    assert read == "[('old',)]"
    assert f"the ledger {path} cannot be used: " in told
    assert "writable, or set THEORY_HOME" in told


def test_processes_that_start_together_make_one_file(path: Path) -> None:
    code = """if True:
        import sys; from pathlib import Path; from theory.ledger.database import Database
        print("ready", flush=True); input()
        with Database(Path(sys.argv[1])).transaction() as connection:
            connection.execute("INSERT INTO plans (key) VALUES (?)", (sys.argv[2],))
    """
    commands = [[sys.executable, "-c", code, str(path), str(number)] for number in range(4)]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for command in commands
    ]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
    for child in children:
        child.communicate(timeout=60)
    with closing(Database(path)) as database:
        assert database.read("SELECT key FROM plans ORDER BY key") == [("0",), ("1",), ("2",), ("3",)]


def test_a_process_that_finds_the_file_made_meanwhile_takes_it_as_it_is(path: Path) -> None:
    class Late(Database):
        def _create(self, connection: sqlite3.Connection) -> None:
            with closing(Database(self.path)) as other, other.transaction() as first:
                first.execute("INSERT INTO plans (key) VALUES ('first')")
            super()._create(connection)

    with closing(Late(path)) as database:
        assert database.read("SELECT key FROM plans") == [("first",)]


def test_a_child_that_is_forked_inside_a_transaction_neither_sees_nor_harms_it(path: Path) -> None:
    code = """if True:
        import os, sys
        from pathlib import Path
        from theory.ledger.database import Database
        database = Database(Path(sys.argv[1]))
        with database.transaction() as connection:
            connection.execute("INSERT INTO plans (key) VALUES ('parents')")
            pid = os.fork()
            if pid == 0:
                print(database.read("SELECT key FROM plans"), flush=True)
                database.close()
                os._exit(0)
            os.waitpid(pid, 0)
        print(database.read("SELECT key FROM plans"))
    """
    assert run(code, path).splitlines() == ["[]", "[('parents',)]"]


def test_an_event_that_is_written_cannot_be_changed_or_removed_by_accident(path: Path) -> None:
    with closing(Database(path)) as database:
        with database.transaction() as connection:
            connection.execute("INSERT INTO plans (key) VALUES ('p')")
            connection.execute("INSERT INTO events VALUES (1, 'p', 1, 0, 'plan.create', NULL, '{}', '', '')")
        for statement, words in (("UPDATE events SET ts = 1", "changed"), ("DELETE FROM events", "removed")):
            with (
                pytest.raises(LedgerFailed, match=f"events are never {words}"),
                database.transaction() as connection,
            ):
                connection.execute(statement)


@pytest.mark.parametrize("amount", [-1, 2**53, 1.5, "many"])
def test_the_file_itself_refuses_what_is_no_amount(path: Path, amount: object) -> None:
    with (
        closing(Database(path)) as database,
        pytest.raises(LedgerFailed, match="CHECK constraint failed"),
        database.transaction() as connection,
    ):
        connection.execute("INSERT INTO plans (key, spent_micro_usd) VALUES ('p', ?)", (amount,))
