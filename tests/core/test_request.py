"""What no run can have is refused before anybody looks at the rest."""

from __future__ import annotations

import re
from typing import Any

import pytest

from theory.errors import Usage
from theory.request import Request, new_execution_id


def request(**changes: Any) -> Request:
    return Request(
        **{"ref": "a/b@1", "inputs": {}, "adapter": "x", "plan": "p", "prefix": "/artifacts/", **changes}
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", -1),
        ("seed", 2**53),
        ("seed", True),
        ("seed", 1.0),
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", float("nan")),
        ("timeout", float("inf")),
        ("timeout", 86_401),
        ("reserve_micro_usd", -1),
        ("reserve_micro_usd", 2**53),
        ("reserve_micro_usd", 0.5),
        ("reserve_micro_usd", True),
        ("execution_id", ""),
        ("execution_id", "01890A5D-AC96-774B-BCCE-B302099A8057"),
        ("execution_id", "01890a5d-ac96-774b-bcce-b302099a8057\n"),
        ("execution_id", "../../etc"),
    ],
)
def test_a_value_that_no_run_can_have_is_refused(field: str, value: object) -> None:
    with pytest.raises(Usage, match=r"is not (between|an execution id)"):
        request(**{field: value})


def test_the_edges_are_allowed() -> None:
    for changes in ({"seed": 0}, {"seed": 2**53 - 1}, {"timeout": 86_400}, {"reserve_micro_usd": 2**53 - 1}):
        request(**changes)


def test_ids_are_uuids_of_version_7_and_sort_by_time() -> None:
    ids = [new_execution_id() for _ in range(1000)]
    form = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
    assert all(form.fullmatch(id_) for id_ in ids)
    assert len(set(ids)) == 1000
    assert [id_[:13] for id_ in ids] == sorted(id_[:13] for id_ in ids)
