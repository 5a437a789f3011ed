"""Documents that run; how they are marked stands in documents.py.

`pytest tests/paper --regenerate` writes outputs, help pages, errors and hooks into the documents anew.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from house.command import Theory, environment
from house.wheels import build

if TYPE_CHECKING:
    from collections.abc import Callable


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our one option."""
    parser.addoption(
        "--regenerate", action="store_true", help="write what the documents should say into them"
    )


@pytest.fixture(scope="session")
def regenerate(pytestconfig: pytest.Config) -> bool:
    """Whether a difference is written into the document instead of failing."""
    return bool(pytestconfig.getoption("regenerate", default=False))


@pytest.fixture(scope="session")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment with `theory` in it: this one under tox, which has the wheels."""
    if (Path(sys.prefix) / "bin" / "theory").exists():
        return Path(sys.prefix)
    wheels: Path = tmp_path_factory.mktemp("wheels")
    build(wheels)
    return environment(tmp_path_factory.mktemp("installed"), *wheels.glob("theory_*.whl"))


@pytest.fixture(scope="session")
def theory(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs `theory` and answers with its stdout."""
    home = tmp_path_factory.mktemp("home")

    def run(*arguments: str) -> str:
        return Theory(prefix=prefix, home=home / "theory", cwd=home, environ={})(*arguments).ok().stdout

    return run
