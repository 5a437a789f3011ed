"""A bench for the adapter ``local``, and images that say other things of themselves than the usual one."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

import theory_adapter_local.adapter as local
from theory.testing.bench import Bench
from theory.types import ImageSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from theory_adapter_local.engine.client import Engine


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which what the engine sees is known after the first run."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def bench(base_image: str, tmp_path: Path, shared_cache: Path) -> Bench:
    """Runs jobs in the usual image; set ``image`` and ``options`` for others."""
    folder = tmp_path / "bench"
    folder.mkdir()
    source = ImageSource(oci=base_image)
    return Bench(local, folder, shared_cache, lambda _: source, lambda _: {}, lambda _: None, 60.0)


@pytest.fixture(scope="session")
def image_with(engine: Engine, base_image: str) -> Iterator[Callable[..., ImageSource]]:
    """Makes the usual image again, with lines of a Dockerfile that need no build."""
    made = []

    def make(*lines: str) -> ImageSource:
        container = engine.call("POST", "/containers/create", body={"Image": base_image})["Id"]
        tag = uuid.uuid4().hex
        query = {"container": container, "repo": "theory-test", "tag": tag, "changes": "\n".join(lines)}
        engine.call("POST", "/commit", query=query)
        engine.call("DELETE", f"/containers/{container}", query={"v": "1"})
        made.append(f"theory-test:{tag}")
        return ImageSource(oci=made[-1])

    yield make
    for name in made:
        engine.call("DELETE", f"/images/{name}", query={"force": "1"})
