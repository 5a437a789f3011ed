"""Nothing of ours outlives its caller at the engine, however the caller ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from adapter_local.callers import Caller, create, eventually, expect_end, expect_gone, is_there, remove
from adapter_local.command import SOON
from theory import Owner, errors
from theory_adapter_local.engine.client import Lost
from theory_adapter_local.guard.orphans import (
    remove_folder,
    remove_former,
    remove_left_folders,
    remove_orphans,
    remove_watched,
    sweep,
)
from theory_adapter_local.guard.watchdog import guard_of, owner_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from theory_adapter_local.engine.client import Engine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture
def call(engine: Engine, base_image: str) -> Iterator[Callable[..., Caller]]:
    assert base_image == "python:3.11-slim", "caller.py runs that one"
    callers: list[Caller] = []

    def begin(**how: Any) -> Caller:
        callers.append(Caller(engine, **how))
        return callers[-1]

    yield begin
    for caller in callers:
        caller.close()


@pytest.fixture
def container(engine: Engine, base_image: str) -> Iterator[Callable[..., str]]:
    """Makes containers that do not run, with labels; gives their names."""
    made: list[str] = []

    def make(name: str = "", **labels: str) -> str:
        made.append(name or f"theory-test-{uuid.uuid4().hex}")
        create(engine, made[-1], base_image, {key.replace("_", "."): value for key, value in labels.items()})
        return made[-1]

    yield make
    for name in made:
        remove(engine, name)


# ---------------------------------------------------------------- the caller dies


@pytest.mark.parametrize("more", [(), ("start()",), ("start()", "collect()")], ids=repr)
def test_kill_9_of_the_caller_removes_its_container(
    call: Callable[..., Caller], more: tuple[str, ...]
) -> None:
    caller = call()
    watchdog = int(caller("watch()"))
    container = caller("create()")
    for step in more:
        caller(step)
    caller.die()
    expect_gone(caller.engine, container)
    expect_end(watchdog)


@pytest.mark.parametrize(
    "ending",
    ["os._exit(0)", "1 / 0", "os.kill(os.getpid(), signal.SIGTERM)"],
)
def test_a_caller_that_leaves_otherwise_leaves_nothing_either(
    call: Callable[..., Caller], ending: str
) -> None:
    caller = call(stderr=subprocess.DEVNULL)
    container = caller.run()
    assert caller.process.stdin is not None
    caller.process.stdin.write(f"{ending}\n".encode())
    caller.process.stdin.close()
    expect_gone(caller.engine, container)


def test_a_container_that_is_created_after_its_caller_died_is_removed(
    call: Callable[..., Caller], container: Callable[..., str], engine: Engine
) -> None:
    """As when the caller is killed while the engine creates it."""
    caller = call()
    first, late = caller.run(), f"{caller.name}-late"
    watchdog = int(caller(f"watch({late!r})"))
    owner = caller("own_labels(3600)['theory.owner']")
    caller.die()
    expect_gone(engine, first)  # so the watchdog has looked once
    container(late, theory_owner=owner)
    expect_gone(engine, late)
    expect_end(watchdog)


def test_kill_9_of_the_caller_ends_the_build_of_an_image(call: Callable[..., Caller]) -> None:
    """The engine itself does this when the connection closes."""
    caller = call()
    container = caller("build()")
    assert is_there(caller.engine, container)
    caller.die()
    expect_gone(caller.engine, container)


def test_of_two_callers_the_other_keeps_its_container(call: Callable[..., Caller]) -> None:
    one, other = call(), call()
    gone, stays = one.run(), other.run()
    one.die()
    expect_gone(one.engine, gone)
    assert other.engine.call("GET", f"/containers/{stays}/json")["State"]["Running"]
    other("remove()")
    assert not is_there(other.engine, stays)


def test_a_caller_that_dies_while_its_container_is_removed_keeps_no_watchdog(
    call: Callable[..., Caller],
) -> None:
    caller = call()
    watchdog = int(caller("watch()"))
    remove(caller.engine, caller("create()"))
    caller.die()
    expect_end(watchdog, within=5)  # it does not look for what was there


def test_a_container_is_watched_before_and_after_the_engine_has_said_its_id(
    call: Callable[..., Caller], engine: Engine, base_image: str
) -> None:
    caller = call()
    caller("watch()")
    create(engine, caller.name, base_image, {"theory.owner": caller("own_labels(1)['theory.owner']")})
    caller.die()
    expect_gone(engine, caller.name)


def test_the_container_of_a_later_try_is_not_taken_for_the_former_one(
    engine: Engine, container: Callable[..., str]
) -> None:
    name = container(theory_owner=owner_text())
    remove_watched("another-boot:1:2:3", [name], look_s=0)
    assert is_there(engine, name)


# ---------------------------------------------------------------- what the watchdog is and is not


def test_a_watchdog_with_nothing_to_watch_ends_with_its_caller(call: Callable[..., Caller]) -> None:
    caller = call()
    watchdog = int(caller("watch()"))
    caller("create()")
    caller("remove()")
    caller.die()
    expect_end(watchdog, within=5)  # less than it would look for a container


def test_no_polite_signal_ends_the_watchdog_before_its_caller(call: Callable[..., Caller]) -> None:
    caller = call()
    watchdog = int(caller("watch()"))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        os.kill(watchdog, number)
    container = caller("create()")
    caller.die()
    expect_gone(caller.engine, container)


def test_a_killed_watchdog_is_replaced_by_one_that_knows_all(call: Callable[..., Caller]) -> None:
    caller = call()
    os.kill(int(caller("watch()")), signal.SIGKILL)
    first = caller("create()")
    assert int(caller("watch('theory-test-another')"))
    caller.die()
    expect_gone(caller.engine, first)


def test_the_watchdog_forgets_what_it_is_told_to(call: Callable[..., Caller], tmp_path: Path) -> None:
    folders = [tmp_path / f"theory-{name}" for name in ("one", "two", "two words", "three*", "t")]
    caller = call()
    for folder in folders:
        folder.mkdir()
        watchdog = int(caller(f"watch({str(folder)!r})"))
    for folder in (*folders[1:4], folders[1]):
        caller(f"guard.forget({str(folder)!r})")
    caller(f"watch({str(folders[2])!r})")
    caller.die()
    expect_end(watchdog, within=5)
    assert {folder.name for folder in tmp_path.iterdir()} == {"theory-two", "theory-three*"}


def test_a_thousand_containers_need_one_watchdog_and_no_more_files(call: Callable[..., Caller]) -> None:
    caller = call()
    watchdog, files = caller("watch()"), caller("len(os.listdir('/proc/self/fd'))")
    caller("[(guard.watch(f'theory-{i}'), guard.forget(f'theory-{i}')) for i in range(1000)] and 1")
    assert caller("watch()") == watchdog
    assert caller("len(os.listdir('/proc/self/fd'))") == files
    caller("guard.forget(NAME)")
    caller.die()
    expect_end(int(watchdog), within=5)


def test_the_watchdog_has_nothing_of_its_caller(call: Callable[..., Caller]) -> None:
    caller = call()
    caller("[os.set_inheritable(end, True) for end in os.pipe()]")
    watchdog = Path("/proc", caller("watch()"))

    def has_opened(*what: str) -> bool:
        try:
            return {os.readlink(file).partition(":")[0] for file in (watchdog / "fd").iterdir()} == {*what}
        except FileNotFoundError:  # closed meanwhile
            return False

    eventually(lambda: has_opened("socket", os.devnull))
    assert "sk-of-the-caller" not in (watchdog / "environ").read_text()
    assert os.getsid(int(watchdog.name)) == int(watchdog.name)


@pytest.mark.parametrize("kind", ["fork", "spawn"])
def test_a_child_of_the_caller_keeps_nothing_alive(call: Callable[..., Caller], kind: str) -> None:
    caller = call()
    container = caller.run()
    child = int(caller(f"{kind}()"))
    caller.die()
    expect_gone(caller.engine, container)
    os.kill(child, 0)  # it still has all that it inherited


def test_a_fork_has_a_watchdog_of_its_own(call: Callable[..., Caller]) -> None:
    caller = call()
    container = caller.run()
    assert caller("fork_runs_one()") == "0"
    expect_gone(caller.engine, f"{caller.name}-fork")
    assert is_there(caller.engine, container)


def test_nothing_runs_unwatched(call: Callable[..., Caller]) -> None:
    caller = call()
    caller("resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir('/proc/self/fd')), 64))")
    assert caller("refusal(watch)") == "the watchdog of the containers cannot be had: Too many open files"


# ---------------------------------------------------------------- folders


def test_a_folder_is_removed_with_its_callers_death(call: Callable[..., Caller], tmp_path: Path) -> None:
    secret = tmp_path / "theory-secret"
    secret.mkdir()
    (secret / "OPENAI_API_KEY").write_text("sk-1")
    secret.chmod(0o500)
    caller = call()
    watchdog = int(caller(f"watch({str(secret)!r})"))
    caller.die()
    expect_end(watchdog, within=5)
    assert not secret.exists()


def test_only_a_folder_of_ours_is_removed(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "file").touch()
    (tmp_path / "theory-link").symlink_to("home")
    for name in ("home", "theory-link", "theory-none"):
        remove_folder(str(tmp_path / name))
    assert (tmp_path / "home" / "file").exists()


def test_the_folders_of_dead_callers_are_removed_at_the_next_start(tmp_path: Path) -> None:
    for owner in (DEAD, UNKNOWN, owner_text()):
        (tmp_path / f"theory-{owner.replace(':', '.')}-5f3a").mkdir()
    assert remove_left_folders([tmp_path / "nowhere", tmp_path]) == 1
    assert len(list(tmp_path.iterdir())) == 2


# ---------------------------------------------------------------- the next start

DEAD = "{0.boot}:{0.namespace}:{0.pid}:1".format(Owner.here())  # this pid, but started at another time
UNKNOWN = "another-boot:1:2:3"
LATER, BEFORE = str(int(time.time()) + 3600), "1"


@pytest.mark.parametrize(
    ("labels", "stays"),
    [
        pytest.param({"theory_owner": DEAD, "theory_deadline": LATER}, False, id="its owner is dead"),
        pytest.param({"theory_owner": UNKNOWN, "theory_deadline": BEFORE}, False, id="past its deadline"),
        pytest.param({"theory_owner": UNKNOWN, "theory_deadline": LATER}, True, id="of another machine"),
        pytest.param({"theory_owner": owner_text(), "theory_deadline": LATER}, True, id="its owner lives"),
        pytest.param({"theory_owner": DEAD}, True, id="no deadline"),
        pytest.param({"theory_owner": "somebody", "theory_deadline": BEFORE}, True, id="not our owner"),
        pytest.param({"theory_deadline": BEFORE}, True, id="no owner"),
        pytest.param({}, True, id="no label"),
        pytest.param(
            {"theory_owner": DEAD, "theory_deadline": BEFORE, "theory_keep": "true"}, True, id="to be kept"
        ),
    ],
)
def test_orphans_are_what_is_surely_left_over(
    engine: Engine, container: Callable[..., str], labels: dict[str, str], *, stays: bool
) -> None:
    name = container(**labels)
    remove_orphans(engine)
    assert is_there(engine, name) is stays


def test_a_kept_container_of_a_dead_caller_is_stopped(call: Callable[..., Caller]) -> None:
    caller = call()
    caller("watch()")
    caller("create(**{'theory.keep': 'true'})")
    caller("start()")
    caller.die()
    caller.engine.call("POST", f"/containers/{caller.name}/wait", timeout_s=SOON)
    assert is_there(caller.engine, caller.name)


def test_a_sweep_fails_no_run_where_the_engine_is_gone() -> None:
    """What a thread raises fails the test in which it ends."""

    class Gone:
        host = "unix:///nowhere"

        def call(self, *_: object, **__: object) -> None:
            raise Lost("the engine may be gone")

    sweep(cast("Engine", Gone()))
    for thread in threading.enumerate():
        if thread.name == "theory-orphans":
            thread.join(SOON)
            assert not thread.is_alive()


def test_a_former_try_makes_way(engine: Engine, container: Callable[..., str]) -> None:
    name = container(theory_owner=DEAD)
    remove_former(engine, name)
    assert not is_there(engine, name)
    remove_former(engine, name)  # it may have gone by itself


@pytest.mark.parametrize("labels", [{"theory_owner": owner_text()}, {}], ids=["its owner lives", "not ours"])
def test_what_is_no_former_try_stays(
    engine: Engine, container: Callable[..., str], labels: dict[str, str]
) -> None:
    name = container(**labels)
    with pytest.raises(errors.Busy, match=f"there is a container {name} already"):
        remove_former(engine, name)
    assert is_there(engine, name)


def test_engines_that_are_found_otherwise_have_other_watchdogs() -> None:
    def engine(**environment: str) -> Any:
        return SimpleNamespace(host="tcp://machine:2376", environment=environment)

    first = guard_of(engine(DOCKER_CERT_PATH="/a"))
    assert guard_of(engine(DOCKER_CERT_PATH="/a")) is first
    assert guard_of(engine(DOCKER_CERT_PATH="/b")) is not first


def test_a_process_that_had_a_watchdog_ends_without_a_warning(engine: Engine) -> None:
    # What the interpreter drops at its end, and when, differs from one to the next: here it is dropped last.
    program = f"""
import atexit
atexit.register(lambda: (watchdog._guards.clear(), client._engines.clear()))
from theory_adapter_local.engine import client
from theory_adapter_local.guard import watchdog
engine = client.engine_of()
assert engine.version()
watchdog.guard_of(engine).watch("theory-test-{uuid.uuid4().hex}")
"""
    environment = {**os.environ, **engine.environment, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program],
        env=environment,
        stderr=subprocess.PIPE,
        timeout=SOON,
        check=True,
    )
    assert done.stderr == b""
