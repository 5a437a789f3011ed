from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from theory.disk.lockfile import LockFile

HOLD = """
import sys
from theory.disk.lockfile import LockFile
with LockFile(sys.argv[1]).held(20):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return f"{tmp_path}/x-lock"


def is_free(path: str) -> bool:
    lock = LockFile(path)
    try:
        with lock.held(0):
            return True
    except TimeoutError:
        return False
    finally:
        lock.close()


def test_one_holds_it_at_a_time_and_the_next_gets_it(path: str) -> None:
    with LockFile(path).held(0):
        assert not is_free(path)
    assert is_free(path)


def test_it_is_let_go_when_the_block_raises(path: str) -> None:
    with pytest.raises(KeyError, match="stop"), LockFile(path).held(0):
        raise KeyError("stop")
    assert is_free(path)


def test_one_object_holds_it_again_and_again_also_after_it_was_closed(path: str) -> None:
    lock = LockFile(path)
    for _ in range(3):
        with lock.held(0):
            assert not is_free(path)
        lock.close()
        lock.close()


def test_another_process_is_waited_for_and_its_death_lets_go(path: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert not is_free(path)
        other.kill()
        with LockFile(path).held(20):
            assert not is_free(path)


def test_a_fork_neither_holds_nor_lets_go_what_its_parent_holds(path: str) -> None:
    lock = LockFile(path)
    with lock.held(0):
        child = os.fork()
        if not child:
            os._exit(3 if is_free(path) else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not is_free(path)


def test_a_file_that_somebody_removed_is_made_again(path: str) -> None:
    lock = LockFile(path)
    with lock.held(0):
        pass
    Path(path).unlink()
    with lock.held(20):
        assert not is_free(path)


def test_what_the_file_system_will_not_let_go_is_let_go_by_closing(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, how: int) -> None:
        if how == fcntl.LOCK_UN:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        flock(descriptor, how)

    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", refuse)
    lock = LockFile(path)
    for _ in range(2):
        with lock.held(0):
            assert not is_free(path)
        assert is_free(path)


@pytest.mark.parametrize("umask", [0o022, 0o777], ids=oct)
def test_its_owner_can_lock_it_again_whatever_the_umask(path: str, umask: int) -> None:
    old = os.umask(umask)
    try:
        assert is_free(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"), LockFile(f"{tmp_path}/nowhere/lock").held(0):
        pass
