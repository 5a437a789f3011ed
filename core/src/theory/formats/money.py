"""Money: integer micro-USD in the records, dollars with at most six decimals for people, never a float."""

from __future__ import annotations

import re

from theory.formats.canon import MAX_INTEGER

_MICRO = 1_000_000  # micro-USD in one USD
_AMOUNT = re.compile(r"([0-9]+)(?:\.([0-9]+))?")


def usd(micro: int) -> str:
    """An amount of micro-USD in dollars, exactly: at least two decimals, six at most.

    >>> usd(20_000), usd(1), usd(12_345_600)
    ('0.02', '0.000001', '12.3456')
    """
    whole, rest = divmod(abs(micro), _MICRO)
    decimals = f"{rest:06}".rstrip("0").ljust(2, "0")
    return f"{'-' if micro < 0 else ''}{whole}.{decimals}"


def micro_usd(text: str) -> int:
    """Read dollars as a person types them, ``0.02`` or ``1``, into micro-USD, 0 … 2^53-1.

    >>> micro_usd("0.02")
    20000

    Raises:
        ValueError: It is no plain amount (a sign, an exponent, a currency), is finer than a micro-dollar, or
            beyond what the ledger holds; the message has the words.
    """
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is not an amount in USD")
    whole, decimals = match[1].lstrip("0"), match[2] or ""
    if len(decimals) > 6:  # noqa: PLR2004 - a micro-dollar
        raise ValueError(f"{text[:40]!r} has more than 6 decimals, and a micro-dollar is the smallest amount")
    if len(whole) > 10 or (micro := int(whole + decimals.ljust(6, "0"))) > MAX_INTEGER:  # noqa: PLR2004 - 2^53 has 10
        raise ValueError(f"{text[:40]!r} is more than the ledger can hold, {usd(MAX_INTEGER)} USD")
    return micro
