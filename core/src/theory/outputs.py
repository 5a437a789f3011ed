"""Room 8: the files that the processor left become named, checked outputs.

Only regular files leave, hashed from the same descriptor that is copied; nothing follows a link, ``out``
itself included.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from theory import blobs, paths
from theory.canon import MAX_INTEGER, BadJson, parse_json
from theory.errors import BadOutputPath, BadOutputs, DuplicateOutput, OutputLimit, RegistryFault
from theory.mime import mime_of
from theory.schemas import BadSchema, Mismatch, schema_of
from theory.types import Artifact, Staged
from theory.wire import CORE_META

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from theory.redact import Redactor
    from theory.types import Json, JsonObject, Processor, Scalar, Store

MAX_FILES = 20_000
MAX_BYTES = 64 * 1024**3  # of all outputs together, as their sizes say, so that a sparse file counts in full
MAX_DEPTH = 32  # folders below out
MAX_PARSED_BYTES = 4 * 1024 * 1024  # a larger JSON file is checked by its mime and size only
MAX_META = 32  # members of meta.json that join the envelope
MAX_META_BYTES = 1024  # of a string among them
META = "meta.json"

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a run delivered, staged for the store."""

    artifacts: tuple[Artifact, ...]  # by path, a top-level meta.json last
    staged: tuple[Staged, ...]  # in the same order
    meta: dict[str, Scalar] = field(default_factory=dict)
    cost_micro_usd: int | None = None  # what the processor says that it cost; None: it does not say
    warnings: tuple[str, ...] = ()


def check_outputs(
    processor: Processor,
    out: Path,
    prefix: str,
    store: Store,
    redactor: Redactor,
    *,
    cancelled: Callable[[], bool],
) -> Outputs:
    """Collect, name and validate the outputs; the caller puts or discards what is staged.

    Raises:
        BadOutputPath, DuplicateOutput, OutputLimit, BadOutputs: Which file, and what is wrong with it.
    """
    try:
        root = os.open(out, _FOLDER)
    except OSError as error:
        raise BadOutputPath(f"the folder for outputs was replaced or removed: {error.strerror}") from None
    staged: list[Staged] = []
    try:
        names = sorted(_listed(root), key=lambda name: (name == META, name))
        _check_names(names, prefix, redactor)
        for name in names:
            staged.append(_staged(root, name, store, cancelled))  # noqa: PERF401 - what is there when one fails is discarded
        outputs = tuple(
            Artifact(prefix + name, blob.cid, blob.size_bytes, mime_of(name))
            for name, blob in zip(names, staged, strict=True)
        )
        document = _document(names, staged)
        _validated(processor, document)
        meta, cost, warnings = _meta(document.get(META, {}), redactor)
        return Outputs(outputs, tuple(staged), meta, cost, warnings)
    except BaseException:
        for blob in staged:
            blob.path.unlink(missing_ok=True)
        raise
    finally:
        os.close(root)


def _listed(root: int) -> list[str]:
    """Every file below a folder, by relative path; bounded before a byte is read."""
    names: list[str] = []
    total = folders = 0
    todo = [""]
    while todo:
        prefix = todo.pop()
        if prefix.count("/") > MAX_DEPTH:
            raise OutputLimit(f"the outputs are nested deeper than {MAX_DEPTH} folders")
        folder = _opened(root, prefix.rstrip("/"), _FOLDER) if prefix else os.dup(root)
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = prefix + entry.name
                    if fault := paths.fault_of_segment(entry.name):
                        raise BadOutputPath(f"the output {paths.printable(name)!r} {fault}", hint="rename it")
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(name + "/")
                        folders += 1
                        if folders > MAX_FILES:
                            raise OutputLimit(f"the outputs are in more than {MAX_FILES:,} folders")
                        continue
                    if not entry.is_file(follow_symlinks=False):
                        raise _not_regular(name)
                    names.append(name)
                    total += entry.stat(follow_symlinks=False).st_size
                    if len(names) > MAX_FILES or total > MAX_BYTES:
                        raise OutputLimit(
                            f"the outputs are more than {MAX_FILES:,} files or {MAX_BYTES // 1024**3} GiB",
                            hint="pack them into an archive, or write less",
                        )
        finally:
            os.close(folder)
    return names


