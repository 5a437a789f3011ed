"""Contracts that plugin authors subclass: pytest classes that prove an adapter or a store.

    from theory.testing import AdapterContract

Their modules say how. They need pytest, which ``theory`` itself does not install.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from theory.testing.adapters import AdapterContract as AdapterContract
    from theory.testing.stores import StoreContract as StoreContract

_HOME_OF = {"AdapterContract": "theory.testing.adapters", "StoreContract": "theory.testing.stores"}

__all__ = ["AdapterContract", "StoreContract"]

pytest.register_assert_rewrite("theory.testing.adapters", "theory.testing.bench", "theory.testing.stores")


def __getattr__(name: str) -> object:
    from importlib import import_module  # noqa: PLC0415 - only where a name is asked for

    if name not in _HOME_OF:
        raise AttributeError(f"module 'theory.testing' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
