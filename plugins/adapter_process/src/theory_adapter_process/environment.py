"""The Python that a command finds on its ``PATH``: an environment with what the entry requires, and no more.

Environments are kept in the adapter's cache, named by their content: the bytes of the requirements and the
interpreter. One is made at its final place (they cannot be moved) below a lock, and counts once its file
``complete`` is there, so what a killed run left half built is built again.
"""

from __future__ import annotations

import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from theory import canonical_json, cid_of, errors
from theory_adapter_process.lock import Cancelled, locked
from theory_adapter_process.supervise import Task, interpreter, supervise

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from theory import Channel, Processor, Ref

_LAYOUT = "1"  # part of the name: another layout is another environment
_COMPLETE = "complete"
_LOCK = "requirements.lock"
_LOG_TAIL_BYTES = 4096
_LOG_TAIL_LINES = 12
_PROGRESS_CHARACTERS = 200
_LOCK_BYTES = 4 * 1024 * 1024
_LOCK_LINES = 100_000  # twice what _LOCK_BYTES of hashes have; as many empty ones as bytes take seconds

# What pip may know of the caller: where packages come from and how to get there, but nothing that would
# change which packages come, or where to. Patterns are compiled where they are used, not on every run.
_NETWORK = (
    r"(?i:https?_proxy|all_proxy|no_proxy)|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|NETRC"
    r"|HOME|USER|LOGNAME|PATH|TMPDIR|XDG_(CONFIG|CACHE|DATA)_(HOME|DIRS)|PIP_[A-Z0-9_]+"
)
_PLACES = (
    r"PIP_(TARGET|PREFIX|ROOT|USER|PYTHON|DRY_RUN|REPORT|REQUIREMENT|CONSTRAINT|EDITABLE|NO_DEPS|UPGRADE.*"
    r"|PRE|NO_BINARY|ONLY_BINARY|PLATFORM|ABI|IMPLEMENTATION|PYTHON_VERSION|LOG|QUIET|REQUIRE_VIRTUALENV)"
)
# What a line may say. All else (-r, -c, -e, -f and their long forms, a path, a file: URL, a variable) takes
# in what the lock's own bytes do not cover. An index is only the way to what the line names.
# Source: https://pip.pypa.io/en/stable/reference/requirements-file-format/
# None of the patterns tries one end after the other: that takes hours for a line of a MiB.
_NAMED = (
    r"(?!.*\s-)[A-Za-z0-9][\w.-]*\s*(\[[\w\s.,-]*\])?\s*"  # a project and its extras …
    r"((\(?\s*[=<>!~][^;$]*)?(;[^$]*)?|@\s*(?!file:)[a-z+]+://[^$]*)"  # … version and marker, or a URL
)
_OPTIONS = (
    r"(-i|--(index-url|extra-index-url|no-index|trusted-host|no-binary|only-binary|prefer-binary|pre"
    r"|require-hashes))\b.*"
)
_REMOTE = r"(https?|git\+[a-z]+|hg\+[a-z]+|svn\+[a-z]+|bzr\+[a-z]+)://[^$]*"
_ARCHIVE = r"\.(whl|zip|tar|tgz|tbz|txz|tar\.\w+)"  # pip takes such a name for a file, with extras or without


class Interpreter(NamedTuple):
    """A Python, without the virtual environment that it may have been found in."""

    path: str  # absolute, links resolved
    version: str  # 3.11.7

    @property
    def minor(self) -> str:
        """3.11."""
        return ".".join(self.version.split(".")[:2])


def find_interpreter(wanted: str | None) -> Interpreter:
    """The interpreter that the user asks for by path or name, or our own.

    Raises:
        BadAdapterOptions: There is no such program, or it is no Python.
    """
    if wanted is None:
        return Interpreter(interpreter(), ".".join(map(str, sys.version_info[:3])))
    from shutil import which  # noqa: PLC0415 - most runs use our own

    path = which(str(Path(wanted).expanduser()))
    if path is None:
        raise errors.BadAdapterOptions(
            f"the option python of the adapter process: no program {wanted[:200]!r}",
            hint="give the path of a Python, or the name of one on PATH",
        )
    return _asked(path)


