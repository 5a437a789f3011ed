"""The program with which the client reads and writes files in a sandbox, run as a process of its own.

`fstools.py ROOT COMMAND SOCKET`: COMMAND is JSON as the client makes it, ROOT the sandbox's root as seen
from here. Errors go to stderr as JSON. A file that is to be read is not printed: its descriptor goes over
SOCKET, so that the server can read any part of it again. Standard library only; needs root.
"""

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import socket
import stat
import sys
import time

PORTION = 1 << 20  # bytes
KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}
ERRORS = {
    errno.ENOENT: "NotFound",
    errno.EISDIR: "IsDirectory",
    errno.ENOTDIR: "NotDirectory",
    errno.EACCES: "PermissionDenied",
    errno.EPERM: "PermissionDenied",
    errno.ENOTEMPTY: "DirectoryNotEmpty",
    errno.EEXIST: "AlreadyExists",
}


class Refused(Exception):
    """An error that the client has a class for."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def _names(path: str) -> dict[int, str]:
    """The names of users or groups as the sandbox has them."""
    names = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                fields = line.split(":")
                if len(fields) > 2 and fields[2].isdigit():
                    names[int(fields[2])] = fields[0]
    except OSError:
        pass
    return names


def _entry(path: str, users: dict[int, str], groups: dict[int, str]) -> dict[str, object]:
    """What is told of a path; a link is told as a link.

    guess: the form of `permissions`, and that pipes, sockets and devices are told as files: the client has no
    other word.
    """
    info = os.lstat(path)
    kind = KINDS.get(stat.S_IFMT(info.st_mode), "file")
    return {
        "name": os.path.basename(path.rstrip("/")) or "/",
        "path": path,
        "type": kind,
        "size": info.st_size,
        "mode": info.st_mode,
        "permissions": stat.filemode(info.st_mode),
        "owner": users.get(info.st_uid, str(info.st_uid)),
        "group": groups.get(info.st_gid, str(info.st_gid)),
        "modified_time": info.st_mtime,
        "symlink_target": os.readlink(path) if kind == "symlink" else None,
    }


def read(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe that nobody writes to must not hold us
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        raise Refused("IsDirectory", "Is a directory")
    if not stat.S_ISREG(mode):
        raise Refused("Other", "Not a regular file")
    with socket.socket(fileno=int(sys.argv[3])) as channel:
        socket.send_fds(channel, [b"f"], [fd])


def write(path: str) -> None:
    os.makedirs(os.path.dirname(path) or "/", exist_ok=True)
    with open(path, "wb", buffering=0) as file:
        while data := os.read(0, PORTION):
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]


def list_files(path: str) -> None:
    if not stat.S_ISDIR(os.stat(path).st_mode):
        raise Refused("NotDirectory", "Not a directory")
    users, groups = _names("/etc/passwd"), _names("/etc/group")
    names = sorted(os.listdir(path))
    entries = [_entry(os.path.join(path, name), users, groups) for name in names]
    json.dump(entries, sys.stdout)


def stat_path(path: str) -> None:
    json.dump(_entry(path, _names("/etc/passwd"), _names("/etc/group")), sys.stdout)


def make_directory(path: str, *, parents: bool) -> None:
    try:
        if parents:
            os.makedirs(path, exist_ok=True)
        else:
            os.mkdir(path)
    except FileExistsError:
        raise Refused("PathAlreadyExists", "Path already exists") from None


def remove(path: str, *, recursive: bool) -> None:
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
    elif recursive:
        shutil.rmtree(path)
    else:
        os.rmdir(path)


def watch(path: str, *, recursive: bool, kinds: list[str] | None, seconds: float | None) -> None:
    """Tell of changes by looking again and again: plain, and enough for tests."""
    before = _seen(path, recursive=recursive)
    end = None if seconds is None else time.monotonic() + seconds
    while end is None or time.monotonic() < end:
        if select.select([0], [], [], 0.05)[0] and not os.read(0, 1024):
            return  # the client closed our input
        now = _seen(path, recursive=recursive)
        for name in sorted(before.keys() | now.keys()):
            kind = "Create" if name not in before else "Remove" if name not in now else "Modify"
            if before.get(name) != now.get(name) and (kinds is None or kind in kinds):
                sys.stdout.write(json.dumps({"event_type": kind, "paths": [name]}) + "\n")
                sys.stdout.flush()
        before = now


def _seen(path: str, *, recursive: bool) -> dict[str, tuple[int, int]]:
    if not os.path.isdir(path):
        info = os.stat(path)
        return {path: (info.st_mtime_ns, info.st_size)}
    seen = {}
    for folder, folders, files in os.walk(path):
        for name in folders + files:
            one = os.path.join(folder, name)
            info = os.lstat(one)
            seen[one] = (info.st_mtime_ns, info.st_size)
        if not recursive:
            break
    return seen


def run(command: dict[str, dict[str, object]]) -> None:
    """Do what one command asks for."""
    ((name, told),) = command.items()
    path = str(told["path"])
    if name == "ReadFile":
        read(path)
    elif name == "WriteFile":
        write(path)
    elif name == "ListFiles":
        list_files(path)
    elif name == "Stat":
        stat_path(path)
    elif name == "MakeDirectory":
        make_directory(path, parents=bool(told["parents"]))
    elif name == "Remove":
        remove(path, recursive=bool(told["recursive"]))
    elif name == "Watch":
        kinds, seconds = told.get("filter"), told.get("timeout_secs")
        watch(path, recursive=bool(told["recursive"]), kinds=kinds, seconds=seconds)  # type: ignore[arg-type]  # JSON
    else:
        raise Refused("Other", f"unknown command {name}")


def main() -> int:
    os.chroot(sys.argv[1])
    os.chdir("/")
    os.umask(0o022)
    try:
        run(json.loads(sys.argv[2]))
    except Refused as refused:
        told = {"error_kind": refused.kind, "message": str(refused)}
    except OSError as error:
        kind = ERRORS.get(error.errno or 0, "Other")
        told = {"error_kind": kind, "message": os.strerror(error.errno or 0), "detail": str(error)}
    else:
        return 0
    json.dump(told, sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
