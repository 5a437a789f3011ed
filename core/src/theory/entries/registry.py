"""A folder of entries: ``namespace/name/version/processor.yaml``, the path being the ref.

An entry is read strictly (``strictyaml``), checked against ``entry.schema.json`` and turned into a
``Processor``. What was read once is cached as JSON by the cid of its bytes, since reading YAML costs more
than the rest of a run.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from theory import __version__
from theory.disk import durable
from theory.entries.schemas import schema_of
from theory.entries.strictyaml import MAX_BYTES, BadYaml, parse_yaml
from theory.entries.tree import ENTRY, Seen, tree_of
from theory.errors import RegistryFault, UnknownRef
from theory.formats.canon import BadJson, check_json, cid_of, compact
from theory.formats.paths import printable
from theory.hookspecs import hookimpl
from theory.record import Record
from theory.types import ImageSource, Processor, Ref, Runtime, SecretNeeds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theory.types import JsonObject


class Fault(Record):
    """One thing that is wrong with an entry."""

    file: Path
    line: int  # counted from 1
    pointer: str  # JSON pointer in the document
    message: str

    def __str__(self) -> str:
        """``file:line: message at pointer``."""
        where = f" at {self.pointer}" if self.pointer else ""
        return f"{self.file}:{self.line}: {self.message}{where}"


class FolderRegistry:
    """The entries below one folder.

    Args:
        root: A registry's root, or a folder that has it as ``processors``.
        cache: Where entries that were read are kept as JSON; None for nowhere.
    """

    def __init__(self, root: Path, cache: Path | None = None) -> None:
        below = root / "processors"
        self.root = below if os.path.isdir(below) else root
        self._cache = cache
        self._resolved: dict[Ref, tuple[Processor, Seen | None]] = {}

    @hookimpl
    def resolve_ref(self, ref: Ref) -> Processor | None:
        """The entry of this ref.

        Raises:
            RegistryFault: The entry is faulty: file, line and pointer of the first fault.
        """
        known, seen = self._resolved.get(ref, (None, None))
        if seen is not None and seen.holds():
            return known
        folder = self.root / ref.namespace / ref.name / str(ref.version)
        seen = Seen(folder) if known else None  # most processes resolve a ref but once
        try:
            data = _read(folder / ENTRY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        cid = cid_of(data)
        if known and known.cid == cid and known.tree == tree_of(folder, known.image.dockerfile):
            self._resolved[ref] = known, seen
            return known
        document = self._cached(cid)
        if document is None or document["ref"] != str(ref) or _misses(document, folder):
            document, faults = _checked(data, folder / ENTRY, ref)
            if faults:
                raise _refused(faults)
            self._keep(cid, document)
        processor = _processor(document, ref, folder, cid)
        self._resolved[ref] = processor, seen
        return processor

    def refs(self) -> Iterator[Ref]:
        """Every ref that has a folder here, sorted; folders whose names are no ref are passed over."""
        found = []
        for file in self.root.glob(f"*/*/*/{ENTRY}"):
            namespace, name, version = file.parts[-4:-1]
            try:
                found.append(Ref.parse(f"{namespace}/{name}@{version}"))
            except UnknownRef:
                continue
        yield from sorted(found)

    def check(self) -> Iterator[Fault]:
        """Every fault of every entry, the slow and thorough way: ``jsonschema`` has its say as well."""
        for folder, folders, files in os.walk(self.root):
            folders.sort()
            here = Path(folder).relative_to(self.root).parts
            ref = _ref_of(here)
            if ENTRY in files or ENTRY in folders:
                yield from _faults_at(Path(folder, ENTRY), ref)
            elif ref is not None:
                yield Fault(Path(folder, ENTRY), 1, "", "there is no such file, but the folder of a version")

    def _cached(self, cid: str) -> JsonObject | None:
        if self._cache is None:
            return None
        try:
            mark, _, body = (self._cache / f"{cid[3:]}.json").read_bytes().partition(b"\n")
        except OSError:
            return None
        return cast("JsonObject", json.loads(body)) if mark == _mark(body) else None

    def _keep(self, cid: str, document: JsonObject) -> None:
        """Cache an entry; a cache that cannot be written costs time and nothing else."""
        if self._cache is None:
            return
        part = self._cache / f"{cid[3:]}.{os.getpid()}"
        try:
            # It may be the first to make the home, whose name has to last like all that will be in it.
            durable.make_folders(self._cache, durable.PRIVATE_FOLDER)
            body = compact(document).encode()
            part.write_bytes(_mark(body) + b"\n" + body)
            part.replace(self._cache / f"{cid[3:]}.json")
        except OSError:
            with suppress(OSError):
                part.unlink()


def _ref_of(parts: tuple[str, ...]) -> Ref | None:
    """The ref that a path below a registry's root is."""
    try:
        return Ref.parse("{}/{}@{}".format(*parts)) if len(parts) == 3 else None  # noqa: PLR2004 - namespace, name, version
    except UnknownRef:
        return None


def _read(file: Path) -> bytes:
    """The bytes of an entry, or one more than an entry may have; what a link leads to is none of its own.

    Raises:
        RegistryFault: It is no regular file, or cannot be read.
    """
    try:
        # Not blocking: a pipe that nobody writes to would hang.
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb", closefd=True) as stream:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return stream.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:  # a link, a directory, a socket
            raise RegistryFault(
                f"{file} cannot be read: {error.strerror}",
                hint=durable.remedy(error, "check its permissions"),
            ) from error
    raise RegistryFault(f"{file} is no regular file", hint="put the entry itself in its place")


