"""A cancellation that is noticed at any moment of a run leaves nothing held and nothing behind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from core.bed import Fake, good, house, write_entry
from theory import Cancellation, Failure, Success

if TYPE_CHECKING:
    from pathlib import Path

BIG = os.urandom(2_500_000)  # three blocks


class At(Cancellation):
    """Is cancelled when somebody looks for the n-th time."""

    def __init__(self, look: int) -> None:
        super().__init__()
        self.left = look

    def is_set(self) -> bool:
        self.left -= 1
        if self.left <= 0:
            self.set()
        return super().is_set()


@pytest.mark.parametrize("memo", ["refresh", "auto"], ids=["a run", "a hit"])
def test_a_cancellation_noticed_at_any_look_ends_the_run_cleanly_or_comes_too_late(
    tmp_path: Path, memo: str
) -> None:
    write_entry(tmp_path / "entries", inputs={"type": "object"}, cost={"reserve_micro_usd": 5})
    (tmp_path / "photo.jpg").write_bytes(BIG[::-1])
    ends: list[str] = []
    with house(tmp_path, Fake(files={"a.bin": BIG, "b.txt": "x"})) as runner:

        def run(cancellation: Cancellation, policy: str) -> Success | Failure:
            return runner.run(
                "test/thing@1",
                {"photo": {"$attach": "photo"}},
                attachments={"photo": tmp_path / "photo.jpg"},
                memo=policy,  # type: ignore[arg-type]  # one of them
                cancellation=cancellation,
            )

        first = good(run(Cancellation(), "auto"))
        for look in range(1, 200):
            at = At(look)
            envelope = run(at, memo)
            ends.append(envelope.code if isinstance(envelope, Failure) else envelope.status)
            assert runner.ledger.plan("default").reserved_micro_usd == 0
            assert os.listdir(tmp_path / "home" / "state") == []
            assert [name for name in os.listdir(runner.store.staging) if not name.startswith(".")] == []
            if isinstance(envelope, Success):
                assert [output.cid for output in envelope.outputs] == [output.cid for output in first.outputs]
                break
            assert envelope.exit_code == 130
    assert set(ends) == {"ERR_INTERRUPTED", "success"}
    assert len(ends) > (
        18 if memo == "refresh" else 11
    )  # blocks of the attachment and of the output among them
