"""Every parser of what comes from outside: bytes in, an answer or a named refusal out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Parse = Callable[[bytes], object]


@dataclass(frozen=True)
class Parser:
    """One way in.

    ``parse`` does with the bytes what the product does, in a folder of its own, and raises nothing but
    ``refusals``: what its callers expect. The product reads ``most_bytes`` of it, or refuses what has more.
    """

    make: Callable[[Path], Parse]
    refusals: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]
    most_bytes: int = 1 << 16


def table() -> dict[str, Parser]:
    """All parsers, by name."""
    from proofs import fuzz_adapters, fuzz_core, fuzz_records

    return {**fuzz_core.PARSERS, **fuzz_records.PARSERS, **fuzz_adapters.PARSERS}


def parser_of(name: str) -> Parser:
    """The parser of this name, or the control."""
    if name.startswith("control-"):
        from proofs import fuzz_controls

        return fuzz_controls.PARSERS[name]
    return table()[name]
