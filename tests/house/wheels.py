"""Builds every distribution of the house as a wheel, away from the checkout, which stays as it is.

    python tests/house/wheels.py FOLDER [options of pip wheel]

FOLDER is emptied first.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HOUSE = Path(__file__).resolve().parents[2]
DISTRIBUTIONS = (
    "core",
    "plugins/adapter_mock",
    "plugins/adapter_process",
    "plugins/adapter_local",
    "plugins/adapter_modal",
    "registry",
    ".",
)


def copy_sources(distribution: str, target: Path) -> Path:
    """Copy what a distribution is built from; of the root, its files alone."""
    source = HOUSE / distribution
    if distribution == ".":
        target.mkdir(parents=True)
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(source / name, target)
    else:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    return target


def build(folder: Path, *options: str) -> None:
    """Build all wheels into a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="wheels-") as scratch:
        copies = [
            copy_sources(distribution, Path(scratch, str(number)))
            for number, distribution in enumerate(DISTRIBUTIONS)
        ]
        pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(folder))
        subprocess.run([*pip, *options, *map(str, copies)], check=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]), *sys.argv[2:])
