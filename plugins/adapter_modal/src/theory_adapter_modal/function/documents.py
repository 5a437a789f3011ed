"""What a call of the function takes and gives: one JSON document each, as bytes.

Small files stand in the document itself. Large ones go through the app's volume, streamed, and are compared
with the digest that the other side made of them.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import errno
import hashlib
import json
import os
import re
import stat
from typing import TYPE_CHECKING, Any

from theory import errors
from theory_adapter_modal.sandbox.tarball import refused, special

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path

    from theory import Job, JsonObject, Workspace

    Fetch = Callable[[str, Path, int, str], Awaitable[None]]

INLINE_BYTES = 1 << 20  # of all files of a call that stand in its document
# What is listed of outputs: a little more than core admits, so that core refuses it with its own words.
LIMITS = {"files": 45_000, "bytes": (64 << 30) + 1, "depth": 33}
_CHUNK = 1 << 20
_MADE = {"pipe": stat.S_IFIFO, "socket": stat.S_IFSOCK}  # core refuses them, in its words
_MOST_PATH = 4096  # bytes (Linux: PATH_MAX)
_MOST_CODE = 255  # of an exit status
_MOST_BYTES = 1 << 62
_MOST_SECONDS = 1e12  # of any time in an answer: longer than any clock goes
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
    if isinstance(answer, dict) and (fault := answer.get("fault")):
        raise errors.PluginFailed(
            f"the program that serves on Modal failed: {str(fault)[:500]}",
            hint="try again; -o mode=sandbox does without it",
        )
    if not isinstance(answer, dict) or not _is_whole(answer):
        raise errors.PluginFailed(
            "the function on Modal answered with what is no document of ours",
            hint="deploy it again: theory modal deploy REF",
        )
    return answer


def _is_whole(answer: dict[str, Any]) -> bool:
    """Whether an answer has what is read of it, in the types of ``theory_shim.Job.run``."""
    log, outputs, code = answer.get("log"), answer.get("outputs"), answer.get("exit_code")
    return (
        answer.get("ended") in ("exit", "timeout", "oom")
        and (_is_code(code) if answer["ended"] == "exit" else code is None)
        and all(_is_time(answer.get(name)) for name in ("started_at", "duration_s", "seconds"))
        and isinstance(answer.get("attempt"), str)
        and isinstance(image := answer.get("image"), str)
        and re.fullmatch(r"[\w.-]{0,200}", image, re.ASCII) is not None
        and isinstance(outputs, list)
        and all(isinstance(one, dict) for one in outputs)
        and isinstance(log, dict)
        and (_is_stored(log) if "volume" in log else _is_base64(log.get("data")))
    )


def _is_code(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MOST_CODE


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MOST_BYTES


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= _MOST_SECONDS  # type: ignore[operator]  # a number


def _is_base64(value: object) -> bool:
    try:
        return isinstance(value, str) and base64.b64decode(value, validate=True) is not None
    except (binascii.Error, ValueError):
        return False


def _is_stored(one: dict[str, Any]) -> bool:
    texts = all(isinstance(one.get(name), str) for name in ("volume", "digest"))
    return texts and _is_size(one.get("size"))


async def lay_down(
    outputs: Iterable[dict[str, Any]],
    out: Path,
    fetch: Fetch,
) -> None:
    """Put what the command left into this folder, as it was, so that core checks it as it does everywhere.

    Links and what is special come last, and nothing is written through one.

    Args:
        outputs: What the answer lists.
        out: An empty folder.
        fetch: Brings a file from the volume: its place there, its path here, its size and its digest.

    Raises:
        PluginFailed: A path that leads out of the folder, is there twice or lies below what is no folder.
        BadOutputPath: A device, which nobody may make here, or a name that this machine does not take.
        DuplicateOutput: Two names are one here.
        StoreFailed: It cannot be written.
    """
    try:
        outputs = list(outputs)
        places = _places(outputs, out)
        # What is special comes last, and all folders are there before it.
        for make in (_make_folder, _make_file, _make_special):
            for one in outputs:
                path = places[one["path"]]
                try:
                    if make is _make_file and one["kind"] == "file" and "volume" in one:
                        await fetch(one["volume"], path, one["size"], one["digest"])
                    else:
                        make(one, path)
                except OSError as error:
                    raise refused(error, one["path"]) from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise errors.PluginFailed(
            f"the function on Modal listed outputs that cannot be: {error}",
            hint="deploy it again: theory modal deploy REF",
        ) from error


def _places(outputs: list[dict[str, Any]], out: Path) -> dict[str, Path]:
    """Where each output goes: below the folder, once, and below nothing that is no folder."""
    kinds: dict[str, str] = {}
    if len(outputs) > LIMITS["files"] + 1:
        raise ValueError(f"{len(outputs):,} of them")
    for one in outputs:
        path = one["path"]
        if any(part in {"", ".", ".."} or "\0" in part for part in path.split("/")) or path in kinds:
            raise ValueError(f"{path[:200]!r} is no path below the folder for outputs, or is there twice")
        if path.count("/") > LIMITS["depth"]:
            raise ValueError(f"{path[:200]!r} is too deep")
        kinds[path] = _kind(one)
    for path in kinds:
        if len(path) > _MOST_PATH:
            raise refused(OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)), path)
        above = path.rpartition("/")[0]
        while above:
            if kinds.get(above, "folder") != "folder":
                raise ValueError(f"{path!r} is below a {kinds[above]}")
            above = above.rpartition("/")[0]
    return {path: out / path for path in kinds}


def _kind(one: dict[str, Any]) -> str:
    if (kind := str(one["kind"])) == "file" and not _is_size(one.get("size")):
        raise ValueError("a file of no size")
    if kind == "link" and not one["target"]:
        raise ValueError("a link to nothing")
    return kind


def _make_folder(one: dict[str, Any], path: Path) -> None:
    (path if one["kind"] == "folder" else path.parent).mkdir(exist_ok=True, parents=True)


def _make_file(one: dict[str, Any], path: Path) -> None:
    if one["kind"] != "file":
        return
    if "data" in one:
        path.write_bytes(base64.b64decode(one["data"], validate=True))
    else:  # beyond the limits: as large, and empty
        with path.open("wb") as file:
            file.truncate(one["size"])


def _make_special(one: dict[str, Any], path: Path) -> None:
    """Make a link, pipe or socket, for core to refuse."""
    if (kind := one["kind"]) == "link":
        path.symlink_to(one["target"])
    elif kind in _MADE:
        os.mknod(path, _MADE[kind] | 0o600)
    elif kind not in {"folder", "file"}:
        raise special(one["path"], "a device")
