"""Money per million requests."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Prices(BaseModel):
    """What the serving machine costs, and over how many requests the fixed costs are spread."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    currency: str = Field(default="USD", description="printed beside every amount")
    price_per_hour: Annotated[float, Field(gt=0)] = Field(
        default=0.10, description="of the serving machine, money per hour"
    )
    price_per_gb_month: Annotated[float, Field(ge=0)] = Field(
        default=0.02, description="of storage, money per GB and month"
    )
    storage_months: Annotated[float, Field(ge=0)] = Field(
        default=12.0, description="how long the model is stored, months"
    )
    lifetime_requests: Annotated[float, Field(gt=0)] = Field(
        default=1e8, description="requests that storage and the compression run are spread over"
    )
    latency_limit_ms: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="p95 of one call, ms: throughput counts at the batch that keeps it (default: no limit)",
    )


def cost_per_million(prices: Prices, throughput_per_s: float, size_mb: float, compression_s: float) -> float:
    """C(M) of DESIGN: serving, storage and the compression run, money per million requests.

    1e6 * price_per_hour / (3600 * requests per second), plus the fixed costs * 1e6 / lifetime_requests.
    """
    serving = 1e6 * prices.price_per_hour / (3600 * throughput_per_s)
    storage = size_mb / 1e3 * prices.price_per_gb_month * prices.storage_months
    compression = prices.price_per_hour * compression_s / 3600
    return serving + (storage + compression) * 1e6 / prices.lifetime_requests
