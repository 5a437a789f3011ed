"""The hooks of the adapter ``process``: an entry's command, for real, on this machine, without a container.

It does not isolate. The command runs as the user who calls, may read what that user may read, and has the
network whether or not its entry asks for it; what is promised is a closed environment, limits, and that
nothing of it is left running. README.md of this distribution says what holds on which system.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from theory import AdapterInfo, Finding, Image, Outcome, canonical_json, cid_of, errors, hookimpl
from theory_adapter_process.environment import find_interpreter, own_pip, ready_environment, requirements_of
from theory_adapter_process.lock import Cancelled, Held, locked
from theory_adapter_process.program import program_folder
from theory_adapter_process.supervise import NO_ROOM, Limits, Task, supervise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theory import Channel, Job, Processor, Secrets, Workspace
    from theory_adapter_process.supervise import Ended

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"  # after the environment's own programs
_LINUX = sys.platform == "linux"
_FORMER_S = 10.0  # how long the former try of an execution may take to die; its supervisor needs 5 at most
_CPU_MARGIN_S = 1
_ROOM = "free some space on its disk, or choose another one: THEORY_HOME"
_NO_WRITING = {  # what a disk may say, and the next step
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG), _ROOM),
    errno.EIO: "the disk reports an error: look at the system's log, or choose another one: THEORY_HOME",
    errno.ENOLCK: "its file system may not be able to lock files; choose another one: THEORY_HOME",
}
# Source: the architectures of Go, which Docker's platforms are spelled in.
_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm/v7",
    "armv6l": "arm/v6",
    "i686": "386",
}


@dataclass(frozen=True)
class Options:
    """What a user may ask of this adapter."""

    python: str | None = field(
        default=None,
        metadata={"help": "the Python of the command, by path or name; null: the one theory runs on"},
    )
    open_files: int = field(default=4096, metadata={"help": "files that each process may have open at once"})
    file_size: int = field(default=10240, metadata={"help": "MiB that one file may grow to"})

    def __post_init__(self) -> None:
        """Refuse what no command could live with."""
        if self.open_files < 16:  # noqa: PLR2004 - below it no interpreter starts
            raise ValueError("open_files is below 16")
        if not 1 <= self.file_size <= 2**40:
            raise ValueError("file_size is not between 1 and 2^40 MiB")


@hookimpl
def describe_adapter() -> AdapterInfo:
    """Runs commands as this user, without isolation; memory is limited on Linux only."""
    return AdapterInfo(
        summary="runs commands on this machine as you: limits, but no isolation, and no block on the network",
        offers=frozenset({"process", "network", "secrets_env", *(("memory_limit",) if _LINUX else ())}),
        options=Options,
        capacity=os.cpu_count() or 1,
    )


@hookimpl
def identify(processor: Processor, options: object) -> Image:
    """The content of the environment that the command will find.

    Raises:
        Unsupported: The entry has no command, or one that is not on this machine.
        RegistryFault: The entry's ``adapter.process`` is faulty.
    """
    if processor.command is None:
        raise errors.Unsupported(
            f"{processor.ref} has no command, so it needs its image; process cannot run images",
            hint=f"theory run {processor.ref} --adapter local",
        )
    _check_program(processor, processor.command)
    python = find_interpreter(cast("Options", options).python)
    requirements = requirements_of(processor)
    if requirements is None:
        _check_host_command(processor, processor.command[0], python.minor)
    content = {"python": python.minor, "requirements": None if requirements is None else cid_of(requirements)}
    machine = os.uname().machine
    return Image(
        id="process:" + cid_of(canonical_json(content)),
        digest=None,
        platform=f"{sys.platform}/{_ARCHITECTURES.get(machine, machine.lower())}",
        python=python.minor,
    )


@hookimpl
def execute(job: Job, workspace: Workspace, options: object, secrets: Secrets, channel: Channel) -> Outcome:
    """Run the command to its end, its deadline or its cancellation.

    A command that cannot be started ends as in a shell: 127 where it is not found, 126 where it cannot run.

    Raises:
        ImageBuildFailed: The entry's requirements could not be installed.
        Busy: A former try of this execution does not die.
        Retry: No process, thread or open file is to be had.
        StoreFailed: The cache or the workspace cannot be written.
    """
    chosen = cast("Options", options)
    image = job.image
    try:
        with _alone(workspace.state, channel) as lock:
            environment = ready_environment(
                job.processor,
                find_interpreter(chosen.python),
                workspace.cache / "environments",
                channel,
                secrets=secrets,
            )
            folder = program_folder(job.processor, workspace.cache / "programs", channel)
            if channel.wait_cancelled(0):
                raise Cancelled  # noqa: TRY301 - one answer for all the places where it may be noticed
            _lay_out(workspace.root)
            limits = _limits(job, chosen)
            variables = _variables(job, workspace, environment, secrets)
            task = Task(job.processor.command or (), folder, variables, limits)
            ended = supervise(task, channel, lock)
    except Cancelled:
        return Outcome("cancelled", None, time.time(), 0.0, platform=image.platform, cost_micro_usd=0)
    except OSError as error:
        raise _refused(error, workspace) from error
    if limits.memory and _LINUX and _was_refused_memory(ended):
        ended = ended._replace(ended="oom")
    status = 128 - ended.status if ended.status < 0 else ended.status
    return Outcome(
        ended=ended.ended,
        exit_code=status if ended.ended == "exit" else None,
        started_at=ended.started_at,
        duration_s=ended.duration_s,
        platform=image.platform,
        cost_micro_usd=0,
        message=_message(ended, limits),
    )


@hookimpl
def diagnose() -> tuple[Finding, ...]:
    """Which Python commands get, whether requirements can be installed, and what holds on this system."""
    python = find_interpreter(None)
    pip = ".".join(map(str, own_pip()))
    bundled = (Path(os.__file__).parent / "ensurepip").is_dir()
    return (
        Finding(
            "python",
            ok=os.access(python.path, os.X_OK),
            message=f"commands get Python {python.version}, {python.path}",
        ),
        Finding(
            "requirements",
            ok=pip != "0.0" or bundled,
            message=f"installed by pip {pip}"
            if pip != "0.0"
            else "installed by ensurepip's pip"
            if bundled
            else "no pip",
            hint="" if pip != "0.0" or bundled else "install pip beside theory, or Debian's python3-venv",
        ),
        Finding(
            "limits",
            ok=True,
            message="memory, processor time, open files, file size"
            if _LINUX
            else "processor time, open files, file size; memory is not limited on this system",
        ),
        _strays(),
        Finding("isolation", ok=True, message="none: a command can do what you can do, the network included"),
    )


def _strays() -> Finding:
    children = f"/proc/self/task/{os.getpid()}/children"
    if not _LINUX:
        message = "a daemon that a command starts outlives it: this system has no subreaper"
    elif not Path(children).exists():
        message = "a daemon that a command starts may outlive it: the kernel has no /proc/*/task/*/children"
    else:
        return Finding(
            "left-over processes", ok=True, message="daemons that a command starts are killed at its end"
        )
    return Finding("left-over processes", ok=True, message=message)


def _check_program(processor: Processor, command: tuple[str, ...]) -> None:
    """Refuse, before anything is reserved, an entry that is published without its program."""
    script = command[1] if len(command) > 1 and command[0] in {"python", "python3"} else ""
    if script.endswith(".py") and not (processor.folder / script).is_file():
        raise errors.Unsupported(
            f"{processor.ref} runs {script!r}, which is not in its folder {processor.folder}",
            hint="the entry comes without its program; --adapter mock simulates it",
        )


def _check_host_command(processor: Processor, name: str, minor: str) -> None:
    """Refuse now what could only fail later; with requirements, the program may be theirs."""
    if "/" in name or name in {"python", "python3", f"python{minor}"}:
        return
    if not any(os.access(f"{folder}/{name}", os.X_OK) for folder in SYSTEM_PATH.split(":")):
        raise errors.Unsupported(
            f"{processor.ref} runs {name[:200]!r}, which is not on this machine (in {SYSTEM_PATH})",
            hint=f"install it, or theory run {processor.ref} --adapter local",
        )


def _refused(error: OSError, workspace: Workspace) -> Exception:
    """What this machine refused; an ``OSError`` that is our own bug as it is."""
    if error.errno in NO_ROOM:
        return errors.Retry(
            f"this machine has no room for another command: {error.strerror}",
            hint="end something else, or allow more: ulimit -n for open files, ulimit -u for processes",
        )
    if error.errno in _NO_WRITING:
        return errors.StoreFailed(
            f"cannot write to {error.filename2 or error.filename or workspace.cache}: {error.strerror}",
            hint=_NO_WRITING[error.errno],
        )
    return error


@contextmanager
def _alone(state: Path, channel: Channel) -> Iterator[int]:
    """Hold the execution's lock, which a former try's supervisor keeps until its last process is dead.

    Normally that one has died with its caller. If it has not, because the caller only seems dead, it is told
    to end: while it holds the lock, the number in the file is its own.
    """
    path = state / "running.lock"

    def end_the_former() -> None:
        with suppress(OSError, ValueError):
            os.kill(int(path.read_text(encoding="ascii")), signal.SIGTERM)

    try:
        with locked(path, channel, patience=_FORMER_S, impatient=end_the_former) as lock:
            yield lock
    except Held:
        raise errors.Busy(
            "a former try of this execution is still running and cannot be ended",
            hint=f"end what holds {path}",
        ) from None


def _lay_out(root: Path) -> None:
    """Give the command its /job and its scratch folder."""
    with suppress(FileExistsError):
        (root / "job").symlink_to(".")
    with suppress(FileExistsError):
        (root / "tmp").mkdir(mode=0o700)


def _variables(job: Job, workspace: Workspace, environment: Path, secrets: Secrets) -> dict[str, str]:
    scratch = str(workspace.root / "tmp")
    return {
        **job.environment,
        **secrets,
        "THEORY_ROOT": str(workspace.root),
        "PATH": f"{environment}/bin:{SYSTEM_PATH}",
        "HOME": scratch,
        "TMPDIR": scratch,
        # The entry's folder is content with an address: no __pycache__ may appear in it. PYTHONPYCACHEPREFIX
        # would do too, but it also hides the compiled standard library, which each cold run would compile.
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _limits(job: Job, options: Options) -> Limits:
    runtime = job.processor.runtime
    return Limits(
        memory=runtime.memory,
        cpu=math.ceil(runtime.timeout * runtime.cpu) + _CPU_MARGIN_S,
        open_files=options.open_files,
        file_size=options.file_size,
    )


def _message(ended: Ended, limits: Limits) -> str:
    parts = []
    if ended.ended == "oom" and _was_refused_memory(ended):
        parts.append("it was refused more, and ended with: " + ended.last_words.decode("utf-8", "replace"))
    elif ended.ended == "oom":
        parts.append(f"the command and its children held more than {limits.memory} MiB together")
    elif ended.ended == "exit" and ended.status < 0 and (words := _SIGNALS.get(-ended.status)):
        parts.append(words.format(limits=limits))
    if ended.survivors:
        parts.append(f"{ended.survivors} processes that it started could not be killed")
    return "; ".join(parts)


def _was_refused_memory(ended: Ended) -> bool:
    """Whether a command that failed says that it got no more memory; there is no other trace of a refusal."""
    if ended.status == 0 or ended.ended not in {"exit", "oom"}:
        return False
    import re  # noqa: PLC0415 - never in a good run

    return re.search(_NO_MEMORY, ended.last_words) is not None


# Last lines of Python and NumPy, C++, Rust and all that prints strerror(ENOMEM).
_NO_MEMORY = (
    rb"^([\w.]+\.)?_?(Array)?MemoryError\b|std::bad_alloc$|^memory allocation of \d+ bytes failed"
    rb"|[Cc]annot allocate memory$"
)
_SIGNALS: dict[int, str] = {
    signal.SIGKILL: "killed by somebody else, perhaps by the system for want of memory",
    signal.SIGXCPU: "used more than its {limits.cpu} s of processor time",
    signal.SIGXFSZ: "wrote a file of more than {limits.file_size} MiB",
}
