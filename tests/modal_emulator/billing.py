"""What Modal would charge: rates, and reports that are made of what ran here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp
from modal_proto import api_pb2

from .rpc import answers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.empty_pb2 import Empty

    from .world import World

# guess: the keys. The figures are those of modal.com/pricing, in US dollars, for a second of a core, a GiB, a
# GPU of functions; sandboxes cost more.
RATES = {
    "cpu": Decimal("0.0000131"),
    "memory": Decimal("0.00000222"),
    "sandbox_cpu": Decimal("0.00003942"),
    "sandbox_memory": Decimal("0.00000672"),
    "gpu_t4": Decimal("0.000164"),
    "gpu_l4": Decimal("0.000222"),
    "gpu_a10": Decimal("0.000306"),
    "gpu_l40s": Decimal("0.000542"),
    "gpu_a100_40gb": Decimal("0.000583"),
    "gpu_a100_80gb": Decimal("0.000694"),
    "gpu_h100": Decimal("0.001097"),
    "gpu_h200": Decimal("0.001261"),
    "gpu_b200": Decimal("0.001736"),
}


@dataclass(frozen=True)
class Used:
    """A container that ran."""

    app_id: str
    started_at: float
    seconds: float
    cores: float
    memory: float  # MiB
    gpu: str = ""
    gpus: int = 0
    sandbox: bool = False

    def costs(self) -> dict[str, Decimal]:
        """US dollars by resource."""
        seconds, prefix = Decimal(str(self.seconds)), "sandbox_" if self.sandbox else ""
        costs = {
            "CPU": RATES[f"{prefix}cpu"] * Decimal(str(self.cores)) * seconds,
            "Memory": RATES[f"{prefix}memory"] * Decimal(str(self.memory)) / 1024 * seconds,
        }
        if self.gpus:
            name = f"gpu_{self.gpu.lower().replace('-', '_')}"
            costs[self.gpu] = RATES.get(name, Decimal(0)) * self.gpus * seconds
        return costs


def _seconds(time: Timestamp) -> float:
    return time.seconds + time.nanos / 1e9


class Billing:
    """Rates, and the reports of a workspace."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._used: list[Used] = []

    def reset(self) -> None:
        self._used.clear()

    def use(self, used: Used) -> None:
        """Write down that a container ran."""
        self._used.append(used)

    @answers("WorkspaceNameLookup")
    async def name(self, _: Empty) -> api_pb2.WorkspaceNameLookupResponse:
        return api_pb2.WorkspaceNameLookupResponse(workspace_name="emulator", username="emulator")

    @answers("WorkspaceBillingRates")
    async def rates(self, _: api_pb2.WorkspaceBillingRatesRequest) -> api_pb2.WorkspaceBillingRatesResponse:
        return api_pb2.WorkspaceBillingRatesResponse(rates={key: str(rate) for key, rate in RATES.items()})

    @answers("WorkspaceBillingReport")
    async def report(
        self, request: api_pb2.WorkspaceBillingReportRequest
    ) -> AsyncIterator[api_pb2.WorkspaceBillingReportItem]:
        """A line for each app and interval; unlike at Modal also for the interval that is not over."""
        start, end = (_seconds(limit) for limit in (request.start_timestamp, request.end_timestamp))
        sums: dict[tuple[int, str], dict[str, Decimal]] = {}
        for used in self._used:
            if start <= used.started_at < end:
                length = 3600 if request.resolution == "h" else 86400
                line = sums.setdefault((int(used.started_at) // length * length, used.app_id), {})
                for resource, cost in used.costs().items():
                    line[resource] = line.get(resource, Decimal(0)) + cost
        for (interval, app_id), costs in sorted(sums.items()):
            app = self._world.apps.require(app_id)
            names = set(app.tags) if "*" in request.tag_names else set(request.tag_names)
            yield api_pb2.WorkspaceBillingReportItem(
                object_id=app_id,
                description=app.description,
                environment_name=app.environment,
                interval=Timestamp(seconds=interval),
                cost=str(sum(costs.values(), Decimal(0))),
                tags={name: app.tags[name] for name in names & set(app.tags)},
                cost_by_resource={resource: str(cost) for resource, cost in costs.items()},
            )

    @answers("WorkspaceBillingSummary")
    async def summary(
        self, request: api_pb2.WorkspaceBillingSummaryRequest
    ) -> api_pb2.WorkspaceBillingSummaryResponse:
        start = datetime.fromtimestamp(request.start_timestamp.seconds, timezone.utc)
        end = (start + timedelta(days=32)).replace(day=1)
        sums: dict[str, Decimal] = {}
        for used in self._used:
            if start.timestamp() <= used.started_at < end.timestamp():
                for resource, cost in used.costs().items():
                    sums[resource] = sums.get(resource, Decimal(0)) + cost
        total = str(sum(sums.values(), Decimal(0)))
        return api_pb2.WorkspaceBillingSummaryResponse(
            start_timestamp=request.start_timestamp,
            end_timestamp=Timestamp(seconds=int(end.timestamp())),
            metered_cost=total,
            billed_cost=total,
            metered_cost_breakdown={resource: str(cost) for resource, cost in sums.items()},
        )
