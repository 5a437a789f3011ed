"""Files by copies, where the engine does not see ours: into anonymous volumes and out of them, as archives.

What this way cannot do: nobody can look at the outputs while the command runs, and the engine leaves sockets
out of its archives, so one among the outputs is not refused but missing.
"""

from __future__ import annotations

import errno
import os
import tarfile
from typing import TYPE_CHECKING

from theory import errors
from theory_adapter_local.engine.client import Refused
from theory_adapter_local.files.tarball import Broken, Packed, Unpacked, pack
from theory_adapter_local.files.tree import Sum, check_room, shown

if TYPE_CHECKING:
    import io
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from theory import Job, Json, Workspace
    from theory_adapter_local.engine.client import Engine

# Owns what the command only reads. It has no name in any image that we know, so it is never who runs the
# command, and nobody inside has the capabilities to act for another.
STRANGER = (65533, 65533)
SILENCE_S = 300.0  # an engine with a slow disk says nothing while it writes
_MOST_PATH_BYTES = 3_000  # an engine leaves out what has more than about 4,000 with its own folders, silently
_REPLACED = "the folder for outputs was replaced or removed while the processor ran"
_KINDS = {tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device"}
_NO_NAME = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)


class Copies:
    """The job's files in volumes of the container.

    Args:
        ids: The user and the group that the command runs as; None if only the image knows.
        output_size: MiB that the outputs may have.
    """

    def __init__(
        self, engine: Engine, job: Job, workspace: Workspace, ids: tuple[int, int] | None, output_size: int
    ) -> None:
        self._engine, self._job, self._workspace = engine, job, workspace
        self._ids, self._output_size = ids, output_size
        # One for out alone, since nobody inside can move, remove or replace a mount point.
        self.mounts: list[Json] = [_volume("/job"), _volume("/job/out")]
        self.has_hosts = False  # nothing is copied into a root that is read-only
        if job.artifacts:
            self.mounts.append(_volume("/artifacts"))

    def stage(self, container: str) -> None:
        """Send the inputs, streamed from their files.

        Raises:
            Refused, Lost, DockerUnavailable: The engine did not take them.
            StoreFailed: A file cannot be read.
        """
        out = Packed("out", 0o700, self._ids, None) if self._ids else Packed("out", 0o777, STRANGER, None)
        inputs = Packed("inputs.json", 0o444, STRANGER, str(self._workspace.inputs))
        _put(self._engine, container, "/job", (inputs, out))
        if self._job.artifacts:
            _put(self._engine, container, "/artifacts", self._artifacts())

    def watch(self) -> None:
        """Nothing: no engine tells what a volume holds."""

    def collect(self, container: str) -> None:
        """Fetch what is in out, as regular files and folders of ours; the container has stopped.

        Raises:
            OutputLimit, BadOutputPath, DuplicateOutput: What the command left cannot be taken.
            StoreFailed: It cannot be written here.
            Retry: It did not arrive whole.
            Refused, Lost, DockerUnavailable: The engine did not give it.
        """
        path = f"/containers/{container}/archive"
        try:
            with self._engine.stream("GET", path, query={"path": "/job/out"}, timeout_s=SILENCE_S) as answer:
                unpack(answer, self._workspace.out, self._output_size)
        except Refused as refused:
            if refused.status == 404:  # noqa: PLR2004 - the container is there, so it is the folder that is not
                raise errors.BadOutputPath(_REPLACED, hint="leave /job/out where it is") from None
            raise
        except Broken as broken:
            raise errors.Retry(
                f"the outputs did not arrive whole from the engine: {broken}", hint="run it again"
            ) from None

    def _artifacts(self) -> Iterator[Packed]:
        made: set[str] = set()
        for artifact in self._job.artifacts:
            name = artifact.path.removeprefix("/artifacts/")
            for end in (at for at, char in enumerate(name) if char == "/"):
                if name[:end] not in made:
                    made.add(name[:end])
                    yield Packed(name[:end], 0o755, STRANGER, None)
            yield Packed(name, 0o444, STRANGER, f"{self._workspace.root}{artifact.path}")


class SecretCopies:
    """Secrets in a volume of the container: on the engine's disk until the container is removed."""

    def __init__(self, engine: Engine, secrets: Mapping[str, str], ids: tuple[int, int] | None) -> None:
        """Send nothing yet."""
        self._engine, self._secrets, self._ids = engine, secrets, ids
        self.mounts: list[Json] = [_volume("/run/secrets")]

    def stage(self, container: str) -> None:
        """Send them.

        Raises:
            Refused, Lost, DockerUnavailable: The engine did not take them.
        """
        mode, ids = (0o400, self._ids) if self._ids else (0o444, STRANGER)
        values = {name: value.encode("utf-8", "surrogateescape") for name, value in self._secrets.items()}
        things = (Packed(name, mode, ids, value) for name, value in values.items())
        _put(self._engine, container, "/run/secrets", things)

    def close(self) -> None:
        """Nothing: they go with the container."""


