"""Plans: what they allow, what they refuse before anything runs, and what they show afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from house.command import EntryMaker, Theory


def plan(theory: Theory, key: str) -> Any:
    return theory("plan", "show", key).ok().json


def amounts(shown: Any) -> tuple[int | None, int, int]:
    return shown["limit_micro_usd"], shown["reserved_micro_usd"], shown["spent_micro_usd"]


def test_a_plan_can_be_made_with_a_limit(theory: Theory) -> None:
    theory("plan", "create", "may", "--limit", "1.50").ok()
    assert amounts(plan(theory, "may")) == (1_500_000, 0, 0)


def test_a_plan_without_a_limit_only_counts(theory: Theory) -> None:
    theory("plan", "create", "may").ok()
    theory.hello("--plan", "may", "-o", "cost_micro_usd=100").ok()
    assert amounts(plan(theory, "may")) == (None, 0, 100)


def test_a_limit_can_be_changed(theory: Theory) -> None:
    theory("plan", "create", "may", "--limit", "1").ok()
    theory("plan", "limit", "may", "2.5").ok()
    assert amounts(plan(theory, "may"))[0] == 2_500_000


def test_a_plan_cannot_be_made_twice(theory: Theory) -> None:
    theory("plan", "create", "may").ok()
    result = theory("plan", "create", "may")
    assert (result.code, result.stdout) == (2, "")
    assert "may" in result.stderr


def test_plans_are_listed(theory: Theory) -> None:
    theory("plan", "create", "may").ok()
    theory("plan", "create", "june", "--limit", "3").ok()
    listed = theory("plan", "ls").ok().stdout
    assert "may" in listed
    assert "june" in listed


def test_spending_adds_up_to_the_limit_and_not_beyond(theory: Theory) -> None:
    theory("plan", "create", "may", "--limit", "0.00025").ok()
    costs = ("--plan", "may", "-o", "cost_micro_usd=100", "--no-memo", "--json")
    theory.hello(*costs).ok()
    theory.hello(*costs).ok()
    refused = theory.hello(*costs)
    assert (refused.line["error"]["code"], refused.code) == ("ERR_BUDGET", 4)
    assert "may" in refused.line["error"]["message"]
    assert amounts(plan(theory, "may")) == (250, 0, 200)


@pytest.mark.parametrize("reserve", ["entry", "option"])
def test_a_run_beyond_the_limit_is_refused_and_nothing_runs(
    theory: Theory, entry: EntryMaker, reserve: str
) -> None:
    marker = theory.cwd / "it ran"
    cost = {"cost": {"reserve_micro_usd": 20_000}} if reserve == "entry" else {}
    root = entry("test/dear@1", f"open({str(marker)!r}, 'w').close()\n", **cost)
    theory("plan", "create", "may", "--limit", "0.01").ok()
    options = ("--reserve-usd", "0.02") if reserve == "option" else ()
    run = ("run", "test/dear@1", "--adapter", "process", "--registry", root, "--json", *options)
    result = theory(*run, "--plan", "may")
    assert (result.line["error"]["code"], result.code) == ("ERR_BUDGET", 4)
    assert not marker.exists()
    assert amounts(plan(theory, "may")) == (10_000, 0, 0)
    theory(*run, "--plan", "another").ok()
    assert marker.exists()


def test_without_a_plan_the_plan_is_default(theory: Theory) -> None:
    theory.hello("-o", "cost_micro_usd=7").ok()
    assert amounts(plan(theory, "default")) == (None, 0, 7)


def test_a_failed_processor_settles_what_it_cost_and_holds_nothing(theory: Theory, entry: EntryMaker) -> None:
    root = entry("test/bad@1", "raise SystemExit(1)\n")
    run = (
        "run",
        "test/bad@1",
        "--adapter",
        "process",
        "--registry",
        root,
        "--plan",
        "may",
        "--reserve-usd",
        "0.01",
    )
    assert theory(*run).code == 1
    assert amounts(plan(theory, "may"))[1] == 0


def test_a_hit_costs_nothing(theory: Theory) -> None:
    hello = ("--plan", "may", "-o", "cost_micro_usd=100", "--memo", "--json")
    assert theory.hello(*hello).ok().line["meta"]["memo"] == "miss"
    assert theory.hello(*hello).ok().line["meta"]["memo"] == "hit"
    assert amounts(plan(theory, "may")) == (None, 0, 100)
