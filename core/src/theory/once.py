"""What is worked out once for a document that nobody changes, told by its identity: comparing is slow."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Argument = TypeVar("Argument")
Result = TypeVar("Result")

_MOST = 256


def once(function: Callable[[Argument], Result]) -> Callable[[Argument], Result]:
    """The same function, which remembers its last 256 arguments and what came of them."""
    known: dict[int, tuple[Argument, Result]] = {}  # it keeps the argument, so nothing else gets its id

    def remembering(argument: Argument) -> Result:
        found = known.get(id(argument))
        if found is None or found[0] is not argument:
            if len(known) >= _MOST:
                known.clear()
            found = known[id(argument)] = (argument, function(argument))
        return found[1]

    return remembering
