"""Room 8: the files that the processor left become named, checked outputs.

Only regular files leave, hashed from the same descriptor that is copied; nothing follows a link, ``out``
itself included.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from dataclasses import field
from typing import TYPE_CHECKING, cast

from theory.disk import durable
from theory.entries.schemas import BadSchema, Mismatch, schema_of
from theory.errors import (
    BadOutputPath,
    BadOutputs,
    DuplicateOutput,
    OutputLimit,
    RegistryFault,
    Retry,
    StoreFailed,
)
from theory.formats import paths
from theory.formats.canon import MAX_INTEGER, MAX_JSON_VALUES, BadJson, most_values, parse_json
from theory.formats.mime import mime_of
from theory.formats.wire import CORE_META
from theory.record import Record
from theory.store import blobs
from theory.types import Artifact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from theory.rooms.redact import Redactor
    from theory.types import Json, JsonObject, Processor, Scalar, Staged, Store

MAX_FILES = 20_000
MAX_BYTES = 64 * 1024**3  # of all outputs together, as their sizes say, so that a sparse file counts in full
MAX_DEPTH = 32  # folders below out
MAX_PARSED_BYTES = 4 * 1024 * 1024  # a larger JSON file is checked by its mime and size only
MAX_PARSED_SUM_BYTES = (
    16 * 1024 * 1024
)  # of all that are read: parsed, JSON may be 20 times as large in memory
MAX_META = 32  # members of meta.json that join the envelope
MAX_META_BYTES = 1024  # of a string among them
META = "meta.json"

_NO_MORE_FILES = (errno.EMFILE, errno.ENFILE)
_OF_THE_DISK = (errno.EIO, errno.ENOSPC, errno.EDQUOT)  # it refuses, whatever the processor did
_PACK = "pack them into an archive, or write less"
_READABLE = "the processor leaves its outputs readable for the user who runs it"
_META_HINT = "it is an object of a few scalars, such as tokens_in; put the rest into a file of its own"
_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Outputs(Record):
    """What a run delivered, staged for the store."""

    artifacts: tuple[Artifact, ...]  # by path, a top-level meta.json last
    staged: tuple[Staged, ...]  # those that had not to be put yet
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
        Retry: This process has too many files open.
        StoreFailed: The disk refuses to read them, or the store to take them.
    """
    with _worded(
        "the folder for outputs", "the processor writes into THEORY_ROOT/job/out and leaves it there"
    ):
        root = os.open(out, _FOLDER)
    batch = blobs.Batch(store)
    outputs: list[Artifact] = []
    document: JsonObject = {}
    parsed = values = looked_at = 0
    warnings: list[str] = []
    try:
        names = sorted(_listed(root), key=lambda name: (name == META, name))
        _check_names(names, prefix, redactor)
        for name in names:
            blob = batch.add(_staged(root, name, store, cancelled))
            mime = mime_of(name)
            outputs.append(Artifact(prefix + name, blob.cid, blob.size_bytes, mime))
            document[name] = {"mime": mime, "size_bytes": blob.size_bytes}
            if redactor and _is_looked_at(blob.size_bytes, looked_at):
                looked_at += blob.size_bytes
                if redactor.finds(blobs.content(blob)):
                    warnings.append(f"the output {paths.quoted(name)} has the value of a secret in it")
            if _is_read(name, mime, blob.size_bytes, parsed):
                content = _content(blob)
                more = most_values(content.decode("utf-8", "replace"))
                if name == META or values + more <= MAX_JSON_VALUES:
                    document[name] = _parsed(name, content)
                    parsed, values = parsed + blob.size_bytes, values + more
        _validated(processor, document)
        meta, cost, more_warnings = _meta(document.get(META, {}), redactor)
        return Outputs(tuple(outputs), tuple(batch.staged), meta, cost, (*warnings, *more_warnings))
    except BaseException:
        batch.discard()
        raise
    finally:
        durable.close(root)


def _listed(root: int) -> list[str]:
    """Every file below a folder, by relative path; bounded before a byte is read."""
    names: list[str] = []
    total = folders = 0
    todo = [""]
    while todo:
        prefix = todo.pop()
        if prefix.count("/") > MAX_DEPTH:
            raise OutputLimit(
                f"the outputs are nested deeper than {MAX_DEPTH} folders: {paths.quoted(prefix[:-1])}",
                hint=_PACK,
            )
        for entry, found in _entries(root, prefix):
            name = prefix + entry
            if fault := paths.fault_of_segment(entry):
                raise BadOutputPath(
                    f"the output {paths.quoted(name)} {fault}", hint="write it under another name"
                )
            if stat.S_ISDIR(found.st_mode):
                todo.append(name + "/")
                folders += 1
                if folders > MAX_FILES:
                    raise OutputLimit(f"the outputs are in more than {MAX_FILES:,} folders", hint=_PACK)
                continue
            if not stat.S_ISREG(found.st_mode):
                raise _not_regular(name, found.st_mode)
            names.append(name)
            total += found.st_size
            if len(names) > MAX_FILES:
                raise OutputLimit(f"the outputs are more than {MAX_FILES:,} files", hint=_PACK)
            if total > MAX_BYTES:
                raise OutputLimit(
                    f"the outputs are larger than {MAX_BYTES // 1024**3} GiB"
                    f" with {paths.quoted(name)}, which has {found.st_size:,} bytes",
                    hint="write less; a sparse file counts in full",
                )
    return names