def _check_names(names: list[str], prefix: str, redactor: Redactor) -> None:
    if any(redactor.text(name) != name for name in names):
        raise BadOutputPath("the name of an output has the value of a secret in it", hint="rename it")
    seen: dict[str, str] = {}
    for name in names:
        if fault := paths.fault_of_path(prefix + name):
            raise BadOutputPath(
                f"the output {paths.printable(name)!r} {fault}", hint="give it a shorter name"
            )
        other = seen.setdefault(paths.collision_key(name), name)
        if other is not name:
            raise DuplicateOutput(
                f"the outputs {other!r} and {name!r} are one file on some systems", hint="rename one of them"
            )
    folders = {paths.collision_key(name[:at]): name for name in names for at in _slashes(name)}
    for key, name in seen.items():
        if key in folders:
            raise DuplicateOutput(
                f"the output {name!r} has the name of the folder of {folders[key]!r} on some systems"
            )


def _slashes(name: str) -> Iterator[int]:
    return (at for at, char in enumerate(name) if char == "/")


def _opened(root: int, name: str, flags: int) -> int:
    """Open something below a folder without following a link in any part of its path."""
    *folders, last = name.split("/")
    here = os.dup(root)
    try:
        for folder in folders:
            below = os.open(folder, _FOLDER, dir_fd=here)
            os.close(here)
            here = below
        return os.open(last, flags, dir_fd=here)
    except OSError as error:
        raise BadOutputPath(f"the output {name!r} cannot be opened: {error.strerror}") from None
    finally:
        os.close(here)


def _staged(root: int, name: str, store: Store, cancelled: Callable[[], bool]) -> Staged:
    descriptor = _opened(root, name, _FILE)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _not_regular(name)
        return blobs.stage(store, descriptor, cancelled=cancelled)
    except OSError as error:
        raise BadOutputPath(f"the output {name!r} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _not_regular(name: str) -> BadOutputPath:
    return BadOutputPath(
        f"the output {paths.printable(name)!r} is a link or a special file",
        hint="write a regular file in its place",
    )


def _document(names: list[str], staged: list[Staged]) -> JsonObject:
    """The outputs document: the content of JSON files, mime and size of all others."""
    document: JsonObject = {}
    for name, blob in zip(names, staged, strict=True):
        mime = mime_of(name)
        if name == META and blob.size_bytes > MAX_PARSED_BYTES:
            raise BadOutputs(f"{META} is larger than {MAX_PARSED_BYTES // 1024**2} MiB")
        if mime == "application/json" and blob.size_bytes <= MAX_PARSED_BYTES:
            try:
                document[name] = parse_json(blob.path.read_bytes(), exact=False)
            except BadJson as error:
                at = f" at {error.pointer}" if error.pointer else ""
                raise BadOutputs(f"the output {name!r} is not JSON: {error}{at}") from None
        else:
            document[name] = {"mime": mime, "size_bytes": blob.size_bytes}
    return document


def _validated(processor: Processor, document: JsonObject) -> None:
    try:
        schema_of(processor.outputs).check(document)
    except BadSchema as error:
        raise RegistryFault(f"the outputs schema of {processor.ref}: {error} at {error.pointer}") from None
    except Mismatch as error:
        more = f" (and {error.more} more)" if error.more else ""
        raise BadOutputs(
            f"the outputs of {processor.ref} at {error.pointer or '/'}: {error}{more}",
            hint="the processor breaks the outputs schema of its entry",
        ) from None


def _meta(value: Json, redactor: Redactor) -> tuple[dict[str, Scalar], int | None, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise BadOutputs(f"{META} is not a JSON object")
    cost = value.get("cost_micro_usd")
    if cost is not None and not (type(cost) is int and 0 <= cost <= MAX_INTEGER):
        raise BadOutputs(f"cost_micro_usd in {META} is not an integer between 0 and 2^53-1")
    meta: dict[str, Scalar] = {}
    warnings: list[str] = []
    for name, item in value.items():
        if isinstance(item, (dict, list)) or name == "cost_micro_usd":
            continue
        shown = redactor.text(paths.printable(name))
        if name in CORE_META:
            warnings.append(f"{shown} in {META} is a name of core's own and was left out of the envelope")
        elif len(meta) == MAX_META:
            warnings.append(f"{META} has more than {MAX_META} scalars; the rest was left out of the envelope")
            break
        elif len(name.encode()) > MAX_META_BYTES or (
            isinstance(item, str) and len(item.encode()) > MAX_META_BYTES
        ):
            warnings.append(
                f"{shown} in {META} is longer than {MAX_META_BYTES} bytes and was left out of the envelope"
            )
        elif isinstance(item, int) and abs(item) > MAX_INTEGER:
            warnings.append(f"{shown} in {META} is an integer beyond 2^53-1 and was left out of the envelope")
        else:
            meta.update(cast("dict[str, Scalar]", redactor.members({name: item})))
    return meta, cost, tuple(warnings)
