"""Rooms that are containers of the Docker engine on this machine.

The container's first process does nothing; commands enter its namespaces and its limits from here, which
takes a few milliseconds where the engine's own exec takes a hundred. Needs root.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from .room import Mounts, Room

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from modal_emulator.world import World

    from .images import Built

SOCKET = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
LABEL = "theory.emulator"  # its value: the emulator's process and when that started
HOLD = "/__modal_hold"
# Machine code of a program that waits for ever: pause() in a loop, or ppoll(0, 0, 0, 0) for want of pause.
WAITS = {
    "x86_64": (62, bytes.fromhex("b8220000000f05ebf7")),
    "aarch64": (183, bytes.fromhex("000080d2010080d2020080d2030080d2280980d2010000d4faffff17")),
}
LIMITS = (
    "memory",
    "cpu,cpuacct",
    "cpu",
    "pids",
    "",
)  # cgroup controllers that matter; "" is cgroup v2's only one


class EngineFault(Exception):
    """The engine refused."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Engine:
    """Its HTTP API, as far as we need it."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.UnixConnector(path=SOCKET, limit=0)
            self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(None))
        return self._session

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """One call; the answer's JSON.

        Raises:
            EngineFault: with the engine's words.
        """
        async with self._opened().request(method, f"http://docker{path}", json=body) as response:
            text = await response.text()
            told = json.loads(text) if text.startswith(("{", "[")) else {}
            if response.status >= 400:
                raise EngineFault(response.status, told.get("message", text))
            return told

    async def stream(self, path: str, data: object, headers: dict[str, str]) -> AsyncIterator[dict[str, Any]]:
        """The lines of JSON that a long call answers with.

        Raises:
            EngineFault: it refused before the first line.
        """
        async with self._opened().post(f"http://docker{path}", data=data, headers=headers) as response:
            if response.status >= 400:
                raise EngineFault(response.status, (await response.json(content_type=None))["message"])
            rest = b""
            async for piece in response.content.iter_any():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield json.loads(line)
            if rest.strip():
                yield json.loads(rest)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class Containers:
    """Makes rooms out of containers."""

    isolated = True

    def __init__(self, world: World) -> None:
        self._world = world
        self.engine = Engine()
        self._rooms: set[Room] = set()
        self._owner = owner(os.getpid())

    async def open(self) -> None:
        """Remove what dead emulators left."""
        if os.geteuid() != 0:
            raise RuntimeError("the runner 'docker' enters the namespaces of containers: it needs root")
        await self._sweep()
        architecture = os.uname().machine
        hold = self._world.folder / "hold"
        hold.write_bytes(_program(*WAITS[architecture]))
        hold.chmod(0o755)

    async def close(self) -> None:
        await asyncio.gather(*(room.close() for room in list(self._rooms)))
        await self.engine.close()

    @property
    def left_overs(self) -> str:
        """The command that removes what this emulator left."""
        return f"docker ps -aq --filter label={LABEL}={self._owner} | xargs -r docker rm -fv"

    async def _sweep(self) -> None:
        filters = json.dumps({"label": [LABEL]})
        for one in await self.engine.ask("GET", f"/containers/json?all=1&filters={filters}"):
            pid = int(one["Labels"][LABEL].partition(".")[0])
            if owner(pid) != one["Labels"][LABEL]:
                await self._delete(one["Id"])

    async def _delete(self, container: str) -> None:
        try:
            await self.engine.ask("DELETE", f"/containers/{container}?force=1&v=1")
        except EngineFault as fault:
            if fault.status not in {404, 409}:  # gone, or somebody removes it
                raise

    async def room(
        self,
        built: Built,
        *,
        mounts: Mounts = (),
        cpu: float = 0,
        memory: int = 0,
        network: bool = True,
        label: str = "",
    ) -> Room:
        """Make a container of an image and start it."""
        binds = [f"{source}:{target}:{'ro' if ro else 'rw'}" for source, target, ro in mounts]
        body = {
            "Image": built.tag,
            "Entrypoint": [HOLD],
            "Cmd": [],
            "User": "0",
            "WorkingDir": "/",
            "Hostname": "" if network else "modal",
            "Labels": {LABEL: self._owner, f"{LABEL}.for": label},
            "HostConfig": {
                "Binds": [*binds, f"{self._world.folder}/hold:{HOLD}:ro"],
                "NetworkMode": "host" if network else "none",
                "Memory": memory << 20,
                "MemorySwap": memory << 20,
                "NanoCpus": min(int(cpu * 1e9), (os.cpu_count() or 1) * 10**9),
            },
        }
        container = (await self.engine.ask("POST", "/containers/create", body))["Id"]
        try:
            await self.engine.ask("POST", f"/containers/{container}/start")
            pid = (await self.engine.ask("GET", f"/containers/{container}/json"))["State"]["Pid"]
        except BaseException:
            await self._delete(container)
            raise
        groups = _cgroups(pid)
        room = Room(
            name=container,
            holder=pid,
            root=f"/proc/{pid}/root",
            environ={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/root", **built.environ},
            remove=lambda: self._end(room),
            cgroups=[f"{group}/cgroup.procs" for group in groups],
            namespaces=("--mount", "--pid", "--uts", "--ipc", *([] if network else ["--net"])),
            oomed=lambda: _killed_for_memory(groups),
        )
        self._rooms.add(room)
        return room

    async def _end(self, room: Room) -> None:
        self._rooms.discard(room)
        await self._delete(room.name)


def owner(pid: int) -> str:
    """A process, for good: its number and the moment of its start; "" when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{pid}.{fields[19]}"


def _cgroups(pid: int) -> list[Path]:
    """The folders of the limits of a process."""
    found = []
    for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        folder = Path(f"/sys/fs/cgroup/{controllers}{path}" if controllers else f"/sys/fs/cgroup{path}")
        if controllers in LIMITS and (folder / "cgroup.procs").exists() and path != "/":
            found.append(folder)
    return found


def _killed_for_memory(groups: list[Path]) -> bool:
    for group in groups:
        for name in ("memory.events", "memory.oom_control"):  # cgroup v2, v1
            try:
                lines = (group / name).read_text(encoding="ascii").splitlines()
            except OSError:
                continue
            if any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in lines):
                return True
    return False


def _program(machine: int, code: bytes) -> bytes:
    """The smallest ELF file that runs machine code: a header, one segment, the code."""
    start, address = 64 + 56, 0x400000
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    fields = (2, machine, 1, address + start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    header = ident + struct.pack("<HHIQQQIHHHHHH", *fields)
    size = start + len(code)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, address, address, size, size, 0x1000) + code
