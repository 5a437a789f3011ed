"""Whoever cannot write a home can still look at it, in whatever state its last user left it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.bed import Fake, good, house

LOOK = """
import sys
from theory.cancel import Cancellation
from theory.cli import run_command_line
for words in sys.argv[1:]:
    assert run_command_line(words.split(), Cancellation()) == 0, words
"""
LEAVE = """
import os, sys
from pathlib import Path
from core.bed import Fake, good, house
runner = house(Path(sys.argv[1]), Fake({"a.txt": "hello", "large.bin": "x" * 100_000}))
good(runner.run("test/thing@1"))
os._exit(0)  # its WAL stays
"""
STATES = ["closed", "left open", "left open and copied"]


def environ(folder: Path) -> dict[str, str]:
    paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    home = {"THEORY_HOME": str(folder / "home"), "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    return {**os.environ, **home, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture(params=STATES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a home in one of these states."""
    folder = tmp_path_factory.mktemp("shown")
    if request.param == "closed":
        with house(folder, Fake({"a.txt": "hello", "large.bin": "x" * 100_000})) as runner:
            good(runner.run("test/thing@1"))
    else:
        subprocess.run(
            [sys.executable, "-c", LEAVE, str(folder)], check=True, env=environ(folder), timeout=60
        )
    home = folder / "home"
    assert (home / "ledger.db-wal").exists() == (request.param != "closed")
    if request.param == "left open and copied":
        for shared in (home / "ledger.db-shm", home / "store" / "small.db-shm"):
            shared.unlink()
    (folder / "to").mkdir()
    return folder


def read_only(home: Path) -> tuple[str, ...]:
    """What runs a command that sees this folder on a read-only disk."""
    bind = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    wrapper = ("unshare", "-rm", "sh", "-c", bind, str(home))
    if subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode:
        pytest.skip("the file system cannot be mounted read-only here")
    return wrapper


def commands(folder: Path) -> list[str]:
    return [
        "ls",
        "ls /artifacts/",
        "cat /artifacts/outputs/a.txt",
        f"get /artifacts/outputs/large.bin --to {folder}/to",
        "verify",
        "verify --quick",
        "keep",
        "gc --dry-run",
        "plan ls",
    ]


def look(folder: Path, *wrapper: str) -> str:
    before = {str(path): path.lstat().st_mtime_ns for path in (folder / "home").rglob("*")}
    command = [*wrapper, sys.executable, "-W", "error", "-c", LOOK, *commands(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environ(folder), check=False, cwd=folder
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "to" / "large.bin").read_text() == "x" * 100_000
    assert {str(path): path.lstat().st_mtime_ns for path in (folder / "home").rglob("*")} == before
    return done.stdout


def test_a_home_on_a_read_only_disk_can_be_looked_at(folder: Path) -> None:
    wrapper = read_only(folder / "home")
    said = look(folder, *wrapper)
    assert "hello" in said
    assert said.count("whole: ") == 2


def test_a_home_without_the_right_to_write_can_be_looked_at(folder: Path) -> None:
    home = str(folder / "home")
    wrapper: tuple[str, ...] = ()
    if os.getuid() == 0:  # whom only the lack of capabilities stops
        subprocess.run(["chown", "-R", "65534", home], check=True)
        wrapper = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")
        if subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode:
            pytest.skip("runs as root")
    subprocess.run(["chmod", "-R", "a-w,a+rX", home], check=True)
    try:
        said = look(folder, *wrapper)
    finally:
        subprocess.run(["chmod", "-R", "u+w", home], check=True)
    assert "hello" in said
    assert said.count("whole: ") == 2


def test_what_cannot_be_written_says_so(folder: Path) -> None:
    wrapper = read_only(folder / "home")
    for words in ("gc", "gc --undo", "keep /artifacts/outputs/a.txt", "plan create other"):
        script = LOOK.replace("== 0, words", "in {3, 4}, words")
        command = [*wrapper, sys.executable, "-W", "error", "-c", script, words]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=environ(folder), check=False, cwd=folder
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith(("Error: cannot lock ", "Error: the ledger "))
        assert "writ" in done.stderr
