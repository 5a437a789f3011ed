"""What tells our costs apart in Modal's reports: always a tag that Modal takes, never one for two plans."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from modal._utils.name_utils import check_tag_dict

from theory import Ref
from theory_adapter_modal.tags import tags_of

PLANS = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=128)


def tags(plan: str, ref: str = "a/b@1") -> dict[str, str]:
    job: Any = SimpleNamespace(
        execution_id="01a20606", plan=plan, processor=SimpleNamespace(ref=Ref.parse(ref))
    )
    return tags_of(job)


@given(PLANS, PLANS)
def test_any_plan_has_a_tag_of_its_own(one: str, other: str) -> None:
    check_tag_dict(tags(one))
    assert (tags(one) == tags(other)) is (one == other)


def test_a_plain_plan_is_its_own_tag() -> None:
    assert tags("team-a")["theory.plan"] == "team-a"
    assert "theory.plan" not in tags("")


def test_a_long_ref_has_a_tag_too() -> None:
    long = tags("p", f"{'n' * 60}/{'m' * 60}@1")
    check_tag_dict(long)
    assert long["theory.ref"] != tags("p", f"{'n' * 60}/{'m' * 59}x@1")["theory.ref"]
