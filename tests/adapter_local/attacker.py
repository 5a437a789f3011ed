"""A program of a hostile image: it tries to get out of its container, and tells how far it got.

    python attacker.py '{"port": 1234, …}'

It writes one line of JSON: what each attempt got, or why it failed; and what it may use, which is found out
by using it. Nothing of it does harm where it succeeds.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import socket
import stat
import struct
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SCRATCH = "/" + "tmp"
MS_REMOUNT, MS_BIND = 32, 4096
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
KEYCTL, KEYRING, SESSION = {"x86_64": 250, "aarch64": 219}, 0, -3
ADJ_OFFSET_SINGLESHOT = 0x8001
MIB = 1 << 20

attempts: dict[str, Callable[[Any], object]] = {}
libc = ctypes.CDLL(None, use_errno=True)


def attempt(name: str) -> Callable[[Callable[[Any], object]], None]:
    """Add an attempt, which succeeds if it raises nothing."""

    def add(function: Callable[[Any], object]) -> None:
        attempts[name] = function

    return add


def call(name: str, *arguments: object) -> int:
    """A function of the C library."""
    answer = int(getattr(libc, name)(*arguments))
    if answer == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def opened(path: str, flags: int = os.O_WRONLY) -> str:
    """Open a file, and leave it as it is."""
    os.close(os.open(path, flags))
    return path


def made(path: str) -> str:
    """Make a file where there is none."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    os.unlink(path)
    return path


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    call("mount", *(text.encode() for text in (source, target, kind)), ctypes.c_ulong(flags), data.encode())


# ---------------------------------------------------------------- write elsewhere

for folder in ("", "/etc", "/usr/bin", "/var/lib", "/root", "/run", "/job", "/artifacts"):
    attempt(f"make a file in {folder}/")(lambda _, folder=folder: made(f"{folder}/new"))  # type: ignore[misc]
