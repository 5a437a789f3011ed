"""Money for people and money for the ledger are the same amount, to the micro-dollar."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.formats.canon import MAX_INTEGER
from theory.formats.money import micro_usd, usd


@settings(database=None)
@given(micro=st.integers(0, MAX_INTEGER))
def test_what_is_shown_reads_back_as_the_same_amount(micro: int) -> None:
    assert micro_usd(usd(micro)) == micro


@pytest.mark.parametrize(
    ("micro", "text"),
    [(0, "0.00"), (1, "0.000001"), (20_000, "0.02"), (12_345_600, "12.3456"), (-50_000, "-0.05")],
)
def test_an_amount_is_shown_with_two_to_six_decimals(micro: int, text: str) -> None:
    assert usd(micro) == text


@pytest.mark.parametrize(
    ("text", "micro"),
    [("1", 1_000_000), ("0.02", 20_000), ("007.50", 7_500_000), ("9007199254.740991", MAX_INTEGER)],
)
def test_a_plain_amount_is_read_exactly(text: str, micro: int) -> None:
    assert micro_usd(text) == micro


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1e3", "NaN", "inf", "1.", ".5", "1,5", "$1", " 1", "1\n", "0x10", "1_000"]
)
def test_what_is_no_plain_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an amount in USD$"):
        micro_usd(text)


def test_an_amount_finer_than_a_micro_dollar_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 6 decimals"):
        micro_usd("0.0000001")


@pytest.mark.parametrize("text", ["9007199254.740992", "9" * 5000])
def test_an_amount_that_the_ledger_cannot_hold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"more than the ledger can hold, 9007199254\.740991 USD"):
        micro_usd(text)
