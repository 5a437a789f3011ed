"""Nothing that was acknowledged is lost with the power, and nothing that is there leads to nothing.

The file system is real, and so is the loss: see proofs/power.py. Each control breaks one promise.

The long form, some minutes, which prints its figures:
``tox -e proofs -- tests/proofs/test_power.py -s --hypothesis-profile long -o faulthandler_timeout=0``.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from core.bed import Fake, good, house
from proofs import power_load
from proofs.power import NAME
from proofs.power_driver import Cut, Found
from theory.disk import durable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Literal

IS_LONG = settings().max_examples > 1000  # --hypothesis-profile long
LOSSES = 600 if IS_LONG else 20  # … under load, each in a run of so many with one home:
RUN = 12
COMMANDS = 60 if IS_LONG else 4
MOST_STEPS = 100
CAP_SYS_ADMIN = 21
ON_THE_DISK = sorted(power_load.MUTANTS.keys() - {"no parent sync"})
PATIENCE_S = 60


class Power:
    """The process that has the disk: what it is asked is done there."""

    def __init__(self, folder: Path) -> None:
        (folder / "mount").mkdir()
        self._said = folder / "stderr"
        tests = str(Path(__file__).parent.parent)
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, "-W", "error", "-m", "proofs.power_driver", str(folder / "mount")]
        with self._said.open("w") as said:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, env=environ
            )
        if refused := self._answer().get("refused"):
            self.close()
            refuse(refused)

    def lose(self, cut: Cut) -> Found:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asdict(cut)) + "\n")
        self.process.stdin.flush()
        return Found(**self._answer())

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self._said.read_text()
        return json.loads(line)


def refuse(why: str) -> None:
    """Skip where a machine does not let us; in CI, one that should let us fails."""
    status = Path("/proc/self/status").read_text()
    able = int(status.partition("CapEff:")[2].split()[0], 16) >> CAP_SYS_ADMIN & 1
    if os.environ.get("CI") == "true" and able and os.path.exists("/dev/loop-control"):
        pytest.fail(f"ext4 could be mounted here, and was not: {why}")
    pytest.skip(f"the file system ext4 cannot be mounted here: {why}")


def may_mount() -> None:
    if sys.platform != "linux":
        pytest.skip("needs Linux")
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture(scope="module")
def power(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Power]:
    may_mount()
    power = Power(tmp_path_factory.mktemp("power"))
    yield power
    power.close()


def steps(power: Power, begin: Literal["warm", "new"], mutant: str = "") -> Iterator[Found]:
    """A loss after each step of the same work, from the first one on, each time from the same disk."""
    for step in range(1, MOST_STEPS):
        found = power.lose(Cut("step", after=step, begin=begin, mutant=mutant))
        yield found
        if found.is_over:
            return
    raise AssertionError(f"the work is not over after {MOST_STEPS} steps")


@pytest.mark.parametrize("begin", ["warm", "new"])
def test_a_loss_after_any_step_takes_nothing_that_was_told(
    power: Power, begin: Literal["warm", "new"]
) -> None:
    found = list(steps(power, begin))
    assert [each.faults for each in found] == [[]] * len(found)
    assert [each.told for each in found] == sorted(each.told for each in found)
    assert {0, 1, 2, 3, 4} == {each.told for each in found}


@pytest.mark.parametrize("mutant", ON_THE_DISK)
def test_who_forgets_one_of_them_is_caught(power: Power, mutant: str) -> None:
    assert any(found.faults for found in steps(power, "warm", mutant))


def test_losses_under_load_take_nothing_that_was_told(power: Power) -> None:
    choice = random.Random(5)  # noqa: S311 - the same every time
    told, began = 0, time.monotonic()
    for number in range(LOSSES):
        cut = Cut(
            "acknowledged",
            after=choice.randrange(1, 10),
            at_most_s=0.02,
            begin="" if number % RUN else choice.choice(["warm", "new"]),
        )
        found = power.lose(cut)
        assert found.faults == [], (number, cut)
        told += found.told
    assert told >= LOSSES
    each = LOSSES / (time.monotonic() - began)
    print(f"{LOSSES} losses of power, {each:.1f} a second; {told} executions were told, 0 lost")  # noqa: T201 - figures


def test_what_the_command_has_printed_is_there_if_the_power_goes_with_the_line(power: Power) -> None:
    for number in range(COMMANDS):
        begin: Literal["warm", "new", ""] = "" if number % 4 > 1 else "warm" if number % 4 else "new"
        found = power.lose(Cut("command", after=1, at_most_s=0.01 * (number % 2), begin=begin))
        assert (found.told, found.faults) == (1, []), number


# ---------------------------------------------------------------- what ext4 forgives


class Strict:
    """What a disk may forget that keeps what it was asked to and no more: ext4 commits all names at once."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._names: dict[int, set[str]] = {}  # not durable yet, by the inode of their folder
        self._files: set[int] = set()  # inodes whose bytes are durable
        mkdir, replace, sync = os.mkdir, os.replace, durable.sync

        def made(path: Any, *arguments: Any, **more: Any) -> None:
            mkdir(path, *arguments, **more)
            if more.get("dir_fd") is None:
                self._named(path)

        def moved(source: Any, path: Any, **more: Any) -> None:
            replace(source, path, **more)
            if not more:
                self._named(path)

        def synced(descriptor: int) -> None:
            sync(descriptor)
            inode = os.fstat(descriptor).st_ino
            self._names.pop(inode, None)
            self._files.add(inode)

        patch.setattr(os, "mkdir", made)
        patch.setattr(os, "replace", moved)
        patch.setattr(durable, "sync", synced)

    def forgets(self, store: Path, top: Path) -> Iterator[str]:
        """Names and bytes of large blobs that nobody has asked to keep, up to a folder above the store."""
        pending = set[str]().union(*self._names.values())
        for file in store.glob("blobs/b3/*/*"):
            if file.stat().st_ino not in self._files:
                yield f"the bytes of {file}"
            for path in (file, *file.parents):
                if path == top:
                    break
                if str(path) in pending:
                    yield f"the name {path}"

    def _named(self, path: Any) -> None:
        self._names.setdefault(os.stat(os.path.dirname(path)).st_ino, set()).add(str(path))


