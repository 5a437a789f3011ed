"""Volumes: folders on this machine. Containers see each other's changes at once, without commit or reload."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from modal_emulator.environments import Environments
from modal_emulator.rpc import Call, answers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modal_emulator.world import World

V1, V2 = api_pb2.VOLUME_FS_VERSION_V1, api_pb2.VOLUME_FS_VERSION_V2
_FAIL_IF_EXISTS = api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS
_CREATES = (
    api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING,
    api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS,
    api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL,
    api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP,
    _FAIL_IF_EXISTS,
)


@dataclass
class Volume:
    """A folder with a name."""

    volume_id: str
    name: str
    environment: str
    version: int
    created_at: float
    folder: Path

    def metadata(self) -> api_pb2.VolumeMetadata:
        return api_pb2.VolumeMetadata(
            version=self.version,  # type: ignore[arg-type]  # an enum's number
            name=self.name,
            creation_info=api_pb2.CreationInfo(created_at=self.created_at),
        )


class Volumes:
    """All volumes of the workspace."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._volumes: dict[str, Volume] = {}

    async def reset(self) -> None:
        gone, self._volumes = self._volumes, {}
        for volume in gone.values():
            await asyncio.to_thread(shutil.rmtree, volume.folder, ignore_errors=True)

    def require(self, volume_id: str) -> Volume:
        """The volume with this id.

        Raises:
            GRPCError: NOT_FOUND.
        """
        if volume_id not in self._volumes:
            raise GRPCError(Status.NOT_FOUND, f"Volume {volume_id} not found")
        return self._volumes[volume_id]

    def volume_folder(self, volume_id: str) -> Path:
        """Where its files are."""
        return self.require(volume_id).folder

    def describe(self, one: api_pb2.Object) -> None:
        """Add what a handle of the client knows of a volume."""
        if one.object_id in self._volumes:
            one.volume_metadata.CopyFrom(self._volumes[one.object_id].metadata())

    def path(self, volume_id: str, path: str) -> Path:
        """A path in a volume, links not followed out of it.

        Raises:
            GRPCError: INVALID_ARGUMENT: it leads out.
        """
        folder = self.volume_folder(volume_id).resolve()
        inside = folder / str(PurePosixPath("/", path)).lstrip("/")
        if not inside.resolve().is_relative_to(folder):
            raise GRPCError(Status.INVALID_ARGUMENT, f"{path} leads out of the volume")
        return inside

    def mounts(self, wanted: Iterable[api_pb2.VolumeMount]) -> list[tuple[str, str, bool]]:
        """How a container sees its volumes."""
        found = []
        for mount in wanted:
            folder = self.path(mount.volume_id, mount.sub_path)
            folder.mkdir(parents=True, exist_ok=True)
            found.append((str(folder), mount.mount_path, mount.read_only))
        return found

    def _named(self, name: str, environment: str) -> Volume | None:
        named = (one for one in self._volumes.values() if name and one.name == name)
        return next((one for one in named if one.environment == environment), None)

    @answers("VolumeGetOrCreate", once=True)
    async def get_or_create(
        self, request: api_pb2.VolumeGetOrCreateRequest, call: Call
    ) -> api_pb2.VolumeGetOrCreateResponse:
        environment = self._world.area(Environments).named(request.environment_name)
        name, how = request.deployment_name, request.object_creation_type
        known = self._named(name, environment)
        if known is not None and how == _FAIL_IF_EXISTS:
            raise GRPCError(Status.ALREADY_EXISTS, f"Volume '{name}' already exists")
        if known is None:
            if how not in _CREATES:
                raise GRPCError(
                    Status.NOT_FOUND, f"Volume '{name}' not found in environment '{environment}'"
                )  # guess: text
            known = self._new(name, environment, request.version or V1)  # guess: V1 where none is asked for
        call.note(volume=known.volume_id)
        return api_pb2.VolumeGetOrCreateResponse(
            volume_id=known.volume_id,
            version=known.version,  # type: ignore[arg-type]  # an enum's number
            metadata=known.metadata(),
        )

    def _new(self, name: str, environment: str, version: int) -> Volume:
        volume_id = self._world.new_id("vo")
        folder = self._world.folder / "volumes" / volume_id
        folder.mkdir(parents=True)
        volume = Volume(volume_id, name, environment, version, self._world.now(), folder)
        self._volumes[volume_id] = volume
        return volume

    @answers("VolumeGetById")
    async def by_id(self, request: api_pb2.VolumeGetByIdRequest) -> api_pb2.VolumeGetByIdResponse:
        volume = self.require(request.volume_id)
        return api_pb2.VolumeGetByIdResponse(volume_id=volume.volume_id, metadata=volume.metadata())

    @answers("VolumeList")
    async def list_all(self, request: api_pb2.VolumeListRequest) -> api_pb2.VolumeListResponse:
        """Those with a name, the youngest first."""
        environment = self._world.area(Environments).named(request.environment_name)
        before = request.pagination.created_before or float("inf")
        found = [
            api_pb2.VolumeListItem(
                label=one.name,
                volume_id=one.volume_id,
                created_at=one.created_at,
                metadata=one.metadata(),
            )
            for one in reversed(self._volumes.values())
            if one.name and one.environment == environment and one.created_at < before
        ]
        most = request.pagination.max_objects or 100
        return api_pb2.VolumeListResponse(items=found[:most], environment_name=environment)

    @answers("VolumeDelete", once=True)
    async def delete(self, request: api_pb2.VolumeDeleteRequest) -> Empty:
        volume = self.require(request.volume_id)
        del self._volumes[volume.volume_id]
        await asyncio.to_thread(shutil.rmtree, volume.folder, ignore_errors=True)
        return Empty()

    @answers("VolumeRename", once=True)
    async def rename(self, request: api_pb2.VolumeRenameRequest) -> Empty:
        volume = self.require(request.volume_id)
        if self._named(request.name, volume.environment):
            raise GRPCError(Status.ALREADY_EXISTS, f"Volume '{request.name}' already exists")
        volume.name = request.name
        return Empty()

    @answers("VolumeHeartbeat")
    async def heartbeat(self, request: api_pb2.VolumeHeartbeatRequest) -> Empty:
        self.require(request.volume_id)
        return Empty()

    @answers("VolumeReload")
    async def reload(self, request: api_pb2.VolumeReloadRequest) -> Empty:
        """Nothing to do: there is one state only."""
        self.require(request.volume_id)
        return Empty()

    @answers("VolumeCommit")
    async def commit(self, request: api_pb2.VolumeCommitRequest) -> api_pb2.VolumeCommitResponse:
        """Nothing to do: what is written is there."""
        self.require(request.volume_id)
        return api_pb2.VolumeCommitResponse(skip_reload=True)