for file in ("/etc/passwd", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/job/inputs.json"):
    attempt(f"write {file}")(lambda _, file=file: opened(file))  # type: ignore[misc]
for file in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"):
    attempt(f"write {file}")(lambda _, file=file: opened(file))  # type: ignore[misc]


@attempt("write an artifact")
def _(told: Any) -> object:
    with open(told["artifact"], "r+b") as stream:
        return stream.write(b"evil")


attempt("let all write an artifact")(lambda told: os.chmod(told["artifact"], 0o666))  # noqa: S103 - that is the question
attempt("let all write the inputs")(lambda _: os.chmod("/job/inputs.json", 0o666))  # noqa: S103 - as above
attempt("set the times of an artifact")(lambda told: os.utime(told["artifact"], (1, 1)))
attempt("give an artifact away")(lambda told: os.chown(told["artifact"], 1, 1))


@attempt("put another artifact in its place")
def _(told: Any) -> None:
    os.rename(told["artifact"], told["artifact"] + "-")
    os.rename(told["artifact"] + "-", told["artifact"])


@attempt("write to /sys")
def _(_: Any) -> str:
    with suppress(OSError):
        mount("", "/sys", "", MS_REMOUNT)
    for folder, _folders, files in os.walk("/sys/kernel"):
        for name in files:
            if os.stat(f"{folder}/{name}").st_mode & stat.S_IWUSR:
                return opened(f"{folder}/{name}")
    raise FileNotFoundError("/sys/kernel")


@attempt("have the kernel call a program at the end of a control group")
def _(_: Any) -> str:
    os.makedirs(f"{SCRATCH}/group", exist_ok=True)
    with suppress(OSError):
        mount("cgroup", f"{SCRATCH}/group", "cgroup", 0, "memory")
        return opened(f"{SCRATCH}/group/release_agent")
    mount("cgroup2", f"{SCRATCH}/group", "cgroup2")
    return opened(f"{SCRATCH}/group/cgroup.procs")


# Never possible, for out is a mount point; and what is, is not told by where it fails.
attempt("link an artifact into out")(lambda told: os.link(told["artifact"], "/job/out/linked"))
attempt("replace out")(lambda _: os.rename("/job/out", f"{SCRATCH}/out"))
attempt("remove out")(lambda _: os.rmdir("/job/out"))


# ---------------------------------------------------------------- gain privileges


def elsewhere(function: Callable[[], object]) -> str:
    """Do it in a child, for it changes who or where we are."""
    reading, writing = os.pipe()
    if not os.fork():
        try:
            os.write(writing, json.dumps(["", str(function())]).encode())
        except OSError as error:
            os.write(writing, json.dumps([error.errno, ""]).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as stream:
        number, answer = json.loads(stream.read() or b"[5, 0]")
    os.wait()
    if number:
        raise OSError(number, os.strerror(number))
    return str(answer)


def become(program: str) -> str:
    """The user that a program of root's, marked to run as root, runs as."""
    if os.geteuid() == 0:
        os.setresuid(65534, 65534, 65534)
    with os.popen(f"{program} -u") as stream:  # noqa: S605 - a test
        if stream.read().strip() != "0":
            raise PermissionError(1, "not root")
    return "root"


attempt("become root by a program of the image")(lambda _: elsewhere(lambda: become("/hostile/id")))


@attempt("become root by a program in /tmp")
def _(_: Any) -> str:
    with open("/usr/bin/id", "rb") as source, open(f"{SCRATCH}/id", "wb") as target:
        target.write(source.read())
    os.chmod(f"{SCRATCH}/id", 0o6755)  # noqa: S103 - that is the question
    if os.stat(f"{SCRATCH}/id").st_uid != 0:
        raise PermissionError(1, "not root's")
    return elsewhere(lambda: become(f"{SCRATCH}/id"))


attempt("become somebody else")(lambda _: elsewhere(lambda: os.setresuid(7, 7, 7)))
attempt("join another group")(lambda _: elsewhere(lambda: os.setgroups([0])))
attempt("change the root")(lambda _: elsewhere(lambda: os.chroot(SCRATCH)))
attempt("have mounts of one's own")(lambda _: elsewhere(lambda: call("unshare", CLONE_NEWNS)))
attempt("have users of one's own")(lambda _: elsewhere(lambda: call("unshare", CLONE_NEWUSER)))
attempt("rename the host")(lambda _: socket.sethostname(socket.gethostname()))
attempt("go before others")(lambda _: elsewhere(lambda: os.setpriority(os.PRIO_PROCESS, 0, -1)))


@attempt("mount something")
def _(_: Any) -> None:
    os.makedirs(f"{SCRATCH}/mounted", exist_ok=True)
    mount("none", f"{SCRATCH}/mounted", "tmpfs")


@attempt("have a capability")
def _(_: Any) -> str:
    with open("/proc/self/status") as status:
        sets = [line for line in status if line.startswith("Cap")]
    if not any(int(line.split()[1], 16) for line in sets):
        raise PermissionError(1, "none, and none to be had")
    return "".join(sets)


@attempt("give a file to somebody else")
def _(_: Any) -> None:
    with open(f"{SCRATCH}/mine", "wb"):
        os.chown(f"{SCRATCH}/mine", 1, 1)


@attempt("allow oneself more than allowed")
def _(_: Any) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard + 1))
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@attempt("change the clock")
def _(_: Any) -> None:
    buffer = ctypes.create_string_buffer(struct.pack("iq", ADJ_OFFSET_SINGLESHOT, 0), 256)
    call("adjtimex", buffer)


@attempt("have the keys of the session")
def _(_: Any) -> int:
    return call("syscall", KEYCTL[os.uname().machine], KEYRING, SESSION, 1)


@attempt("open a file by its number")
def _(told: Any) -> None:
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
    mounted = ctypes.c_int()
    # The system call itself is one that an unprivileged process may do.
    call("name_to_handle_at", -100, told["artifact"].encode(), handle, ctypes.byref(mounted), 0)
    folder = os.open(os.path.dirname(told["artifact"]), os.O_RDONLY)
    os.close(call("open_by_handle_at", folder, handle, os.O_RDONLY))


def device(path: str, kind: int, number: int) -> None:
    os.mknod(path, kind | 0o666, number)
    os.unlink(path)


attempt("make a device of the host's disk")(lambda told: device("/dev/disk", stat.S_IFBLK, told["disk"]))
attempt("make a device in out")(lambda _: device("/job/out/zero", stat.S_IFCHR, os.makedev(1, 5)))


# ---------------------------------------------------------------- reach the host, or others


def connected(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=2).close()


