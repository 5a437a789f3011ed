"""Mounts: sets of files by their SHA-256, for the containers of functions and for images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from .rpc import answers

if TYPE_CHECKING:
    from pathlib import Path

    from .world import World


@dataclass(frozen=True)
class MountedFile:
    """A file as a container sees it."""

    remote: str
    content: Path
    mode: int


class Mounts:
    """Contents in a folder, named by their digest, and the lists that name them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._folder = world.folder / "mounts"
        self._folder.mkdir(exist_ok=True)
        self._mounts: dict[str, list[api_pb2.MountFile]] = {}
        self._names: dict[str, str] = {}

    def files(self, mount_ids: list[str]) -> list[MountedFile]:
        """All files of some mounts, in their order.

        Raises:
            GRPCError: NOT_FOUND.
        """
        found = []
        for mount_id in mount_ids:
            if mount_id not in self._mounts:
                raise GRPCError(Status.NOT_FOUND, f"Mount {mount_id} not found")
            found += [
                MountedFile(file.filename, self._folder / file.sha256_hex, file.mode or 0o644)
                for file in self._mounts[mount_id]
            ]
        return found

    @answers("MountBatchedCheckExistence")
    async def check(
        self, request: api_pb2.MountBatchedCheckExistenceRequest
    ) -> api_pb2.MountBatchedCheckExistenceResponse:
        missing = [digest for digest in request.sha256_hex_hashes if not self._path(digest).exists()]
        return api_pb2.MountBatchedCheckExistenceResponse(
            missing_sha256_hex_hashes=missing, checked_at=self._time()
        )

    @answers("MountPutFile")
    async def put(self, request: api_pb2.MountPutFileRequest) -> api_pb2.MountPutFileResponse:
        path = self._path(request.sha256_hex)
        if request.WhichOneof("data_oneof") == "data_blob_id":
            data = self._world.blobs.get(request.data_blob_id)
        elif request.WhichOneof("data_oneof") == "data":
            data = request.data
        else:  # an older way to ask whether it is there
            return api_pb2.MountPutFileResponse(exists=path.exists(), checked_at=self._time())
        if hashlib.sha256(data).hexdigest() != request.sha256_hex:
            raise GRPCError(Status.INVALID_ARGUMENT, f"not the content of {request.sha256_hex}")
        path.write_bytes(data)
        return api_pb2.MountPutFileResponse(exists=True, checked_at=self._time())

    @answers("MountGetOrCreate", once=True)
    async def create(self, request: api_pb2.MountGetOrCreateRequest) -> api_pb2.MountGetOrCreateResponse:
        """Make a mount of the files named; a name with no files is one that Modal itself publishes.

        Those hold the client and what it needs: containers here have the emulator's own, so they are empty.
        """
        missing = [file.filename for file in request.files if not self._path(file.sha256_hex).exists()]
        if missing:
            raise GRPCError(Status.FAILED_PRECONDITION, f"content missing: {', '.join(missing)}")
        mount_id = self._names.get(request.deployment_name) if not request.files else None
        if mount_id is None:
            mount_id = self._world.new_id("mo")
            self._mounts[mount_id] = list(request.files)
        if request.deployment_name:
            self._names[request.deployment_name] = mount_id
        digest = hashlib.sha256()
        for file in sorted(request.files, key=lambda file: file.filename):
            digest.update(f"{file.filename}\0{file.sha256_hex}\0{file.mode}\n".encode())
        metadata = api_pb2.MountHandleMetadata(content_checksum_sha256_hex=digest.hexdigest())
        return api_pb2.MountGetOrCreateResponse(mount_id=mount_id, handle_metadata=metadata)

    def content(self, digest: str) -> Path:
        """The file with this SHA-256.

        Raises:
            GRPCError: FAILED_PRECONDITION: it was not put here.
        """
        path = self._path(digest)
        if not path.is_file():
            raise GRPCError(Status.FAILED_PRECONDITION, f"content missing: {digest}")
        return path

    def _path(self, digest: str) -> Path:
        if not digest or set(digest) - set("0123456789abcdef"):
            raise GRPCError(Status.INVALID_ARGUMENT, f"no SHA-256 in hexadecimal: {digest!r}")
        return self._folder / digest

    def _time(self) -> Timestamp:
        return Timestamp(seconds=int(self._world.now()))
