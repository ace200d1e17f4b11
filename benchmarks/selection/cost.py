"""Cost of a million requests, and when a compression run has paid for itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from .choice import CostParts

HOURS_A_MONTH = 730.0


class Prices(BaseModel):
    """The price sheet, the traffic, and over how many requests the fixed costs are spread (docs/choosing.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    currency: str = Field(default="USD", description="printed beside every amount")
    price_per_hour: Annotated[float, Field(gt=0)] = Field(
        default=0.10, description="of the serving machine, money per hour"
    )
    price_per_gb_month: Annotated[float, Field(ge=0)] = Field(
        default=0.02, description="of storage, money per GB and month"
    )
    price_per_kwh: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="of energy, where the hour does not include it; counts where joules can be measured"
    )
    compression_price_per_hour: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="of the machine that compresses (default: the serving machine's)"
    )
    storage_months: Annotated[float, Field(ge=0)] = Field(
        default=12.0, description="how long the model is stored, months"
    )
    lifetime_requests: Annotated[float, Field(gt=0)] = Field(
        default=1e8, description="requests that storage and the compression run are spread over"
    )
    requests_per_second: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="traffic: whole machines are counted, and payback is given in days (default: machines are full)",
    )
    latency_limit_ms: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="p95 of one call, ms: throughput counts at the batch that keeps it (default: no limit)",
    )
    server_p99_ms: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="p99 bound of MLPerf's server scenario, ms: gives server_per_s (default: none)",
    )


@dataclass(frozen=True)
class Cost:
    """C(M) of DESIGN by its parts, money per million requests; `run` is what the compression run cost, money."""

    serving: float
    compression: float
    storage: float
    energy: float
    machines: int | None  # that the traffic needs; None without traffic
    run: float
    hourly_run: bool  # the compression run is priced by the serving machine's hour

    @staticmethod
    def of(
        prices: Prices, throughput_per_s: float, size_mb: float, compression_s: float, joules: float | None = None
    ) -> Cost:
        """Serving is 1e6 * price_per_hour / (3600 * requests per second), at the machines' full throughput.

        With traffic given, the machines that it needs are paid whole. `joules`: of one request, None if unknown.
        """
        per_lifetime = 1e6 / prices.lifetime_requests
        rate, machines = throughput_per_s, None
        if prices.requests_per_second is not None:
            machines = math.ceil(prices.requests_per_second / throughput_per_s)
            rate = prices.requests_per_second / machines
        own = prices.compression_price_per_hour
        hourly = own is None
        run = (prices.price_per_hour if own is None else own) * compression_s / 3600
        return Cost(
            serving=1e6 * prices.price_per_hour / (3600 * rate),
            compression=run * per_lifetime,
            storage=size_mb / 1e3 * prices.price_per_gb_month * prices.storage_months * per_lifetime,
            energy=1e6 * (joules or 0.0) / 3.6e6 * prices.price_per_kwh,
            machines=machines,
            run=run,
            hourly_run=hourly,
        )

    @property
    def total(self) -> float:
        return self.serving + self.compression + self.storage + self.energy

    @property
    def unhurried(self) -> float:
        """What does not follow the price of the serving machine's hour."""
        return self.storage + self.energy + (0.0 if self.hourly_run else self.compression)

    def total_at(self, times: np.ndarray) -> np.ndarray:
        """The total where calls take `times` as long as they did on average, (turns,)."""
        return self.total + self.serving * (times - 1)

    def parts(self) -> CostParts:
        """The parts as choice.json has them."""
        return CostParts(
            serving=self.serving,
            compression=self.compression,
            storage=self.storage,
            energy=self.energy,
            machines=self.machines,
            run=self.run,
        )


def payback(cost: Cost, baseline: Cost, prices: Prices) -> tuple[float | None, float | None]:
    """Requests, and with traffic days, until what is saved against the baseline has paid the compression run.

    None where nothing is saved.
    """
    saved = (baseline.serving + baseline.energy - cost.serving - cost.energy) / 1e6
    requests = cost.run / saved if saved > 0 else None
    rate = prices.requests_per_second
    days = requests / (rate * 86400) if requests is not None and rate is not None else None
    return requests, days