def _faults_at(file: Path, ref: Ref | None) -> Iterator[Fault]:
    """Every fault of one entry."""
    if ref is None:
        yield Fault(file, 1, "", "the path is not namespace/name/version/processor.yaml")
        return
    try:
        document, faults = _checked(_read(file), file, ref, thorough=True)
        yield from faults
        image = document.get("image")
        dockerfile = image.get("dockerfile") if isinstance(image, dict) else None
        tree_of(file.parent, dockerfile if isinstance(dockerfile, str) else None)
    except (RegistryFault, OSError) as error:
        yield Fault(file, 1, "", str(error).removeprefix(f"{file} "))


def _mark(body: bytes) -> bytes:
    """What a cached entry begins with: it is whole, and was checked by this version of theory."""
    return cid_of(f"{__version__}\n".encode() + body).encode()


@cache
def entry_schema() -> JsonObject:
    """The JSON Schema of an entry."""
    return cast(
        "JsonObject",
        json.loads(Path(__file__).parents[1].joinpath("formats", "entry.schema.json").read_text("utf-8")),
    )


def _refused(faults: list[Fault]) -> RegistryFault:
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return RegistryFault(f"{faults[0]}{more}", hint="theory registry check shows every fault")


def _checked(data: bytes, file: Path, ref: Ref, *, thorough: bool = False) -> tuple[JsonObject, list[Fault]]:
    try:
        value, lines = parse_yaml(data)
    except BadYaml as error:
        told = ((str(error), error.line), *error.more)
        return {}, [Fault(file, line, "", message) for message, line in told]

    def fault(message: str, pointer: str) -> Fault:
        at = pointer
        while at and at not in lines:
            at = at.rpartition("/")[0]
        return Fault(file, lines.get(at, 1), pointer, message)

    try:
        check_json(value)
    except BadJson as error:
        return {}, [fault(str(error), error.pointer)]
    faults = [fault(str(error), error.pointer) for error in schema_of(entry_schema()).faults(value)]
    if not isinstance(value, dict):
        return {}, faults
    if isinstance(value.get("ref"), str) and value["ref"] != str(ref) and not _at(faults, "/ref"):
        faults.append(fault(f"the entry says {value['ref']}, its folder {ref}", "/ref"))
    if not _at(faults, "/image") and "image" in value and (missing := _misses(value, file.parent)):
        absent = f"there is no file {printable(missing)} in the entry's folder"
        faults.append(fault(absent, "/image/dockerfile"))
    for name in ("inputs", "outputs"):
        schema = value.get(name, {})
        if isinstance(schema, dict):
            found = _faults_of(schema, thorough=thorough)
            faults.extend(fault(message, f"/{name}{pointer}") for pointer, message in found)
    return value, sorted(faults, key=lambda found: found.line)


def _at(faults: list[Fault], pointer: str) -> bool:
    """Whether a fault is known at this place or below."""
    return any(f"{fault.pointer}/".startswith(f"{pointer}/") for fault in faults)


def _faults_of(schema: JsonObject, *, thorough: bool) -> list[tuple[str, str]]:
    from theory.entries.schemachecks import faults_of_schema, misplaced_defaults  # noqa: PLC0415 - for an entry that is new

    if faults := faults_of_schema(schema):
        return faults
    return [*misplaced_defaults(schema), *(_disputed(schema) if thorough else ())]


def _disputed(schema: JsonObject) -> Iterator[tuple[str, str]]:
    """What the reference implementation says of a schema that the fast one took."""
    from jsonschema import Draft202012Validator, SchemaError  # noqa: PLC0415 - 120 ms, for registry check alone

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        yield "".join(f"/{step}" for step in error.absolute_path), error.message


def _misses(document: JsonObject, folder: Path) -> str:
    """The Dockerfile that the entry names, unless it is a file below the folder, reached without a link."""
    dockerfile = cast("dict[str, str]", document["image"]).get("dockerfile")
    if dockerfile is None:
        return ""
    try:
        target = os.path.realpath(folder / dockerfile)
        below = os.path.join(os.path.realpath(folder), os.path.normpath(dockerfile))
        inside = target == below and not os.path.isabs(dockerfile)
        return "" if inside and os.path.isfile(target) else dockerfile
    except ValueError:  # a NUL
        return dockerfile


def _processor(document: JsonObject, ref: Ref, folder: Path, cid: str) -> Processor:
    entry = cast("dict[str, Any]", document)
    command = entry.get("command")
    return Processor(
        ref=ref,
        description=entry["description"],
        image=ImageSource(**entry["image"]),
        command=None if command is None else tuple(command),
        runtime=_runtime(entry.get("runtime", {})),
        adapter=entry.get("adapter", {}),
        secrets=_secrets(entry.get("secrets", [])),
        determinism=entry.get("determinism", "nondeterministic"),
        reserve_micro_usd=int(entry.get("cost", {}).get("reserve_micro_usd", 0)),
        inputs=entry.get("inputs", {"type": "object"}),
        outputs=entry.get("outputs", {}),
        folder=folder,
        cid=cid,
        tree=tree_of(folder, entry["image"].get("dockerfile")),
    )


def _runtime(needs: dict[str, Any]) -> Runtime:
    # To JSON Schema 512.0 is an integer.
    return Runtime(**{**needs, "memory": int(needs["memory"])} if "memory" in needs else needs)


def _secrets(needs: Any) -> SecretNeeds:  # noqa: ANN401 - as the entry's schema has it
    if isinstance(needs, list):
        return SecretNeeds(required=tuple(needs))
    return SecretNeeds(
        tuple(needs.get("required", ())), tuple(needs.get("optional", ())), needs.get("deliver")
    )
