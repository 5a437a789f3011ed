"""An adapter installed in editable mode is an adapter like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from house.wheels import copy_sources

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from house.command import Theory


def test_an_editable_adapter_is_found_and_runs_from_its_sources(
    layer: Callable[[], Theory], tmp_path: Path
) -> None:
    theory = layer()
    sources = copy_sources("plugins/adapter_mock", tmp_path / "sources")
    theory.install("--no-deps", "--force-reinstall", "--editable", sources)
    theory.hello().ok()
    (adapter,) = [path for path in sources.rglob("__init__.py") if path.parent.name == "theory_adapter_mock"]
    adapter.write_text("raise ImportError('edited')\n")
    result = theory("adapters", "show", "mock")
    assert result.code == 69
    assert "edited" in result.stderr
