"""Hello, and the short-lived token that the client asks for on top of its own."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from modal_proto import api_pb2

from .rpc import answers

if TYPE_CHECKING:
    from google.protobuf.empty_pb2 import Empty

    from .world import World

TOKEN_LIFE = 20 * 60  # seconds; guess


class Auth:
    """ClientHello and AuthTokenGet."""

    def __init__(self, world: World) -> None:
        self._world = world

    @answers("ClientHello")
    async def hello(self, _: Empty) -> api_pb2.ClientHelloResponse:
        return api_pb2.ClientHelloResponse()

    @answers("AuthTokenGet")
    async def token(self, _: api_pb2.AuthTokenGetRequest) -> api_pb2.AuthTokenGetResponse:
        return api_pb2.AuthTokenGetResponse(token=jwt({"exp": self._world.now() + TOKEN_LIFE}))


def jwt(claims: dict[str, object]) -> str:
    """A token with these claims; its signature is none: clients of Modal read `exp` and check nothing."""
    return f"{_part({'alg': 'none', 'typ': 'JWT'})}.{_part(claims)}.emulator"


def _part(claims: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
