"""Functions: definitions, calls and the containers that run them."""

from __future__ import annotations

from .calls import Calls
from .containers import Containers
from .definitions import Definitions
from .worker import Worker

AREAS: tuple[type, ...] = (
    Definitions,
    Calls,
    Containers,
    Worker,
)  # in the order in which they need each other
