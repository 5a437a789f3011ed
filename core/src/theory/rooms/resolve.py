"""Room 1: a ref becomes a processor, from the first registry that may answer for it.

Folders that the user named come first. A folder found by walking up from the working directory is the
project's: it may bring new refs, but one that shadows an installed entry with other content is refused, or a
clone could change what ``llm/litellm@1`` means behind one's back.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from theory.entries.registry import FolderRegistry
from theory.errors import PluginFailed, RegistryFault, UnknownRef
from theory.plugins import REGISTRIES
from theory.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from theory.config import Settings
    from theory.plugins import Plugins
    from theory.types import Processor, Ref

Origin = Literal["named", "found", "installed"]


class Source(Record):
    """One registry and how it came to be asked."""

    origin: Origin
    label: str  # what people call it: its folder or its distribution
    resolve: Callable[[Ref], Processor | None]
    refs: Callable[[], Iterable[Ref]]
    root: Path | None = None


class Resolved(Record):
    """A processor, and how its registry came to be asked."""

    processor: Processor
    origin: Origin


def sources_of(settings: Settings, plugins: Plugins) -> Iterator[Source]:
    """The registries, in the order in which they are asked.

    Raises:
        RegistryFault: A folder that the user named is none.
    """
    cache = settings.home / "cache" / "registry"

    def source(origin: Origin, label: str, registry: object) -> Source:
        refs = registry.refs if isinstance(registry, FolderRegistry) else tuple
        return Source(origin, label, plugins.registry(registry, label), refs, getattr(registry, "root", None))

    for folder in settings.named_registries:
        if not os.path.isdir(folder):
            raise RegistryFault(
                f"the registry {folder} is not a folder", hint="check --registry or the configuration"
            )
        yield source("named", str(folder), FolderRegistry(folder, cache))
    for folder in settings.found_registries:
        yield source("found", str(folder), FolderRegistry(folder, cache))
    for name in plugins.names(REGISTRIES):
        label = f"the installed registry {name}"
        try:
            module = plugins.load(REGISTRIES, name)
            if not hasattr(module, "resolve_ref"):
                module = FolderRegistry(Path(str(getattr(module, "__file__", name))).parent, cache)
            yield source("installed", label, module)
        except PluginFailed as error:
            yield Source("installed", label, _broken(error), tuple)


def resolve_ref(ref: Ref, sources: Iterable[Source]) -> Resolved:
    """The processor of this ref.

    Raises:
        UnknownRef: No registry has it; the hint names refs that look like it.
        RegistryFault: The entry is faulty, or two registries disagree about it.
        PluginFailed: Only a registry that is broken might have it.
    """
    sources = tuple(sources)
    found: list[tuple[Source, Processor]] = []
    broken: list[PluginFailed] = []
    for source in sources:
        try:
            processor = source.resolve(ref)
        except (
            PluginFailed
        ) as error:  # it harms the refs of others no more than a registry that is not installed
            broken.append(error)
            continue
        if processor is None:
            continue
        if source.origin == "named":
            return Resolved(processor, "named")
        found.append((source, processor))
    if not found:
        raise broken[0] if broken else _unknown(ref, sources)
    for source, processor in found[1:]:
        first, other = found[0]
        if (processor.cid, processor.tree) != (other.cid, other.tree):
            raise RegistryFault(
                f"{ref} is in {first.label} and, with other content, in {source.label}",
                hint=f"if you mean that of {first.label}: --registry {other.folder.parents[2]}",
            )
    source, processor = next((pair for pair in found if pair[0].origin == "installed"), found[0])
    return Resolved(processor, source.origin)


def _broken(error: PluginFailed) -> Callable[[Ref], Processor | None]:
    def resolve(_: Ref) -> Processor | None:
        raise error

    return resolve


def _unknown(ref: Ref, sources: Iterable[Source]) -> UnknownRef:
    from difflib import get_close_matches  # noqa: PLC0415 - only for a name that is wrong

    known = sorted({str(other) for source in sources for other in source.refs()})
    close = get_close_matches(str(ref), known, n=3, cutoff=0.6)
    same = [other for other in known if other.partition("@")[0] == str(ref).partition("@")[0]]
    if near := list(dict.fromkeys((*same, *close))):
        hint = f"did you mean {' or '.join(near)}?"
    elif known:
        hint = "theory registry ls shows what there is"
    else:
        hint = "no registry is here: pip install theory-registry, or name a folder with --registry"
    return UnknownRef(f"no registry has {ref}", hint=hint)
