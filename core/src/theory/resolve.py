"""Room 1: a ref becomes a processor, from the first registry that may answer for it.

Folders that the user named come first. A folder found by walking up from the working directory is the project's: it may
bring new refs, but one that shadows an installed entry with other content is refused, or a clone could change what
``llm/litellm@1`` means behind one's back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from theory.errors import RegistryFault, UnknownRef

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from theory.types import Processor, Ref

Origin = Literal["named", "found", "installed"]


@dataclass(frozen=True, slots=True)
class Source:
    """One registry and how it came to be asked."""

    origin: Origin
    label: str  # what people call it: its folder or its distribution
    resolve: Callable[[Ref], Processor | None]
    refs: Callable[[], Iterable[Ref]]
    root: Path | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """A processor, and how its registry came to be asked."""

    processor: Processor
    origin: Origin


def resolve_ref(ref: Ref, sources: Iterable[Source]) -> Resolved:
    """The processor of this ref.

    Raises:
        UnknownRef: No registry has it; the hint names refs that look like it.
        RegistryFault: The entry is faulty, or two registries disagree about it.
    """
    sources = tuple(sources)
    found: list[tuple[Source, Processor]] = []
    for source in sources:
        processor = source.resolve(ref)
        if processor is None:
            continue
        if source.origin == "named":
            return Resolved(processor, "named")
        found.append((source, processor))
    if not found:
        raise _unknown(ref, sources)
    for source, processor in found[1:]:
        first, other = found[0]
        if (processor.cid, processor.tree) != (other.cid, other.tree):
            raise RegistryFault(
                f"{ref} is in {first.label} and, with other content, in {source.label}",
                hint=f"if you mean that of {first.label}: --registry {first.root}",
            )
    source, processor = next((pair for pair in found if pair[0].origin == "installed"), found[0])
    return Resolved(processor, source.origin)


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
