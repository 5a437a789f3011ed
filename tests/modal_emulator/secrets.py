"""Secrets: names and values for the environment of containers. Their values are never shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from .environments import Environments
from .rpc import answers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .world import World

_FAIL_IF_EXISTS = api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS
_IF_MISSING = api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING
_OVERWRITE = api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS
_CREATES = (_FAIL_IF_EXISTS, _IF_MISSING, _OVERWRITE)


@dataclass
class _Secret:
    secret_id: str
    name: str
    environment: str
    created_at: float
    values: dict[str, str]

    def metadata(self) -> api_pb2.SecretMetadata:
        return api_pb2.SecretMetadata(
            name=self.name,
            keys=sorted(self.values),
            environment_name=self.environment,
            creation_info=api_pb2.CreationInfo(created_at=self.created_at),
        )


class Secrets:
    """Named ones of an environment, and nameless ones of an app."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._secrets: dict[str, _Secret] = {}

    def reset(self) -> None:
        self._secrets = {key: secret for key, secret in self._secrets.items() if not secret.name}

    def environment(self, secret_ids: Iterable[str]) -> dict[str, str]:
        """The variables of some secrets; a later one wins.

        Raises:
            GRPCError: NOT_FOUND.
        """
        found: dict[str, str] = {}
        for secret_id in secret_ids:
            found |= self._required(secret_id).values
        return found

    def _required(self, secret_id: str) -> _Secret:
        if secret_id not in self._secrets:
            raise GRPCError(Status.NOT_FOUND, f"Secret {secret_id} not found")
        return self._secrets[secret_id]

    def _named(self, name: str, environment: str) -> _Secret | None:
        named = (secret for secret in self._secrets.values() if secret.name == name)
        return next((secret for secret in named if secret.environment == environment), None)

    @answers("SecretGetOrCreate", once=True)
    async def get(self, request: api_pb2.SecretGetOrCreateRequest) -> api_pb2.SecretGetOrCreateResponse:
        environment = self._world.area(Environments).named(request.environment_name)
        name, how = request.deployment_name, request.object_creation_type
        known = self._named(name, environment) if name else None
        if known is not None and how == _FAIL_IF_EXISTS:
            raise GRPCError(Status.ALREADY_EXISTS, f"Secret '{name}' already exists")
        if known is None:
            if name and how not in _CREATES:
                raise GRPCError(
                    Status.NOT_FOUND, f"Secret '{name}' not found in environment '{environment}'"
                )  # guess: text
            known = _Secret(self._world.new_id("st"), name, environment, self._world.now(), {})
            known.values.update(request.env_dict)
            self._secrets[known.secret_id] = known
        elif how == _OVERWRITE:
            known.values = dict(request.env_dict)
        if missing := sorted(set(request.required_keys) - set(known.values)):
            keys = ", ".join(missing)
            raise GRPCError(
                Status.FAILED_PRECONDITION, f"Secret '{name}' is missing required key(s): {keys}"
            )  # guess: status and text
        return api_pb2.SecretGetOrCreateResponse(secret_id=known.secret_id, metadata=known.metadata())

    @answers("SecretGetInfo")
    async def info(self, request: api_pb2.SecretGetInfoRequest) -> api_pb2.SecretGetInfoResponse:
        return api_pb2.SecretGetInfoResponse(metadata=self._required(request.secret_id).metadata())

    @answers("SecretUpdate")
    async def update(self, request: api_pb2.SecretUpdateRequest) -> Empty:
        secret = self._required(request.secret_id)
        for change in request.updates:
            if change.HasField("value"):
                secret.values[change.key] = change.value
            else:
                secret.values.pop(change.key, None)
        return Empty()

    @answers("SecretDelete")
    async def delete(self, request: api_pb2.SecretDeleteRequest) -> Empty:
        self._required(request.secret_id)
        del self._secrets[request.secret_id]
        return Empty()

    @answers("SecretList")
    async def listed(self, request: api_pb2.SecretListRequest) -> api_pb2.SecretListResponse:
        environment = self._world.area(Environments).named(request.environment_name)
        before = request.pagination.created_before or float("inf")
        found = [
            secret
            for secret in self._secrets.values()
            if secret.name and secret.environment == environment and secret.created_at < before
        ]
        found.sort(key=lambda secret: -secret.created_at)
        return api_pb2.SecretListResponse(
            environment_name=environment,
            items=[
                api_pb2.SecretListItem(
                    label=secret.name,
                    secret_id=secret.secret_id,
                    created_at=secret.created_at,
                    environment_name=environment,
                    metadata=secret.metadata(),
                )
                for secret in found[: request.pagination.max_objects or None]
            ],
        )

    def shown(self) -> dict[str, list[dict[str, object]]]:
        return {
            "secrets": [
                {"id": key, "name": secret.name, "keys": sorted(secret.values)}
                for key, secret in self._secrets.items()
            ]
        }
