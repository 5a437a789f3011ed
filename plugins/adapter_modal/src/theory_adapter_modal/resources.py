"""What a container on Modal gets, from what the entry says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from theory.types import Runtime
    from theory_adapter_modal.options import Options

LEAST_CPU = 0.125  # cores that Modal gives and bills at least. Source: https://modal.com/pricing, 2026-06
ANY_GPU = "any"  # the kind that Modal chooses. Source: https://modal.com/docs/guide/gpu


def resources_of(runtime: Runtime, options: Options) -> dict[str, Any]:
    """Keyword arguments that ``Sandbox.create`` and ``App.function`` share; the timeout is not among them.

    What is asked for is the limit too, so that a run costs what was reserved for it and a command that
    wants more fails as it does elsewhere.
    """
    cpu = max(LEAST_CPU, float(runtime.cpu))
    given: dict[str, Any] = {
        "cpu": (cpu, cpu),  # cores
        "memory": (runtime.memory, runtime.memory),  # MiB
        "block_network": not runtime.network,
    }
    if gpu := gpu_of(runtime):
        given["gpu"] = gpu
    if options.region:
        given["region"] = [region.strip() for region in options.region.split(",")]
    if options.cloud:
        given["cloud"] = options.cloud
    return given


def gpu_of(runtime: Runtime) -> str | None:
    """The graphics cards as Modal spells them: ``H100``, ``A100-80GB:4``; a bare number is of any kind.

    >>> from theory.types import Runtime
    >>> gpu_of(Runtime(gpu=2)), gpu_of(Runtime(gpu="h100")), gpu_of(Runtime(gpu="all"))
    ('any:2', 'h100', 'any')
    """
    gpu = runtime.gpu
    if gpu is None or gpu == 0:
        return None
    if gpu == "all":
        return ANY_GPU
    if isinstance(gpu, int) or gpu.isdecimal():
        return f"{ANY_GPU}:{gpu}"
    return gpu


def whole_seconds(seconds: float) -> int:
    """A timeout as Modal takes it."""
    return max(1, math.ceil(seconds))
