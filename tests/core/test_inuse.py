"""An age is over for good when the last who held it is done, or dead."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from theory.errors import StoreFailed
from theory.store.inuse import InUse, is_free

if TYPE_CHECKING:
    from pathlib import Path

HOLD = """
import sys
from theory.store.inuse import InUse
with InUse(sys.argv[1]).held():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "in-use")


def end(path: str, name: str) -> str:
    """Begin a new age; the file of the one before."""
    old = f"{path}.{name}"
    os.rename(path, old)
    return old


def test_an_age_is_free_when_all_who_held_it_are_done(path: str) -> None:
    in_use = InUse(path)
    with in_use.held():
        old = end(path, "1")
        assert not is_free(old)
        with in_use.held():  # one of the next age
            assert not is_free(old)
        assert is_free(path)
    assert is_free(old)


def test_an_age_that_the_file_system_will_not_let_go_is_let_go_by_closing(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, how: int) -> None:
        if how == fcntl.LOCK_UN:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        flock(descriptor, how)

    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", refuse)
    in_use = InUse(path)
    for _ in range(2):
        with in_use.held():
            assert not is_free(path)
        assert is_free(path)


def test_threads_of_one_process_hold_it_together(path: str) -> None:
    in_use, leave = InUse(path), threading.Event()
    held = threading.Barrier(3)

    def hold() -> None:
        with in_use.held():
            held.wait(30)
            leave.wait(30)

    threads = [threading.Thread(target=hold) for _ in range(2)]
    for thread in threads:
        thread.start()
    held.wait(30)
    with in_use.held():
        pass
    old = end(path, "1")
    assert not is_free(old)
    leave.set()
    for thread in threads:
        thread.join()
    assert is_free(old)


def test_who_comes_after_another_has_begun_an_age_holds_that_one(path: str) -> None:
    in_use = InUse(path)
    with in_use.held():
        pass
    old = end(path, "1")
    with in_use.held():
        assert is_free(old)
        assert not is_free(path)
    in_use.close()
    with in_use.held():
        assert not is_free(path)


def test_a_process_that_is_killed_holds_nothing(path: str) -> None:
    command = [sys.executable, "-c", HOLD, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        old = end(path, "1")
        assert not is_free(old)
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
    assert is_free(old)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_that_was_forked_holds_nothing_of_its_parent(path: str) -> None:
    in_use = InUse(path)
    reading, writing = os.pipe()
    begun, begins = os.pipe()
    with in_use.held():
        child = os.fork()
        if not child:
            os.close(writing)
            os.write(begins, b"x")
            os.read(reading, 1)  # it lives until its parent has let go
            os._exit(0)
        os.close(reading)
        os.read(begun, 1)
        old = end(path, "1")
        assert not is_free(old)
        with in_use.held():  # so that the old file is closed, and not only unlocked
            pass
    assert is_free(old)
    for descriptor in (writing, begun, begins):
        os.close(descriptor)
    assert os.waitpid(child, 0)[1] == 0


def test_what_is_found_in_an_age_is_found_once(path: str) -> None:
    in_use, asked = InUse(path), []

    def look(cids: frozenset[str]) -> frozenset[str]:
        asked.append(set(cids))
        return cids - {"none"}

    def found(*cids: str) -> set[str]:
        asked.clear()
        return set(in_use.found(frozenset(cids), look))

    assert (found("a"), asked) == ({"a"}, [{"a"}])
    with in_use.held():
        assert (found("a", "none"), asked) == ({"a"}, [{"a", "none"}])
        assert (found("a", "b", "none"), asked) == ({"a", "b"}, [{"b", "none"}])
        in_use.lose(["a"])
        assert (found("a", "b"), asked) == ({"a", "b"}, [{"a"}])
    assert (found("a"), asked) == ({"a"}, [{"a"}])
    with in_use.held():
        assert (found("a", "b"), asked) == ({"a", "b"}, [])
    end(path, "1")
    with in_use.held():
        assert (found("b"), asked) == ({"b"}, [{"b"}])


def test_what_is_found_does_not_pile_up(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("theory.store.inuse._MOST_FOUND", 3)
    in_use = InUse(path)
    with in_use.held():
        for number in range(100):
            assert in_use.found(frozenset({str(number)}), lambda cids: cids) == {str(number)}
        held = in_use._age  # noqa: SLF001 - how much it is cannot be seen from outside
        assert held is not None
        assert len(held.found) <= 4


def test_what_cannot_be_locked_is_named(tmp_path: Path) -> None:
    path = f"{tmp_path}/none/in-use"
    with pytest.raises(StoreFailed, match=f"cannot lock {path}: No such file"), InUse(path).held():
        raise AssertionError


def test_what_cannot_be_looked_at_is_not_called_free(tmp_path: Path) -> None:
    assert not is_free(str(tmp_path / "none"))
    (tmp_path / "folder").mkdir()
    assert not is_free(str(tmp_path / "folder"))
