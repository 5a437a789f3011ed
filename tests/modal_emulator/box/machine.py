"""Rooms on this machine, for where there is no engine: its own file system with a private layer over it.

What is written stays in that layer, which is in memory; /job, /artifacts and /tmp are folders on disk.
Folders below /tmp on this machine that the emulator needs are shown at the same place. Each room is a mount
and a process namespace, held by a process that the kernel ends with the emulator. Needs root.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .room import Mounts, Room, children

if TYPE_CHECKING:
    from modal_emulator.world import World

    from .images import Built

COVERED = "/tmp"  # noqa: S108 - a room has one of its own
PRIVATE = ("job", "artifacts", "tmp")
# $1 a folder of ours, $2 where commands start; then for each mount: source, target, "ro" or "rw".
# Says "ready" when all is mounted.
SET_UP = """
set -e
ours=$1; workdir=$2; shift 2
mount -t tmpfs -o mode=755 tmpfs "$ours/layer"
mkdir "$ours/layer/up" "$ours/layer/work" "$ours/layer/root"
root=$ours/layer/root
mount -t overlay -o "lowerdir=/,upperdir=$ours/layer/up,workdir=$ours/layer/work" overlay "$root"
mkdir -p "$root$workdir" "$root/job" "$root/artifacts" "$root/tmp" "$root/proc" "$root/sys" "$root/dev"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
for name in job artifacts tmp; do mount --bind "$ours/$name" "$root/$name"; done
while [ $# -gt 0 ]; do
    if [ -d "$1" ]; then
        mkdir -p "$root$2"
    else
        mkdir -p "$(dirname "$root$2")"
        [ -e "$root$2" ] || : > "$root$2"
    fi
    mount --bind "$1" "$root$2"
    if [ "$3" = ro ]; then mount -o remount,bind,ro "$root$2"; fi
    shift 3
done
if command -v ip >/dev/null; then ip link set lo up; fi
echo ready
exec sleep infinity
"""


class Machine:
    """Makes rooms out of this machine."""

    isolated = False
    left_overs = ":"  # nothing to do: the kernel ends what runs here with the emulator

    def __init__(self, world: World) -> None:
        self._world = world
        self._folder = world.folder / "rooms"
        self._rooms: set[Room] = set()

    async def open(self) -> None:
        """Refuse early where rooms cannot be made."""
        if os.geteuid() != 0:
            raise RuntimeError("the runner 'process' makes mount namespaces: it needs root")
        self._folder.mkdir()

    async def close(self) -> None:
        await asyncio.gather(*(room.close() for room in list(self._rooms)))

    async def room(
        self,
        built: Built,
        *,
        mounts: Mounts = (),
        cpu: float = 0,  # noqa: ARG002 - this machine gives what it has
        memory: int = 0,  # noqa: ARG002 - the same
        network: bool = True,
        label: str = "",
    ) -> Room:
        """Make a room; an image's files are not in it, only its variables."""
        ours = self._folder / label
        for name in ("layer", *PRIVATE):
            (ours / name).mkdir(parents=True)
        (ours / "tmp").chmod(0o1777)
        arguments = [part for source, target, ro in mounts for part in (source, target, "ro" if ro else "rw")]
        for shown in self._shown():
            arguments += [shown, shown, "rw"]
        holder = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"),
            *("--pid", "--fork", "--kill-child", *([] if network else ["--net"])),
            *("sh", "-c", SET_UP, "sh", str(ours), built.workdir, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert holder.stdout is not None
        assert holder.stderr is not None
        if await holder.stdout.readline() != b"ready\n":
            reason = (await holder.stderr.read()).decode(errors="replace").strip()
            await self._remove(holder, ours)
            raise RuntimeError(f"cannot make a room on this machine: {reason}")
        first = children(holder.pid)[0]
        room = Room(
            name=label,
            holder=first,
            root=f"/proc/{first}/root{ours}/layer/root",
            environ={"PATH": _path(), "HOME": "/root", "LANG": "C.UTF-8", **built.environ},
            remove=lambda: self._end(room, holder, ours),
            namespaces=("--mount", "--pid", *([] if network else ["--net"])),
        )
        self._rooms.add(room)
        return room

    def _shown(self) -> list[str]:
        """What is seen in spite of a /tmp of its own: the interpreter, and what the emulator hands in."""
        wanted = {
            sys.prefix,
            sys.base_prefix,
            str(self._world.folder / "t"),
            *map(os.path.realpath, sys.path),
        }
        below = sorted(path for path in wanted if path.startswith(f"{COVERED}/") and Path(path).exists())
        return [path for path in below if not any(path.startswith(f"{other}/") for other in below)]

    async def _end(self, room: Room, holder: asyncio.subprocess.Process, ours: Path) -> None:
        self._rooms.discard(room)
        await self._remove(holder, ours)

    async def _remove(self, holder: asyncio.subprocess.Process, ours: Path) -> None:
        if holder.returncode is None:
            # Not holder.kill(): that would take the process's status, and asyncio would miss it.
            for pid in (*children(holder.pid), holder.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        await holder.wait()
        await asyncio.to_thread(shutil.rmtree, ours, ignore_errors=True)


def _path() -> str:
    return f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
