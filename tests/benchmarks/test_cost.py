import pytest
from paredown.benchmarks.cost import Prices, cost_per_million


def test_cost_is_serving_plus_storage_plus_the_compression_run() -> None:
    prices = Prices(
        price_per_hour=3.6, price_per_gb_month=0.5, storage_months=4, lifetime_requests=2e6, latency_limit_ms=None
    )
    # 1e6 requests at 100/s are 1e4 s = 10 money; 0.1 GB * 0.5 * 4 = 0.2 and 500 s = 0.5, halved per million
    assert cost_per_million(prices, 100, 100, 500) == pytest.approx(10 + (0.2 + 0.5) / 2)
