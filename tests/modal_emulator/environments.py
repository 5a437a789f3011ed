"""Environments of the workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from .rpc import answers

if TYPE_CHECKING:
    from .world import World

DEFAULT = "main"
BUILDER_VERSION = "2025.06"


class Environments:
    """`main`, which is the default, and what is created; an unknown name is refused."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ids = {DEFAULT: world.new_id("en")}

    def reset(self) -> None:
        self._ids = {DEFAULT: self._ids[DEFAULT]}

    def named(self, name: str) -> str:
        """The name in full: empty means the default.

        Raises:
            GRPCError: NOT_FOUND.
        """
        name = name or DEFAULT
        if name not in self._ids:
            raise GRPCError(Status.NOT_FOUND, f"Environment '{name}' not found")  # guess: text
        return name

    @answers("EnvironmentGetOrCreate")
    async def get(
        self, request: api_pb2.EnvironmentGetOrCreateRequest
    ) -> api_pb2.EnvironmentGetOrCreateResponse:
        name = request.deployment_name or DEFAULT
        if request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING:
            self._ids.setdefault(name, self._world.new_id("en"))
        name = self.named(name)
        return api_pb2.EnvironmentGetOrCreateResponse(
            environment_id=self._ids[name],
            metadata=api_pb2.EnvironmentMetadata(
                name=name, settings=api_pb2.EnvironmentSettings(image_builder_version=BUILDER_VERSION)
            ),
        )

    @answers("EnvironmentCreate")
    async def create(self, request: api_pb2.EnvironmentCreateRequest) -> Empty:
        if request.name in self._ids:
            raise GRPCError(Status.ALREADY_EXISTS, f"Environment '{request.name}' already exists")
        self._ids[request.name] = self._world.new_id("en")
        return Empty()

    @answers("EnvironmentList")
    async def listed(self, _: Empty) -> api_pb2.EnvironmentListResponse:
        return api_pb2.EnvironmentListResponse(
            items=[
                api_pb2.EnvironmentListItem(name=name, environment_id=key, default=name == DEFAULT)
                for name, key in self._ids.items()
            ]
        )

    def shown(self) -> dict[str, list[dict[str, object]]]:
        return {"environments": [{"name": name, "id": key} for name, key in self._ids.items()]}
