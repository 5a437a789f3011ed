"""What the doctor says of surroundings that a test cannot have for real: clocks, and disks of a network."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.bed import good, house
from theory import Runner
from theory.disk.claims import claim
from theory.disk.lease import lease
from theory.ledger import Ledger
from theory.ledger.owner import Owner
from theory.request import new_execution_id
from theory.upkeep import doctor
from theory.upkeep.doctor import Sign, signs


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    with house(tmp_path) as runner:
        good(runner.run("test/thing@1"))
        yield runner


def only(runner: Runner, subject: str, now: float | None = None) -> Sign:
    found = signs(runner) if now is None else signs(runner, lambda: now)
    (sign,) = (sign for sign in found if sign.subject == subject)
    return sign


@pytest.mark.parametrize(
    ("now", "state", "told"),
    [
        (-1.0, "wrong", "it is before 1970"),
        (1.0, "warning", "it is 1970-01-01T00:00:01Z, and the ledger's last event is of 20"),
        (9e9, "ok", "2255-03-14T16:00:00Z"),
        (9e18, "ok", "9000000000000000000 s after 1970"),
    ],
)
def test_a_clock_that_is_behind_is_told(runner: Runner, now: float, state: str, told: str) -> None:
    sign = only(runner, "clock", now)
    assert (sign.state, sign.message[: len(told)]) == (state, told)
    assert (sign.hint == "") == (state == "ok")


@pytest.mark.parametrize(
    ("kind", "state"), [("nfs4", "warning"), ("9p", "warning"), ("ext4", "ok"), ("odd", "ok"), ("", "ok")]
)
def test_a_disk_that_other_machines_write_to_is_warned_about(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, kind: str, state: str
) -> None:
    monkeypatch.setattr(doctor, "file_system", lambda _: kind)
    for subject in ("home's disk", "store's disk"):
        sign = only(runner, subject)
        assert sign.state == state
        assert kind in sign.message
        assert bool(sign.hint) == (state == "warning")


def test_who_is_at_work_is_told_with_the_prefix_that_is_its_alone(runner: Runner) -> None:
    states, id_ = runner.settings.home / "state", new_execution_id()
    with lease(states, id_):
        assert only(runner, "lease").message == f"execution {id_} is running"
        with claim(states, id_, "/artifacts/mine/"):
            sign = only(runner, "lease")
    assert sign.message == f"execution {id_} is running, and has '/artifacts/mine/' for itself"
    assert sign.hint
    assert only(runner, "leases").message == "0 executions are running"


def test_a_reservation_of_another_machine_is_told_with_its_deadline(runner: Runner) -> None:
    path = runner.settings.home / "ledger.db"
    with Ledger(path, owner=Owner("elsewhere", 1, 1, 1), clock=lambda: 1_800_000_000.0) as other:
        other.reserve("default", "theirs", 20_000, lasts_s=60)
    sign = only(runner, "reservation")
    assert sign.message == (
        "0.02 USD of plan 'default' for execution theirs, held by another machine or container"
        " until 2027-01-15T08:01:00Z"
    )


def test_a_part_that_cannot_be_looked_at_is_a_line_and_the_others_still_are(runner: Runner) -> None:
    runner.close()
    (runner.settings.home / "ledger.db").write_bytes(b"no database")
    found = {sign.subject: sign for sign in signs(runner)}
    assert found["ledger"].state == "wrong"
    assert found["store"].state == found["registries"].state == "ok"
