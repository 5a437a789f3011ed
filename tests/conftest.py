"""What every test stands on: a home of its own, laws checked the same way twice, and no silent skip."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

# A test that is skipped for another reason fails: what should run here must run here.
ALLOWED_SKIPS = (
    r"needs (Linux|macOS)",
    r"elsewhere only the deadline tells that an owner is dead",  # not Linux
    r"only Linux tells all four parts of an owner",
    r"this system has no fork",
    r"runs as root",  # … which no permission stops
    r"(python3\.\d+|strace) is not installed",
    r"the file system \w.*",  # … folds case, has no reflinks, cannot be mounted here, …
    r"the adapter pretends: no program runs",  # a contract is more than some adapters offer
    r"the adapter offers no \w+",
    r"this store names no plugin that opens it by its URL",
)

settings.register_profile("house", derandomize=True, deadline=None)
settings.register_profile(
    "long", max_examples=20_000, deadline=None, print_blob=True
)  # other cases each time
settings.load_profile("house")


@pytest.fixture(autouse=True)
def _home_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from the user's store, ledger and config; the folder is made by whoever needs it."""
    base: Path = tmp_path_factory.getbasetemp() / "nobody"
    monkeypatch.setenv("HOME", str(base))
    monkeypatch.setenv("THEORY_HOME", str(base / "theory"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(base / "config"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip that nobody allowed into a failure."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not any(re.match(allowed, reason) for allowed in ALLOWED_SKIPS):
            report.outcome = "failed"
            report.longrepr = f"skipped, but {reason!r} is no reason that tests/conftest.py allows"
    return report
