"""What a run on Modal is said to have cost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.types import Runtime
from theory_adapter_modal.account import client
from theory_adapter_modal.cost import RATES, Usage, estimate, known_rates, understood
from theory_adapter_modal.options import Options

if TYPE_CHECKING:
    from pathlib import Path

    from modal_emulator.handle import Handle

HOUR = 3600.0


@pytest.mark.parametrize(
    ("runtime", "mode", "region", "usd"),
    [
        (Runtime(cpu=1, memory=1024), "function", None, 0.0000131 + 0.00000222),
        (Runtime(cpu=1, memory=1024), "sandbox", None, 0.00003942 + 0.00000672),
        (Runtime(cpu=0.01, memory=1024), "function", None, 0.125 * 0.0000131 + 0.00000222),
        (Runtime(cpu=1, memory=1024, gpu="H100:2"), "function", None, 0.0000131 + 0.00000222 + 2 * 0.001097),
        (Runtime(cpu=1, memory=1024, gpu=1), "function", None, 0.0000131 + 0.00000222 + 0.000306),
        (Runtime(cpu=1, memory=1024), "function", "us-east", 1.75 * (0.0000131 + 0.00000222)),
        (Runtime(cpu=1, memory=1024), "function", "us-east,eu", 1.5 * (0.0000131 + 0.00000222)),
    ],
    ids=[
        "function",
        "sandbox",
        "the least core",
        "two cards",
        "any card",
        "narrow region",
        "the cheaper region",
    ],
)
def test_an_hour_costs_what_the_price_list_says(
    runtime: Runtime, mode: str, region: str | None, usd: float
) -> None:
    cost = estimate(Usage(runtime, HOUR, mode), Options(region=region))  # type: ignore[arg-type]  # a literal
    assert cost == pytest.approx(usd * HOUR * 1e6, abs=1)


@given(
    seconds=st.floats(0, 1e6),
    more=st.floats(0, 1e6),
    cpu=st.floats(0.125, 64),
    memory=st.integers(1, 1 << 20),
)
def test_longer_never_costs_less_and_two_halves_cost_the_whole_or_a_micro_more(
    seconds: float, more: float, cpu: float, memory: int
) -> None:
    def cost(time: float) -> int:
        return estimate(Usage(Runtime(cpu=cpu, memory=memory), time, "sandbox"), Options()) or 0

    assert cost(seconds) <= cost(seconds + more)
    assert 0 <= 2 * cost(seconds / 2) - cost(seconds) <= 1


@pytest.mark.parametrize("gpu", ["unheard-of", "H100:many"])
def test_a_card_whose_price_nobody_knows_makes_the_cost_unknown(gpu: str) -> None:
    assert estimate(Usage(Runtime(gpu=gpu), 1.0, "function"), Options()) is None


@pytest.mark.parametrize(
    ("told", "rates"),
    [
        ({"CPU": 0.0000131}, {"cpu": 0.0000131}),
        ({"cpu": 0.0000131 * HOUR}, {"cpu": pytest.approx(0.0000131)}),
        ({"Sandbox_CPU": 0.00004, "A100": 0.0006}, {"sandbox cpu": 0.00004, "a100-40gb": 0.0006}),
        ({"CPU": 10.0, "egress": 0.1, "H100": 0.0}, {}),
    ],
    ids=["by the second", "by the hour", "in other words", "of another kind"],
)
def test_rates_are_read_in_whatever_unit_they_come(told: dict[str, float], rates: dict[str, float]) -> None:
    assert understood(told) == rates


@pytest.fixture
def now() -> list[float]:
    return [1_000_000.0]


def test_rates_are_asked_for_once_a_day(
    emulator: Handle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: list[float]
) -> None:
    monkeypatch.setenv("MODAL_ENABLED", "True")

    def asked() -> int:
        rates = asyncio.run(known_rates(tmp_path, client(), clock=lambda: now[0]))
        assert rates.keys() == RATES.keys()
        return len(emulator.requests("WorkspaceBillingRates"))

    assert [asked(), asked()] == [1, 1]
    now[0] += 86_401
    assert asked() == 2
    (tmp_path / "rates.json").write_text("{")
    assert asked() == 3


def test_where_modal_does_not_say_the_shipped_rates_hold(
    emulator: Handle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: list[float]
) -> None:
    monkeypatch.setenv("MODAL_ENABLED", "True")
    emulator.fault("WorkspaceBillingRates", "status", status="PERMISSION_DENIED", times=1)
    assert asyncio.run(known_rates(tmp_path, client(), clock=lambda: now[0])) == RATES
