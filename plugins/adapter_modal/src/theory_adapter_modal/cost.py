"""What a run costs on Modal: an estimate, from the rates, the resources asked for and the seconds measured.

Modal bills the larger of what was asked for and what was used, by the second; here the two are the same,
since what is asked for is the limit. It says what it billed only by app and hour or day, so that is where an
estimate is compared: ``modal billing report --tag-names "*"``.
"""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, NamedTuple

from theory_adapter_modal.resources import ANY_GPU, LEAST_CPU, gpu_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import modal

    from theory.types import Runtime
    from theory_adapter_modal.options import Options

# USD for a second of one core, one GiB, one card. Source: https://modal.com/pricing, 2026-06.
RATES: Mapping[str, float] = {
    "cpu": 0.0000131,
    "memory": 0.00000222,
    "sandbox cpu": 0.00003942,
    "sandbox memory": 0.00000672,
    "b300": 0.001972,
    "b200": 0.001736,
    "h200": 0.001261,
    "h100": 0.001097,
    "rtx-pro-6000": 0.000842,
    "a100-80gb": 0.000694,
    "a100-40gb": 0.000583,
    "l40s": 0.000542,
    "a10": 0.000306,
    "l4": 0.000222,
    "t4": 0.000164,
}
# Other names of the same. Modal may give a better card than "a100" or "h100", at the price of what was asked
# for; "any" is an L4, A10 or T4, of which the dearest is taken.
# Source: https://modal.com/docs/guide/gpu, 2026-06.
_SAME = {"a10g": "a10", "a100": "a100-40gb", "b200+": "b200", ANY_GPU: "a10"}
# Source: https://modal.com/docs/guide/region-selection, 2026-06: "us" is broad, "us-west" is narrow.
_BROAD, _NARROW = 1.5, 1.75
_DAY_S = 86_400
_PATIENCE_S = 5.0
_HOUR_S = 3600
_NEAR = 10.0  # a rate further from ours than that is of another unit, or of something else
_FILE = "rates.json"


class Usage(NamedTuple):
    """What is billed of a run."""

    runtime: Runtime
    seconds: float  # that its container was there, from its creation to its end
    mode: Literal["sandbox", "function"]


def estimate(usage: Usage, options: Options, rates: Mapping[str, float] = RATES) -> int | None:
    """What the run cost in micro-USD, rounded up; None where nobody knows the price of its graphics cards.

    >>> from theory.types import Runtime
    >>> from theory_adapter_modal.options import Options
    >>> estimate(Usage(Runtime(cpu=1, memory=1024), 10.0, "function"), Options())
    154
    """
    runtime = usage.runtime
    kind = "sandbox " if usage.mode == "sandbox" else ""
    per_second = (
        max(LEAST_CPU, runtime.cpu) * rates[f"{kind}cpu"] + runtime.memory / 1024 * rates[f"{kind}memory"]
    )
    if gpu := gpu_of(runtime):
        name, _, count = gpu.lower().partition(":")
        rate = rates.get(_key(name))
        if rate is None or not (count or "1").isdecimal():
            return None
        per_second += int(count or 1) * rate
    micro = per_second * usage.seconds * _dearer(options.region) * 1e6
    return math.ceil(round(micro, 6))


async def known_rates(
    cache: Path, client: modal.Client, clock: Callable[[], float] = time.time
) -> Mapping[str, float]:
    """What Modal charges this account; asked for once a day at most, ours where it does not say.

    Args:
        cache: The adapter's own folder, where the answer is kept.
        client: The account.
        clock: Seconds since the epoch.
    """
    file = cache / _FILE
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        kept = json.loads(file.read_text("utf-8"))
        if 0 <= clock() - kept["asked_at"] < _DAY_S:
            return {**RATES, **{str(name): float(rate) for name, rate in kept["rates"].items()}}
    told = await _ask(client)
    with suppress(OSError):  # it is asked again next time
        _keep(file, {"asked_at": clock(), "rates": told})
    return {**RATES, **told}


def _keep(file: Path, document: Mapping[str, object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f"{_FILE}.{os.getpid()}.{os.urandom(4).hex()}")
    fresh.write_text(json.dumps(document), "utf-8")
    fresh.replace(file)


async def _ask(client: modal.Client) -> dict[str, float]:
    """The rates that Modal tells and we understand; none where it does not answer: an estimate can wait."""
    import asyncio  # noqa: PLC0415 - once a day

    import modal  # noqa: PLC0415 - only where the adapter runs

    try:
        workspace = modal.Workspace.from_context(client=client)
        told = await asyncio.wait_for(workspace.billing.rates.aio(), _PATIENCE_S)
        return understood({name: float(told[name]) for name in told})
    except Exception:  # noqa: BLE001 - no estimate is worth a run that has ended well
        return {}


def understood(told: Mapping[str, float]) -> dict[str, float]:
    """The rates as USD a second, of what we have a rate for ourselves.

    Modal documents neither the names nor the unit (client 1.6), so ours tell them: a rate that is near ours
    is by the second, one that is near 3,600 times as much by the hour, and any other one is not understood.

    >>> understood({"CPU": 0.05, "H100": 0.0011, "Egress": 0.01})
    {'cpu': 1.388888888888889e-05, 'h100': 0.0011}
    """
    found = {}
    for name, value in told.items():
        key = _key(" ".join(name.lower().replace("_", " ").split()))
        if (ours := RATES.get(key)) is None:
            continue
        for unit in (1, _HOUR_S):
            if 1 / _NEAR <= value / unit / ours <= _NEAR:
                found[key] = value / unit
    return found


def _key(name: str) -> str:
    name = name.removesuffix("!")  # exactly this card, at its price
    return _SAME.get(name, name)


def _dearer(region: str | None) -> float:
    """By how much a choice of region makes all of it dearer; of several the least, as Modal does it."""
    if not region:
        return 1.0
    return min(_NARROW if "-" in part.strip() else _BROAD for part in region.split(","))
