"""A bench on which the mock adapter answers entries made up by the tests."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from theory.testing.bench import Bench, Ran
from theory.types import ImageSource
from theory_adapter_mock import adapter as mock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from theory.testing.channel import RecordingChannel


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    def image(folder: Path) -> ImageSource:
        return ImageSource(dockerfile=str(folder / "Dockerfile"))

    folder = tmp_path / "bench"
    folder.mkdir()
    return Bench(mock, folder, tmp_path / "cache", image, lambda _: {}, lambda _: None, patience_s=10)


@pytest.fixture
def ask(bench: Bench) -> Callable[..., Ran]:
    """Run an entry with this adapter.mock, or with this schema of outputs, and these options."""

    def run(
        told: dict[str, Any] | None = None,
        *,
        schema: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        channel: RecordingChannel | None = None,
        **options: Any,
    ) -> Ran:
        changes: dict[str, Any] = {"adapter": {} if told is None else {"mock": told}}
        bench.options = lambda _: mock.Options(**options)
        job = replace(bench.job(**changes), inputs=inputs or {})
        if schema is not None:
            job = replace(job, processor=replace(job.processor, outputs=schema))
        return bench.start(job, channel=channel).within(bench.patience_s)

    return run
