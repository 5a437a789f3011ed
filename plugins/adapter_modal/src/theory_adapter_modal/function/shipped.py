"""The modules that are shipped to Modal, imported here as they are there: as files, of no package.

So Modal ships each as one file, and the image needs nothing of ours. Never ``serialized``: that breaks where
the image's Python is not the caller's.
"""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

BOX = Path(__file__).with_name("theory_box.py")
SHIM = Path(__file__).with_name("theory_shim.py")


def shim() -> ModuleType:
    """The module with ``serve``."""
    for path in (BOX, SHIM):
        if path.stem in sys.modules:
            continue
        spec = spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} cannot be imported", name=path.stem)
        module = sys.modules[path.stem] = module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[SHIM.stem]