def reached(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(address)


attempt("reach an abstract socket of the host")(lambda told: reached("\0" + told["abstract"]))
attempt("reach the engine")(lambda _: reached("/var/run/docker.sock"))
attempt("reach the host's loopback")(lambda told: connected("127.0.0.1", told["port"]))
attempt("reach the gateway")(lambda told: connected(told["gateway"], told["port"]))


@attempt("have another interface than the loopback")
def _(_: Any) -> str:
    if names := {name for _, name in socket.if_nameindex()} - {"lo"}:
        return str(names)
    raise OSError(19, "none")


attempt("send raw packets")(lambda _: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close())
attempt("hear raw packets")(lambda _: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close())


@attempt("see a process of the host")
def _(told: Any) -> str:
    for number in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{number}/environ") as environ:
            if told["marker"] in environ.read():
                return number
    raise ProcessLookupError(3, "none")


@attempt("read the host's files")
def _(told: Any) -> str:
    for number in ("", *(f"/proc/{number}/root" for number in os.listdir("/proc") if number.isdigit())):
        with suppress(OSError):
            return opened(number + told["file"], os.O_RDONLY)
    raise FileNotFoundError(2, told["file"])


@attempt("read the kernel's memory")
def _(_: Any) -> int:
    with open("/proc/kcore", "rb") as stream:
        if not stream.read(1):
            raise OSError(5, "empty")
    return 1


@attempt("share memory with the host")
def _(told: Any) -> int:
    return call("shmget", told["shared"], 0, 0)


# ---------------------------------------------------------------- what it may use


def fill(folder: str) -> int | str:
    """The bytes that a folder takes, or why none; at most 256 MiB are tried."""
    taken, names = 0, [f"{folder}/fill{number}" for number in range(32)]
    try:
        for name in names:
            with open(name, "wb", buffering=0) as stream:
                taken += sum(stream.write(bytes(MIB)) for _ in range(8))
    except OSError as error:
        return taken or str(error)
    finally:
        for name in names:
            with suppress(OSError):
                os.unlink(name)
    return taken


def first_of(*files: str) -> list[str]:
    """The words of the first of these files of control groups that is there, of version 2 or 1."""
    for file in files:
        with suppress(OSError), open(f"/sys/fs/cgroup/{file}") as stream:
            return stream.read().split()
    return []


def most_threads(limit: int) -> int:
    """As many as can be started."""
    go = threading.Event()
    threading.stack_size(64 * 1024)
    threads = []
    try:
        for _ in range(limit):
            threads.append(threading.Thread(target=go.wait))
            threads[-1].start()
    except RuntimeError:
        threads.pop()
    finally:
        go.set()
        for thread in threads:
            thread.join()
    return len(threads)


def largest(path: str) -> int:
    """The limit of a sparse file, found from above, a power of two."""
    with open(path, "wb") as stream:
        for power in range(44, 0, -1):
            with suppress(OSError):
                stream.truncate(1 << power)
                return 1 << power
    return 0


def bounds() -> dict[str, Any]:
    """What there is of everything."""
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    with open("/proc/mounts") as mounts:
        scratch = next(line for line in mounts if line.split()[1] == SCRATCH).split()[3]
    os.chmod(f"{SCRATCH}/id", 0o755)  # noqa: S103 - the container's own
    found = {
        "tmp": fill(SCRATCH),
        "shm": fill("/dev/shm"),  # noqa: S108 - that is the question
        "volume": fill("/data"),
        "dev": fill("/dev"),
        "threads": most_threads(3000),
        "largest": largest("/job/out/sparse"),
        "cpu": first_of("cpu.max", "cpu/cpu.cfs_quota_us"),
        "memory": first_of("memory.max", "memory/memory.limit_in_bytes"),
        "swap": first_of("memory.swap.max", "memory/memory.memsw.limit_in_bytes"),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "core": resource.getrlimit(resource.RLIMIT_CORE)[1],
        "scratch": sorted(scratch.split(",")),
        "runs in scratch": os.system(f"{SCRATCH}/id >&2"),  # noqa: S605 - a test
        "first": open("/proc/1/comm").read().strip(),  # noqa: SIM115 - a test
        "environ": dict(os.environ),
        "argv": sys.argv[2:],
        **{name: lines[name].strip() for name in ("NoNewPrivs", "Seccomp")},
    }
    os.unlink("/job/out/sparse")
    return found


def main() -> None:
    """Try it all."""
    told = json.loads(sys.argv[1])
    got: dict[str, str] = {}
    failed: dict[str, str] = {}
    for name, function in attempts.items():
        try:
            got[name] = str(function(told))
        except (OSError, ValueError) as error:  # the latter is how setrlimit is refused
            failed[name] = str(error)
    json.dump({"got": got, "failed": failed, "bounds": bounds() if told["bounds"] else {}}, sys.stdout)


if __name__ == "__main__":
    main()
