"""One home for all adapters, each way to run as a parameter."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from modal_emulator.handle import Handle, running
from parity.parity import ANYTHING, CHECKED, WAYS, Way, write_entries
from theory import Runner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from theory_adapter_local.engine.client import Engine


@pytest.fixture(scope="session")
def modal(engine: Engine, base_image: str) -> Iterator[Handle]:
    """Modal's protocol, spoken by a server that runs real containers."""
    assert engine.host
    assert base_image
    with running("--runner", "docker") as emulator:
        yield emulator


@pytest.fixture(scope="module")
def runner(
    engine: Engine, base_image: str, modal: Handle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runner]:
    """What runs everything here; the entries of ``write_entries`` are known to it."""
    base: Path = tmp_path_factory.mktemp("parity")
    write_entries(base / "entries", base_image)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in modal.environ.items():  # modal reads the process's own
            patch.setenv(name, value)
        environ = {
            **os.environ,
            "DOCKER_HOST": engine.host,
            "THEORY_HOME": str(base / "home"),
            "THEORY_REGISTRY": str(base / "entries"),
        }
        for ref in (ANYTHING, CHECKED):
            subprocess.run([sys.executable, "-m", "theory", "modal", "deploy", ref], env=environ, check=True)
        with Runner(environ=environ) as runner:
            yield runner


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    """Each way to run but ``process``, which the others are held against."""
    return WAYS[request.param]
