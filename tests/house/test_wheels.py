"""Each wheel holds what its sources hold: nothing is forgotten, nothing comes along."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import pytest

from house.wheels import HOUSE

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = {
    "theory": ("theory_core", "core/src/theory"),
    "theory_adapter_mock": ("theory_adapter_mock", "plugins/adapter_mock/src"),
    "theory_adapter_process": ("theory_adapter_process", "plugins/adapter_process/src"),
    "theory_adapter_local": ("theory_adapter_local", "plugins/adapter_local/src"),
    "theory_adapter_modal": ("theory_adapter_modal", "plugins/adapter_modal/src"),
    "theory_registry": ("theory_registry", "registry/processors"),
}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_holds_the_files_of_its_package(wheels: Path, package: str) -> None:
    distribution, folder = PACKAGES[package]
    (wheel,) = wheels.glob(f"{distribution}-*.whl")
    built = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = HOUSE / folder / (package if folder.endswith("src") else "")
    written = {
        f"{package}/{file.relative_to(sources)}"
        for file in sources.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert built == written


def test_the_wheel_of_the_house_has_no_code(wheels: Path) -> None:
    (wheel,) = wheels.glob("theory-*.whl")
    assert [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name] == []
