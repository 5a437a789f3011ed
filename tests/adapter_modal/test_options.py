"""The options of the adapter ``modal``."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from theory_adapter_modal.options import Options


@pytest.mark.parametrize("startup", [0, -1, 3601])
def test_a_start_that_could_never_happen_is_refused(startup: int) -> None:
    with pytest.raises(ValueError, match="startup is not between 1 and 3600 seconds"):
        Options(startup=startup)


@pytest.mark.parametrize("name", ["region", "cloud", "environment", "secret", "registry_secret"])
@pytest.mark.parametrize("value", ["", " ", "a\nb", "\x1b[31m"])
def test_a_name_that_nothing_has_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is "):
        Options(**{name: value})  # type: ignore[arg-type]  # names of options


def test_secrets_that_modal_keeps_are_not_needed_here() -> None:
    assert Options(secret="openai").keeps_secrets  # noqa: S106 - a name
    assert not Options().keeps_secrets


def test_describing_and_identifying_import_no_modal() -> None:
    code = """
import os, sys
os.environ["MODAL_ENABLED"] = "1"
from pathlib import Path
from theory.testing.bench import Bench
from theory.types import ImageSource
import tempfile, theory_adapter_modal.adapter as adapter
folder = Path(tempfile.mkdtemp())
pinned = ImageSource(oci="python@sha256:" + 64 * "5")
bench = Bench(adapter, folder, folder / "c", lambda _: pinned, lambda _: {}, lambda _: None, 1)
print(bench.info.summary, bench.identify(bench.processor()).id)
heavy = {"modal", "grpclib", "modal_proto", "aiohttp"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "sha256:5555" in done.stdout