def unpack(stream: io.RawIOBase, out: Path, output_size: int) -> None:
    """Make what an archive of ``out`` holds, in an empty folder of ours: private files, and nothing followed.

    Raises:
        OutputLimit, BadOutputPath, DuplicateOutput, StoreFailed: As ``Copies.collect``.
        Broken: It is no whole archive of one folder.
    """
    archive = Unpacked(stream)
    count = Sum(output_size)
    sizes: dict[str, int] = {}  # of the regular files that are made
    folders = {""}
    members = iter(archive)
    top = next(members, None)
    if top is None or top.kind != tarfile.DIRTYPE or top.name != "out":
        raise errors.BadOutputPath(_REPLACED, hint="leave /job/out where it is")
    for member in members:
        name = _relative(member.name)
        if name.rpartition("/")[0] not in folders:
            raise Broken(f"{shown(name)} comes before its folder")
        if len(_bytes(name)) > _MOST_PATH_BYTES:
            raise errors.BadOutputPath(
                f"the output {shown(name)} has a path of more than {_MOST_PATH_BYTES:,} bytes",
                hint="give it a shorter name",
            )
        size = member.size_bytes
        if member.kind == tarfile.LNKTYPE:
            size = sizes.get(_relative(member.link), -1)
            if size < 0:
                raise Broken(f"{shown(name)} is a second name of what is not there")
        count.add(name, size, is_folder=member.kind == tarfile.DIRTYPE)
        check_room(out, count.size_bytes, to_come=size)
        try:
            _make(archive, member, out, name)
        except OSError as error:
            raise _refused(error, name) from error
        if member.kind == tarfile.DIRTYPE:
            folders.add(name)
        elif member.kind in {tarfile.REGTYPE, tarfile.LNKTYPE}:
            sizes[name] = size


def _make(archive: Unpacked, member: tuple[str, bytes, int, str], out: Path, name: str) -> None:
    _, kind, _, link = member
    # Bytes, since the names are UTF-8 whatever the locale says.
    path = os.fsencode(out) + b"/" + _bytes(name)
    if kind == tarfile.DIRTYPE:
        os.mkdir(path, 0o700)
    elif kind == tarfile.REGTYPE:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(path, flags, 0o600)
        try:
            archive.copy_to(file)
        finally:
            os.close(file)
    elif kind == tarfile.LNKTYPE:
        os.link(os.fsencode(out) + b"/" + _bytes(_relative(link)), path, follow_symlinks=False)
    elif kind == tarfile.SYMTYPE:
        os.symlink(_bytes(link), path)
    elif kind == tarfile.FIFOTYPE:
        os.mkfifo(path, 0o600)
    else:
        raise errors.BadOutputPath(
            f"the output {shown(name)} is {_KINDS.get(kind, 'a special file')}",
            hint="write a regular file in its place",
        )


def _relative(name: str) -> str:
    """The path below out.

    Raises:
        Broken: It leads elsewhere.
    """
    head, _, rest = name.partition("/")
    if head != "out" or not rest or any(part in {"", ".", ".."} for part in rest.split("/")):
        raise Broken(f"{shown(name)} is not below out")
    return rest


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _refused(error: OSError, name: str) -> errors.TheoryError:
    if error.errno == errno.EEXIST:  # the container's file system told two names apart that ours does not
        return errors.DuplicateOutput(
            f"the output {shown(name)} and another one are one file on this system", hint="rename one of them"
        )
    if error.errno in _NO_NAME:
        return errors.BadOutputPath(
            f"the output {shown(name)} cannot have this name here: {error.strerror}",
            hint="write it under another name",
        )
    return errors.StoreFailed(
        f"cannot write the output {shown(name)}: {error.strerror}",
        hint="free some space on its disk, or choose another one: THEORY_HOME",
    )


def _volume(target: str) -> Json:
    """An anonymous volume, without what the image has there; it is removed with its container (v=1)."""
    return {"Type": "volume", "Target": target, "VolumeOptions": {"NoCopy": True}}


def _put(engine: Engine, container: str, path: str, things: Iterable[Packed]) -> None:
    headers = {"Content-Type": "application/x-tar"}
    where = f"/containers/{container}/archive"
    with engine.stream(
        "PUT", where, query={"path": path}, body=pack(things), headers=headers, timeout_s=SILENCE_S
    ) as answer:
        answer.read()
