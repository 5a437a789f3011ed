"""A folder of entries: ``namespace/name/version/processor.yaml``, the path being the ref.

An entry is read strictly (``strictyaml``), checked against ``entry.schema.json`` and turned into a
``Processor``. What was read once is cached as JSON by the cid of its bytes, since reading YAML costs more
than the rest of a run.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from theory import __version__
from theory.canon import BadJson, check_json, cid_of, compact
from theory.errors import RegistryFault, UnknownRef
from theory.hookspecs import hookimpl
from theory.paths import printable
from theory.schemas import BadSchema, Schema, misplaced_defaults, schema_of
from theory.strictyaml import BadYaml, parse_yaml
from theory.tree import ENTRY, tree_of
from theory.types import ImageSource, Processor, Ref, Runtime, SecretNeeds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theory.types import JsonObject


@dataclass(frozen=True, slots=True)
class Fault:
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
        self.root = below if below.is_dir() else root
        self._cache = cache
        self._read: dict[str, JsonObject] = {}

    @hookimpl
    def resolve_ref(self, ref: Ref) -> Processor | None:
        """The entry of this ref.

        Raises:
            RegistryFault: The entry is faulty: file, line and pointer of the first fault.
        """
        folder = self.root / ref.namespace / ref.name / str(ref.version)
        try:
            data = (folder / ENTRY).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise RegistryFault(f"{folder / ENTRY} cannot be read: {error.strerror}") from error
        cid = cid_of(data)
        document = self._read.get(cid) or self._cached(cid)
        if document is None or document["ref"] != str(ref) or _misses(document, folder):
            document, faults = _checked(data, folder / ENTRY, ref)
            if faults:
                raise _refused(faults)
            self._keep(cid, document)
        self._read[cid] = document
        return _processor(document, ref, folder, cid)

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
        for file in sorted(self.root.glob(f"**/{ENTRY}")):
            parts = file.relative_to(self.root).parts
            try:
                ref = Ref.parse("{}/{}@{}".format(*parts[:3])) if len(parts) == 4 else None  # noqa: PLR2004 - of the path
            except UnknownRef:
                ref = None
            if ref is None:
                yield Fault(file, 1, "", "the path is not namespace/name/version/processor.yaml")
                continue
            try:
                document, faults = _checked(file.read_bytes(), file, ref, thorough=True)
                yield from faults
                if not faults:
                    _processor(document, ref, file.parent, "")
            except RegistryFault as error:
                yield Fault(file, 1, "", error.message)
            except OSError as error:
                yield Fault(file, 1, "", f"cannot be read: {error.strerror}")

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
            self._cache.mkdir(parents=True, exist_ok=True)
            body = compact(document).encode()
            part.write_bytes(_mark(body) + b"\n" + body)
            part.replace(self._cache / f"{cid[3:]}.json")
        except OSError:
            with suppress(OSError):
                part.unlink()


def _mark(body: bytes) -> bytes:
    """What a cached entry begins with: it is whole, and was checked by this version of theory."""
    return cid_of(f"{__version__}\n".encode() + body).encode()


def entry_schema() -> JsonObject:
    """The JSON Schema of an entry."""
    return cast("JsonObject", json.loads(Path(__file__).with_name("entry.schema.json").read_text("utf-8")))


def _refused(faults: list[Fault]) -> RegistryFault:
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return RegistryFault(f"{faults[0]}{more}", hint="theory registry check shows every fault")


def _checked(data: bytes, file: Path, ref: Ref, *, thorough: bool = False) -> tuple[JsonObject, list[Fault]]:
    try:
        value, lines = parse_yaml(data)
    except BadYaml as error:
        return {}, [Fault(file, error.line, "", str(error))]

    def fault(message: str, pointer: str) -> Fault:
        at = pointer
        while at and at not in lines:
            at = at.rpartition("/")[0]
        return Fault(file, lines.get(at, 1), pointer, message)

    try:
        check_json(value)
    except BadJson as error:
        return {}, [fault(str(error), error.pointer)]
    if broken := [fault(str(error), error.pointer) for error in schema_of(entry_schema()).faults(value)]:
        return {}, sorted(broken, key=lambda found: found.line)
    document = cast("JsonObject", value)
    faults = []
    if document["ref"] != str(ref):
        faults.append(fault(f"the entry says {document['ref']}, its folder {ref}", "/ref"))
    if missing := _misses(document, file.parent):
        faults.append(
            fault(f"there is no file {printable(missing)} in the entry's folder", "/image/dockerfile")
        )
    for name in ("inputs", "outputs"):
        schema = cast("JsonObject", document.get(name, {}))
        try:
            Schema(schema)
        except BadSchema as error:
            faults.append(fault(str(error), f"/{name}{error.pointer}"))
            continue
        found = [*misplaced_defaults(schema), *(_disputed(schema) if thorough else ())]
        faults.extend(fault(message, f"/{name}{pointer}") for pointer, message in found)
    return document, faults


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
