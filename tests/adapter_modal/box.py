"""A sandbox of the emulator for tests that only need one that is there."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import modal

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE = "python:3.11-slim"
LONG = 60  # seconds: more than anything here takes on a busy machine


def image() -> modal.Image:
    """Python, and nothing that its containers start with."""
    return modal.Image.from_registry(BASE).entrypoint([])


def app(name: str = "box") -> modal.App:
    """The app that sandboxes belong to."""
    return modal.App.lookup(name, create_if_missing=True)


def made(*argv: str, **options: Any) -> modal.Sandbox:
    """A new sandbox."""
    wanted = {"app": options.get("app") or app(), "image": image(), "timeout": LONG}
    return modal.Sandbox.create(*argv, **{**wanted, **options})


@contextmanager
def sandbox(*argv: str, **options: Any) -> Iterator[modal.Sandbox]:
    """A sandbox that sleeps, for as long as the block runs."""
    one = made(*(argv or ("sleep", "infinity")), **options)
    try:
        yield one
    finally:
        one.terminate()


def said(one: modal.Sandbox, *argv: str, **options: Any) -> tuple[int, str, str]:
    """Run a command; its exit code, what it printed, what it complained of."""
    process = one.exec(*argv, **{"timeout": LONG, **options})
    out, err = process.stdout.read(), process.stderr.read()
    return process.wait(), out, err
