"""Runs of ``theory`` in which the kernel refuses one call: strace answers it in the kernel's place.

A cold start is nearly all imports, so here too a server that has imported them forks a child for each run.
The child stops, strace takes hold of it, and then it calls the command's own ``main``.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CALLS = (
    *(
        "write",
        "pwrite64",
        "ftruncate",
        "fallocate",
        "copy_file_range",
        "sync_file_range",
        "fsync",
        "fdatasync",
    ),
    *(
        "openat",
        "close",
        "dup",
        "mkdir",
        "mkdirat",
        "link",
        "linkat",
        "symlink",
        "rename",
        "renameat",
        "unlink",
    ),
    *("unlinkat", "rmdir", "chmod", "fchmod", "flock", "fcntl"),
)
_LINE = re.compile(r"(?:\d+ +)?(\w+)\((.*)")
_PATH = re.compile(r'[<"](/[^>"]*)[>"]')
_COPY = "F_DUPFD"  # all else that fcntl does here is SQLite's, and locks
_BELOW = re.compile(r'\d+<(/[^>]*)>, "([^/"][^"]*)", O_')  # a name in a folder that is open
_RANDOM = (
    (re.compile(r"\.theory-[0-9a-f]{16}"), ".theory-*"),
    (re.compile(r"lock\.\d+\.[0-9a-f]{8}"), "lock.*"),
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(\.[0-9a-f]{16}\.gone)?"), "ID"),
    (re.compile(r"b3/[0-9a-f]{2}\b"), "b3/*"),
    (re.compile(r"[0-9a-f]{32,}(-[0-9a-f]{16})?(\.\d+)?"), "*"),
)
_PRELOADED = (
    "theory.__main__",
    *(
        "theory.cli.run",
        "theory.disk.claims",
        "theory.rooms.save",
        "theory.ledger.heartbeat",
        "jsonschema_rs",
    ),
    *("yaml", "difflib", "theory.entries.schemachecks"),
    *("theory_adapter_mock.adapter", "theory_adapter_process.adapter", "email.utils", "encodings.ascii"),
)
PATIENCE_S = 120


class Call(NamedTuple):
    """One system call of a run."""

    name: str
    nth: int  # of this name in its thread
    place: str  # what it touches, without what chance has made
    turn: int  # of this name and place
    is_last: bool  # of this name and place
    is_read_only: bool  # of a descriptor: how it was opened
    line: str  # as strace shows it

    @property
    def key(self) -> tuple[str, str, int]:
        """What it is in any other run of the same."""
        return self.name, self.place, self.turn


@dataclass(frozen=True)
class Try:
    """One run."""

    arguments: tuple[str, ...]  # of ``theory``
    trace: str = ""  # a file for its calls
    inject: str = ""  # in the words of strace
    files: int = 0  # that it may have open, standard streams included; 0: any number
    mutant: str = ""  # a function of this module that the child calls first


class Ended(NamedTuple):
    """What became of it."""

    status: int
    out: str
    err: str

    @property
    def envelope(self) -> dict[str, Any] | None:
        """What it answered: a line that is whole."""
        return json.loads(self.out) if self.out.endswith("\n") else None


class Faulty:
    """The server, seen from a test; use it as a context manager."""

    def __init__(self, environ: Mapping[str, str], cwd: Path, *before: str) -> None:
        command = [*before, sys.executable, __file__, str(cwd)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, cwd=cwd, text=True
        )

    def __enter__(self) -> Faulty:  # noqa: PYI034 - typing.Self is newer than our oldest Python
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # the end of its input ends it
        assert self._process.returncode == 0

    def run(self, wanted: Try) -> Ended:
        """Run it to its end."""
        return Ended(*self._ask(asdict(wanted)))

    def wrong(self, told: list[dict[str, Any]]) -> list[str]:
        """What is wrong with the home afterwards, looked at from where the server is."""
        return list(self._ask({"told": told}))

    def command(self, *command: str) -> list[Any]:
        """Run another program where the server is."""
        return list(self._ask({"command": command}))

    def _ask(self, question: dict[str, Any]) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(question) + "\n")
        stdin.flush()
        return json.loads(stdout.readline())


def calls_of(trace: Path, folder: Path) -> Iterator[Call]:
    """The calls of a run that touch the folder or a standard stream, by the first of its threads."""
    found = [*_calls_of(trace, folder)]
    last = {(call.name, call.place): call.turn for call in found}
    yield from (call._replace(is_last=call.turn == last[call.name, call.place]) for call in found)


def _calls_of(trace: Path, folder: Path) -> Iterator[Call]:
    seen: Counter[str] = Counter()
    turns: Counter[tuple[str, str]] = Counter()
    opened: dict[str, bool] = {}
    for line in trace.read_text(errors="replace").splitlines():
        if (found := _LINE.match(line)) is None:
            continue  # a signal, or the exit
        name, rest = found.groups()
        seen[name] += 1
        if (place := place_of(rest, folder)) and (name != "fcntl" or _COPY in rest):
            turns[name, place] += 1
            how = _how(opened, name, rest, line)
            turn = turns[name, place]
            yield Call(name, seen[name], place, turn, is_last=False, is_read_only=how, line=line)


def _how(opened: dict[str, bool], name: str, rest: str, line: str) -> bool:
    """Whether a descriptor is for reading alone; a lock too is no content."""
    if name == "openat":
        opened[line.rpartition("= ")[2].partition("<")[0]] = "O_RDONLY" in line or "lock" in line
        return "O_RDONLY" in line
    if name == "fcntl":
        opened[line.rpartition("= ")[2].partition("<")[0]] = opened.get(rest.partition("<")[0], False)
    return opened.get(rest.partition("<")[0], False)


def place_of(rest: str, folder: Path) -> str:
    """What a call touches, of what it was told; empty if that is none of ours."""
    if rest.startswith(("1<", "2<")):
        return "stdout" if rest[0] == "1" else "stderr"
    below = _BELOW.match(rest)
    paths = ["/".join(below.groups())] if below else _PATH.findall(rest.replace("(deleted)", ""))
    ours = [path for path in paths if path.startswith(f"{folder}/")]
    if not ours:
        return ""
    place: str = ours[-1].removeprefix(f"{folder}/")
    for pattern, name in _RANDOM:
        place = pattern.sub(name, place)
    return place


# ------------------------------------------------------------ mutants


def deaf_to_sync() -> None:
    """A failed sync is taken for a success, ours and those of folders."""
    from contextlib import suppress

    from theory.disk import durable

    def sync(descriptor: int) -> None:
        with suppress(OSError):
            os.fsync(descriptor)

    durable.sync = sync


# ------------------------------------------------------------ the server


def _run(wanted: Try, folder: Path) -> Ended:
    err = folder / "said"
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            _become(wanted, writing, err)
        finally:
            os._exit(99)
    os.close(writing)
    tracer = None
    os.waitpid(pid, os.WUNTRACED)
    if wanted.trace:
        inject = ["-e", f"inject={wanted.inject}"] if wanted.inject else []
        calls = wanted.inject.partition(":")[0] or ",".join(CALLS)
        command = ["strace", "-y", "-s", "64", "-o", wanted.trace, "-e", f"trace={calls}", *inject]
        tracer = subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.PIPE, text=True)
        assert tracer.stderr is not None
        assert "attached" in (line := tracer.stderr.readline()), line
    os.kill(pid, signal.SIGCONT)
    with open(reading, "rb") as stream:
        out = stream.read().decode()
    _, status = os.waitpid(pid, 0)
    if tracer is not None:
        tracer.communicate(timeout=PATIENCE_S)
    said = err.read_text(errors="replace")
    err.unlink()
    return Ended(os.waitstatus_to_exitcode(status), out, said)


def _become(wanted: Try, writing: int, err: Path) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(writing, 1)
    os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
    os.closerange(3, 256)  # the server has fewer
    os.kill(os.getpid(), signal.SIGSTOP)
    sys.argv = ["theory", *wanted.arguments]
    from theory.__main__ import main

    if wanted.mutant:
        globals()[wanted.mutant]()
    if wanted.files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted.files, wanted.files))
    main()


def _wrong(folder: Path, told: list[dict[str, Any]]) -> list[str]:
    """In a child: what the server has imported, its children need not open any more."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reading)
            with os.fdopen(writing, "w") as answer:
                json.dump(_judged(folder, told), answer)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        found: list[str] = json.load(answer)
    os.waitpid(pid, 0)
    return found


def _judged(folder: Path, told: list[dict[str, Any]]) -> list[str]:
    from proofs.judge import enrolled, faults, left_over
    from proofs.load import runner_of

    with runner_of(folder) as runner:
        found = [*faults(runner, told)]
        return [*found, *left_over(runner)] if enrolled(runner) else found


def _serve(folder: Path) -> None:
    sys.stdout.flush()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # a collection in a child would copy every page
    for line in sys.stdin:
        wanted = json.loads(line)
        answer: object
        if "told" in wanted:
            answer = _wrong(folder, wanted["told"])
        elif "command" in wanted:
            done = subprocess.run(wanted["command"], check=False, capture_output=True, text=True)
            answer = [done.returncode, done.stdout, done.stderr]
        else:
            answer = _run(Try(**{**wanted, "arguments": tuple(wanted["arguments"])}), folder)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    assert shutil.which(sys.executable)
    _serve(Path(sys.argv[1]))
