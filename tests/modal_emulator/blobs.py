"""Blobs: what is too large for a message goes by HTTP, as to a bucket."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from aiohttp import web
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from .rpc import answers

if TYPE_CHECKING:
    from pathlib import Path

    from .world import World

PORTION = 1 << 20  # bytes read from a request at a time


class Blobs:
    """Files in a folder, one a blob."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._folder = world.folder / "blobs"
        self._folder.mkdir(exist_ok=True)
        self._expected: dict[str, str] = {}  # blob id -> MD5 in base64 that the client announced

    def put(self, data: bytes) -> str:
        """Keep bytes under a new id."""
        blob_id = self._world.new_id("bl")
        self._path(blob_id).write_bytes(data)
        return blob_id

    def get(self, blob_id: str) -> bytes:
        """All bytes of a blob.

        Raises:
            GRPCError: NOT_FOUND.
        """
        return self.path(blob_id).read_bytes()

    def path(self, blob_id: str) -> Path:
        """The file that holds a blob.

        Raises:
            GRPCError: NOT_FOUND.
        """
        path = self._path(blob_id)
        if not path.is_file():
            raise GRPCError(Status.NOT_FOUND, f"Blob {blob_id} not found")
        return path

    def url(self, blob_id: str) -> str:
        """Where a blob is put and got."""
        return f"{self._world.urls.blobs}/blobs/{blob_id}"

    def _path(self, blob_id: str) -> Path:
        if not blob_id.startswith("bl-") or not blob_id[3:].isalnum():
            raise GRPCError(Status.INVALID_ARGUMENT, f"no blob id: {blob_id}")
        return self._folder / blob_id

    @answers("BlobCreate")
    async def create(self, request: api_pb2.BlobCreateRequest) -> api_pb2.BlobCreateResponse:
        blob_id = self._world.new_id("bl")
        self._expected[blob_id] = request.content_md5
        url = self.url(blob_id)
        return api_pb2.BlobCreateResponse(
            blob_id=blob_id,
            blob_ids=[blob_id],
            upload_urls=api_pb2.UploadUrlList(items=[url]),
        )

    @answers("BlobGet")
    async def locate(self, request: api_pb2.BlobGetRequest) -> api_pb2.BlobGetResponse:
        self.path(request.blob_id)
        return api_pb2.BlobGetResponse(download_url=self.url(request.blob_id))

    def routes(self) -> list[web.AbstractRouteDef]:
        """What is answered by HTTP."""
        return [web.put("/blobs/{id}", self._upload), web.get("/blobs/{id}", self._download)]

    async def _upload(self, request: web.Request) -> web.Response:
        """Keep what is sent once all of it is here; an upload that breaks leaves nothing."""
        blob_id = request.match_info["id"]
        if blob_id not in self._expected:
            return web.Response(status=404)
        digest = hashlib.md5(usedforsecurity=False)
        partial = self._folder / f"{self._world.new_id('part')}"
        try:
            with partial.open("wb") as file:
                async for portion in request.content.iter_chunked(PORTION):
                    digest.update(portion)
                    file.write(portion)
            wanted = self._expected[blob_id]
            if wanted and base64.b64decode(wanted) != digest.digest():
                text = "The Content-MD5 you specified did not match what we received."
                return web.Response(status=400, text=text)
            partial.rename(self._path(blob_id))
        finally:
            partial.unlink(missing_ok=True)
        return web.Response(headers={"ETag": f'"{digest.hexdigest()}"'})

    async def _download(self, request: web.Request) -> web.StreamResponse:
        path = self._folder / request.match_info["id"]
        if not path.is_file():
            return web.Response(status=404)
        return web.FileResponse(path)
