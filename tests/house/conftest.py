"""The command as users have it: from wheels, in a fresh environment and a home of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from house.command import Theory, environment, site_packages
from house.wheels import build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from house.command import DistributionMaker, EntryMaker


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of our wheels: tox's, else built here."""
    if given := os.environ.get("THEORY_WHEELS"):
        return Path(given)
    folder = tmp_path_factory.mktemp("wheels")
    build(folder)
    return folder


@pytest.fixture(scope="session")
def installed(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with core, the registry and the adapters that need no engine."""
    names = ("theory_core", "theory_adapter_mock", "theory_adapter_process", "theory_registry")
    found = (wheel for name in names for wheel in wheels.glob(f"{name}-*.whl"))
    return environment(tmp_path_factory.mktemp("installed"), *found)


@pytest.fixture(scope="session")
def installed_core(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with core's wheel and its dependencies, no plugin."""
    return environment(tmp_path_factory.mktemp("core"), *wheels.glob("theory_core-*.whl"))


@pytest.fixture
def theory(installed: Path, tmp_path: Path) -> Iterator[Theory]:
    """`theory` with everything, in an empty home and an empty working directory."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    command = Theory(prefix=installed, home=tmp_path / "home", cwd=cwd, environ={})
    yield command
    for process in command.started:
        process.kill()
        process.communicate()


@pytest.fixture
def layer(theory: Theory, tmp_path: Path) -> Callable[[], Theory]:
    """A new environment on top of the installed one, for what a test wants to install beside it."""
    count = 0

    def make() -> Theory:
        nonlocal count
        count += 1
        prefix = tmp_path / f"layer{count}"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", prefix], check=True)
        (site_packages(prefix) / "below.pth").write_text(f"{site_packages(theory.prefix)}\n")
        script = Path(theory.command).read_text().replace(str(theory.prefix), str(prefix))
        (prefix / "bin" / "theory").write_text(script)
        (prefix / "bin" / "theory").chmod(0o755)
        return replace(theory, prefix=prefix)

    return make


@pytest.fixture
def distribution(tmp_path: Path) -> DistributionMaker:
    """Makes the wheel of a third party's plugin from the text of its one module."""

    def make(name: str, module: str, source: str, entry_points: Mapping[str, str]) -> Path:
        info = f"{name.replace('-', '_')}-1.0.dist-info"
        groups = "".join(f"[{group}]\n{line}\n" for group, line in entry_points.items())
        members = {
            f"{module}.py": source,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: us\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/entry_points.txt": groups,
        }
        wheel = tmp_path / f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for member, text in members.items():
                archive.writestr(member, text)
            archive.writestr(
                f"{info}/RECORD", "".join(f"{member},,\n" for member in [*members, f"{info}/RECORD"])
            )
        return wheel

    return make


@pytest.fixture
def entry(tmp_path: Path) -> EntryMaker:
    """Writes a registry folder with one entry whose command is a Python program; answers with the folder."""

    def write(ref: str, program: str, **fields: Any) -> Path:
        root = tmp_path / "entries"
        name, _, version = ref.partition("@")
        folder = root / name / version
        folder.mkdir(parents=True)
        document = {
            "ref": ref,
            "description": "An entry for a test",
            "image": {"dockerfile": "Dockerfile"},
            "command": ["python", "main.py"],
            **fields,
        }
        (folder / "processor.yaml").write_text(json.dumps(document))  # JSON is YAML
        (folder / "Dockerfile").write_text("FROM scratch\n")
        (folder / "main.py").write_text(program)
        return root

    return write
