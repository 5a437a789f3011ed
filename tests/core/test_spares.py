"""Folders that go from one execution to the next: as good as new, and nobody's once their owner is dead."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from core.bed import Call, Fake, done, good, house, read
from theory.disk.lease import bury, lease, sweep
from theory.disk.spares import Spares
from theory.errors import Busy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FIRST, SECOND = "01890a5d-ac96-774b-bcce-b302099a8057", "01890a5d-ac96-774b-bcce-b302099a8058"


@pytest.fixture
def spares(tmp_path: Path) -> Iterator[Spares]:
    folders = Spares(tmp_path)
    yield folders
    folders.close()
    assert os.listdir(tmp_path) == []


def use(states: Path, spares: Spares, id_: str, fill: Callable[[Path], object] = lambda _: None) -> int:
    """Hold a lease and fill its folder as an execution does; the folder's inode."""
    with lease(states, id_, spares) as folder:
        assert sorted(os.listdir(folder)) == ["adapter", "lock", "work"]
        assert os.listdir(folder / "work") == ["out"]
        assert os.listdir(folder / "work" / "out") == os.listdir(folder / "adapter") == []
        (folder / "work" / "inputs.json").write_text("{}")
        (folder / "work" / "out" / "text").mkdir()
        (folder / "work" / "out" / "text" / "a.txt").write_text("a")
        fill(folder)
        return folder.stat().st_ino


def test_the_next_execution_gets_the_folder_of_the_last_one_empty(tmp_path: Path, spares: Spares) -> None:
    assert use(tmp_path, spares, FIRST) == use(tmp_path, spares, SECOND)


@pytest.mark.parametrize(
    "fill",
    [
        pytest.param(lambda folder: (folder / "adapter" / "id").write_text("call-1"), id="state"),
        pytest.param(lambda folder: (folder / "work" / "more").write_text("x"), id="work"),
        pytest.param(lambda folder: (folder / "more").write_text("x"), id="folder"),
        pytest.param(lambda folder: (folder / "work" / "out").chmod(0o300), id="mode"),
        pytest.param(lambda folder: (folder / "work" / "out").rename(folder / "work" / "o"), id="gone"),
        pytest.param(lambda folder: (folder / "work" / "inputs.json").unlink(), id="inputs"),
    ],
)
def test_a_folder_that_is_more_than_filled_is_removed(
    fill: Callable[[Path], object], tmp_path: Path, spares: Spares
) -> None:
    use(tmp_path, spares, FIRST)
    use(tmp_path, spares, SECOND, fill)
    assert os.listdir(tmp_path) == []


def test_nothing_is_emptied_through_a_link(tmp_path: Path, spares: Spares) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").write_text("x")

    def lead_away(folder: Path) -> None:
        (folder / "work" / "out").rename(folder / "work" / "o")
        (folder / "work" / "out").symlink_to(tmp_path / "theirs")

    use(tmp_path, spares, FIRST, lead_away)
    assert (tmp_path / "theirs" / "file").exists()
    (tmp_path / "theirs" / "file").unlink()
    (tmp_path / "theirs").rmdir()


def test_after_an_error_or_an_interrupt_no_folder_is_kept(tmp_path: Path, spares: Spares) -> None:
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error, match="early"), lease(tmp_path, FIRST, spares):
            raise error("early")
        assert os.listdir(tmp_path) == []


def test_a_spare_that_somebody_removed_is_made_anew(tmp_path: Path, spares: Spares) -> None:
    use(tmp_path, spares, FIRST)
    (spare,) = tmp_path.iterdir()
    spare.rename(tmp_path.parent / "elsewhere")
    use(tmp_path, spares, SECOND)


def test_an_execution_that_somebody_holds_is_refused_and_left_alone(tmp_path: Path, spares: Spares) -> None:
    use(tmp_path, spares, FIRST)
    with lease(tmp_path, SECOND) as folder:
        (folder / "work" / "out" / "half.txt").write_text("half")
        with pytest.raises(Busy, match="is running elsewhere"), lease(tmp_path, SECOND, spares):
            pass
        assert (folder / "work" / "out" / "half.txt").exists()


def test_a_sweep_leaves_the_spares_of_the_living_and_removes_those_of_the_dead(tmp_path: Path) -> None:
    told, tell = os.pipe()
    wait, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go)
        folders = Spares(tmp_path)
        use(tmp_path, folders, FIRST)
        os.write(tell, b"x")
        os.read(wait, 1)
        os._exit(0)
    os.read(told, 1)
    sweep(tmp_path)
    assert len(os.listdir(tmp_path)) == 1
    os.close(go)
    os.waitpid(pid, 0)
    sweep(tmp_path)
    assert os.listdir(tmp_path) == []
    for end in (told, tell, wait):
        os.close(end)


def test_a_forked_child_leaves_its_parents_spares_alone(tmp_path: Path, spares: Spares) -> None:
    before = use(tmp_path, spares, FIRST)
    pid = os.fork()
    if pid == 0:
        other = use(tmp_path, spares, SECOND)
        spares.close()
        os._exit(other == before)
    assert os.waitpid(pid, 0)[1] == 0
    assert use(tmp_path, spares, SECOND) == before


def test_who_dies_at_any_step_leaves_what_a_sweep_removes(tmp_path: Path) -> None:
    steps, ended = 0, False
    while not ended:
        steps += 1
        pid = os.fork()
        if pid == 0:
            left = steps

            def step(event: str, _: object) -> None:
                nonlocal left
                left -= event.startswith(("os.", "open", "fcntl."))
                if not left:
                    os._exit(9)

            sys.addaudithook(step)
            folders = Spares(tmp_path)
            for id_ in (FIRST, SECOND):
                use(tmp_path, folders, id_)
            folders.close()
            os._exit(0)
        ended = os.waitpid(pid, 0)[1] == 0
        sweep(tmp_path)
        left_over = [name for folder in tmp_path.iterdir() for name in os.listdir(folder)]
        assert all(name.startswith("lock.") for name in left_over), steps
        bury(tmp_path, lambda *_: False)  # what died before it had its lock: theory gc does this
        assert os.listdir(tmp_path) == []
    assert steps > 50


def test_executions_of_many_threads_get_folders_of_their_own(tmp_path: Path) -> None:
    def act(call: Call) -> object:
        call.channel.started()
        assert list(call.workspace.out.iterdir()) == []
        call.write({f"{call.job.inputs['n']}.txt": "x"})
        return done()

    prefix = "/artifacts/outputs/{execution_id}/"
    with house(tmp_path, Fake(act=act, pretends=True)) as runner, ThreadPoolExecutor(4) as pool:

        def run(number: int) -> None:
            envelope = good(runner.run("test/thing@1", {"n": number}, memo="off", write_prefix=prefix))
            (output,) = envelope.outputs
            assert output.path.endswith(f"/{number}.txt")
            assert read(runner, output.path) == b"x"

        list(pool.map(run, range(40)))
        names = os.listdir(tmp_path / "home" / "state")
        assert names
        assert all(name.endswith(".spare") for name in names)
    assert os.listdir(tmp_path / "home" / "state") == []


def test_an_adapter_that_runs_something_gets_a_fresh_folder_each_time(tmp_path: Path) -> None:
    with house(tmp_path, Fake(pretends=False)) as runner:
        for number in range(3):
            good(runner.run("test/thing@1", {"n": number}))
            assert os.listdir(tmp_path / "home" / "state") == []
