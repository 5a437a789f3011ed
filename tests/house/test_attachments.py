"""What `--attach` names is taken whole under its own name, or refused with its code and its reason."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import unicodedata
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from house.command import Theory

SOON = 15  # seconds in which a signal must have been answered
# b3sum of 5 GiB of zeros
FIVE_GIB = "b3:bcf27a182cee2a75728e2617d0ac5d90f902207f5332cf7190b345d96e9fd221"


def arguments(source: str | Path, *options: str, adapter: str = "mock") -> tuple[str, ...]:
    run = ("run", "text/wordcount@1", "--adapter", adapter, "--json", "--no-memo", *options)
    return (*run, "--inputs-json", '{"file":{"$attach":"file"}}', "--attach", f"file={source}")


def kept(theory: Theory) -> list[list[str]]:
    """Size, cid and world path of every attachment so far."""
    lines = theory("ls", "/artifacts/inputs/").ok().stdout.splitlines()
    return [line.split("  ", 2) for line in lines]


NAMES = {
    "0 bytes": ("empty.txt", ""),
    "a name of 255 bytes": ("ü" * 125 + "x.txt", "two words"),
    "a name in normal form D": (unicodedata.normalize("NFD", "für.txt"), "two words"),
    "a name with spaces and quotes": (" it's $HOME;*.txt", "two words"),
    "a name that looks like an option": ("--json", "two words"),
}


@pytest.mark.parametrize("case", NAMES)
def test_a_file_is_opened_by_the_processor_under_its_own_name(theory: Theory, case: str) -> None:
    name, content = NAMES[case]
    (theory.cwd / name).write_text(content)
    envelope = theory(*arguments(name, adapter="process")).ok().line
    counts = json.loads(theory("cat", envelope["outputs"][0]["path"]).ok().stdout)
    assert counts["words"] == len(content.split())
    ((size, cid, path),) = kept(theory)
    assert (size, path) == (
        str(len(content)),
        f"/artifacts/inputs/{cid}/{unicodedata.normalize('NFC', name)}",
    )


def folder(path: Path) -> None:
    path.mkdir()


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def nothing(path: Path) -> None:
    del path


REFUSED = {
    "nothing": ("photo.jpg", nothing, "Attachment file not found: photo.jpg"),
    "a dangling link": ("photo.jpg", dangling, "Attachment file not found: photo.jpg"),
    "a link to itself": ("photo.jpg", loop, "photo.jpg cannot be read: Too many levels of symbolic links"),
    "a directory": ("photo.jpg", folder, "photo.jpg is a directory"),
    "a device": ("zero", device, "zero is a device"),
    "a control character": (
        "a\x1b[31mb",
        nothing,
        "'a\\u001b[31mb' has a control or direction-changing char",
    ),
    "a character that turns text around": ("a\u202egpj.exe", nothing, "has a control or direction-changing"),
    "a name that is not UTF-8": ("a\udcff.txt", nothing, "has a name that is not UTF-8"),
    "a backslash": ("a\\b", nothing, "has a slash or backslash inside a name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_attachment_is_refused_with_its_reason(theory: Theory, case: str) -> None:
    name, make, reason = REFUSED[case]
    make(theory.cwd / name)
    result = theory(*arguments(name))
    error = result.line["error"]
    assert (result.code, error["code"]) == (2, "ERR_ATTACHMENT_NOT_FOUND")
    assert reason in error["message"]
    assert error["hint"]
    assert (result.stderr, error["message"].isprintable()) == ("", True)


def test_a_file_that_may_not_be_read_is_refused(theory: Theory) -> None:
    if os.geteuid() == 0:
        pytest.skip("runs as root, whom no permission stops")
    (theory.cwd / "secret.txt").touch(mode=0)
    result = theory(*arguments("secret.txt"))
    assert (result.code, result.line["error"]["code"]) == (2, "ERR_ATTACHMENT_NOT_FOUND")
    assert "secret.txt cannot be read: Permission denied" in result.line["error"]["message"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: /proc")
def test_ctrl_c_ends_the_wait_for_a_pipe_that_nobody_writes_to(theory: Theory) -> None:
    os.mkfifo(theory.cwd / "pipe.txt")
    process = theory.start(*arguments("pipe.txt"))
    opened = str(theory.cwd / "pipe.txt")
    while not any(_target(process, name) == opened for name in os.listdir(f"/proc/{process.pid}/fd")):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=SOON)
    assert (process.returncode, json.loads(stdout)["error"]["code"]) == (130, "ERR_INTERRUPTED")
    assert b"Traceback" not in stderr


def _target(process: subprocess.Popen[bytes], name: str) -> str:
    try:
        return os.readlink(f"/proc/{process.pid}/fd/{name}")
    except FileNotFoundError:
        return ""


TOUCHES = """
import os, sys
print("touching", flush=True)
while True:
    os.utime(sys.argv[1])
"""


def test_a_file_that_is_changed_while_it_is_read_is_for_another_time(theory: Theory) -> None:
    path = theory.cwd / "log.txt"
    with path.open("wb") as file:
        file.truncate(512 * 1024**2)  # a hole: it is read for a tenth of a second, and takes no room
    touching: Any = subprocess.Popen([sys.executable, "-c", TOUCHES, path], stdout=subprocess.PIPE)
    with touching:
        touching.stdout.readline()
        result = theory(*arguments("log.txt"))
        touching.kill()
    error = result.line["error"]
    assert (result.code, error["code"]) == (75, "ERR_RETRY")
    assert error["message"] == "Attachment log.txt was changed while it was read"
    assert "nothing writes to this file" in error["hint"]
    assert theory("ls", "/artifacts/").ok().stdout == ""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: elsewhere a hole is written as zeros")
def test_5_gb_are_taken(theory: Theory) -> None:
    path = theory.cwd / "large.bin"
    with path.open("wb") as file:
        file.truncate(5 * 1024**3)
    if path.stat().st_blocks:
        pytest.skip("the file system has no holes")
    theory(*arguments("large.bin")).ok()
    assert kept(theory) == [[str(5 * 1024**3), FIVE_GIB, f"/artifacts/inputs/{FIVE_GIB}/large.bin"]]
