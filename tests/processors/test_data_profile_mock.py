"""What `--adapter mock` answers for data/profile, the whole way from an attachment to the envelope."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import theory_adapter_mock.adapter as mock
from core.bed import good, house, read
from processors.runs import ENTRIES, REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path


def test_the_mock_answers_for_an_attached_table(tmp_path: Path) -> None:
    with house(tmp_path, mock, environ={"THEORY_REGISTRY": str(ENTRIES)}) as runner:
        envelope = good(
            runner.run(
                "data/profile@1",
                {"table": {"$attach": "table"}},
                attachments={"table": REPOSITORY / "examples" / "bike_trips.csv"},
            )
        )
        assert {output.path for output in envelope.outputs} == {
            "/artifacts/outputs/meta.json",
            "/artifacts/outputs/profile.json",
            "/artifacts/outputs/report.html",
        }
        assert (envelope.meta["rows"], envelope.meta["columns"]) == (0, 1)
        profile = json.loads(read(runner, "/artifacts/outputs/profile.json"))
        assert profile["columns"][0]["name"] == "mock"