def forgotten(folder: Path, patch: pytest.MonkeyPatch, mutant: Callable[[], None] | None = None) -> list[str]:
    strict = Strict(patch)
    if mutant is not None:
        mutant()
    large = Fake({"large.bin": bytes(power_load.LARGE)})
    with house(folder, large, environ={"THEORY_HOME": str(folder / "new" / "new" / "home")}) as runner:
        good(runner.run("test/thing@1"))
    return list(strict.forgets(folder / "new" / "new" / "home" / "store", folder))


def test_every_name_and_every_byte_of_a_large_blob_was_asked_to_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert forgotten(tmp_path, monkeypatch) == []


@pytest.mark.parametrize("mutant", ["no file sync", "no folder sync", "no parent sync"])
def test_who_does_not_ask_for_one_of_them_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    assert forgotten(tmp_path, monkeypatch, power_load.MUTANTS[mutant])


# ---------------------------------------------------------------- where it runs, and what it leaves behind


def test_ci_does_not_skip_this_where_the_machine_can_do_it(
    power: Power, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert power.process.poll() is None
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="ext4 could be mounted here, and was not: on a whim"):
        refuse("on a whim")


def test_a_driver_that_is_killed_leaves_no_mount_and_no_loop_device(tmp_path: Path) -> None:
    may_mount()
    power = Power(tmp_path)
    name = NAME.format(power.process.pid)
    assert power.process.stdin is not None
    power.process.stdin.write(json.dumps(asdict(Cut("acknowledged", after=10**6))) + "\n")
    power.process.stdin.flush()

    def until(condition: bool, deadline: float = time.monotonic() + PATIENCE_S) -> None:
        while is_held(name) is not condition:
            assert time.monotonic() < deadline, "it stays so"
            time.sleep(0.01)

    until(condition=True)
    power.process.send_signal(signal.SIGKILL)
    power.process.communicate()
    until(condition=False)
    assert not os.path.ismount(tmp_path / "mount")
    assert list((tmp_path / "mount").iterdir()) == []


def is_held(name: str) -> bool:
    """Whether a loop device has an image of this name."""
    files = (file for file in Path("/sys/block").glob("loop*/loop/backing_file"))
    return any(name in text for file in files if (text := read(file)))


def read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # let go of meanwhile
        return ""
