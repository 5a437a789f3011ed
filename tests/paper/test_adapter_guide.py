"""The adapter of docs/how-to/write-an-adapter.md is whole: it passes the contract that the guide names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from paper.documents import HOUSE

if TYPE_CHECKING:
    from pathlib import Path

FENCE = re.compile(r"^```(python|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_adapter_of_the_guide_passes_its_contract(tmp_path: Path) -> None:
    guide = (HOUSE / "docs" / "how-to" / "write-an-adapter.md").read_text("utf-8")
    for language, body in FENCE.findall(guide):
        name = body.partition("\n")[0].removeprefix("# ") if language == "python" else "pyproject.toml"
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(body, "utf-8")
    (tmp_path / "src" / "acme_theory_adapter" / "__init__.py").touch()
    python_path = os.pathsep.join([str(tmp_path / "src"), os.environ.get("PYTHONPATH", "")]).rstrip(
        os.pathsep
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": python_path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d\d passed", done.stdout, re.MULTILINE), done.stdout
