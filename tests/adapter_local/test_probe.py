"""An engine that does not see our files is found out by trying, once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from adapter_local.staging import Bed, bed
from theory import cid_of
from theory_adapter_local.engine.client import Refused
from theory_adapter_local.files.probe import Sight, sight_of

if TYPE_CHECKING:
    from pathlib import Path

    from theory_adapter_local.engine.client import Engine

PHOTO = "/artifacts/inputs/b3:00/photo.jpg"


@pytest.fixture(scope="module")
def image(engine: Engine, base_image: str) -> str:
    return str(engine.call("GET", f"/images/{base_image}/json")["Id"])


@pytest.fixture
def one(engine: Engine, image: str, tmp_path: Path) -> Bed:
    return bed(engine, image, tmp_path)


class Silent:
    """An engine that is not to be asked anything."""

    is_local = True

    def __init__(self, host: str, **info: Any) -> None:
        self.host = host
        self._info = info

    def info(self) -> Any:
        assert self._info, "the engine was asked"
        return self._info

    def call(self, *_: object, **__: object) -> None:
        raise AssertionError("the engine was asked")


class Elsewhere:
    """A real engine that finds other files under our paths, as one in a virtual machine does."""

    is_local = True
    host = "unix:///elsewhere"

    def __init__(self, engine: Engine, folder: Path, content: bytes | None) -> None:
        self._engine, self._folder, self._content = engine, folder, content
        self.info = engine.info
        self.environment = engine.environment

    def call(self, method: str, path: str, *, body: Any = None, **more: Any) -> Any:
        if body:
            body["HostConfig"]["Mounts"][0]["Source"] = str(self._folder)
        return self._engine.call(method, path, body=body, **more)

    def stream(self, method: str, path: str, *, query: Any, **more: Any) -> Any:
        if self._content is not None:
            (self._folder / query["path"].rpartition("/")[2]).write_bytes(self._content)
        return self._engine.stream(method, path, query=query, **more)


def test_an_engine_on_this_machine_sees_our_files_and_leaves_nothing(one: Bed) -> None:
    root = one.workspace.root
    assert sight_of(one.engine, one.ready.id, root, "here", one.workspace.cache).binds
    assert sorted(os.listdir(root)) == ["inputs.json", "out"]


def test_the_answer_is_kept_for_later_processes(one: Bed, tmp_path: Path) -> None:
    cache, other = one.workspace.cache, tmp_path / "other"
    sight = sight_of(one.engine, one.ready.id, one.workspace.root, "here", cache)
    shutil.copytree(cache, other)  # this process knows nothing of the copy
    silent: Any = Silent(one.engine.host)
    assert sight_of(silent, one.ready.id, one.workspace.root, "here", other) == sight
    assert sight_of(silent, one.ready.id, one.workspace.root, "here", other) == sight


@pytest.mark.parametrize("content", [None, b"other bytes"], ids=["an empty folder", "another file"])
def test_an_engine_that_mounts_something_else_sees_nothing_of_ours(
    one: Bed, tmp_path: Path, content: bytes | None
) -> None:
    (tmp_path / "else").mkdir()
    engine: Any = Elsewhere(one.engine, tmp_path / "else", content)
    assert not sight_of(engine, one.ready.id, one.workspace.root, "here", one.workspace.cache).binds


def test_an_image_that_is_gone_says_nothing_of_our_files(one: Bed, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="No such image"):
        sight_of(one.engine, "gone/gone:1", one.workspace.root, "here", tmp_path)
    assert not list(tmp_path.rglob("sight")), "the next run finds out anew"


def test_another_engine_at_the_same_socket_is_asked_anew(tmp_path: Path) -> None:
    socket, cache = tmp_path / "docker.sock", tmp_path / "cache"
    socket.touch()
    mapped: Any = Silent(f"unix://{socket}", SecurityOptions=["name=seccomp", "name=userns"])
    assert sight_of(mapped, "", tmp_path, "here", cache) == Sight(binds=False, rootless=False)
    silent: Any = Silent(f"unix://{socket}")
    assert not sight_of(silent, "", tmp_path, "here", cache).binds
    (tmp_path / "docker.pid").touch()  # it was started again behind a socket of systemd's
    with pytest.raises(AssertionError, match="the engine was asked"):
        sight_of(silent, "", tmp_path, "here", cache)


@pytest.mark.parametrize("option", ["name=userns", "name=selinux"])
def test_an_engine_with_ideas_of_its_own_gets_copies(tmp_path: Path, option: str) -> None:
    engine: Any = Silent(f"unix://{tmp_path}/s", SecurityOptions=["name=seccomp,profile=default", option])
    assert not sight_of(engine, "", tmp_path, "here", tmp_path).binds


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:2375", "ssh://somebody@somewhere"])
def test_a_remote_engine_is_not_even_asked(tmp_path: Path, host: str) -> None:
    engine: Any = Silent(host)
    engine.is_local = False
    assert not sight_of(engine, "", tmp_path, "here", tmp_path).binds


@pytest.mark.parametrize("text", ["", "null", "[]", "[1,2,3]", '{"a":1}', "[" * 100_000])
def test_a_damaged_answer_is_none(tmp_path: Path, text: str) -> None:
    engine: Any = Silent(f"unix://{tmp_path}/s", SecurityOptions=["name=userns"])
    sight_of(engine, "", tmp_path, "here", tmp_path / "a")
    (kept,) = (tmp_path / "a" / "sight").iterdir()
    (tmp_path / "b" / "sight").mkdir(parents=True)
    (tmp_path / "b" / "sight" / kept.name).write_text(text)
    assert not sight_of(engine, "", tmp_path, "here", tmp_path / "b").binds


def test_a_workspace_that_the_engine_does_not_see_is_copied(
    engine: Engine, image: str, tmp_path: Path
) -> None:
    """Our own mount namespace has another disk in the place where the engine finds an empty folder."""
    if os.geteuid() != 0:
        pytest.skip("the file system cannot be mounted here: only root may")
    place = tmp_path / "place"
    place.mkdir()
    program = f"""
import json, sys
from pathlib import Path
sys.path[:0] = {sys.path!r}
from adapter_local.staging import bed, created, run, answer
from theory_adapter_local.engine.client import engine_of
engine = engine_of()
one = bed(engine, {image!r}, Path({str(place)!r}), {{{PHOTO!r}: b"blob"}})
files = one.files()
with created(engine, one.ready.id, files, "cat {PHOTO} > /job/out/copy") as container:
    said = run(engine, container)
    files.collect(container)
left = answer(one.job.processor, one.workspace.out, one.workspace.cache)
print(json.dumps([type(files.way).__name__, said, left]))
files.close()
"""
    inner = f'mount -t tmpfs none {place} && exec "$PYTHON" -B -c "$PROGRAM"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", inner],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PROGRAM": program, "PYTHON": sys.executable, "DOCKER_HOST": engine.host},
    )
    if done.stderr.startswith(("unshare:", "mount:")):
        pytest.skip(f"the file system cannot be mounted here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["Copies", "", {"copy": cid_of(b"blob")}]
    assert not any(place.iterdir())
