"""What an execution cost is known, or the reservation stands for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from core.bed import Call, Fake, done, house, write_entry
from theory import Failure
from theory.errors import BadInputs, Internal, Interrupted
from theory.rooms.close import Cost, cost_of, failure_of, known
from theory.rooms.redact import Redactor

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

    from theory.rooms.job import Prepared


def prepared(*, pretends: bool, entry: int) -> Prepared:
    from types import SimpleNamespace as N

    stand_in: SimpleNamespace = N(
        adapter=N(info=N(pretends=pretends)),
        job=N(processor=N(reserve_micro_usd=entry)),
        admission=N(reserve_micro_usd=100),
    )
    return cast("Prepared", stand_in)


@pytest.mark.parametrize(
    ("pretends", "entry", "adapter", "said", "actual"),
    [
        (False, 0, 5, None, 5),
        (False, 0, 5, 7, 12),
        (False, 20, 5, 7, 12),
        (False, 20, 5, None, None),
        (False, 20, None, 7, None),
        (False, 0, None, None, None),
        (True, 20, 5, None, 5),
        (True, 20, 5, 7, 5),
        (False, 0, 2**53 - 1, 2**53 - 1, 2**53 - 1),
    ],
)
def test_a_cost_is_known_only_if_both_shares_are(
    pretends: bool, entry: int, adapter: int | None, said: int | None, actual: int | None
) -> None:
    outcome: Any = done(cost_micro_usd=adapter)
    cost = cost_of(prepared(pretends=pretends, entry=entry), outcome, said)
    assert cost == Cost(actual, 100)
    assert cost.charged == (100 if actual is None else actual)


def test_what_ended_nobody_knows_how_costs_what_was_reserved() -> None:
    assert cost_of(prepared(pretends=False, entry=0), None).charged == 100


def test_a_failure_is_masked_and_short() -> None:
    error = BadInputs("key s3cr3t " + "x" * 10_000, hint="s3cr3t", meta={"tail": "s3cr3t", "n": 1})
    envelope = failure_of(error, "id", {"adapter": "a"}, Redactor(["s3cr3t"]))
    assert envelope.message.startswith("key *** ")
    assert len(envelope.message) == 4096
    assert (envelope.hint, envelope.meta) == ("***", {"adapter": "a", "tail": "***", "n": 1})


def test_errors_are_told_as_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert known(Interrupted("x"), 15, debug=False).exit_code == 143
    assert known(Interrupted("x"), None, debug=False).exit_code == 130
    assert isinstance(known(KeyboardInterrupt(), None, debug=False), Interrupted)
    error = BadInputs("x")
    assert known(error, None, debug=False) is error
    assert capsys.readouterr().err == ""
    assert isinstance(known(ZeroDivisionError(), None, debug=False), Internal)
    assert "ZeroDivisionError" in capsys.readouterr().err
    known(error, None, debug=True)
    assert "BadInputs" in capsys.readouterr().err


def test_a_failing_envelope_fits_the_ledger_whatever_a_plugin_says(tmp_path: Path) -> None:
    from theory import errors

    def act(call: Any) -> object:
        call.channel.started()
        call.channel.write("stderr", b"\x01" * 10_000)
        raise errors.ImageBuildFailed("\x01" * 100_000, hint="\x01" * 100_000, meta={"log": "x" * 100_000})

    write_entry(tmp_path / "entries")
    with house(tmp_path, Fake(act=act)) as runner:
        envelope = runner.run("test/thing@1")
        assert isinstance(envelope, Failure)
        record = runner.ledger.execution(envelope.execution_id)
        assert record is not None
        assert record.envelope is not None


def test_a_traceback_shows_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_entry(tmp_path / "entries", secrets=["A_KEY"])

    def fail(_: Call) -> Any:
        raise ValueError("401 for key hunter2-token")

    with house(tmp_path, Fake(act=fail), environ={"A_KEY": "hunter2-token"}) as runner:
        runner._debug = True  # noqa: SLF001 - what --debug sets
        envelope = runner.run("test/thing@1")
    said = capsys.readouterr().err
    assert "401 for key ***" in said
    assert "hunter2" not in said + str(envelope)


def test_what_a_message_cuts_off_a_value_is_masked_too() -> None:
    error = BadInputs("the name 'xxx s3cr3t-va…' is bad", hint="… r3t-value", meta={"s3cr3t-value": "a"})
    envelope = failure_of(error, "id", {}, Redactor(["s3cr3t-value"]))
    assert (envelope.message, envelope.hint) == ("the name 'xxx ***…' is bad", "… ***")
    assert envelope.meta == {"***": "a"}


def test_a_traceback_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    known(ValueError("\x1b[31mred\x9b2J\u202e\nnext"), None, debug=True)
    said = capsys.readouterr().err
    assert "\\u001b[31mred\\u009b2J\\u202e\nnext" in said
    assert "\x1b" not in said


def test_a_failure_whose_words_are_no_text_is_closed_all_the_same(tmp_path: Path) -> None:
    write_entry(tmp_path / "entries")

    def fail(call: Call) -> Any:
        call.channel.started()
        raise ValueError("cannot read name-\udcff")

    with house(tmp_path, Fake(act=fail)) as runner:
        envelope = runner.run("test/thing@1", reserve_micro_usd=700)
        assert isinstance(envelope, Failure)
        assert (envelope.code, "name-?" in envelope.message) == ("ERR_PLUGIN", True)
        assert runner.ledger.plan("default").reserved_micro_usd == 0
        assert runner.ledger.execution(envelope.execution_id) is not None


def test_what_was_held_for_a_run_that_did_not_deliver_is_charged(tmp_path: Path) -> None:
    write_entry(tmp_path / "entries")

    def late(call: Call) -> Any:
        call.channel.started()
        return done(None, ended="timeout")

    with house(tmp_path, Fake(act=late)) as runner:
        envelope = runner.run("test/thing@1", reserve_micro_usd=700)
        state = runner.ledger.plan("default")
    assert (envelope.meta["cost_micro_usd"], envelope.meta["cost_estimated"]) == (700, True)
    assert (state.reserved_micro_usd, state.spent_micro_usd) == (0, 700)