@cache
def _asked(path: str) -> Interpreter:
    import subprocess  # noqa: PLC0415 - as above

    question = "import sys; print(sys._base_executable, *sys.version_info[:3], sep='\\n')"
    try:
        answer = subprocess.run(  # noqa: S603 - the user's own choice
            [path, "-I", "-c", question], capture_output=True, text=True, timeout=20, check=True
        ).stdout.split("\n")
        return Interpreter(os.path.realpath(answer[0]), ".".join(answer[1:4]))
    except (OSError, subprocess.SubprocessError) as error:
        raise errors.BadAdapterOptions(
            f"the option python of the adapter process: {path} does not run as a Python",
            hint="give the path of a Python, or the name of one on PATH",
        ) from error


def requirements_of(processor: Processor) -> bytes | None:
    """The bytes of the entry's requirements lock, or None where it needs nothing but Python.

    Raises:
        RegistryFault: ``adapter.process`` of the entry is not what we take.
    """
    told = processor.adapter.get("process", {})
    where = f"{processor.ref}: /adapter/process"
    if unknown := sorted(told.keys() - {"requirements"}):
        raise errors.RegistryFault(f"{where}/{unknown[0]} is unknown", hint="process knows: requirements")
    name = told.get("requirements")
    if name is None:
        return None
    if not isinstance(name, str) or not name or name.startswith("/") or ".." in name.split("/"):
        raise errors.RegistryFault(f"{where}/requirements is no path below the entry's folder")
    path = processor.folder / name
    try:
        with path.open("rb") as file:
            content = file.read(_LOCK_BYTES + 1)
    except OSError as error:
        raise errors.RegistryFault(
            f"{where}/requirements: {name}: {error.strerror}",
            hint=f"put the lock file into {processor.folder}",
        ) from error
    if len(content) > _LOCK_BYTES:
        raise errors.RegistryFault(
            f"{where}/requirements: {name} is larger than {_LOCK_BYTES // 1024**2} MiB",
            hint="that is no lock",
        )
    if fault := _fault_in(content):
        raise errors.RegistryFault(
            f"{where}/requirements: {name}{fault}",
            hint="write all packages by name and version, as pip-compile --generate-hashes does",
        )
    return content


@cache
def _fault_in(content: bytes) -> str:
    """What is wrong with a lock: too many lines, or one that takes in a file, a variable or an unknown."""
    lines = content.decode("utf-8", "replace").removeprefix("\ufeff").splitlines()
    if len(lines) > _LOCK_LINES:
        return f" has more than {_LOCK_LINES:,} lines"
    line = _foreign_line(lines)
    return f", line {line} takes in what the lock itself does not cover" if line else ""


def _foreign_line(lines: list[str]) -> int:
    """The number of the first line that takes in what the others do not cover; 0 for none."""
    goes_on = False
    for number, line in enumerate(lines, 1):
        said = re.sub(r"(^|\s)#.*", "", line) if "#" in line else line
        said = " ".join(said.split())  # a long run of spaces would keep the patterns busy for minutes
        begun, goes_on = goes_on, said.endswith("\\")
        said, *hashes = re.split(r"(?:^|\s+)--hash=\w+:\w+", said.rstrip("\\ "))
        if any(hashes) or (begun and said):
            return number
        if not said or re.fullmatch(_OPTIONS, said) or re.fullmatch(_REMOTE, said):
            continue
        if not re.fullmatch(_NAMED, said) or ("@" not in said and _is_archive(said)):
            return number
    return 0


def _is_archive(said: str) -> bool:
    return re.search(_ARCHIVE + (r"\s*\[" if said.endswith("]") else "$"), said) is not None


def ready_environment(
    processor: Processor,
    python: Interpreter,
    folder: Path,
    channel: Channel,
    *,
    secrets: Iterable[str],
) -> Path:
    """The environment of this entry, built now if it is not there; its programs are in ``bin``.

    Args:
        processor: The entry.
        python: The interpreter that it is for.
        folder: Where the adapter keeps its environments.
        channel: Gets the build's lines as progress; its cancellation ends the build.
        secrets: Names of variables that the build must not see.

    Raises:
        ImageBuildFailed: The requirements could not be installed.
        Cancelled: The run was cancelled.
    """
    requirements = requirements_of(processor)
    lock_cid = "" if requirements is None else cid_of(requirements)
    content = f"{_LAYOUT}\0{python.path}\0{python.version}\0{lock_cid}"
    place = folder / cid_of(content.encode())[3:35]
    if _is_complete(place):
        return place
    with locked(place.with_suffix(".lock"), channel) as lock:
        if not _is_complete(place):
            _make_bare(place, python)
            if requirements is not None:
                # The bytes that the name stands for, wherever the file of the entry may point to by now.
                (place / _LOCK).write_bytes(requirements)
                environment = pip_environment(os.environ, secrets)
                told = f"installing the requirements of {processor.ref}, this once\n"
                channel.write("stderr", told.encode())
                for command in _commands(place, requirements):
                    _step(Task(command, processor.folder, environment), processor.ref, channel, lock)
            (place / _COMPLETE).touch()
    return place


