"""Builds images with the engine's own builder; downloads nothing from beyond loopback."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from . import dockerfile
from .dockerfile import Said
from .engine import Engine, EngineFault
from .images import BuildFailed, Built, Images

if TYPE_CHECKING:
    from modal_emulator.world import World

IN_MEMORY = 8 << 20  # bytes of a context that are held in memory


async def build(world: World, engine: Engine, built: Built) -> Said:
    """Make an image under its tag; what its containers start with.

    Raises:
        BuildFailed: with the engine's words.
    """
    proto = built.proto
    names = {base.docker_tag: world.area(Images).require(base.image_id).tag for base in proto.base_images}
    followed, left_out = dockerfile.without_the_clients(proto.dockerfile_commands)
    for command in left_out:
        built.tell(f"emulator: left out: {command}\n")
    lines = await _with_what_is_here(engine, dockerfile.renamed(followed, names), dict(proto.build_args))
    secrets = world.secrets.environment(proto.secret_ids)
    # guess: variables of secrets are there while instructions run. Here they stay in the image's history.
    lines = dockerfile.with_arguments(lines, sorted(secrets))
    arguments = {**proto.build_args, **secrets}
    query = urlencode(
        {
            "t": built.tag,
            "rm": 1,
            "forcerm": 1,
            "nocache": int(built.afresh),
            "buildargs": json.dumps(arguments),
            "dockerfile": "Dockerfile.emulator",
        }
    )
    with await asyncio.to_thread(_context, world, proto, lines) as context:
        headers = {"Content-Type": "application/x-tar", **_login(world, built, lines)}
        await _followed(engine, f"/build?{query}", context, headers, built)
    told = (await engine.ask("GET", f"/images/{quote(built.tag, safe='')}/json"))["Config"]
    return Said(
        environ=dict(pair.partition("=")[::2] for pair in told["Env"] or []),
        entrypoint=list(told["Entrypoint"] or []),
        command=list(told["Cmd"] or []),
        workdir=told["WorkingDir"] or "",
    )


async def _with_what_is_here(engine: Engine, lines: list[str], arguments: dict[str, str]) -> list[str]:
    """The instructions, once each image they begin with is on this machine or in a registry on it."""
    for name in dockerfile.bases(lines, arguments):
        if await _has(engine, name) or dockerfile.is_here(dockerfile.registry(name)):
            continue
        other = dockerfile.official(name)
        if other == name or not await _has(engine, other):
            # guess: the text
            raise BuildFailed(f"Unable to find image '{name}': not found: manifest unknown")
        lines = dockerfile.renamed(lines, {name: other})
    return lines


async def _has(engine: Engine, name: str) -> bool:
    try:
        await engine.ask("GET", f"/images/{quote(name, safe='')}/json")
    except EngineFault as fault:
        if fault.status != 404:
            raise
        return False
    return True


async def _followed(engine: Engine, path: str, context: Any, headers: dict[str, str], built: Built) -> None:
    try:
        async for line in engine.stream(path, context, headers):
            if "error" in line:
                built.tell(f"{line['error']}\n")
                raise BuildFailed(line["error"])
            if text := line.get("stream") or line.get("status"):
                built.tell(text if text.endswith("\n") else f"{text}\n")
    except EngineFault as fault:
        raise BuildFailed(str(fault)) from None


def _context(world: World, proto: Any, lines: list[str]) -> Any:
    """All that can be copied, and the instructions, as an archive."""
    spooled = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY, dir=str(world.folder))  # noqa: SIM115 - the caller's
    with tarfile.open(fileobj=spooled, mode="w") as archive:
        for name, content, mode in world.area(Images).context(proto):
            info = tarfile.TarInfo(name)
            info.size, info.mode = Path(content).stat().st_size, mode & 0o7777
            with open(content, "rb") as file:
                archive.addfile(info, file)
        for file in proto.context_files:
            _add(archive, file.filename.lstrip("/"), file.data)
        _add(archive, "Dockerfile.emulator", "\n".join([*lines, ""]).encode())
    spooled.seek(0)
    return spooled


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    archive.addfile(info, io.BytesIO(data))


def _login(world: World, built: Built, lines: list[str]) -> dict[str, str]:
    """What opens the registry of the images that are begun with."""
    config = built.proto.image_registry_config
    if not config.secret_id:
        return {}
    values = world.secrets.environment([config.secret_id])
    if "REGISTRY_USERNAME" not in values or "REGISTRY_PASSWORD" not in values:
        return {}  # guess: other kinds of login lead to no registry on loopback
    hosts = {dockerfile.registry(name) for name in dockerfile.bases(lines, built.proto.build_args)}
    login = {"username": values["REGISTRY_USERNAME"], "password": values["REGISTRY_PASSWORD"]}
    told = json.dumps(dict.fromkeys(hosts, login))
    return {"X-Registry-Config": base64.urlsafe_b64encode(told.encode()).decode()}


async def record(world: World, built: Built) -> Said:
    """Without an engine: write down what was asked for; ENV and WORKDIR are kept, files are not.

    Raises:
        BuildFailed: it begins with an image that cannot be.
    """
    proto = built.proto
    before = Said()
    for base in proto.base_images:
        before = world.area(Images).require(base.image_id).said
    lines = "\n".join(proto.dockerfile_commands).splitlines()
    for name in dockerfile.bases(lines, proto.build_args):
        if (
            dockerfile.registry(name).partition(":")[0].endswith(".invalid")
        ):  # RFC 2606: there is no such host
            raise BuildFailed(f"Unable to find image '{name}': not found: manifest unknown")
    for line in lines:
        built.tell(f"emulator: not carried out: {line}\n")
    now = dockerfile.said(lines, before)
    return Said(environ=now.environ, workdir=now.workdir)
