"""Secrets as files of memory, in a folder that is mounted at /run/secrets.

``docker inspect`` shows a container's variables and mounts to everybody who may ask the engine; it shows the
path of this folder and nothing that is in it.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from theory_adapter_local.files.binds import mount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from theory import Json
    from theory_adapter_local.engine.client import Engine

TARGET = "/run/secrets"
_TYPE_AND_MODE = 0o170777
_PRIVATE_FOLDER = stat.S_IFDIR | 0o700


def folders_for_secrets() -> tuple[Path, ...]:
    """Where the folders of runs are, the best first: file systems in memory of this machine."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    above = [runtime, "/dev/shm"] if os.path.isabs(runtime) else ["/dev/shm"]  # noqa: S108 - checked for its owner
    return tuple(Path(folder) / f"theory-{os.geteuid()}" for folder in above)


def folder_for_secrets() -> Path | None:
    """One of them, made, ours and closed to everybody else; None where there is none."""
    for folder in folders_for_secrets():
        with suppress(OSError):
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            found = folder.lstat()
            # Whoever made it first in /dev/shm may have been another user; a link is never a folder here.
            if found.st_mode & _TYPE_AND_MODE == _PRIVATE_FOLDER and found.st_uid == os.geteuid():
                return folder
    return None


class SecretFolder:
    """The secrets of one run, in memory until ``close``; a watchdog removes them if we die before."""

    def __init__(
        self, engine: Engine, folder: Path, secrets: Mapping[str, str], ids: tuple[int, int]
    ) -> None:
        """Write them; ``ids``, as this machine has them, are whose command reads them.

        Where that user is not ours its group may read them, so the folder remains ours to remove.
        """
        from theory_adapter_local.guard.watchdog import guard_of, owner_name  # noqa: PLC0415 - where there are secrets

        self._path = folder / f"theory-{owner_name()}-{os.urandom(8).hex()}"
        self._guard = guard_of(engine)
        self._guard.watch(str(self._path))
        group = ids[1] if ids[0] != os.geteuid() else -1
        readable = 0o500 if group < 0 else 0o550
        try:
            self._path.mkdir(mode=0o700)
            for name, value in secrets.items():
                file = os.open(self._path / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with open(file, "wb") as stream:
                    stream.write(value.encode("utf-8", "surrogateescape"))
                    os.fchown(file, -1, group)
                    os.fchmod(file, readable & 0o440)
            os.chown(self._path, -1, group)
            self._path.chmod(readable)
        except BaseException:
            self.close()
            raise
        self.mounts: list[Json] = [mount(self._path, TARGET, read_only=True)]

    def stage(self, container: str) -> None:
        """Nothing: they are there."""

    def close(self) -> None:
        """Remove them; what cannot be removed stays watched."""
        try:
            self._path.chmod(0o700)
            for name in os.listdir(self._path):
                os.unlink(self._path / name)
            self._path.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            return
        self._guard.forget(str(self._path))
