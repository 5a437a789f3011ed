"""What several tests of core stand on."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import pytest

from core.bed import write_entry
from core.commandline import ADAPTER, Command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def theory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    site = tmp_path / "site"
    info = site / "theory_cli_fake-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "theory_cli_fake.py").write_text(ADAPTER)
    (site / "theory_cli_broken.py").write_text("raise RuntimeError('\x1b[31mno')\n")
    (info / "entry_points.txt").write_text(
        "[theory.adapters]\nfake = theory_cli_fake:adapter\nbroken = theory_cli_broken\n"
    )
    monkeypatch.syspath_prepend(str(site))
    write_entry(tmp_path / "entries")
    monkeypatch.setenv("THEORY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("THEORY_REGISTRY", str(tmp_path / "entries"))
    monkeypatch.setenv("THEORY_ADAPTER", "fake")
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    yield Command(capfd)
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGTERM, before[1])
    sys.modules.pop("theory_cli_fake", None)
