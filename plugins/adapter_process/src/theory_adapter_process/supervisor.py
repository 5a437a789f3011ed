"""The program that starts a command, watches over it and leaves nothing of it behind.

``supervise.py`` runs ``main`` with ``python -I -S`` in a session of its own, and with these arguments:

    CALLER MEMORY CPU FILES SIZE FOLDER COMMAND…

Numbers are the caller's process id and the limits, 0 for none: MiB, seconds of processor time, open files,
MiB of one file. The variables of this process are those of the command. Descriptor 0 is the lifeline: a byte
asks the command to end (SIGTERM, SIGKILL after ``GRACE`` seconds), and its end means that the caller is gone,
so everything is killed at once. What happens goes to descriptor 3, a line each: ``started PID``, then
``ended HOW STATUS SURVIVORS``. Descriptor 4 is a lock that is held until everything is dead.

It imports as little as it can, because each run waits for it: ``signal`` imports ``enum`` (6 ms) and
``ctypes`` defines classes (4 ms), where Python itself takes 10; so it takes the C modules below them
(measured in 2026-11, CPython 3.11).
"""

from __future__ import annotations

import errno
import os
import resource
import select
import sys
import time

TYPE_CHECKING = False  # typing would be one more import
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal

LIFELINE, REPORT, LOCK = 0, 3, 4
GRACE = 2.0  # seconds between SIGTERM and SIGKILL
# Seconds for the killed to vanish; what is left then sleeps in the kernel or is not ours to kill.
PATIENCE = 5.0
TICK_MS = 250  # between two looks at the memory and at the caller
CPU_GRACE = 5  # seconds of processor time between SIGXCPU and SIGKILL

# Linux, <sys/prctl.h>.
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main() -> None:
    """Run the command of the command line and report its end."""
    caller, memory, cpu, files, size = map(int, sys.argv[1:6])
    keep_to_ourselves()
    wake = wake_on_signals()
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # so that orphans of the command become ours, not init's
    supervisor = os.getpid()
    pid = os.fork()
    if pid == 0:
        become(sys.argv[6], sys.argv[7:], supervisor, (memory, cpu, files, size))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)  # the pipes of the output belong to the command alone
    os.dup2(null, 2)
    say(f"started {pid}")
    how, status, survivors = Watch(pid, caller, memory, wake).until_the_end()
    say(f"ended {how} {status} {survivors}")
    os._exit(0)  # the caller waits, and there is nothing to tidy up


class Watch:
    """A command and all that descends from it, until nothing of it is left."""

    def __init__(self, command: int, caller: int, memory: int, wake: int) -> None:
        """Watch this process, for this caller, with this many MiB of memory for all (0: without limit)."""
        self.command, self.caller, self.memory, self.wake = command, caller, memory, wake
        self.status: int | None = None  # of the command, once it has ended

    def until_the_end(self) -> tuple[str, int, int]:
        """How the command ended ("exit" or "oom"), with which status, and how many survived the kill."""
        how, kill_at, poll = "exit", None, select.poll()
        poll.register(LIFELINE, select.POLLIN)
        poll.register(self.wake, select.POLLIN)
        while self.reap() and self.status is None:
            if os.getppid() != self.caller or (kill_at is not None and time.monotonic() >= kill_at):
                break
            if self.memory and memory_of(descendants(os.getpid()), self.memory) > self.memory:
                how = "oom"
                break
            ready = [descriptor for descriptor, _ in poll.poll(TICK_MS)]
            if self.wake in ready and set(os.read(self.wake, 4096)) - {signal.SIGCHLD}:
                break  # somebody ended this very process, which it does not survive alone
            if LIFELINE in ready:
                if not os.read(LIFELINE, 1):
                    break
                kill_at = time.monotonic() + GRACE
                kill(-self.command, signal.SIGTERM)
        survivors = self.kill_all()
        return how, -signal.SIGKILL if self.status is None else self.status, survivors

    def reap(self) -> bool:
        """Take leave of those who ended; whether anybody is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.command:
                self.status = os.waitstatus_to_exitcode(status)

    def kill_all(self) -> int:
        """Kill the command's group and, where orphans come to us, all its descendants; how many are left."""
        kill(-self.command, signal.SIGKILL)
        give_up = time.monotonic() + PATIENCE
        while self.reap():
            if time.monotonic() > give_up:
                return max(1, len(descendants(os.getpid())))
            for pid in descendants(os.getpid()):
                kill(pid, signal.SIGKILL)
            time.sleep(0.001)  # the kernel needs a moment to bring the orphans here
        return 0


