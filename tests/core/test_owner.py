"""A process is known by more than its pid, and is called dead only when it surely is."""

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from theory.ledger.owner import Owner

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def gone() -> Owner:
    """A process that was here, and is not any more."""
    code = "from theory.ledger.owner import Owner; o = Owner.here(); print(o.pid, o.started)"
    pid, started = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True
    ).stdout.split()
    return replace(Owner.here(), pid=int(pid), started=int(started))


def test_this_process_is_alive() -> None:
    assert Owner.here().fate(Owner.here()) == "alive"


def test_the_parent_is_alive_as_seen_by_its_child() -> None:
    here = Owner.here()
    code = f"from theory.ledger.owner import Owner; print(Owner({here.boot!r}, {here.namespace}, {here.pid},"
    code += f" {here.started}).fate(Owner.here()))"
    seen = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert seen == "alive\n"


def test_a_process_that_ended_is_dead() -> None:
    assert gone().fate(Owner.here()) == "dead"


def test_a_killed_process_is_dead_before_its_parent_has_noticed() -> None:
    code = "from theory.ledger.owner import Owner; print(Owner.here().started, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        owner = replace(Owner.here(), pid=child.pid, started=int(child.stdout.readline()))
        alive = owner.fate(Owner.here())
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and still to be waited for
        assert (alive, owner.fate(Owner.here())) == ("alive", "dead")


def test_a_pid_that_came_round_again_is_not_the_owner() -> None:
    here = Owner.here()
    assert here.started is not None
    assert replace(here, started=here.started - 1).fate(here) == "dead"


@pytest.mark.parametrize(
    "change", [{"boot": "another"}, {"namespace": 1}, {"boot": None}, {"namespace": None}], ids=str
)
def test_nothing_is_said_of_a_process_of_another_machine_or_namespace(change: dict[str, Any]) -> None:
    assert replace(gone(), **change).fate(Owner.here()) == "unknown"


def test_nothing_is_said_where_this_machine_does_not_tell_who_we_are() -> None:
    here = Owner(None, None, 1, None)
    assert here.fate(here) == "unknown"
