"""One owner an execution; what the dead leave behind goes, what the living hold stays."""

from __future__ import annotations

import fcntl
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from theory.disk.lease import lease, sweep
from theory.disk.removal import remove
from theory.errors import Busy, StoreFailed

if TYPE_CHECKING:
    from pathlib import Path

ID = "01890a5d-ac96-774b-bcce-b302099a8057"


def in_child(states: Path, *, dies: bool) -> tuple[int, int]:
    """A child that holds the lease, with files in work and adapter, until its pipe is closed or at once."""
    told, tell = os.pipe()
    wait, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go)
        with lease(states, ID) as folder:
            (folder / "work" / "out" / "half.txt").write_text("half")
            (folder / "adapter" / "remote.id").write_text("call-1")
            os.write(tell, b"x")
            if not dies:
                os.read(wait, 1)
            os._exit(0)
    os.read(told, 1)
    os.close(told)
    os.close(tell)
    os.close(wait)
    return pid, go


def test_a_lease_makes_the_folders_and_removes_them(tmp_path: Path) -> None:
    with lease(tmp_path / "state", ID) as folder:
        assert sorted(os.listdir(folder)) == ["adapter", "lock", "work"]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert os.listdir(folder / "work") == ["out"]
    assert os.listdir(tmp_path / "state") == []


def test_a_second_owner_is_refused_in_this_process_and_beside_it(tmp_path: Path) -> None:
    with lease(tmp_path, ID), pytest.raises(Busy, match=f"{ID} is running elsewhere"), lease(tmp_path, ID):
        pass
    pid, go = in_child(tmp_path, dies=False)
    with pytest.raises(Busy, match="is running elsewhere"), lease(tmp_path, ID):
        pass
    sweep(tmp_path)
    assert (tmp_path / ID / "work" / "out" / "half.txt").exists()
    os.close(go)
    os.waitpid(pid, 0)


def test_a_dead_owners_execution_can_be_tried_again_and_finds_its_adapters_state(tmp_path: Path) -> None:
    pid, _ = in_child(tmp_path, dies=True)
    os.waitpid(pid, 0)
    with lease(tmp_path, ID) as folder:
        assert os.listdir(folder / "work" / "out") == []
        assert (folder / "adapter" / "remote.id").read_text() == "call-1"


def test_a_sweep_removes_the_work_of_the_dead_and_keeps_their_adapters_state(tmp_path: Path) -> None:
    pid, _ = in_child(tmp_path, dies=True)
    os.waitpid(pid, 0)
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path / ID)) == ["adapter", "lock"]
    (tmp_path / ID / "adapter" / "remote.id").unlink()
    sweep(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_sweep_removes_what_died_before_it_was_complete(tmp_path: Path) -> None:
    (tmp_path / ID).mkdir()
    (tmp_path / ID / "lock").touch()
    sweep(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_sweep_of_what_is_not_there_is_nothing(tmp_path: Path) -> None:
    sweep(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    sweep(tmp_path)
    assert (tmp_path / "file").exists()


def test_after_an_error_the_adapters_state_stays_for_a_retry(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ledger"), lease(tmp_path, ID) as folder:  # noqa: PT012 - it is the end of the block
        (folder / "adapter" / "remote.id").write_text("call-1")
        raise ValueError("ledger")
    assert not (tmp_path / ID / "work").exists()
    with lease(tmp_path, ID) as folder:
        assert (folder / "adapter" / "remote.id").read_text() == "call-1"


def test_after_an_error_without_state_nothing_stays(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="early"), lease(tmp_path, ID):
        raise ValueError("early")
    assert os.listdir(tmp_path) == []


def test_after_an_interrupt_nothing_stays(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match=r"^$"), lease(tmp_path, ID) as folder:  # noqa: PT012 - it is the end of the block
        (folder / "adapter" / "remote.id").write_text("call-1")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_home_that_cannot_be_written_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(StoreFailed, match="cannot make the folder"), lease(tmp_path / "state", ID):
        pass


def test_a_home_whose_link_leads_nowhere_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "state").symlink_to(tmp_path / "unmounted" / "state")
    with pytest.raises(StoreFailed, match="cannot make the folder"), lease(tmp_path / "state", ID):
        pass


def test_what_a_processor_made_hard_to_remove_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "work"
    (top / "locked" / "below").mkdir(parents=True)
    (top / "locked" / "below" / "file").write_text("x")
    (top / "locked" / "below" / "file").chmod(0)
    (top / "locked" / "below").chmod(0o500)
    (top / "locked").chmod(0)
    remove(top)
    assert not top.exists()


def deepen(top: Path) -> None:
    """Make folders in it, one in the other, deeper than a path may be."""
    here = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_what_is_linked_into_a_tree_that_is_hard_to_remove_keeps_its_mode(tmp_path: Path) -> None:
    blob, top = tmp_path / "blob", tmp_path / "work"
    blob.write_text("x")
    blob.chmod(0o444)
    for number in range(30):  # some of them are looked at after what stops the first try
        (top / f"artifacts{number}").mkdir(parents=True)
        os.link(blob, top / f"artifacts{number}" / "input")
    deepen(top)
    remove(top)
    assert not top.exists()
    assert stat.S_IMODE(blob.stat().st_mode) == 0o444


def test_what_cannot_be_removed_stays_for_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = tmp_path / "work"
    top.mkdir()
    deepen(top)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))  # no rm: as little to be had as where no file can be opened
        remove(top)
    assert top.exists()
    remove(top)
    assert not top.exists()


def test_nothing_is_removed_through_a_link(tmp_path: Path) -> None:
    safe = tmp_path / "safe"
    safe.mkdir()
    (safe / "file").write_text("x")
    safe.chmod(0o755)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "folder").symlink_to(safe)
    (tmp_path / "work" / "file").symlink_to(safe / "file")
    remove(tmp_path / "work")
    assert not (tmp_path / "work").exists()
    (tmp_path / "work").symlink_to(safe)
    remove(tmp_path / "work")
    assert not os.path.lexists(tmp_path / "work")
    assert (safe / "file").read_text() == "x"


def test_removing_what_is_not_there_is_fine(tmp_path: Path) -> None:
    remove(tmp_path / "none")


def test_a_lock_that_a_sweep_holds_for_a_moment_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "swept"
    folder.mkdir()
    holders = [os.open(folder / "lock", os.O_RDWR | os.O_CREAT)]
    fcntl.flock(holders[0], fcntl.LOCK_EX)
    monkeypatch.setattr("theory.disk.lease.time.sleep", lambda _: os.close(holders.pop()))
    with lease(tmp_path, "swept") as held:
        assert held == folder
    assert holders == []


def test_those_who_want_one_execution_at_once_get_it_one_after_the_other_or_are_told_to_wait(
    tmp_path: Path,
) -> None:
    inside, held = [0], [0]

    def want(_: int) -> None:
        for _ in range(30):
            with suppress(Busy), lease(tmp_path, ID) as folder:
                inside[0] += 1
                assert inside[0] == 1
                assert (folder / "work" / "out").is_dir()
                held[0] += 1
                inside[0] -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(want, range(4)))
    assert held[0] > 0
    assert os.listdir(tmp_path) == []
