"""Whatever call to the store or the ledger fails, nothing is half true afterwards."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from core.bed import Call, Fake, done, house, write_entry
from theory import Failure, Success
from theory.errors import LedgerFailed, StoreFailed

if TYPE_CHECKING:
    from pathlib import Path

    from theory import Outcome, Runner
    from theory.errors import TheoryError


class Failing:
    """Something whose n-th call fails, and, if it stays broken, every later one."""

    def __init__(
        self, whole: object, error: type[TheoryError], calls: list[str], at: int, *, stays: bool
    ) -> None:
        self.__dict__.update(_whole=whole, _error=error, _calls=calls, _at=at, _stays=stays)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._whole, name)
        if name in {"close", "url"}:
            return found
        if not callable(found):
            self._count(name)
            return found

        def call(*arguments: Any, **more: Any) -> Any:
            self._count(name)
            return found(*arguments, **more)

        return call

    def _count(self, name: str) -> None:
        self._calls.append(name)
        if len(self._calls) == self._at or (self._stays and len(self._calls) > self._at > 0):
            raise self._error(f"{name} refused")


def act(call: Call) -> Outcome:
    call.channel.started()
    call.write({"a.txt": "x", "b.json": "{}"})
    return done(cost_micro_usd=40)


def attempt(folder: Path, broken: str, at: int, *, stays: bool) -> tuple[Runner, Any, list[str]]:
    """One run whose store or ledger fails at its n-th call; 0 for never."""
    if not (folder / "entries").exists():
        write_entry(folder / "entries")
    (folder / "in.txt").write_text("attached")
    runner = house(folder, Fake(act=act))
    calls: list[str] = []
    error: type[TheoryError] = {"store": StoreFailed, "ledger": LedgerFailed}[broken]
    setattr(runner, f"_{broken}", Failing(getattr(runner, broken), error, calls, at, stays=stays))
    envelope = runner.run(
        "test/thing@1", {"f": {"$attach": "f"}}, attachments={"f": folder / "in.txt"}, reserve_micro_usd=100
    )
    return runner, envelope, calls


@pytest.mark.parametrize("stays", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("broken", ["store", "ledger"])
def test_a_failure_at_any_call_names_nothing_and_holds_nothing(
    tmp_path: Path, broken: str, stays: bool
) -> None:
    _, envelope, calls = attempt(tmp_path / "whole", broken, 0, stays=stays)
    assert isinstance(envelope, Success)
    assert len(calls) >= {"store": 7, "ledger": 4}[broken]
    for at in range(1, len(calls) + 1):
        folder = tmp_path / str(at)
        folder.mkdir()
        runner, envelope, seen = attempt(folder, broken, at, stays=stays)
        runner.close()
        place = f"call {at}, {seen[at - 1]}"
        with house(folder) as after:
            names, plans = list(after.ledger.names("/")), after.ledger.plans()
            record = after.ledger.execution(envelope.execution_id)
            if isinstance(envelope, Success):
                assert record is not None, place
                assert after.stored_envelope(envelope.execution_id) == envelope, place
                continue
            assert isinstance(envelope, Failure)
            assert envelope.code in {"ERR_STORE", "ERR_LEDGER"}, place
            assert not names, place
            held = sum(plan.reserved_micro_usd for plan in plans)
            can_close = broken == "store" or not stays
            assert held == 0 or (not can_close and "cannot be closed" in envelope.message), place
            assert record is None or record.kind == "execution.failure", place
            assert all(not after.ledger.check_chain(plan.key) for plan in plans), place


def test_a_reservation_that_could_not_be_closed_is_closed_by_a_later_start(tmp_path: Path) -> None:
    folder = tmp_path / "house"
    folder.mkdir()
    write_entry(folder / "entries", determinism="nondeterministic")
    pid = os.fork()
    if pid == 0:  # a process that dies while it holds what its broken ledger did not let it close
        status = 1
        try:
            _, envelope, calls = attempt(folder, "ledger", 4, stays=True)
            assert calls[3] == "settle"
            status = 0 if isinstance(envelope, Failure) and "cannot be closed" in envelope.message else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with house(folder) as runner:
        assert runner.ledger.plan("default").reserved_micro_usd == 100
        runner.run("test/thing@1")
        assert runner.ledger.plan("default").reserved_micro_usd == 0
