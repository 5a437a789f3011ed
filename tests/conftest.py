"""What tests stand on: a home of their own, an engine, laws checked the same way twice, no silent skip."""

from __future__ import annotations

import fcntl
import os
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from theory_adapter_local.engine.client import Engine

# A test that is skipped for another reason fails: what should run here must run here.
ALLOWED_SKIPS: tuple[str, ...] = (
    r"needs (Linux|macOS|root)",
    r"elsewhere only the deadline tells that an owner is dead",  # not Linux
    r"only Linux tells all four parts of an owner",
    r"this system has no fork",
    r"runs as root",  # … which no permission stops
    r"(python3\.\d+|strace|openssl) is not installed",
    r"the file system \w.*",  # … folds case, has no reflinks, cannot be mounted here, …
    r"the adapter pretends: no program runs",  # a contract is more than some adapters offer
    r"the adapter offers no \w+",
    r"this store names no plugin that opens it by its URL",
    r"the contract's image is pinned by a digest that only the emulator's runner of processes takes",
)
if os.environ.get("THEORY_REQUIRE_DOCKER") != "1":  # the gate sees to it that there is one
    ALLOWED_SKIPS += (
        r"no Docker engine answers",
        r"the image \S+ is not here and cannot be pulled",
        r"(dockerd|containerd|unshare|ldd) is not installed",
    )

BASE_IMAGE = "python:3.11-slim"  # what the published Dockerfiles begin with
PULL = 600.0  # seconds

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


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The container engine that the user's environment names, else the usual one."""
    from theory_adapter_local.engine.client import engine_of
    from theory_adapter_local.engine.faults import DockerUnavailable

    if lock := os.environ.get("THEORY_DOCKER_LOCK"):  # held by whoever still sets the engine up (.ci/engine)
        with open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_SH)
    try:
        answering = engine_of()
    except DockerUnavailable as error:
        pytest.skip(f"no Docker engine answers: {error} ({error.hint})")
    with pytest.MonkeyPatch.context() as patch:
        if answering.host != "unix:///var/run/docker.sock":
            patch.setenv("DOCKER_HOST", answering.host)  # a test's own HOME hides the contexts of the CLI
        yield answering


@pytest.fixture(scope="session")
def base_image(engine: Engine) -> str:
    """An image with a Python and a shell, by its name."""
    from theory_adapter_local.engine.client import Refused

    def missing() -> bool:
        try:
            engine.call("GET", f"/images/{BASE_IMAGE}/json")
        except Refused as refused:
            if refused.status == 404:
                return True
            raise
        return False

    if missing():
        name, _, tag = BASE_IMAGE.partition(":")
        said = b""
        try:
            wanted = {"fromImage": name, "tag": tag}
            with engine.stream("POST", "/images/create", query=wanted, timeout_s=PULL) as answer:
                while chunk := answer.read(1 << 16):
                    said = (said + chunk)[-1000:]
        except Refused as refused:
            said = refused.message.encode()
        if missing():
            reason = said.decode(errors="replace").strip().rpartition("\n")[2]
            pytest.skip(f"the image {BASE_IMAGE} is not here and cannot be pulled: {reason}")
    return BASE_IMAGE


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
