"""One write prefix, one writer: what a run with ``exclusive`` gets, by real processes that live and die."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core.bed import Call, Fake, done, good, house
from theory import Runner
from theory.disk import claims
from theory.disk.claims import claim, claimed
from theory.disk.lease import CLAIM, lease
from theory.disk.lockfile import LockFile
from theory.errors import Busy, Retry
from theory.request import new_execution_id
from theory.types import Failure

DEFAULT = "/artifacts/outputs/"

HOLD = """if True:
    import sys
    from pathlib import Path
    from theory.disk.claims import claim
    from theory.disk.lease import lease
    states, id_, prefix = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    with lease(states, id_), claim(states, id_, prefix):
        print("ready", flush=True)
        input()
"""


@pytest.mark.parametrize(
    ("theirs", "ours", "is_free"),
    [
        ("/artifacts/a/", "/artifacts/a/", False),
        ("/artifacts/a/", "/artifacts/a/b/", False),
        ("/artifacts/a/b/", "/artifacts/a/", False),
        ("/artifacts/a/", "/artifacts/ab/", True),
        ("/artifacts/a/b/", "/artifacts/a/c/", True),
        ("/artifacts/A/", "/artifacts/a/", True),
    ],
)
def test_two_prefixes_are_in_each_others_way_if_one_contains_the_other(
    tmp_path: Path, theirs: str, ours: str, is_free: bool
) -> None:
    first, second = new_execution_id(), new_execution_id()
    with lease(tmp_path, first), lease(tmp_path, second), claim(tmp_path, first, theirs):
        if is_free:
            with claim(tmp_path, second, ours):
                assert claimed(tmp_path) == {first: theirs, second: ours}
        else:
            with (
                pytest.raises(Busy, match=f"execution {first} has '{theirs}' for itself"),
                claim(tmp_path, second, ours),
            ):
                pass


def test_a_claim_is_free_again_when_its_run_has_ended_well_or_not(tmp_path: Path) -> None:
    first, second = new_execution_id(), new_execution_id()

    def fail() -> None:
        with lease(tmp_path, first) as folder, claim(tmp_path, first, "/artifacts/a/"):
            (folder / "adapter" / "job").write_text("what a retry needs, so the folder stays")
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fail()
    assert (tmp_path / first / "adapter" / "job").exists()
    for _ in range(2):
        with lease(tmp_path, second), claim(tmp_path, second, "/artifacts/a/"):
            assert claimed(tmp_path) == {second: "/artifacts/a/"}
    assert claimed(tmp_path) == {}


def test_a_claim_dies_with_its_owner(tmp_path: Path) -> None:
    dead, id_ = new_execution_id(), new_execution_id()
    command = [sys.executable, "-c", HOLD, str(tmp_path), dead, "/artifacts/a/"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        with (
            lease(tmp_path, id_),
            pytest.raises(Busy, match=f"execution {dead} has"),
            claim(tmp_path, id_, "/artifacts/a/b/"),
        ):
            pass
        child.kill()
    assert (tmp_path / dead / CLAIM).read_text() == "/artifacts/a/"
    with lease(tmp_path, id_), claim(tmp_path, id_, "/artifacts/a/b/"):
        assert claimed(tmp_path) == {id_: "/artifacts/a/b/"}
    # Who tries the dead one again and asks for nothing claims nothing.
    with lease(tmp_path, dead):
        assert claimed(tmp_path) == {}


def test_of_many_that_ask_at_once_one_gets_it(tmp_path: Path) -> None:
    together, ended = threading.Barrier(4), threading.Barrier(4)
    got: list[str] = []

    def work() -> None:
        id_ = new_execution_id()
        with lease(tmp_path, id_):
            together.wait(60)
            try:
                with claim(tmp_path, id_, "/artifacts/a/"):
                    got.append(id_)
                    ended.wait(60)
            except Busy:
                ended.wait(60)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_claims_are_looked_at_and_made_by_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_PATIENCE_S", 0.05)
    id_ = new_execution_id()
    guard = LockFile(str(tmp_path / "exclusive-lock"))
    with lease(tmp_path, id_), claim(tmp_path, id_, "/artifacts/a/"):
        pass
    with (
        lease(tmp_path, id_),
        guard.held(1),
        pytest.raises(Retry, match="has been locked for"),
        claim(tmp_path, id_, "/artifacts/a/"),
    ):
        pass
    guard.close()


class Meeting:
    """An adapter whose first run waits until it is let go."""

    def __init__(self) -> None:
        self.inside, self.let_go = threading.Event(), threading.Event()

    def __call__(self, call: Call) -> object:
        call.channel.started()
        call.write({"a.txt": "hello\n"})
        if not self.inside.is_set():
            self.inside.set()
            self.let_go.wait(60)
        return done()


def test_a_run_that_asks_is_refused_while_another_that_asked_writes_there(tmp_path: Path) -> None:
    meeting = Meeting()
    with house(tmp_path, Fake(act=meeting)) as runner:
        answers: list[object] = []

        def first() -> None:
            answers.append(runner.run("test/thing@1", exclusive=True, memo="off"))

        thread = threading.Thread(target=first)
        thread.start()
        assert meeting.inside.wait(60)
        states = runner.settings.home / "state"
        (owner,) = claimed(states)
        refused = ask(runner, exclusive=True)
        below = ask(runner, exclusive=True, write_prefix="/artifacts/outputs/below/")
        apart = ask(runner, exclusive=True, write_prefix="/artifacts/{execution_id}/")
        unasked = ask(runner)
        meeting.let_go.set()
        thread.join()
        for envelope in (refused, below):
            assert isinstance(envelope, Failure)
            assert (envelope.code, envelope.exit_code) == ("ERR_BUSY", 5)
            assert envelope.message.startswith(f"execution {owner} has '{DEFAULT}' for itself")
            assert runner.ledger.execution(envelope.execution_id) is None  # nothing ran
        good(apart)  # type: ignore[arg-type]
        good(unasked)  # type: ignore[arg-type]
        good(answers[0])  # type: ignore[arg-type]
        good(runner.run("test/thing@1", exclusive=True))
        assert claimed(states) == {}


def test_a_hit_is_a_writer_too(tmp_path: Path) -> None:
    with house(tmp_path) as runner:
        good(runner.run("test/thing@1"))
        states, id_ = runner.settings.home / "state", new_execution_id()
        with lease(states, id_), claim(states, id_, DEFAULT):
            assert isinstance(runner.run("test/thing@1", exclusive=True), Failure)
            assert good(runner.run("test/thing@1")).meta["memo"] == "hit"


def ask(runner: Runner, **more: object) -> object:
    return runner.run("test/thing@1", memo="off", **more)  # type: ignore[arg-type]
