"""What a call of the function takes and gives: one JSON document each, as bytes.

Small files stand in the document itself. Large ones go through the app's volume, streamed, and are compared
with the digest that the other side made of them.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import stat
from typing import TYPE_CHECKING, Any

from theory import errors
from theory_adapter_modal.sandbox.tarball import special

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path

    from theory import Job, JsonObject, Workspace

INLINE_BYTES = 1 << 20  # of all files of a call that stand in its document
# What is listed of outputs: a little more than core admits, so that core refuses it with its own words.
LIMITS = {"files": 45_000, "bytes": (64 << 30) + 1, "depth": 33}
_CHUNK = 1 << 20
_MADE = {"pipe": stat.S_IFIFO, "socket": stat.S_IFSOCK}  # core refuses them, in its words
_MOST_DOCUMENT = 64 << 20  # bytes of an answer; ours have 3 MiB and the names of the outputs


class Request:
    """A job on its way to the container: the document, and what has to be uploaded before it."""

    def __init__(self, document: dict[str, Any], uploads: list[tuple[Path, str]]) -> None:
        self._document = document
        self.uploads = uploads  # a file here, its place in the volume

    @classmethod
    async def of(cls, job: Job, workspace: Workspace, volume: str, environment: str | None) -> Request:
        """Make it; large files are read once, for their digest."""
        document: dict[str, Any] = {
            "execution": job.execution_id,
            "command": list(job.processor.command or ()),
            "environment": dict(job.environment),
            "secrets": [*job.processor.secrets.required, *job.processor.secrets.optional],
            "timeout": job.processor.runtime.timeout,
            "memory": job.processor.runtime.memory,
            "inputs": workspace.inputs.read_text("utf-8"),
            "volume": volume,
            "environment_name": environment,
            "limits": LIMITS,
        }
        uploads: list[tuple[Path, str]] = []
        room = INLINE_BYTES
        files: list[dict[str, Any]] = []
        for number, artifact in enumerate(sorted(job.artifacts, key=lambda artifact: artifact.size_bytes)):
            here = workspace.root / artifact.path.lstrip("/")
            one: dict[str, Any] = {"path": artifact.path}
            if artifact.size_bytes <= room:
                room -= artifact.size_bytes
                one["data"] = base64.b64encode(here.read_bytes()).decode()
            else:
                place = f"{job.execution_id}/in/{number}"
                uploads.append((here, place))
                one |= {"volume": place, "size": artifact.size_bytes, "digest": await digest_of(here)}
            files.append(one)
        return cls({**document, "files": files}, uploads)

    def data(self) -> bytes:
        """The document."""
        return json.dumps(self._document).encode()


async def digest_of(path: Path) -> str:
    """BLAKE2b of 32 bytes, which every Python has; a cancellation is noticed between two pieces."""
    digest = hashlib.blake2b(digest_size=32)
    with open(path, "rb") as file:  # noqa: ASYNC230 - nobody else waits in this loop
        while data := file.read(_CHUNK):
            digest.update(data)
            await asyncio.sleep(0)
    return digest.hexdigest()


def read_answer(data: object) -> JsonObject:
    """The document of an answer.

    Raises:
        PluginFailed: It is none of ours, or the program that serves failed.
    """
    answer = None
    if isinstance(data, bytes) and len(data) <= _MOST_DOCUMENT:
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            answer = None
    if not isinstance(answer, dict):
        raise errors.PluginFailed(
            "the function on Modal answered with what is no document of ours",
            hint="deploy it again: theory modal deploy REF",
        )
    if fault := answer.get("fault"):
        raise errors.PluginFailed(
            f"the program that serves on Modal failed: {str(fault)[:500]}",
            hint="try again; -o mode=sandbox does without it",
        )
    return answer


async def lay_down(
    outputs: Iterable[dict[str, Any]],
    out: Path,
    fetch: Callable[[str, Path, int, str], Awaitable[None]],
) -> None:
    """Put what the command left into this folder, as it was, so that core checks it as it does everywhere.

    Links and what is special come last, and nothing is written through one.

    Args:
        outputs: What the answer lists.
        out: An empty folder.
        fetch: Brings a file from the volume: its place there, its path here, its size and its digest.

    Raises:
        PluginFailed: A path that leads out of the folder, or a file that is not what was said.
        BadOutputPath: A device, which nobody may make here.
    """
    later: list[tuple[Path, str, str]] = []
    try:
        for one in outputs:
            path, kind = _below(out, one["path"]), one["kind"]
            if kind == "folder":
                path.mkdir(exist_ok=True, parents=True)
                continue
            if kind != "file":
                later.append((path, kind, one["target"] if kind == "link" else ""))
                continue
            path.parent.mkdir(exist_ok=True, parents=True)
            if "data" in one:
                path.write_bytes(base64.b64decode(one["data"], validate=True))
            elif "volume" in one:
                await fetch(one["volume"], path, one["size"], one["digest"])
            else:  # beyond the limits: as large, and empty
                with path.open("wb") as file:
                    file.truncate(one["size"])
        _make_special(later, out)
    except (KeyError, TypeError, AttributeError, ValueError, FileExistsError, NotADirectoryError) as error:
        raise errors.PluginFailed(
            f"the function on Modal listed outputs that cannot be: {error}",
            hint="deploy it again: theory modal deploy REF",
        ) from error


def _make_special(later: list[tuple[Path, str, str]], out: Path) -> None:
    """Make links, pipes and sockets, for core to refuse: all folders before there is any link."""
    for path, _, _ in later:
        path.parent.mkdir(exist_ok=True, parents=True)
    for path, kind, target in later:
        if kind == "link":
            path.symlink_to(target)
        elif kind in _MADE:
            os.mknod(path, _MADE[kind] | 0o600)
        else:
            raise special(path.relative_to(out).as_posix(), "a device")


def _below(out: Path, path: str) -> Path:
    if any(part in {"", ".", ".."} or "\0" in part for part in path.split("/")):
        raise ValueError(f"{path[:200]!r} is no path below the folder for outputs")
    return out / path
