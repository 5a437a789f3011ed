"""tests/lowest.txt holds exactly the lower bounds that core declares."""

from __future__ import annotations

import re
from pathlib import Path

HOUSE = Path(__file__).parents[2]


def test_the_oldest_versions_tried_are_the_oldest_allowed() -> None:
    text = (HOUSE / "core" / "pyproject.toml").read_text()
    (block,) = re.findall(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    declared = dict(re.findall(r'"([\w-]+)>=([\w.]+)', block))
    tried = dict(
        re.findall(r"^([\w-]+)==([\w.]+)", (HOUSE / "tests" / "lowest.txt").read_text(), re.MULTILINE)
    )

    def release(version: str) -> tuple[int, ...]:
        return (*map(int, version.split(".")), 0, 0)[:3]

    assert declared
    assert {name: release(of) for name, of in tried.items()} == {
        name: release(of) for name, of in declared.items()
    }
