"""tests/lowest.txt holds exactly the lower bounds that our distributions declare for what is not ours."""

from __future__ import annotations

import re

from house.wheels import DISTRIBUTIONS, HOUSE


def test_the_oldest_versions_tried_are_the_oldest_allowed() -> None:
    declared: dict[str, str] = {}
    for distribution in DISTRIBUTIONS:
        text = (HOUSE / distribution / "pyproject.toml").read_text()
        (block,) = re.findall(r"^dependencies = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL)
        declared |= re.findall(r'"(?!theory)([\w-]+)>=([\w.]+)', block)
    tried = dict(
        re.findall(r"^([\w-]+)==([\w.]+)", (HOUSE / "tests" / "lowest.txt").read_text(), re.MULTILINE)
    )

    def release(version: str) -> tuple[int, ...]:
        return (*map(int, version.split(".")), 0, 0)[:3]

    assert {"pluggy", "docker"} < declared.keys()
    assert {name: release(of) for name, of in tried.items()} == {
        name: release(of) for name, of in declared.items()
    }
