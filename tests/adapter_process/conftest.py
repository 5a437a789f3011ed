"""A bench for the adapter ``process``, and wheels to install."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from typing import TYPE_CHECKING

import pytest

import theory_adapter_process.adapter as process
from theory.testing.bench import Bench
from theory.types import ImageSource

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    folder = tmp_path / "bench"
    folder.mkdir()
    image = ImageSource(dockerfile="Dockerfile")
    return Bench(process, folder, tmp_path / "cache", lambda _: image, lambda _: {}, lambda _: None, 60.0)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, as the user's own configuration says.

    ``tiny`` 1.0 is in it, and ``leaning`` 1.0, which depends on it.
    """
    folder = tmp_path / "wheels"
    folder.mkdir()
    _write_wheel(folder, "tiny", needs="")
    _write_wheel(folder, "leaning", needs="Requires-Dist: tiny\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def locked_tiny(bench: Bench, wheels: Path) -> dict[str, object]:
    """The changes that make an entry require ``tiny``, with its hash."""
    folder = bench.folder / "entry"
    folder.mkdir(exist_ok=True)
    (folder / "requirements.lock").write_text(hashed(wheels, "tiny"), encoding="utf-8")
    return {"adapter": {"process": {"requirements": "requirements.lock"}}}


@pytest.fixture
def locked_leaning(bench: Bench, wheels: Path, locked_tiny: dict[str, object]) -> dict[str, object]:
    """The same for ``leaning``, without ``tiny``."""
    (bench.folder / "entry" / "requirements.lock").write_text(hashed(wheels, "leaning"), encoding="utf-8")
    return locked_tiny


def hashed(wheels: Path, name: str) -> str:
    """The line of a lock."""
    digest = hashlib.sha256((wheels / f"{name}-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    return f"{name}==1.0 \\\n    --hash=sha256:{digest}\n"


def _write_wheel(folder: Path, name: str, needs: str) -> None:
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": b"ANSWER = 42\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:ANSWER.bit_length\n".encode(),
    }
    record = "".join(f"{path},sha256={_digest(data)},{len(data)}\n" for path, data in files.items())
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, data in files.items():
            wheel.writestr(path, data)
        wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