def _entries(root: int, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """What is in one folder below ``out``, or in ``out`` itself."""
    with _worded(f"the folder {paths.quoted(prefix)} of the outputs", _READABLE):
        folder = _opened(root, prefix.rstrip("/"), _FOLDER) if prefix else os.dup(root)
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    yield entry.name, entry.stat(follow_symlinks=False)
        finally:
            durable.close(folder)


def _check_names(names: list[str], prefix: str, redactor: Redactor) -> None:
    if any(redactor.text(name) != name for name in names):
        raise BadOutputPath("the name of an output has the value of a secret in it", hint="rename it")
    seen: dict[str, str] = {}
    for name in names:
        if fault := paths.fault_of_path(prefix + name):
            raise BadOutputPath(f"the output {paths.quoted(name)} {fault}", hint="give it a shorter name")
        other = seen.setdefault(paths.collision_key(name), name)
        if other is not name:
            raise DuplicateOutput(
                f"the outputs {paths.quoted(other)} and {paths.quoted(name)} are one file on some systems",
                hint="rename one of them",
            )
    folders = {paths.collision_key(name[:at]): name for name in names for at in _slashes(name)}
    for key, name in seen.items():
        if key in folders:
            raise DuplicateOutput(
                f"the output {paths.quoted(name)} has the name of the folder of"
                f" {paths.quoted(folders[key])} on some systems",
                hint="rename one of them",
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
            durable.close(here)
            here = below
        return os.open(last, flags, dir_fd=here)
    finally:
        durable.close(here)


def _staged(root: int, name: str, store: Store, cancelled: Callable[[], bool]) -> Staged:
    with _worded(f"the output {paths.quoted(name)}", _READABLE):
        descriptor = _opened(root, name, _FILE)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise _not_regular(name, found.st_mode)

            def stopped() -> bool:
                if os.fstat(descriptor).st_size != found.st_size:  # it might grow for ever
                    raise _changed(name)
                return cancelled()

            blob = blobs.stage(store, descriptor, cancelled=stopped)
        finally:
            durable.close(descriptor)
    if blob.size_bytes != found.st_size:
        raise _changed(name)
    return blob


def _changed(name: str) -> BadOutputPath:
    return BadOutputPath(
        f"the output {paths.quoted(name)} was changed while it was collected",
        hint="the processor must end what writes it before it ends itself",
    )


@contextmanager
def _worded(what: str, hint: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _OF_THE_DISK:
            raise durable.refusal(StoreFailed, f"{what} cannot be read", error) from error
        if error.errno in _NO_MORE_FILES:
            raise Retry(
                f"{what} cannot be opened: {error.strerror}", hint="allow more open files: ulimit -n 1024"
            ) from error
        if error.errno in {errno.ELOOP, errno.ENOTDIR, errno.ENOENT}:
            raise BadOutputPath(
                f"{what} was replaced or removed while the processor ran", hint=hint
            ) from None
        raise BadOutputPath(f"{what} cannot be read: {error.strerror}", hint=hint) from None


def _not_regular(name: str, mode: int) -> BadOutputPath:
    kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
    return BadOutputPath(
        f"the output {paths.quoted(name)} is {kind}", hint="write a regular file in its place"
    )


def _is_read(name: str, mime: str, size_bytes: int, parsed: int) -> bool:
    """Whether a file's content may be in the outputs document; ``parsed``: the bytes of those before it."""
    return name == META or (mime == "application/json" and _is_looked_at(size_bytes, parsed))


def _is_looked_at(size_bytes: int, before: int) -> bool:
    """Whether a file is small enough to be read whole; ``before``: the bytes of those that were."""
    return size_bytes <= MAX_PARSED_BYTES and before + size_bytes <= MAX_PARSED_SUM_BYTES


def _content(blob: Staged) -> bytes:
    if blob.size_bytes > MAX_PARSED_BYTES:
        raise BadOutputs(
            f"{META} is larger than {MAX_PARSED_BYTES // 1024**2} MiB: {blob.size_bytes:,} bytes",
            hint=_META_HINT,
        )
    return blobs.content(blob)


def _parsed(name: str, content: bytes) -> Json:
    try:
        return parse_json(content, exact=False)
    except BadJson as error:
        at = f" at {error.pointer}" if error.pointer else ""
        raise BadOutputs(
            f"the output {paths.quoted(name)} is not JSON: {error}{at}",
            hint="write valid JSON, or give the file another ending",
        ) from None


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
        raise BadOutputs(f"{META} is not a JSON object", hint=_META_HINT)
    cost = value.get("cost_micro_usd")
    if cost is not None and not (type(cost) is int and 0 <= cost <= MAX_INTEGER):
        raise BadOutputs(
            f"cost_micro_usd in {META} is not an integer between 0 and 2^53-1",
            hint="millionths of a US dollar, without a fraction",
        )
    meta: dict[str, Scalar] = {}
    warnings: list[str] = []
    for name, item in value.items():
        if isinstance(item, (dict, list)) or name == "cost_micro_usd":
            continue
        shown = redactor.message(paths.printable(name))
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
