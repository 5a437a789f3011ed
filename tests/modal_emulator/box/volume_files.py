"""The files of volumes as clients see them: in whole by digest (V1), or in blocks by HTTP (V2)."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from typing import TYPE_CHECKING
from urllib.parse import quote

from aiohttp import web
from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from modal_emulator.rpc import Call, answers

from .volumes import Volumes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from modal_emulator.world import World

BLOCK = 8 << 20  # bytes; the client's own figure
PORTION = 1 << 20  # bytes sent at a time
AT_ONCE = 500  # entries in one message of a listing
Kind = api_pb2.FileEntry


class VolumeFiles:
    """Put, get, list, copy, remove."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._blocks = world.folder / "blocks"
        self._blocks.mkdir(exist_ok=True)

    @property
    def _volumes(self) -> Volumes:
        return self._world.area(Volumes)

    def _there(self, volume_id: str, path: str) -> Path:
        found = self._volumes.path(volume_id, path)
        if not os.path.lexists(found):
            raise GRPCError(Status.NOT_FOUND, f"No such file or directory: {path}")  # guess: text
        return found

    def _refuse_overwriting(self, volume_id: str, paths: list[str]) -> None:
        for path in paths:
            if os.path.lexists(self._volumes.path(volume_id, path)):
                raise GRPCError(Status.ALREADY_EXISTS, f"File already exists: {path}")  # guess: text

    @answers("VolumePutFiles", once=True)
    async def put(self, request: api_pb2.VolumePutFilesRequest, call: Call) -> Empty:
        """Put files whose content came as for a mount."""
        if request.disallow_overwrite_existing_files:
            self._refuse_overwriting(request.volume_id, [file.filename for file in request.files])
        for file in request.files:
            content = self._world.mounts.content(file.sha256_hex)
            target = self._new(request.volume_id, file.filename)
            await asyncio.to_thread(shutil.copyfile, content, target)
            target.chmod(file.mode or 0o644)
        call.note(files=len(request.files))
        return Empty()

    def _new(self, volume_id: str, path: str) -> Path:
        target = self._volumes.path(volume_id, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    @answers("VolumePutFiles2")
    async def put_blocks(
        self, request: api_pb2.VolumePutFiles2Request, call: Call
    ) -> api_pb2.VolumePutFiles2Response:
        """Put files whose blocks are all here, or tell which are not and where to put them."""
        if request.disallow_overwrite_existing_files:
            self._refuse_overwriting(request.volume_id, [file.path for file in request.files])
        answer = api_pb2.VolumePutFiles2Response()
        for file_index, file in enumerate(request.files):
            for block_index, block in enumerate(file.blocks):
                digest = block.contents_sha256.hex()
                if not (self._blocks / digest).is_file():
                    url = f"{self._world.urls.blobs}/volumes/blocks/{digest}"
                    answer.missing_blocks.add(file_index=file_index, block_index=block_index, put_url=url)
        if not answer.missing_blocks:
            for file in request.files:
                target = self._new(request.volume_id, file.path)
                digests = [block.contents_sha256.hex() for block in file.blocks]
                await asyncio.to_thread(self._join, target, digests, file.size)
                target.chmod(file.mode or 0o644)
        call.note(files=len(request.files), missing=len(answer.missing_blocks))
        return answer

    def _join(self, target: Path, digests: list[str], size: int) -> None:
        """Make a file of blocks; what is missing at the end of one is zeros."""
        partial = target.with_name(f".{target.name}.partial")
        with partial.open("wb") as file:
            for index, digest in enumerate(digests):
                file.seek(index * BLOCK)
                with (self._blocks / digest).open("rb") as block:
                    shutil.copyfileobj(block, file, PORTION)
            file.truncate(size)
        partial.replace(target)

    @answers("VolumeGetFile2")
    async def get(self, request: api_pb2.VolumeGetFile2Request) -> api_pb2.VolumeGetFile2Response:
        """Where each block of a part of a file can be got."""
        path = self._there(request.volume_id, request.path)
        if not path.is_file():
            raise GRPCError(Status.INVALID_ARGUMENT, f"Not a file: {request.path}")
        size = path.stat().st_size
        start = min(request.start, size)
        length = min(request.len or size, size - start)
        place = (
            f"{self._world.urls.blobs}/volumes/files/{request.volume_id}/{quote(request.path.lstrip('/'))}"
        )
        urls, at = [], start
        while at < start + length:
            end = min(start + length, (at // BLOCK + 1) * BLOCK)
            urls.append(f"{place}?start={at}&end={end}")
            at = end
        return api_pb2.VolumeGetFile2Response(get_urls=urls, size=size, start=start, len=length)

    @answers("VolumeListFiles")
    async def list_v1(
        self, request: api_pb2.VolumeListFilesRequest
    ) -> AsyncIterator[api_pb2.VolumeListFilesResponse]:
        for entries in self._entries(request):
            yield api_pb2.VolumeListFilesResponse(entries=entries)

    @answers("VolumeListFiles2")
    async def list_v2(
        self, request: api_pb2.VolumeListFiles2Request
    ) -> AsyncIterator[api_pb2.VolumeListFiles2Response]:
        for entries in self._entries(request):
            yield api_pb2.VolumeListFiles2Response(entries=entries)

    def _entries(
        self, request: api_pb2.VolumeListFilesRequest | api_pb2.VolumeListFiles2Request
    ) -> list[list[api_pb2.FileEntry]]:
        """What is in a folder, or the one file that was named; paths from the volume's root on."""
        folder = self._volumes.volume_folder(request.volume_id).resolve()
        top = self._there(request.volume_id, request.path)
        paths = sorted(top.rglob("*") if request.recursive else top.iterdir()) if top.is_dir() else [top]
        if request.max_entries:
            paths = paths[: request.max_entries]
        entries = [_entry(path, folder) for path in paths]
        return [entries[at : at + AT_ONCE] for at in range(0, len(entries), AT_ONCE)]

    @answers("VolumeRemoveFile")
    async def remove_v1(self, request: api_pb2.VolumeRemoveFileRequest) -> Empty:
        return await self._remove(request)

    @answers("VolumeRemoveFile2")
    async def remove_v2(self, request: api_pb2.VolumeRemoveFile2Request) -> Empty:
        return await self._remove(request)

    async def _remove(
        self, request: api_pb2.VolumeRemoveFileRequest | api_pb2.VolumeRemoveFile2Request
    ) -> Empty:
        path = self._there(request.volume_id, request.path)
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        elif request.recursive:
            await asyncio.to_thread(shutil.rmtree, path)
        else:
            raise GRPCError(Status.INVALID_ARGUMENT, f"{request.path} is a directory")  # guess: text
        return Empty()

    @answers("VolumeCopyFiles")
    async def copy_v1(self, request: api_pb2.VolumeCopyFilesRequest) -> Empty:
        return await self._copy(request)

    @answers("VolumeCopyFiles2")
    async def copy_v2(self, request: api_pb2.VolumeCopyFiles2Request) -> Empty:
        return await self._copy(request)

    async def _copy(self, request: api_pb2.VolumeCopyFilesRequest | api_pb2.VolumeCopyFiles2Request) -> Empty:
        target = self._volumes.path(request.volume_id, request.dst_path)
        for source in [self._there(request.volume_id, path) for path in request.src_paths]:
            into = target / source.name if target.is_dir() else target
            into.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir() and not request.recursive:
                raise GRPCError(Status.INVALID_ARGUMENT, f"{source.name} is a directory")  # guess: text
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            await asyncio.to_thread(copy, source, into)
        return Empty()

    def routes(self) -> list[web.AbstractRouteDef]:
        """Blocks by HTTP."""
        return [
            web.put("/volumes/blocks/{digest}", self._take),
            web.get("/volumes/files/{volume}/{path:.*}", self._give),
        ]

    async def _take(self, request: web.Request) -> web.Response:
        """Keep a block once all of it is here and is what it is called."""
        digest, seen = request.match_info["digest"], hashlib.sha256()
        partial = self._blocks / self._world.new_id("part")
        try:
            with partial.open("wb") as file:
                async for data in request.content.iter_chunked(PORTION):
                    seen.update(data)
                    file.write(data)
            if seen.hexdigest() != digest:
                return web.Response(status=400, text="not the block's content")
            partial.rename(self._blocks / digest)
        finally:
            partial.unlink(missing_ok=True)
        return web.Response(body=b"kept")

    async def _give(self, request: web.Request) -> web.StreamResponse:
        try:
            path = self._there(request.match_info["volume"], request.match_info["path"])
        except GRPCError as error:
            return web.Response(status=404, text=error.message)
        at, end = int(request.query["start"]), int(request.query["end"])
        response = web.StreamResponse()
        response.content_length = end - at
        await response.prepare(request)
        with path.open("rb") as file:
            file.seek(at)
            while at < end and (data := file.read(min(PORTION, end - at))):
                await response.write(data)
                at += len(data)
        return response


def _entry(path: Path, folder: Path) -> api_pb2.FileEntry:
    info = path.lstat()
    kind = Kind.SYMLINK if path.is_symlink() else Kind.DIRECTORY if path.is_dir() else Kind.FILE
    name = path.relative_to(folder).as_posix()
    return api_pb2.FileEntry(path=name, type=kind, mtime=int(info.st_mtime), size=info.st_size)