def _is_complete(place: Path) -> bool:
    return (place / _COMPLETE).exists() and os.access(place / "bin" / "python", os.X_OK)


def _make_bare(place: Path, python: Interpreter) -> None:
    """Make a virtual environment with nothing in it, in the place of what may be there.

    PEP 405 asks for no more than a file and a link. The venv module does nothing else that we need, takes
    100 ms, and is missing on Debian without python3-venv.
    """
    from shutil import rmtree  # noqa: PLC0415 - once an environment

    if place.exists():
        rmtree(place)
    (place / "bin").mkdir(parents=True)
    settings = {
        "home": str(Path(python.path).parent),
        "include-system-site-packages": "false",
        "version": python.version,
    }
    lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
    (place / "pyvenv.cfg").write_text(lines, encoding="utf-8")
    (place / "bin" / "python").symlink_to(python.path)
    for name in ("python3", f"python{python.minor}"):
        (place / "bin" / name).symlink_to("python")


def _commands(place: Path, requirements: bytes) -> list[list[str]]:
    python = str(place / "bin" / "python")
    install = ["install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--no-color"]
    # A source package runs code of its own to be built, with tools that no lock names. The file itself may
    # still say --no-binary for one that has nothing else.
    install += ["--only-binary", ":all:"]
    # Not --no-deps: so pip finds out that a lock is incomplete, and not the user much later.
    install += ["--require-hashes"] if b"--hash" in requirements else []
    install += ["--requirement", str(place / _LOCK)]
    if own_pip() >= (22, 3):  # the first that installs for another interpreter
        return [[sys.executable, "-I", "-m", "pip", "--python", python, *install]]
    return [[python, "-I", "-m", "ensurepip"], [python, "-I", "-m", "pip", *install]]


def own_pip() -> tuple[int, int]:
    """The version of the pip beside us, (0, 0) where there is none."""
    try:
        import pip  # noqa: PLC0415 - only for a build
    except ImportError:
        return (0, 0)
    numbers = re.match(r"(\d+)\.(\d+)", pip.__version__)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def pip_environment(caller: Mapping[str, str], secrets: Iterable[str]) -> dict[str, str]:
    """What of the caller's variables pip gets."""
    hidden = set(secrets)
    kept = {
        name: value
        for name, value in caller.items()
        if re.fullmatch(_NETWORK, name) and not re.fullmatch(_PLACES, name) and name not in hidden
    }
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", **kept, "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1"}


def _step(task: Task, ref: Ref, channel: Channel, lock: int) -> None:
    log = _BuildLog(channel)
    ended = supervise(task, log, lock)
    if ended.ended == "cancelled":
        raise Cancelled
    if ended.status != 0:
        tool = "ensurepip" if "ensurepip" in task.command else "pip"
        raise errors.ImageBuildFailed(
            f"the environment of {ref} could not be built: {tool} ended with {ended.status}\n{log.tail()}",
            hint="pip takes its index, proxy and certificates from PIP_*, pip's own configuration and *_proxy"
            if tool == "pip"
            else "install pip beside theory, or Debian's python3-venv",
        )


class _BuildLog:
    """A channel for a build: its lines are progress, their end is kept for a failure, no timeout counts."""

    deadline: float | None = None

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._last = b""
        self._line = b""  # has no end yet

    def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:  # noqa: ARG002 - both are log
        self._last = (self._last + data)[-_LOG_TAIL_BYTES:]
        *lines, rest = (self._line + data).split(b"\n")
        self._line = rest[-_LOG_TAIL_BYTES:]
        for line in lines:
            if text := line.decode("utf-8", "replace").strip()[:_PROGRESS_CHARACTERS]:
                event = canonical_json({"event": "progress", "message": text})
                self._channel.write("stdout", event + b"\n")

    def started(self) -> None:
        """A build is not the command."""

    def wait_cancelled(self, seconds: float) -> bool:
        return self._channel.wait_cancelled(seconds)

    def tail(self) -> str:
        lines = self._last.decode("utf-8", "replace").splitlines()
        return "\n".join(line for line in lines[-_LOG_TAIL_LINES:] if line.strip())