def become(folder: str, argv: list[str], supervisor: int, limits: tuple[int, int, int, int]) -> None:
    """Turn this forked process into the command; as in a shell, 127: there is none, 126: it cannot run."""
    status = 126
    try:
        os.setpgid(0, 0)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # the command does not outlive its supervisor
        if os.getppid() != supervisor:
            os._exit(status)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)  # Python ignores SIGPIPE, and exec would hand that on
        os.umask(0o022)
        os.chdir(folder)
        set_limits(*limits)
        status = 127
        for program in candidates(argv[0]):
            try:
                os.execve(program, argv, os.environ)  # noqa: S606 - no shell is the point
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                status = 126
                raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        os.write(2, f"theory: cannot run {argv[0]}: {reason}\n".encode("utf-8", "surrogateescape"))
    finally:
        os._exit(status)


def set_limits(memory: int, cpu: int, files: int, size: int) -> None:
    """Limit this process; 0 is without limit."""
    limit(resource.RLIMIT_CORE, 0)
    if memory and sys.platform == "linux":
        # Private writable memory. Not RLIMIT_AS, which also counts what a program only reserves: runtimes
        # that reserve gigabytes to use megabytes (Go, Java, V8) would not start.
        limit(resource.RLIMIT_DATA, memory << 20)
    if cpu:
        limit(resource.RLIMIT_CPU, cpu, cpu + CPU_GRACE)
    if files:
        limit(resource.RLIMIT_NOFILE, files)
    if size:
        limit(resource.RLIMIT_FSIZE, size << 20)


def candidates(name: str) -> list[str]:
    """Where a program may be. ``os.execvpe`` does this too, but it imports ``warnings`` for it."""
    return [name] if "/" in name else [f"{folder}/{name}" for folder in os.environ["PATH"].split(":")]


def keep_to_ourselves() -> None:
    """Close what the caller left inheritable, and let the command inherit nothing but its three streams."""
    for name in os.listdir("/dev/fd"):
        descriptor = int(name)
        try:
            if descriptor > LOCK:
                os.close(descriptor)
            elif descriptor >= REPORT:
                os.set_inheritable(descriptor, False)  # noqa: FBT003 - its only argument
        except OSError:  # the one that listed the folder
            continue


def limit(kind: int, soft: int, hard: int = 0) -> None:
    """Set a limit (``hard`` is ``soft`` unless given), or leave what is stricter already."""
    hard, most = hard or soft, resource.getrlimit(kind)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(kind, (soft, hard))


def wake_on_signals() -> int:
    """A descriptor that can be read when a child has ended or somebody wants this process to end."""
    wake, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return wake


def prctl(option: int, value: int) -> None:
    """Tell the kernel, on Linux; elsewhere, and where Python came without libffi, nothing happens."""
    if sys.platform != "linux":
        return
    try:
        import _ctypes  # noqa: PLC0415 - Linux alone needs it
    except ImportError:
        return
    here = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # what ctypes.CDLL(None) does
    _ctypes.call_function(_ctypes.dlsym(here, "prctl"), (option, value, 0, 0, 0))


def kill(pid: int, number: int) -> None:
    """Send a signal to a process or, negative, a group; to nobody if it is gone."""
    try:  # noqa: SIM105 - contextlib costs an import
        os.kill(pid, number)
    except OSError:
        pass


def say(line: str) -> None:
    """Report to the caller, if it still listens."""
    try:  # noqa: SIM105 - contextlib costs an import
        os.write(REPORT, line.encode() + b"\n")
    except OSError:
        pass


# ---------------------------------------------------------------- Linux: who descends from whom, and memory


def descendants(pid: int) -> list[int]:
    """The processes below this one, as far as /proc knows."""
    found = [pid]
    for parent in found:  # grows while it runs
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                found += map(int, read(f"/proc/{parent}/task/{task}/children").split())
        except OSError:
            continue
    return found[1:]


def memory_of(processes: list[int], enough: int) -> int:
    """The MiB that these processes hold together, shared pages counted once; roughly, if not over ``enough``.

    The resident set is quick to read, but counts what forks share once for each of them. So only when it is
    over is the kernel asked for their proportional shares.
    """
    rough = sum(resident(pid) for pid in processes)
    if rough >> 20 <= enough:
        return rough >> 20
    return sum(proportional(pid) for pid in processes) >> 20


def resident(pid: int) -> int:
    """Bytes in memory."""
    try:
        return int(read(f"/proc/{pid}/statm").split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def proportional(pid: int) -> int:
    """Bytes in memory that are not files, those that n processes share counted as 1/n."""
    try:
        lines = read(f"/proc/{pid}/smaps_rollup").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith((b"Pss_Anon:", b"Pss_Shmem:")))


def read(path: str) -> bytes:
    """A file of /proc."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 65536)
    finally:
        os.close(descriptor)
