"""Room 8: what the processor left becomes named, checked outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, cast

from theory.entries.schemas import BadSchema, Mismatch, schema_of
from theory.errors import BadOutputPath, BadOutputs, DuplicateOutput, RegistryFault
from theory.formats import paths
from theory.formats.canon import MAX_INTEGER, MAX_JSON_VALUES, BadJson, most_values, parse_json
from theory.formats.mime import mime_of
from theory.formats.wire import CORE_META
from theory.record import Record
from theory.rooms.collect import Folder, Memory
from theory.store import blobs
from theory.types import Artifact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from theory.rooms.redact import Redactor
    from theory.types import Json, JsonObject, Processor, Scalar, Staged, Store

MAX_PARSED_BYTES = 4 * 1024 * 1024  # a larger JSON file is checked by its mime and size only
MAX_PARSED_SUM_BYTES = (
    16 * 1024 * 1024
)  # of all that are read: parsed, JSON may be 20 times as large in memory
MAX_META = 32  # members of meta.json that join the envelope
MAX_META_BYTES = 1024  # of a string among them
META = "meta.json"

_META_HINT = "it is an object of a few scalars, such as tokens_in; put the rest into a file of its own"


class Outputs(Record):
    """What a run delivered, staged for the store."""

    artifacts: tuple[Artifact, ...]  # by path, a top-level meta.json last
    staged: tuple[Staged, ...]  # those that had not to be put yet
    meta: dict[str, Scalar] = field(default_factory=dict)
    cost_micro_usd: int | None = None  # what the processor says that it cost; None: it does not say
    warnings: tuple[str, ...] = ()


def check_outputs(
    processor: Processor,
    left: Path | Mapping[str, bytes],
    prefix: str,
    store: Store,
    redactor: Redactor,
    *,
    cancelled: Callable[[], bool],
) -> Outputs:
    """Collect, name and validate the outputs; the caller puts or discards what is staged.

    Args:
        processor: Whose outputs these are.
        left: The folder that has them, or the content of each by its path.
        prefix: Below which they are named.
        store: Where they will go.
        redactor: Knows the values that no name may have, and no content should.
        cancelled: Asked while large files stream.

    Raises:
        BadOutputPath, DuplicateOutput, OutputLimit, BadOutputs: Which file, and what is wrong with it.
        Retry: This process has too many files open.
        StoreFailed: The disk refuses to read them, or the store to take them.
    """
    source = Memory(left) if isinstance(left, Mapping) else Folder(left)
    batch = blobs.Batch(store)
    outputs: list[Artifact] = []
    document: JsonObject = {}
    parsed = values = looked_at = 0
    warnings: list[str] = []
    try:
        names = sorted(source.names(), key=lambda name: (name == META, name))
        _check_names(names, prefix, redactor)
        for name in names:
            blob = batch.add(source.staged(name, store, cancelled))
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
        source.close()


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
